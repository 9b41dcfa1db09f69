"""An endless order that takes from several groups by weight.

Which group a position takes from is a function of the position alone, and so
is which of the group's members: each group is shuffled and repeated by itself.
"""

import fractions
import math
from collections.abc import Mapping, Sequence
from typing import Any

import grain
import numpy as np

from grounded_jax.records import UserError

# Positions after which the turns of the groups begin anew.
_LONGEST = 100_000


class Fixed:
  """An order that nothing which is observed changes."""

  def observe(
    self, cursor: int, solved: Sequence[tuple[str, float]]
  ) -> dict[str, float]:
    """Takes note of what the prompts before `cursor` showed: nothing here.

    Args:
      cursor: prompts read so far.
      solved: the id of each prompt of a step, and the share of its completions
        that solve it.

    Returns:
      Numbers for the log.
    """
    del cursor, solved
    return {}

  def state(self) -> dict[str, Any] | None:
    """What a checkpoint keeps beside the cursor, as JSON; None = nothing."""
    return None

  def restore(self, state: dict[str, Any] | None) -> None:
    """Goes on with what `state` gave."""


class Turns:
  """Which group each position takes from, as grain's selection maps say it.

  Every prefix of the order holds each group's share to within one.
  """

  def __init__(self, weights: Sequence[fractions.Fraction]):
    """Lays out one round of turns.

    Raises:
      UserError: the weights have no small common measure.
    """
    unit = math.lcm(*(weight.denominator for weight in weights))
    counts = [int(weight * unit) for weight in weights]
    common = math.gcd(*counts)
    self._counts = [count // common for count in counts]
    size = sum(self._counts)
    if size > _LONGEST:
      raise UserError(
        f"The weights {', '.join(map(str, weights))} of the mix repeat only"
        f" after {size} prompts, more than {_LONGEST}: give rounder ones."
      )
    # Turn j of a group with n of the round's turns belongs between places
    # j/n and (j+1)/n of it: where each place goes to the turn that must come
    # first, none comes late.
    taken = [0] * len(counts)
    self._group, self._turn = np.zeros((2, size), np.int64)
    for place in range(size):
      _, group = min(
        (-(-(j + 1) * size // n), i)
        for i, (j, n) in enumerate(zip(taken, self._counts, strict=True))
        if j * size < (place + 1) * n
      )
      self._group[place], self._turn[place] = group, taken[group]
      taken[group] += 1

  def __len__(self) -> int:
    return 2**62  # endless

  def __getitem__(self, position: int) -> tuple[int, int]:
    rounds, at = divmod(position, len(self._group))
    group = int(self._group[at])
    return group, rounds * self._counts[group] + int(self._turn[at])


class Mixed(Fixed):
  """The endless order of the members of groups, by weight."""

  def __init__(
    self,
    groups: Mapping[str, np.ndarray],
    weights: Mapping[str, fractions.Fraction],
    seeds: Mapping[str, int],
  ):
    """Takes members (numbers) of the groups, each with weight and seed."""
    parts = [_endless(members, seeds[name]) for name, members in groups.items()]
    turns = Turns([weights[name] for name in groups])
    self._order = grain.MapDataset.select_from_datasets(parts, turns)

  def take(self, cursor: int, n: int) -> list[tuple[int, int]]:
    """(which, epoch of its group) at positions cursor .. cursor + n - 1."""
    return [self._order[k] for k in range(cursor, cursor + n)]


def _endless(members: np.ndarray, seed: int) -> grain.MapDataset:
  """(member, epoch) of every position of a group."""
  size = len(members)
  order = grain.MapDataset.range(size).seed(seed).shuffle().repeat()
  return order.map_with_index(lambda k, i: (int(members[i]), k // size))
