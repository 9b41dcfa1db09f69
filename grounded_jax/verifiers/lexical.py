"""A verifier by words: fast, deterministic, nothing to load.

It accepts a hypothesis when enough of its content words stand in the premise,
close together, every number and name among them, and the sentence nearest to
it does not say otherwise.  It reads words, not meaning: it is the default, not
a judge to publish with.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Sequence

from grounded_jax.verifiers import contradiction, passages, words
from grounded_jax.verifiers.passages import Passage, Statement
from grounded_jax.verifiers.words import Word

# What is left of its share of words to a statement that lacks a name or a
# number or that the premise contradicts, and to an answer none of whose
# question is found: below any useful threshold.
_LITTLE = 0.4


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
    row or their title.  0.4 of that when a name or a number is missing or the
    nearest sentence contradicts.  Behind a question it is the share of the
    answer in one sentence, times 0.4 to 1 by the share of the question in that
    sentence and its title.
    """
    said = passages.hypothesis(hypothesis)
    if not said.statements:
      return 0.0
    shown = passages.passages(premise)
    return min(
      _score(
        s, [_match(p, s, said.question) for p in shown], bool(said.question)
      )
      for s in said.statements
    )


def _score(said: Statement, matches: Iterable[_Match], asked: bool) -> float:
  found, missing = 0, -1
  best = _Match(found=0, missing=0, near=-1.0, refuted=True)
  for match in matches:
    found |= match.found
    missing &= match.missing
    best = max(best, match, key=lambda m: (m.near, not m.refuted))
  score = best.near if asked else (said.share(found) + best.near) / 2
  return score * _LITTLE if missing or best.refuted else score


@functools.lru_cache(maxsize=20_000)
def _match(
  passage: Passage, said: Statement, asked: Statement | None
) -> _Match:
  masks, title = _masks(passage, said)
  if asked:
    near = _answering(passage, said, asked)
  else:
    near = [
      said.share(a | b | title) for a, b in itertools.pairwise((*masks, 0))
    ]
  found = functools.reduce(int.__or__, masks, 0)
  return _Match(
    found=found,
    missing=sum(b for word, b in said.needed if not _holds(passage, word)),
    near=max(near, default=0.0),
    refuted=_refuted(passage, said, masks),
  )


def _answering(
  passage: Passage, said: Statement, asked: Statement
) -> list[float]:
  """Each sentence's share of the answer, less where it lacks the question."""
  answer, _ = _masks(passage, said)
  masks, title = _masks(passage, asked)
  return [
    said.share(mine) * (_LITTLE + (1 - _LITTLE) * asked.share(mask | title))
    for mine, mask in zip(answer, masks, strict=True)
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


def _holds(passage: Passage, word: Word) -> bool:
  """Whether the passage has a name or number, or a form of the name."""
  if word.exact in passage.exact or word.key in passage.places:
    return True
  return word.kind != "number" and any(
    words.same_name(word.exact, other)
    for other in passage.starts.get(word.exact[: words.START], ())
  )


def _refuted(passage: Passage, said: Statement, masks: Sequence[int]) -> bool:
  """Whether the sentences nearest to the statement contradict it."""
  if not masks:  # an empty passage
    return False
  ours, sentences = said.sentence, passage.sentences
  if contradiction.changed(ours.words, passage):
    return True
  top = max(range(len(masks)), key=lambda i: said.share(masks[i]))
  around = sentences[max(0, top - 1) : top + 2]
  return contradiction.denies(
    ours, sentences[top], around
  ) or contradiction.opposes(ours, sentences[top])
