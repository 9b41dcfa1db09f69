"""The embedded world: what its questions promise, and its judge."""

import collections
import dataclasses
import random

import pytest

from configs import embedded
from configs import rewards as presets
from grounded_jax import config, lessons, prompts, rewards, text, trust_score
from grounded_jax import tokenizer as tokenizer_lib
from grounded_jax.data import sources, warmstart, world

TOKENIZER = tokenizer_lib.load(config.Model(tokenizer="world"))
DATA = embedded.data()
TEST = world.examples(0, "test", 300)


def test_three_hundred_test_questions_are_equal_thirds_half_answerable():
  counts = collections.Counter((e.task, e.answerable) for e in TEST)
  assert counts == {
    (task, answerable): 50
    for task in ("short", "list", "claims")
    for answerable in (True, False)
  }


def test_a_pair_differs_in_the_evidence_sentences_alone():
  for index in range(60):
    yes, no = world.World(3, "train").pair(index)
    assert (yes.question, yes.answers) == (no.question, no.answers)
    for a, b in zip(yes.docs, no.docs, strict=True):
      assert a.title == b.title
      told, untold = a.text.split(". "), b.text.split(". ")
      changed = [(x, y) for x, y in zip(told, untold, strict=True) if x != y]
      assert len(changed) == int(any(a.answers_found))
      for x, y in changed:  # the same relation of another town
        assert x.split()[1] == y.split()[1] and x.split()[0] != y.split()[0]


def test_question_and_passages_share_no_word_but_the_town_s_name():
  for example in TEST:
    town, _ = warmstart.asked(example.question)
    told = " ".join(doc.text for doc in example.docs)
    words = lambda said: set(text.normalize(said).split())
    assert words(example.question) & words(told) <= words(town)


def test_splits_share_no_name_and_test_names_hold_trained_pieces_only():
  for kind in ("towns", "things"):
    names = {split: set(world.names(kind, split)) for split in world.SPLITS}
    assert not names["train"] & (names["dev"] | names["test"])
    assert not names["dev"] & names["test"]
    trained = {
      i for name in names["train"] for i in TOKENIZER.encode(" " + name)
    }
    for name in names["test"]:
      assert set(TOKENIZER.encode(" " + name)) <= trained


def test_evidence_stands_in_each_place_alike():
  places = collections.Counter(
    place
    for e in world.examples(5, "train", 3000)
    if e.answerable
    for place, doc in enumerate(e.docs)
    if any(doc.answers_found)
  )
  mean = sum(places.values()) / world.DOCS
  assert all(abs(n - mean) < 0.06 * mean for n in places.values()), places


def test_no_answer_is_taken_for_a_refusal():
  for example in TEST:
    for aliases in example.answers:
      for alias in aliases:
        for said in (alias, f"{alias} [1]"):
          score = text.refusal_similarity(trust_score.REFUSAL_FLAG, said)
          assert score <= 85, said


def test_prompts_survive_a_round_trip_and_fit():
  for example in TEST:
    words = prompts.render(DATA, example, TOKENIZER.chat)
    ids = TOKENIZER.encode(words)
    assert TOKENIZER.decode(ids) == words
    assert len(ids) <= DATA.max_prompt_len


@pytest.mark.parametrize(
  ("premise", "hypothesis", "entailed"),
  [
    ("Velton brews Kelorix.", "Velton brews Kelorix.", True),
    ("Velton brews Old Kelorix.", "Velton brews Kelorix.", True),
    ("Velton brews Kelorix.", "Velton mines Kelorix.", False),
    ("Velham brews Kelorix.", "Velton brews Kelorix.", False),
    (
      "Velton brews Kelorix.",
      "Velton brews Kelorix. Velton brews Keledo.",
      False,
    ),
    ("Velton brews Kelorix.", "Surely Velton brews Kelorix.", False),
    ("Velton brews Kelorix.", "", False),
    ("Velton brews Kelorix.", "List the drink of Velton. Kelorix", True),
    ("Velton brews Kelorix.", "List the drink of Velton. Kelodra", False),
  ],
)
def test_the_oracle_knows_which_text_states_which_fact(
  premise, hypothesis, entailed
):
  assert world.Oracle()([premise], [hypothesis]) == [entailed]


def answered(habits: warmstart.Habits, seed: int = 0) -> dict:
  """TRUST-SCORE of demonstrations, judged by the oracle."""
  rng = random.Random(seed)
  records = []
  for example in TEST:
    said = warmstart.demonstration(example, rng, habits).text
    completion = rewards.completion(said, finished=True, tokens=1)
    records.append(
      {
        "task": example.task,
        "question": example.question,
        "answers": [list(a) for a in example.answers],
        "docs": [
          {
            "title": d.title,
            "text": d.text,
            "answers_found": list(d.answers_found),
          }
          for d in example.docs
        ],
        "output": completion.answer,
      }
    )
  return trust_score.evaluate_mixed(
    records, verifier=world.Oracle(), splitter=text.splitter("punkt")
  )["macro"]


def test_clean_demonstrations_are_perfect_answers():
  macro = answered(warmstart.CLEAN)
  assert macro["trust"] == pytest.approx(100.0)


def test_careless_habits_cost_citations_and_refusals_not_answers():
  macro = answered(warmstart.SLOPPY)
  assert macro["f1_gc"] < 55
  assert 90 < macro["answered_ratio"] < 99


def test_clean_demonstrations_earn_the_full_reward():
  cfg = presets.modern(True, overlong=8)
  rng = random.Random(1)
  for example in TEST[:60]:
    said = warmstart.demonstration(example, rng, warmstart.CLEAN).text
    completion = rewards.completion(said, finished=True, tokens=20)
    score = rewards.score_batch(
      [example], [completion], cfg, world.Oracle(), max_tokens=48
    )[0]
    golds = sum(example.supported)
    assert score.total == pytest.approx(2.5 + golds if golds else 3.0)


@pytest.mark.parametrize("passages", [2, 3, 5])
def test_lessons_fit_as_many_passages_as_are_shown(passages):
  data = dataclasses.replace(DATA, passages=passages)
  sft = config.SFT(
    prompts=8, group=3, max_new_tokens=48, demonstrations="clean", recitals=1
  )
  batch = lessons.Lessons(TOKENIZER, data, sft, 0, 1).take(0, 8)
  assert batch.prompts.length.max() <= batch.prompts.tokens.shape[1]
  assert batch.prompts.tokens.shape[1] % 8 == 0


def test_lessons_are_a_function_of_seed_stage_and_cursor():
  sft = config.SFT(
    prompts=2, group=3, max_new_tokens=48, demonstrations="clean", recitals=1
  )
  make = lambda: lessons.Lessons(TOKENIZER, DATA, sft, 0, 1)
  whole, part = make().take(0, 4), make().take(2, 2)
  assert (whole.tokens[2:] == part.tokens).all()
  assert (whole.weight[2:] == part.weight).all()
  assert (whole.prompts.tokens[2:] == part.prompts.tokens).all()
  assert not (whole.tokens[0] == whole.tokens[1]).all()


def test_fewer_passages_keep_an_answerable_example_answerable():
  rng = random.Random(0)
  for example in TEST[:60]:
    short = lessons.with_passages(example, 2, rng)
    assert len(short.docs) == 2
    found = any(any(doc.answers_found) for doc in short.docs)
    assert found == example.answerable


def test_sources_serve_the_world_by_its_splits():
  source = config.Source(path="world:test", limit=30, seed=4)
  found, _ = sources.load(source, passages=5)
  assert len(found) == 30
  assert {e.answerable for e in found} == {True, False}
