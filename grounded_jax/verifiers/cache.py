"""A verifier that remembers."""

import collections
import hashlib
from collections.abc import Sequence

from grounded_jax.verifiers import Verifier


class Cached:
  """Asks another verifier only what is new, in one call, without repeats.

  What is kept is a digest of each pair, not its text; the pair longest
  unused goes first.
  """

  def __init__(self, verifier: Verifier, size: int):
    self._verifier = verifier
    self._size = size
    self._known: collections.OrderedDict[bytes, bool] = (
      collections.OrderedDict()
    )
    self.hits = 0  # pairs answered from memory or as repeats within a call
    self.misses = 0  # pairs the verifier was asked
    self.name = verifier.name

  def __call__(
    self, premises: Sequence[str], hypotheses: Sequence[str]
  ) -> list[bool]:
    """For each pair, what the verifier says or has said of it."""
    pairs = list(zip(premises, hypotheses, strict=True))
    keys = [_digest(*pair) for pair in pairs]
    answers = {key: self._known[key] for key in keys if key in self._known}
    new = {
      key: pair
      for key, pair in zip(keys, pairs, strict=True)
      if key not in answers
    }
    if new:
      asked = self._verifier(*map(list, zip(*new.values(), strict=True)))
      answers.update(zip(new, map(bool, asked), strict=True))
    self.misses += len(new)
    self.hits += len(pairs) - len(new)
    self._remember(answers)
    return [answers[key] for key in keys]

  def _remember(self, answers: dict[bytes, bool]) -> None:
    for key, answer in answers.items():
      self._known[key] = answer
      self._known.move_to_end(key)
    while len(self._known) > self._size:
      self._known.popitem(last=False)


def _digest(premise: str, hypothesis: str) -> bytes:
  """A key of 16 bytes; the lengths keep ("ab", "c") from ("a", "bc")."""
  whole = f"{len(premise)}:{premise}{hypothesis}"
  return hashlib.blake2b(
    whole.encode("utf-8", "surrogatepass"), digest_size=16
  ).digest()
