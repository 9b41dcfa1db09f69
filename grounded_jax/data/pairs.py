"""A question's answerable sets of passages, each beside an unanswerable one."""

import dataclasses
import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from grounded_jax.data import recombination, shortcuts
from grounded_jax.data.corpus import Corpus
from grounded_jax.data.evidence import Candidates

_CHOICE = 300  # unanswerable sets that one is chosen from, at most


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
  """Two sets of passages, as places in `candidates`."""

  candidates: Candidates
  number: int  # of the question's pairs, from 1
  answerable: tuple[int, ...]
  unanswerable: tuple[int, ...]  # () = none that leaves no cue
  plain: tuple[int, ...]  # the unanswerable set of plain recombination

  @property
  def key(self) -> str:
    """The question's."""
    return self.candidates.question.key

  @property
  def golds(self) -> list[int]:
    """The corpus's numbers of the passages that hold an answer."""
    c = self.candidates
    return [c.numbers[n] for n in self.answerable if n < c.held.valid]

  def cues(self, chosen: Sequence[Sequence[int]]) -> np.ndarray:
    """The cues of sets of its passages."""
    c = self.candidates
    return shortcuts.cues(c.features, c.held.likeness, np.array(chosen))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """A record that is to be written."""

  pair: Pair
  answerable: bool
  seed: int  # of the order of its passages

  @property
  def id(self) -> str:
    """The question's id with a, or u, and the pair's number."""
    name = self.pair.candidates.question.example.id
    return f"{name}-{'a' if self.answerable else 'u'}{self.pair.number}"

  @property
  def places(self) -> list[int]:
    """Its passages in an order that is drawn, as places in the candidates."""
    pair = self.pair
    found = list(pair.answerable if self.answerable else pair.unanswerable)
    random.Random(f"{self.seed}/order/{self.id}").shuffle(found)
    return found

  def record(self, corpus: Corpus) -> dict[str, Any]:
    """The record as its file holds it."""
    c = self.pair.candidates
    example, bits = c.question.example, c.bits
    docs = []
    for place in self.places:
      doc = corpus[c.numbers[place]]
      found = [int(bit) for bit in bits[place]]
      docs.append(
        {"title": doc.title, "text": doc.text, "answers_found": found}
      )
    return {
      "id": self.id,
      "dataset": example.dataset,
      "task": example.task,
      "question": example.question,
      "answers": [list(aliases) for aliases in example.answers],
      "docs": docs,
      "answerable": self.answerable,
    }


def recombined(c: Candidates, size: int, most: int, seed: int) -> list[Pair]:
  """At most `most` pairs of sets of `size`, by plain recombination."""
  if not c.held.valid:
    return []
  rng = random.Random(f"{seed}/patterns/{c.question.key}")
  both = zip(
    recombination.answerable(c.held, size, most, rng),
    recombination.unanswerable(c.held, size, most),
    strict=False,  # where passages are few one kind has fewer sets
  )
  return [
    Pair(candidates=c, number=n, answerable=yes, unanswerable=no, plain=no)
    for n, (yes, no) in enumerate(both, start=1)
  ]


def matched(pairs: Sequence[Pair], seed: int) -> list[Pair]:
  """The pairs with unanswerable sets that leave no cue, or without one."""
  if not pairs:
    return []
  own = np.concatenate([pair.cues([pair.answerable]) for pair in pairs])
  options = lambda: (pair.cues(_choice(pair, seed)) for pair in pairs)
  picked = shortcuts.match(own, options)
  return [
    dataclasses.replace(
      pair, unanswerable=() if n is None else _choice(pair, seed)[n]
    )
    for pair, n in zip(pairs, picked, strict=True)
  ]


def _choice(pair: Pair, seed: int) -> list[tuple[int, ...]]:
  """The unanswerable sets that a pair's is chosen from."""
  rng = random.Random(f"{seed}/counterparts/{pair.key}/{pair.number}")
  return recombination.counterparts(
    pair.candidates.held, pair.answerable, _CHOICE, rng
  )
