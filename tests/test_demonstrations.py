import dataclasses
import pathlib

import pytest

from grounded_jax import config, prompts, records, rewards, text
from grounded_jax.data import demonstrations, sources
from grounded_jax.verifiers import lexical

REAL = pathlib.Path(__file__).parents[2] / "shared" / "data" / "nq_train.jsonl"
EXAMPLE = records.Example(
  id="q",
  task="short",
  question="When was Polo born?",
  docs=(
    records.Doc(title="Kublai", text="Kublai ruled.", answers_found=(0, 0)),
    records.Doc(
      title="Polo",
      text="He died. Polo was born in 1254 [3] in Venice. So 1254 it is.",
      answers_found=(1, 0),
    ),
    records.Doc(title="Age", text="He lived 69 years.", answers_found=(0, 1)),
  ),
  answers=(("1254", "the year 1254"), ("69",)),
  answerable=True,
)


def make(example, group=1, tags=True):
  return demonstrations.make(example, group, tags=tags, refusal=prompts.REFUSAL)


def test_each_gold_answer_is_told_by_its_sentence_and_its_passage():
  (answer,) = make(EXAMPLE, tags=False)
  assert answer == (
    "Polo was born in 1254 (3) in Venice [2]. He lived 69 years [3]."
  )


def test_lists_and_claims_cite_each_entry():
  listed = dataclasses.replace(EXAMPLE, task="list")
  assert make(listed, tags=False) == ["1254 [2], 69 [3]."]
  claims = dataclasses.replace(
    EXAMPLE, task="claims", answers=(("Polo was born in 1254.",), ("Old.",))
  )
  (answer,) = make(claims, tags=False)
  assert answer == "Polo was born in 1254 [2]. Old [3]."


@pytest.mark.parametrize(
  "sentence",
  [
    'The song "1254."',
    "Was it in 1254?",
    "It was 1254!",
    "(It was 1254.)",
    "It was 1254, “they say.”",
  ],
)
def test_a_citation_stands_before_the_end_of_its_statement(sentence):
  doc = records.Doc(title="T", text=sentence, answers_found=(1,))
  example = dataclasses.replace(EXAMPLE, docs=(doc,), answers=(("1254",),))
  (answer,) = make(example, tags=False)
  assert text.punkt(answer) == [answer]
  assert answer.endswith(" [1].") and "1254" in answer


def test_an_item_of_a_list_holds_no_comma():
  doc = records.Doc(
    title="T", text="Washington, D.C. is Washington.", answers_found=(1, 1)
  )
  example = dataclasses.replace(
    EXAMPLE,
    task="list",
    docs=(doc,),
    answers=(("Washington, D.C.", "Washington"), ("Washington, D.C.",)),
  )
  assert make(example, tags=False) == ["Washington [1]."]


def test_an_alias_without_a_word_is_found_nowhere():
  doc = records.Doc(title="T", text="... It is.", answers_found=(1,))
  example = dataclasses.replace(EXAMPLE, docs=(doc,), answers=(("The",),))
  assert make(example) == []


def test_think_names_the_passage_and_what_it_says():
  texts = make(EXAMPLE, group=3)
  layouts = [text.split_layout(written) for written in texts]
  assert all(layout.holds for layout in layouts)
  assert len({layout.think for layout in layouts}) == 3
  assert len({layout.answer for layout in layouts}) == 1
  for layout in layouts:
    assert "[2]" in layout.think and "1254" in layout.think
    assert "Polo" in layout.think


def test_the_unanswerable_is_refused_and_its_passages_named():
  example = dataclasses.replace(EXAMPLE, answerable=False)
  (written,) = make(example)
  layout = text.split_layout(written)
  assert layout.answer == prompts.REFUSAL
  assert "Kublai, Polo and Age" in layout.think


def test_no_demonstration_where_the_words_do_not_stand_in_the_passage():
  example = dataclasses.replace(EXAMPLE, answers=(("1255",), ("70",)))
  assert make(example) == []


def test_a_long_sentence_is_cut_around_its_answer():
  words = [f"w{i}" for i in range(200)]
  doc = records.Doc(title="T", text=" ".join(words), answers_found=(1,))
  example = dataclasses.replace(EXAMPLE, docs=(doc,), answers=(("w150 w151",),))
  (answer,) = make(example, tags=False)
  assert "w150 w151" in answer and len(answer.split()) == 41
  assert answer.endswith(" [1].")


@pytest.mark.skipif(not REAL.exists(), reason="real records are not here")
def test_demonstrations_of_real_records_earn_nearly_the_full_reward():
  examples, _ = sources.load(config.Source(path=str(REAL), limit=200), 5)
  verifier = lexical.Lexical(0.6)
  totals = {True: [], False: []}
  for example in examples:
    for written in make(example):
      completion = rewards.completion(written)
      score = rewards.score(example, completion, config.Rewards(), verifier)
      totals[example.answerable].append(score.total)
  mean = {k: sum(v) / len(v) for k, v in totals.items()}
  assert mean[True] > 3.4 and mean[False] == 3.0
  assert len(totals[True]) + len(totals[False]) > 195
