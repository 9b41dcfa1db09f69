"""Shares by weight, exact at every position; resumable like any order."""

import collections
import fractions

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from grounded_jax import mixing
from grounded_jax.records import UserError

WEIGHT = st.integers(1, 30).map(lambda n: fractions.Fraction(n, 4))


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(st.lists(WEIGHT, min_size=1, max_size=6))
def test_every_prefix_holds_each_share_to_within_one(weights):
  turns = mixing.Turns(weights)
  total, taken = sum(weights), [0] * len(weights)
  for position in range(200):
    group, turn = turns[position]
    assert turn == taken[group]  # none left out, none twice
    taken[group] += 1
    fair = [(position + 1) * weight / total for weight in weights]
    assert all(abs(a - b) < 1 for a, b in zip(taken, fair, strict=True))


def mixed(seed=0):
  groups = {"a": np.arange(3), "b": np.arange(3, 10)}
  weights = {"a": fractions.Fraction(2), "b": fractions.Fraction(1)}
  return mixing.Mixed(groups, weights, {"a": seed, "b": seed + 100})


def test_each_group_is_repeated_by_itself_in_orders_of_its_own():
  taken = mixed().take(0, 63)
  a = [(which, epoch) for which, epoch in taken if which < 3]
  b = [(which, epoch) for which, epoch in taken if which >= 3]
  assert (len(a), len(b)) == (42, 21)
  assert collections.Counter(a) == {
    (i, e): 1 for i in range(3) for e in range(14)
  }
  assert collections.Counter(b) == {
    (i, e): 1 for i in range(3, 10) for e in range(3)
  }
  assert len({tuple(b[7 * e : 7 * e + 7]) for e in range(3)}) == 3
  assert mixed(seed=1).take(0, 63) != taken


def test_an_order_resumes_at_any_cursor():
  whole = mixed().take(0, 50)
  for cursor in (1, 17, 49):
    assert mixed().take(cursor, 50 - cursor) == whole[cursor:]


def test_weights_without_a_common_measure_are_refused():
  odd = [fractions.Fraction("0.333333"), fractions.Fraction(1)]
  with pytest.raises(UserError, match="give rounder ones"):
    mixing.Turns(odd)
