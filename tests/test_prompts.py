import dataclasses

import pytest

from grounded_jax import config, prompts, records, tokenizer

DOCS = (
  records.Doc(title="Polo", text="Polo was born in 1254.", answers_found=(1,)),
  records.Doc(title="Kublai", text="Kublai ruled.", answers_found=(0,)),
)
EXAMPLE = records.Example(
  id="q1",
  task="short",
  question="When was Polo born?",
  docs=DOCS,
  answers=(("1254",),),
  answerable=True,
)
STYLES = ("trust", "brief", "tiny")
CHAT = tokenizer.Bytes().chat


def content(data=None, **changes):
  data = data or config.Data()
  example = dataclasses.replace(EXAMPLE, **changes)
  (message,) = prompts.messages(data, example)
  assert message["role"] == "user"
  return message["content"]


def test_question_stands_before_passages_numbered_from_one():
  text = content()
  assert (
    "\n\nQuestion: When was Polo born?\n\nDocument [1](Title: Polo):" in text
  )
  assert text.endswith("\nDocument [2](Title: Kublai): Kublai ruled.")
  assert content(config.Data(tags=False)).endswith("Kublai ruled.\nAnswer:")


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("task", records.TASKS)
def test_no_prompt_depends_on_what_only_the_judge_may_know(style, task):
  data = config.Data(style=style)
  blind = tuple(dataclasses.replace(d, answers_found=()) for d in DOCS)
  flipped = tuple(dataclasses.replace(d, answers_found=(1,)) for d in DOCS)
  seen = {
    content(data, task=task, docs=DOCS),
    content(data, task=task, docs=blind),
    content(data, task=task, docs=flipped, answerable=False),
    content(data, task=task, answers=(("other",),), id="x", dataset="nq"),
  }
  assert len(seen) == 1


@pytest.mark.parametrize("style", ("trust", "brief"))
def test_tags_are_asked_for_only_by_config(style):
  assert content(config.Data(style=style)).count("</answer>") == 1
  assert "<think>" not in content(config.Data(style=style, tags=False))


@pytest.mark.parametrize("style", ("trust", "brief"))
def test_every_instruction_holds_the_refusal_that_the_metric_knows(style):
  flag = config.Rewards().refusal_flag
  assert prompts.REFUSAL.startswith(flag)
  for task in records.TASKS:
    text = content(config.Data(style=style), task=task)
    assert text.count(prompts.REFUSAL) == 1


@pytest.mark.parametrize("style", STYLES)
def test_a_list_is_asked_for_differently(style):
  data = config.Data(style=style)
  assert content(data, task="list") != content(data, task="short")


def test_render_goes_through_the_chat_only_if_asked():
  chat = lambda turns, thinking: f"<{thinking}>{turns[0]['content']}"
  data = config.Data(thinking=False)
  plain = content(data)
  assert prompts.render(data, EXAMPLE, chat) == f"<False>{plain}"
  data = dataclasses.replace(data, chat=False)
  assert prompts.render(data, EXAMPLE, chat) == plain
  assert prompts.render(data, EXAMPLE, CHAT) == plain
