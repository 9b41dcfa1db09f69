"""Counterfactual passages: every alias goes, one new name comes, no more."""

import dataclasses
import random
import re

import pytest
from test_robustness import WORLD, doc, example

from grounded_jax import text
from grounded_jax.data import counterfactual, robustness, world

PLACES = example(
  "places",
  [
    doc(
      "Paris", "PARIS lies on the Seine; Parisian comparison. paris's city.", 1
    ),
    doc("Seine", "It runs through the city of light, Paris.", 1),
    doc("Mur", "It runs through Graz.", 0),
  ],
  [("Paris", "the City of Light")],
  question="Where does the Seine run?",
)
DONORS = counterfactual.names(
  [
    example("a", [], [("Vienna",)], question="Where is the Danube?"),
    example("b", [], [("Mozart",)], question="Who wrote it?"),
    example("c", [], [("Graz",)], question="Where is the Mur?"),
    example("d", [], [("New York",)], question="Where is the Hudson?"),
    example("e", [], [("Paris",)], question="Where is the Louvre?"),
  ]
)


def make(e, donors=DONORS, seed=0):
  return counterfactual.counterfactual(e, donors, seed=seed)


def test_every_alias_of_every_passage_and_title_becomes_the_new_name():
  """Vienna: asked for by "where", one capital word, in no passage (Graz is)."""
  got = make(PLACES)
  assert got.example.answers == (("Vienna",),)
  assert got.original == (("Paris", "the City of Light"),)
  assert [d.title for d in got.example.docs] == ["Vienna", "Seine", "Mur"]
  assert [d.text for d in got.example.docs] == [
    "Vienna lies on the Seine; Parisian comparison. Vienna's city.",
    "It runs through Vienna, Vienna.",
    "It runs through Graz.",
  ]
  assert [d.answers_found for d in got.example.docs] == [(1,), (1,), (0,)]
  assert got.example.answerable and got.example.question == PLACES.question


def test_the_longest_alias_is_swapped_whole():
  e = example(
    "y",
    [doc("", "New York City, New York, York.", 1)],
    [("York", "New York", "New York City")],
  )
  (d,) = make(e).example.docs
  new = make(e).example.answers[0][0]
  assert d.text == f"{new}, {new}, {new}."


def test_white_space_within_an_alias_may_differ():
  e = example("y", [doc("", "In New\n  York.", 1)], [("New York",)])
  donors = counterfactual.names([example("f", [], [("Old Ham",)])])
  assert make(e, donors).example.docs[0].text == "In Old Ham."


def test_a_name_of_the_same_shape_comes_even_if_asked_otherwise():
  asked = dataclasses.replace(PLACES, question="Name the city on the Seine.")
  assert {make(asked, seed=s).example.answers[0][0] for s in range(20)} == {
    "Vienna",
    "Mozart",
  }


YEAR = r"(19[1-9]\d|20[0-4]\d)"


@pytest.mark.parametrize(
  ("old", "pattern"),
  [
    ("1987", YEAR),
    ("May 5, 1987", rf"May [1-9], {YEAR}"),
    ("April 21st", r"April (1\dth|2[0-8](st|nd|rd|th))"),
    ("1,204 km", r"[1-9],[1-9]\d\d km"),
    ("7", r"[1-9]"),
    ("twelve", "|".join(counterfactual._NUMBERS)),
    ("Twelve", "|".join(n.capitalize() for n in counterfactual._NUMBERS)),
  ],
)
def test_a_number_becomes_another_of_its_kind(old, pattern):
  e = example("n", [doc("", f"It was {old} then.", 1)], [(old,)])
  for seed in range(20):
    (new,) = make(e, seed=seed).example.answers[0]
    assert new != old and re.fullmatch(pattern, new), new


def test_an_ordinal_keeps_its_ending_right():
  class Highest(random.Random):
    def randint(self, a, b):
      return b

  number = lambda n: counterfactual._number(n, "th", Highest())
  assert (number("21"), number("321"), number("5")) == ("28th", "999th", "9th")


@pytest.mark.parametrize(
  ("changed", "why"),
  [
    ({"task": "claims"}, "claims"),
    ({"answerable": False}, "no passage holds an answer"),
    ({"question": "Is it Paris?"}, "its question names an answer"),
    ({"answers": (("Xi Jin Ping", "Paris"),)}, "no like answer"),
    ({"answers": (("Lutetia",),)}, "in other words"),
  ],
)
def test_what_cannot_be_made_says_why(changed, why):
  got = make(dataclasses.replace(PLACES, **changed))
  assert got.example is None and why in got.why


def test_an_alias_spelled_another_way_is_not_left_behind():
  told = "The U.S. is large. US troops."
  e = example("u", [doc("", told, 1)], [("US",)])
  assert "spells" in make(e).why


def test_two_golds_get_two_names_and_an_unnamed_one_stays():
  e = example(
    "l",
    [doc("", "Oslo and Bergen.", 1, 1, 0)],
    [("Oslo",), ("Bergen",), ("Tromso",)],
    task="list",
  )
  got = make(e)
  (oslo,), (bergen,), tromso = got.example.answers
  assert got.example.docs[0].text == f"{oslo} and {bergen}."
  assert oslo != bergen and tromso == ("Tromso",)
  assert got.original == (("Oslo",), ("Bergen",), ())


def test_in_the_world_the_swapped_passages_support_the_swapped_answers():
  donors, oracle = counterfactual.names(WORLD), world.Oracle()
  made = 0
  for e in WORLD:
    got = make(e, donors)
    assert (got.example is not None) == (e.answerable and e.task != "claims")
    if got.example is None:
      continue
    made += 1
    for d, before in zip(got.example.docs, e.docs, strict=True):
      words = robustness.words(d)
      for gold, old in enumerate(got.original):
        assert not any(f" {text.normalize(a)} " in words for a in old)
        assert d.answers_found == before.answers_found
        if d.answers_found[gold]:
          (new,) = got.example.answers[gold]
          said = new if e.task == "list" else None
          if said:
            assert oracle([d.premise], [f"{e.question} {new}"]) == [True]
          assert f" {text.normalize(new)} " in words
  assert made == 20


def test_following_is_counted_by_the_new_and_the_former_names():
  """One of four follows, one recites, one does both, one refuses."""
  variant = make(PLACES)
  outputs = [
    "It runs through Vienna [1].",
    "The Seine runs through the city of light [1].",
    "Paris, not Vienna.",
    "I apologize, but I couldn't find an answer.",
  ]
  got = counterfactual.follows(outputs, [variant] * 4)
  assert (got["follows_passage"], got["follows_memory"]) == (50.0, 50.0)
  # Wilson's interval of 2 of 4.
  assert got["intervals"]["follows_passage"] == pytest.approx(
    [15.00, 85.00], abs=0.01
  )
  none = counterfactual.follows(["Parisian Viennas"], [variant])
  assert (none["follows_passage"], none["follows_memory"]) == (0.0, 0.0)
  assert none["intervals"]["follows_memory"][0] == 0.0
