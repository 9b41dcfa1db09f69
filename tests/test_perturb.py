import random
import re

import pytest

from grounded_jax.verifiers import perturb

PREMISE = (
  "Title: Ada Lovelace\nAda Lovelace was born in London in 1815. She met"
  " Charles Babbage in June. He never paid her two pounds."
)
OTHER = "Title: Niels Bohr\nNiels Bohr lived in Copenhagen with Harald Bohr."


def changed(said, kind, seed=0):
  made = perturb.pairs(PREMISE, said, seed, [OTHER])
  return [pair.hypothesis for pair in made if pair.kind == kind]


def test_a_name_gives_way_to_one_of_as_many_words():
  said = "She met Charles Babbage in June."
  got = {changed(said, "entity", seed)[0] for seed in range(20)}
  assert got == {
    "She met Niels Bohr in June.",
    "She met Harald Bohr in June.",
  }
  (inside,) = changed(said, "entity_inside")
  assert inside == "She met Ada Lovelace in June."


def test_a_name_at_the_start_is_swapped_and_a_plain_word_is_not():
  (got,) = changed("Ada Lovelace sang.", "entity_inside")
  assert got == "Charles Babbage sang."
  assert not changed("People sang.", "entity")


@pytest.mark.parametrize(
  ("said", "pattern"),
  [
    ("It cost 1,500 pounds.", r"It cost \d,\d{3} pounds\."),
    ("He died in 1998.", r"He died in 19\d\d\."),
    ("He had two sons.", r"He had \w+ sons\."),
    ("It rained in June.", r"It rained in \w+\."),
  ],
)
def test_a_value_gives_way_to_another_of_its_kind(said, pattern):
  for seed in range(10):
    got = perturb.swap_value(said, random.Random(seed))
    assert got != said
    assert re.fullmatch(pattern, got), got


@pytest.mark.parametrize(
  ("said", "wanted"),
  [
    ("She was late.", {"She was not late.", "She was never late.",
                       "She wasn't late."}),
    ("Bob climbed it.", {"Bob never climbed it."}),
    ("She was not late.", {"She was late."}),
    ("She didn't go.", {"She go."}),
    ("He can't swim.", {"He can swim."}),
    ("He never swam.", {"He swam."}),
    ("It no longer exists.", {"It exists."}),
    ("He not only sang.", {None}),
  ],
)  # fmt: skip
def test_a_denial_is_put_in_or_taken_out(said, wanted):
  got = {perturb.negate(said, random.Random(seed)) for seed in range(20)}
  assert got == wanted


def test_changes_are_drawn_from_the_seed_and_the_sentence():
  said = "She met Charles Babbage in June 1833 and was glad."
  same = [perturb.pairs(PREMISE, said, 3, [OTHER]) for _ in range(2)]
  assert same[0] == same[1]
  assert {pair.kind for pair in same[0]} == set(perturb.KINDS)
  assert all(pair.hypothesis != said for pair in same[0])
