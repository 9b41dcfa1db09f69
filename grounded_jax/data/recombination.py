"""Sets of passages from one question's retrieved ones (Trust-Align's recipe).

A set is answerable where it holds *valid* passages, each with some of the gold
answers; the union of what they hold is its pattern.  For every pattern that
can be had there is one set, filled up with the *invalid* passages most like
its valid ones; sets of invalid passages alone make the same question
unanswerable.  A passage is meant by its number among the question's: valid
ones come first, both kinds by retrieval score.
"""

import dataclasses
import random
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float16, Int8

_PATTERNS = 1024  # patterns looked at, most
_FIRST = 3  # passages by score of which a counterpart has one


@dataclasses.dataclass(frozen=True, kw_only=True)
class Held:
  """What a question's passages hold, and how alike they are."""

  bits: Int8[np.ndarray, "V A"]  # of the valid ones: which gold answers
  likeness: Float16[np.ndarray, "N N"]  # cosines of all of them

  @property
  def valid(self) -> int:
    """How many passages are valid; the others are not."""
    return len(self.bits)

  @property
  def invalid(self) -> int:
    """How many passages are invalid."""
    return len(self.likeness) - len(self.bits)


def patterns(
  bits: Int8[np.ndarray, "V A"], size: int
) -> dict[tuple[int, ...], tuple[int, ...]]:
  """For each union of gold answers that at most `size` passages have: which.

  The fewest passages that have it, and of those the first ones.
  """
  rows = [tuple(int(bit) for bit in row) for row in bits]
  found: dict[tuple[int, ...], tuple[int, ...]] = {}
  for number, row in enumerate(rows):
    found.setdefault(row, (number,))
  newest = dict(found)
  for _ in range(size - 1):
    made = {}
    for pattern, chosen in newest.items():
      for number, row in enumerate(rows):
        union = tuple(map(max, pattern, row))
        if union not in found and len(found) + len(made) < _PATTERNS:
          made.setdefault(union, tuple(sorted((*chosen, number))))
    found |= made
    newest = made
  return found


def answerable(
  held: Held, size: int, most: int, rng: random.Random
) -> list[tuple[int, ...]]:
  """At most `most` sets of `size` passages, each of another pattern.

  The pattern with most gold answers is always among them, the others by lot.
  Sets that cannot be filled up are left out.
  """
  found = patterns(held.bits, size)
  first = max(found, key=lambda pattern: (sum(pattern), pattern))
  others = sorted(pattern for pattern in found if pattern != first)
  rng.shuffle(others)
  out = []
  for pattern in [first, *others][:most]:
    chosen = found[pattern]
    if size - len(chosen) <= held.invalid:
      near = held.likeness[list(chosen), held.valid :].sum(0, np.float32)
      order = np.argsort(-near, kind="stable")[: size - len(chosen)]
      out.append((*chosen, *(held.valid + int(i) for i in order)))
  return out


def unanswerable(held: Held, size: int, most: int) -> list[tuple[int, ...]]:
  """Sets of invalid passages, at most `most`: the best five, the next five."""
  valid, count = held.valid, min(most, held.invalid // size)
  return [
    tuple(range(valid + i * size, valid + (i + 1) * size)) for i in range(count)
  ]


def counterparts(
  held: Held,
  chosen: Sequence[int],
  most: int,
  rng: random.Random,
) -> list[tuple[int, ...]]:
  """At most `most` all-invalid sets that may stand beside an answerable one.

  Each keeps some of what filled it up, has one of the first passages, and is
  filled by lot.
  """
  every = range(held.valid, held.valid + held.invalid)
  fill = [number for number in chosen if number >= held.valid]
  out = []
  for _ in range(most if held.invalid >= len(chosen) else 0):
    kept = set(rng.sample(fill, rng.randint(0, len(fill))))
    if len(kept) < len(chosen):
      kept.add(every[rng.randrange(min(_FIRST, len(every)))])
    free = [number for number in every if number not in kept]
    kept.update(rng.sample(free, len(chosen) - len(kept)))
    out.append(tuple(sorted(kept)))
  return list(dict.fromkeys(out))


def likeness(said: Sequence[Sequence[str]]) -> Float16[np.ndarray, "N N"]:
  """Cosines of passages' words by tf-idf, idf = ln((1 + n) / (1 + df)) + 1."""
  numbers: dict[str, int] = {}
  places = [
    [numbers.setdefault(word, len(numbers)) for word in words] for words in said
  ]
  counts = np.zeros((len(said), len(numbers)), np.float32)
  for row, own in zip(counts, places, strict=True):
    np.add.at(row, own, 1)
  seen = (counts > 0).sum(0)
  rows = counts * (np.log((1 + len(said)) / (1 + seen)) + 1)
  rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
  return (rows @ rows.T).astype(np.float16)
