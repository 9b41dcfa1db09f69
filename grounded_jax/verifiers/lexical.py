"""A verifier by words: fast, deterministic, nothing to load.

It accepts a hypothesis when enough of its content words stand in the premise,
close together, every number and name among them, and the sentence nearest to
it does not say otherwise.  It reads words, not meaning: it is the default, not
a judge to publish with.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence

from grounded_jax.verifiers import contradiction, passages
from grounded_jax.verifiers.passages import Passage, Statement
from grounded_jax.verifiers.words import Word

# What is left of its share of words to a statement that lacks a name or a
# number, or that the premise contradicts: below any useful threshold.
_REFUTED = 0.4
_UNASKED = 0.3  # what is left to an answer none of whose question is found


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Match:
  """What one passage does for one statement."""

  found: int  # bits of the words that stand in it
  missing: int  # bits of needed words that do not
  near: float  # the best share of words in two sentences in a row
  refuted: bool  # its nearest sentences contradict the statement


class Lexical:
  """Accepts where `score` reaches `threshold`."""

  def __init__(self, threshold: float):
    self.threshold = threshold
    self.name = f"lexical({threshold:g})"

  def __call__(
    self, premises: Sequence[str], hypotheses: Sequence[str]
  ) -> list[bool]:
    """For each pair, whether the premise's words carry the hypothesis."""
    return [
      self.score(premise, hypothesis) >= self.threshold
      for premise, hypothesis in zip(premises, hypotheses, strict=True)
    ]

  def score(self, premise: str, hypothesis: str) -> float:
    """How far the premise's words carry the hypothesis, 0 to 1.

    The score of its least supported sentence: the mean of two shares of its
    content words, by weight: found anywhere, and found in two sentences in a
    row or their title.  Only 0.4 of that is left when a name or a number is
    missing or the nearest sentence contradicts.  Behind a question the shares
    are the answer's, times 0.3 to 1 by the share of the question's words.
    """
    said = passages.hypothesis(hypothesis)
    if not said.statements:
      return 0.0
    shown = passages.passages(premise)
    return min(
      _score(s, [_match(passage, s, said.question) for passage in shown])
      for s in said.statements
    )


def _score(said: Statement, matches: Iterable[_Match]) -> float:
  found, missing = 0, -1
  best = _Match(found=0, missing=0, near=-1.0, refuted=True)
  for match in matches:
    found |= match.found
    missing &= match.missing
    best = max(best, match, key=lambda m: (m.near, not m.refuted))
  score = (said.share(found) + best.near) / 2
  return score * _REFUTED if missing or best.refuted else score


@functools.lru_cache(maxsize=200_000)
def _match(
  passage: Passage, said: Statement, asked: Statement | None
) -> _Match:
  masks, title = _masks(passage, said)
  near = [
    said.share(a | b | title)
    for a, b in zip(masks, (*masks[1:], 0), strict=True)
  ]
  if asked:
    near = _answering(passage, asked, near)
  found = functools.reduce(int.__or__, masks, 0)
  return _Match(
    found=found,
    missing=sum(b for word, b in said.needed if not _holds(passage, word)),
    near=max(near, default=0.0),
    refuted=_refuted(passage, said, masks, title),
  )


def _answering(
  passage: Passage, asked: Statement, near: Sequence[float]
) -> list[float]:
  """The shares of an answer, less where little of its question stands."""
  masks, title = _masks(passage, asked)
  return [
    share * (_UNASKED + (1 - _UNASKED) * asked.share(mask | title))
    for share, mask in zip(near, masks, strict=True)
  ]


def _masks(passage: Passage, said: Statement) -> tuple[list[int], int]:
  """For each sentence the words it has, and those of the title."""
  masks, title = [0] * len(passage.sentences), 0
  for key, bit in said.bits.items():
    for place in passage.places.get(key, ()):
      masks[place] |= bit
    if key in passage.title:
      title |= bit
  return masks, title


# Endings that make an adjective of a name, or a plural.
_ENDINGS = frozenset(("", "a", "an", "ian", "n", "ese", "ish", "i", "s", "y"))


def _holds(passage: Passage, word: Word) -> bool:
  """Whether the passage has a name or number, or a form of the name."""
  if word.exact in passage.exact or word.key in passage.places:
    return True
  if word.kind == "number" or len(word.exact) < 5:
    return False
  stem = word.exact[:4]
  return any(
    other.startswith(stem) and _forms(word.exact, other)
    for other in passage.exact
  )


def _forms(one: str, other: str) -> bool:
  """Whether two names are forms of one: "canada" and "canadian"."""
  same = 0
  while same < min(len(one), len(other)) and one[same] == other[same]:
    same += 1
  return one[same:] in _ENDINGS and other[same:] in _ENDINGS


def _refuted(
  passage: Passage, said: Statement, masks: Sequence[int], title: int
) -> bool:
  """Whether the sentences nearest to the statement contradict it."""
  if not masks:
    return False
  ours, sentences = said.sentence, passage.sentences
  if contradiction.changed(ours.words, passage):
    return True
  top = max(range(len(masks)), key=lambda i: said.share(masks[i]))
  around = sentences[max(0, top - 1) : top + 2]
  return contradiction.denies(
    ours, sentences[top], around
  ) or contradiction.opposes(ours, sentences[top])
