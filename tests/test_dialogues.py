"""Rows that are already worded, and preferences made from passages."""

import dataclasses
import json
import random

import pytest
from test_demonstrations import EXAMPLE
from test_pipeline import DATA

from grounded_jax import config, prompts, text, tokenizer, written
from grounded_jax.data import dialogues, preferences
from grounded_jax.records import UserError

USER = {"role": "user", "content": "Who?"}
SYSTEM = {"role": "system", "content": "Cite."}
GOOD = {"role": "assistant", "content": "Polo [1]."}
BAD = {"role": "assistant", "content": "Polo."}


def wrote(path, *rows) -> str:
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return str(path)


def test_a_conversation_is_a_prompt_and_its_last_turn(tmp_path):
  path = wrote(tmp_path / "a.jsonl", {"messages": [SYSTEM, USER, GOOD]})
  (got,) = dialogues.demonstrations(path)
  assert got.turns == (("system", "Cite."), ("user", "Who?"))
  assert got.completions == ("Polo [1].",)
  assert got.id.endswith("a.jsonl line 1")


def test_a_pair_is_texts_or_messages_with_or_without_its_prompt(tmp_path):
  path = wrote(
    tmp_path / "a.jsonl",
    {"prompt": "Who?", "chosen": "Polo [1].", "rejected": "Polo."},
    {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
    {"prompt": [USER], "chosen": [USER, GOOD], "rejected": [USER, BAD]},
    {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
  )
  got = dialogues.preferences(path)
  assert {(d.turns, d.completions) for d in got} == {
    ((("user", "Who?"),), ("Polo [1].", "Polo."))
  }
  assert len(got) == 4


@pytest.mark.parametrize(
  "read, row, message",
  [
    ("demonstrations", {"question": "q"}, "line 1 has no 'messages'"),
    ("demonstrations", {"messages": []}, "must be a list of messages"),
    ("demonstrations", {"messages": "hi"}, "'messages' must be a list of mess"),
    (
      "demonstrations",
      "text",
      'with {"messages": [{"role": ..., "content": ...}',
    ),
    ("demonstrations", {"messages": [USER]}, "end with words of the assist"),
    ("demonstrations", {"messages": [GOOD]}, "must end with words of the user"),
    (
      "demonstrations",
      {"messages": [{"role": "bot", "content": ""}]},
      "message 1, must have a 'content' that is a text and a 'role'",
    ),
    ("preferences", {"prompt": "q", "chosen": "a"}, "has no 'rejected'"),
    (
      "preferences",
      {"prompt": "q", "chosen": "a", "rejected": 3},
      "'rejected' must be a text or a list of messages",
    ),
    (
      "preferences",
      {"prompt": "q", "chosen": "a", "rejected": " "},
      "'rejected' must end with words of the assistant",
    ),
    ("preferences", {"chosen": "a", "rejected": "b"}, "words of the user's"),
    (
      "preferences",
      {"chosen": [USER, GOOD], "rejected": [SYSTEM, USER, BAD]},
      "'rejected' begins with other turns",
    ),
  ],
)
def test_a_malformed_row_is_one_sentence(tmp_path, read, row, message):
  path = wrote(tmp_path / "rows.jsonl", row)
  reader = {
    "demonstrations": dialogues.demonstrations,
    "preferences": dialogues.preferences,
  }[read]
  with pytest.raises(UserError) as caught:
    reader(path)
  assert message in str(caught.value)
  assert "rows.jsonl line 1" in str(caught.value)
  assert "\n" not in str(caught.value)


class Chat(tokenizer.Bytes):
  """Words a conversation, and may open the thought."""

  def __init__(self, opened: str = ""):
    self._opened = opened

  def chat(self, messages, thinking=True):
    turns = "".join(f"<{m['role']}>{m['content']}" for m in messages)
    return f"{turns}<assistant>{self._opened}"

  def prefill(self, thinking=True):
    return self._opened


def made(path, tokens, **changes) -> written.Written:
  data = dataclasses.replace(DATA, **changes)
  rows, fits = written.of_dialogues(
    dialogues.demonstrations(path), tokens, data
  )
  sft = config.SFT(max_new_tokens=64, max_len=50)
  return written.Written(rows, fits, data, "sft", sft, 0, 0)


def test_rows_go_through_the_chat_template_and_long_ones_are_counted(tmp_path):
  """Of 34 + 10 and 62 + 10 tokens, where 50 are allowed."""
  longer = [{"role": "user", "content": "Who? " * 9}, GOOD]
  path = wrote(
    tmp_path / "a.jsonl",
    {"messages": [SYSTEM, USER, GOOD]},
    {"messages": longer},
  )
  got = made(path, Chat(), chat=True, max_prompt_len=64)
  assert (len(got), got.too_long, got.without) == (1, 1, 0)
  batch = got.take(0, 1)
  decode = tokenizer.Bytes().decode
  prompt = batch.prompts.tokens[0, : batch.prompts.length[0]].tolist()
  assert decode(prompt) == "<system>Cite.<user>Who?<assistant>"
  taught = batch.tokens[0, 0][batch.weight[0, 0] > 0].tolist()
  assert decode(taught) == "Polo [1]." and taught[-1] == Chat.eos[0]


def test_a_row_that_does_not_think_where_the_template_does_is_refused(tmp_path):
  path = wrote(tmp_path / "a.jsonl", {"messages": [USER, GOOD]})
  with pytest.raises(UserError, match="begins every completion with '<think>'"):
    made(path, Chat("<think>\n"), chat=True)
  assert len(made(path, Chat("<think>\n"), chat=False)) == 1


def failed(kind: str, example=EXAMPLE) -> str:
  """The answer that fails so."""
  written = preferences.failure(
    example, kind, random.Random(0), tags=True, refusal=prompts.REFUSAL
  )
  layout = text.split_layout(written)
  assert layout.holds
  return layout.answer


def test_every_failure_of_an_answerable_question():
  """Passages 2 and 3 hold an answer each; passage 1 none."""
  said = "Polo was born in 1254 (3) in Venice{}. He lived 69 years{}."
  assert failed("uncited") == said.format("", "")
  assert failed("overcited") == said.format(" [1][2][3]", " [1][2][3]")
  assert failed("refused") == prompts.REFUSAL
  first, second = text.citations(failed("wrong"))
  assert first != 1 and second != 2


def test_the_unanswerable_is_answered_from_the_sentence_that_looks_like_it():
  none = dataclasses.replace(EXAMPLE, answerable=False)
  answer = failed("answered", none)
  assert answer == "Polo was born in 1254 (3) in Venice [2]."


def test_a_pair_follows_from_seed_and_example_and_prefers_the_demonstration():
  make = lambda seed: [
    preferences.make(
      dataclasses.replace(EXAMPLE, id=str(i)),
      tags=False,
      refusal=prompts.REFUSAL,
      seed=seed,
    )
    for i in range(30)
  ]
  pairs = make(0)
  assert pairs == make(0) != make(1)
  assert len({chosen for chosen, _ in pairs}) == 1
  assert len({rejected for _, rejected in pairs}) >= 4
  assert all(chosen != rejected for chosen, rejected in pairs)
  odd = dataclasses.replace(EXAMPLE, answers=(("1255",), ("70",)))
  assert (
    preferences.make(odd, tags=False, refusal=prompts.REFUSAL, seed=0) == []
  )


def test_a_pair_of_the_same_completion_twice_is_left_out(tmp_path, capsys):
  same = {"prompt": "q", "chosen": "a", "rejected": "a"}
  path = wrote(tmp_path / "rows.jsonl", same, same | {"rejected": "b"})
  assert [row.id for row in dialogues.preferences(path)] == [f"{path} line 2"]
  assert "1 of 2 pairs left out" in capsys.readouterr().err
  with pytest.raises(UserError, match="holds no pair to learn from"):
    dialogues.preferences(wrote(tmp_path / "more.jsonl", same))


@pytest.mark.parametrize("read", ["demonstrations", "preferences"])
def test_missing_and_empty_files_name_their_own_field(tmp_path, read):
  reader = {
    "demonstrations": dialogues.demonstrations,
    "preferences": dialogues.preferences,
  }[read]
  field = {"demonstrations": "sft.path", "preferences": "dpo.path"}[read]
  with pytest.raises(UserError, match=f"^{field}: .*none.jsonl does not exist"):
    reader(str(tmp_path / "none.jsonl"))
  (tmp_path / "empty.jsonl").write_text("")
  with pytest.raises(UserError, match=f"^{field}=.* holds no row"):
    reader(f"{tmp_path}/empty.jsonl,")
