"""Preferences from the annotated passages: a good answer, and a usual failure.

The chosen completion is the demonstration.  The rejected one fails as language
models do: it cites a passage that does not hold the answer, cites nothing,
cites everything, refuses what the passages answer, or answers what they do not
from the sentence that looks most like it.  Which one it is follows from the
seed and the example.
"""

import random
import re

from grounded_jax import text
from grounded_jax.data import demonstrations
from grounded_jax.records import Example

ANSWERABLE = ("wrong", "uncited", "overcited", "refused")
UNANSWERABLE = ("answered",)

_CITATION = re.compile(r" \[\d+\]")
_LONGEST = 40  # words of a sentence that looks like an answer


def make(example: Example, *, tags: bool, refusal: str, seed: int) -> list[str]:
  """[chosen, rejected], or [] if there is no demonstration or no failure.

  Args:
    example: its docs carry `answers_found`.
    tags: as in `demonstrations.make`.
    refusal: the sentence that the prompt asks for.
    seed: of the choice of the failure.
  """
  good = demonstrations.make(example, 1, tags=tags, refusal=refusal)
  rng = random.Random(f"{seed}/{example.id}")
  kinds = ANSWERABLE if example.answerable else UNANSWERABLE
  for kind in rng.sample(kinds, len(kinds)):
    bad = failure(example, kind, rng, tags=tags, refusal=refusal)
    if good and bad:
      return [*good, bad]
  return []


def failure(
  example: Example, kind: str, rng: random.Random, *, tags: bool, refusal: str
) -> str:
  """A completion that fails in this way; "" where there is none.

  Args:
    example: its docs carry `answers_found`.
    kind: one of ANSWERABLE if it is that, else of UNANSWERABLE.
    rng: of the choice of a wrong passage.
    tags: as in `demonstrations.make`.
    refusal: the sentence that the prompt asks for.
  """
  write = lambda found: demonstrations.write(
    example, found, 0, tags=tags, refusal=refusal
  )
  if kind == "refused":
    return write([])
  if kind == "answered":
    found = _lookalike(example)
    return write([found]) if found else ""
  found = demonstrations.evidence(example)
  if kind == "wrong":
    found = [(_other(example, place, rng), *said) for place, *said in found]
    return "" if any(place < 0 for place, *_ in found) else write(found)
  if kind == "overcited" and len(example.docs) < 2:
    return ""
  every = "".join(f"[{k}]" for k in range(1, len(example.docs) + 1))
  before, tag, answer = write(found).rpartition("<answer>")
  cited = f" {every}" if kind == "overcited" else ""
  return before + tag + _CITATION.sub(cited, answer)


def _other(example: Example, place: int, rng: random.Random) -> int:
  """A passage that holds no gold answer which this one holds; -1 = none."""
  holds = [
    {gold for gold, bit in enumerate(doc.answers_found) if bit}
    for doc in example.docs
  ]
  others = [i for i, held in enumerate(holds) if not held & holds[place]]
  return rng.choice(others) if others else -1


def _lookalike(example: Example) -> demonstrations.Evidence | None:
  """The sentence of any passage that shares most words with the question.

  For a list the title of its passage stands for an item.
  """
  asked = set(text.normalize(example.question).split())
  best, most = None, -1
  for place, doc in enumerate(example.docs):
    for sentence in text.punkt(doc.text):
      shared = len(asked & set(text.normalize(sentence).split()))
      if shared > most:
        words = " ".join(sentence.split()[:_LONGEST])
        item = doc.title if example.task == "list" else words
        best, most = (place, item, words), shared
  return best
