"""Robustness sets: what changes, what travels along, what never leaks in."""

import dataclasses

import pytest

from grounded_jax.data import counterfactual, robustness, support, world
from grounded_jax.records import Doc, Example

SEEDS = range(20)


def doc(title: str, told: str, *bits: int) -> Doc:
  return Doc(title=title, text=told, answers_found=bits)


def example(name: str, docs, answers, **fields) -> Example:
  fields = {"task": "short", "question": f"What of {name}?"} | fields
  return Example(
    id=name,
    docs=tuple(docs),
    answers=tuple(answers),
    answerable=support.answerable(docs),
    **fields,
  )


TWO = example(
  "two",
  [
    doc("A", "Nothing here.", 0, 0),
    doc("B", "Salt is sold.", 1, 0),
    doc("C", "Rain falls.", 0, 0),
    doc("D", "Wool and salt.", 1, 1),
  ],
  [("salt", "sea salt"), ("wool",)],
)
OTHERS = [
  example(
    f"other{i}",
    [
      doc(f"T{i}", f"Story number {i}.", 1),
      doc(f"S{i}", f"The sea-salt, {i} pounds.", 0),  # holds "salt"
      doc(f"W{i}", f"Woolen basalt {i}.", 0),  # holds neither as a word
    ],
    [(f"Story {i}",)],
  )
  for i in range(6)
]
POOL = robustness.pool([TWO, *OTHERS])
WORLD = world.examples(0, "test", 60)


def premises(e: Example) -> list[str]:
  return [d.premise for d in e.docs]


def test_shuffling_moves_each_passage_with_its_bits():
  for seed in SEEDS:
    got = robustness.shuffled(TWO, seed=seed).example
    assert got.docs != TWO.docs
    assert sorted(got.docs, key=lambda d: d.title) == list(TWO.docs)
    assert (got.answerable, got.answers) == (True, TWO.answers)
    assert got.supported == TWO.supported


def test_one_passage_cannot_be_shuffled():
  one = dataclasses.replace(TWO, docs=TWO.docs[:1])
  got = robustness.shuffled(one, seed=0)
  assert (got.example, got.why) == (None, "it has one passage")


@pytest.mark.parametrize(
  ("count", "kept"),
  [(4, "ABCD"), (3, "ABD"), (2, "BD"), (1, "B")],
)
def test_fewer_passages_lose_noise_from_the_end_and_then_evidence(count, kept):
  got = robustness.counted(TWO, count, POOL, seed=0).example
  assert "".join(d.title for d in got.docs) == kept
  assert got.answerable
  # Wool is told by D alone.
  assert got.supported == (True, "D" in kept)


def test_the_count_never_changes_whether_a_question_is_answerable():
  pool = robustness.pool(WORLD)
  oracle = world.Oracle()
  for count in (1, 3, 5, 10):
    for e in WORLD:
      got = robustness.counted(e, count, pool, seed=1, verifier=oracle).example
      assert len(got.docs) == count
      assert got.answerable == e.answerable == support.answerable(got.docs)


def test_more_passages_keep_the_own_in_order_and_hold_no_alias():
  places = set()
  for seed in SEEDS:
    got = robustness.counted(TWO, 7, POOL, seed=seed).example
    own = [d for d in got.docs if d.title in "ABCD"]
    assert own == list(TWO.docs)
    more = [d for d in got.docs if d.title not in "ABCD"]
    assert len({d.title for d in more}) == 3
    assert {d.title[0] for d in more} <= {"T", "W"}  # S holds "sea salt"
    assert all(d.answers_found == (0, 0) for d in more)
    places.add(tuple(d.title in "ABCD" for d in got.docs))
  assert len(places) > 5


def test_the_own_further_passages_come_before_those_of_others():
  spare = [
    doc("own1", "Hail.", 0, 0),
    doc("own2", "More wool.", 0, 1),  # evidence
    doc("own3", "Salt, unannotated.", 0, 0),  # holds an alias
    doc("own4", "Snow.", 0, 0),
  ]
  got = robustness.counted(TWO, 7, POOL, seed=0, spare=spare).example
  titles = {d.title for d in got.docs} - set("ABCD")
  assert {"own1", "own4"} < titles and len(titles) == 3
  assert not titles & {"own2", "own3"}


def test_too_few_distractors_are_a_reason_and_not_a_shorter_record():
  got = robustness.counted(TWO, 10, POOL[:4], seed=0)
  assert got.example is None and "too few" in got.why
  got = robustness.without_evidence(TWO, POOL[:4], seed=0)
  assert got.example is None and "too few" in got.why


def test_without_evidence_only_the_evidence_is_replaced():
  for seed in SEEDS:
    got = robustness.without_evidence(TWO, POOL, seed=seed).example
    assert len(got.docs) == 4 and not got.answerable
    assert (got.docs[0], got.docs[2]) == (TWO.docs[0], TWO.docs[2])
    assert {got.docs[1].title[0], got.docs[3].title[0]} <= {"T", "W"}
    assert got.docs[1] != got.docs[3]
  bare = robustness.without_evidence(got, POOL, seed=0)
  assert (bare.example, bare.why) == (None, "no passage holds an answer")


def test_a_passage_of_the_same_question_is_no_distractor():
  twin = dataclasses.replace(
    OTHERS[0], id="twin", question=TWO.question.upper()
  )
  pool = robustness.pool([twin])
  assert robustness.counted(TWO, 5, pool, seed=0).example is None


def test_a_claim_is_no_distractor_by_the_verifier_either():
  """The oracle reads "Old Kelorix" as Kelorix; the alias differs."""
  claim = example(
    "claim",
    [doc("Marnia", "Marnia exports Kelorix.", 1)],
    [("Marnia exports Kelorix.",)],
    task="claims",
  )
  other = example("o", [doc("M", "Marnia exports Old Kelorix.", 0)], [("x",)])
  pool = robustness.pool([other])
  make = lambda judge: robustness.without_evidence(
    claim, pool, seed=0, verifier=judge
  )
  assert make(None).example.docs[0].title == "M"
  assert make(world.Oracle()).example is None


def test_no_evidence_is_left_in_the_world_by_its_oracle():
  pool, oracle = robustness.pool(WORLD), world.Oracle()
  for e in WORLD:
    got = robustness.without_evidence(e, pool, seed=0, verifier=oracle)
    assert (got.example is not None) == e.answerable
    for d in got.example.docs if got.example else ():
      normal = robustness.words(d)
      if d in e.docs:
        assert not any(d.answers_found)
      else:
        assert not any(f" {a} " in normal for a in robustness.aliases(e))


def changes(examples, seed):
  """Every variant of every example, by the change's name."""
  pool, names = robustness.pool(examples), counterfactual.names(examples)
  return {
    "shuffled": [robustness.shuffled(e, seed=seed) for e in examples],
    "passages1": [robustness.counted(e, 1, pool, seed=seed) for e in examples],
    "passages10": [
      robustness.counted(e, 10, pool, seed=seed) for e in examples
    ],
    "counterfactual": [
      counterfactual.counterfactual(e, names, seed=seed) for e in examples
    ],
    "no_evidence": [
      robustness.without_evidence(e, pool, seed=seed) for e in examples
    ],
  }


def test_changes_follow_the_seed_and_the_id_alone():
  assert changes(WORLD, 3) == changes(list(WORLD), 3)
  for name, variants in changes(WORLD, 4).items():
    if name != "passages1":  # which draws nothing
      assert variants != changes(WORLD, 3)[name]
  # Another order of the examples gives each the same shuffle.
  forward = [robustness.shuffled(e, seed=0) for e in WORLD]
  backward = [robustness.shuffled(e, seed=0) for e in reversed(WORLD)]
  assert forward == backward[::-1]


def test_ids_are_unique_and_say_the_change():
  ids = [e.id for e in WORLD]
  for name, variants in changes(WORLD, 0).items():
    made = [v.example.id for v in variants if v.example]
    assert made and all(i.endswith(f"~{name}") for i in made)
    ids += made
  assert len(set(ids)) == len(ids)


def test_every_answer_found_has_one_bit_a_gold():
  for variants in changes(WORLD, 0).values():
    for v in variants:
      for d in v.example.docs if v.example else ():
        assert len(d.answers_found) == len(v.example.answers)
