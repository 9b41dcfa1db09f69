import pytest

from grounded_jax import config, verifiers
from grounded_jax.verifiers import cache, lexical

PREMISE = (
  "Title: Eiffel Tower\nThe Eiffel Tower was finished in 1889 by the engineers"
  " of Gustave Eiffel. It was not liked at first. Its height is 1,083 feet."
)


class Longer:
  """Says yes when the premise is the longer; keeps what it was asked."""

  name = "longer"

  def __init__(self):
    self.calls = []

  def __call__(self, premises, hypotheses):
    self.calls.append(list(zip(premises, hypotheses, strict=True)))
    return [len(p) > len(h) for p, h in zip(premises, hypotheses, strict=True)]


def test_the_cache_asks_what_is_new_in_one_call_without_repeats():
  inner = Longer()
  cached = cache.Cached(inner, 10)
  assert cached(["aa", "b", "aa"], ["b", "bb", "b"]) == [True, False, True]
  assert cached(["b", "ccc"], ["bb", "c"]) == [False, True]
  assert inner.calls == [[("aa", "b"), ("b", "bb")], [("ccc", "c")]]
  assert (cached.hits, cached.misses) == (2, 3)
  assert cached([], []) == []
  assert len(inner.calls) == 2


def test_the_cache_forgets_what_was_unused_longest():
  inner = Longer()
  cached = cache.Cached(inner, 2)
  for premise in ("a", "b", "a", "c", "a", "b"):
    cached([premise], ["x"])
  asked = [call[0][0] for call in inner.calls]
  assert asked == ["a", "b", "c", "b"]


def test_the_cache_tells_pairs_apart_that_join_to_one_text():
  cached = cache.Cached(Longer(), 10)
  assert cached(["ab"], ["c"]) == [True]
  assert cached(["a"], ["bc"]) == [False]


def test_metrics_count_what_was_asked_since_they_were_last_read():
  cached = cache.Cached(Longer(), 10)
  cached(["aa", "b", "aa"], ["b", "bb", "b"])  # one of three repeats
  first = cached.metrics()
  assert (first["verifier_pairs"], first["verifier_cache_hits"]) == (3, 1 / 3)
  assert first["verifier_pairs_per_second"] > 0
  cached(["aa", "c"], ["b", "c"])
  second = cached.metrics()
  assert (second["verifier_pairs"], second["verifier_cache_hits"]) == (2, 0.5)
  assert cached.metrics() == {"verifier_pairs": 0.0}


@pytest.mark.parametrize(
  ("hypothesis", "entailed"),
  [
    ("The Eiffel Tower was finished in 1889.", True),
    ("Engineers of Gustave Eiffel finished the tower.", True),
    ("The Eiffel Tower was finished in 1890.", False),  # value swapped
    ("The Tokyo Tower was finished in 1889.", False),  # entity swapped
    ("The Eiffel Tower was not finished in 1889.", False),  # denied
    ("The Eiffel Tower was never finished in 1889.", False),
    ("The tower was not liked at first.", True),
    ("The tower was liked at first.", False),
    ("Its height is 1083 feet.", True),  # the same number
    ("Tall iron buildings attract many tourists.", False),
    ("", False),
    (".", False),
  ],
)
def test_lexical_checks_numbers_names_denial_and_words(hypothesis, entailed):
  assert lexical.Lexical(0.6)([PREMISE], [hypothesis]) == [entailed]


def test_lexical_wants_the_words_close_together():
  verifier = lexical.Lexical(0.8)
  apart = "Ann lives in a house. Bob left. Bob owns a red car."
  assert verifier([apart], ["Bob owns a red car."]) == [True]
  assert verifier.score(apart, "Ann owns a red house.") < 0.8


def test_the_factory_wraps_each_kind_in_a_cache():
  for kind in ("lexical", "oracle"):
    made = verifiers.make(config.Verifier(kind=kind))
    assert made.name.startswith(kind)
    assert isinstance(made, verifiers.Verifier)
    assert list(made([PREMISE], ["Bananas are blue."])) == [False]
