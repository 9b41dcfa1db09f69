"""A verifier that remembers, in memory and perhaps on disk."""

import collections
import hashlib
import time
from collections.abc import Sequence

from grounded_jax.verifiers import Verifier
from grounded_jax.verifiers.disk import Disk


class Cached:
  """Asks another verifier only what is new, in one call, without repeats.

  What is kept is a digest of the verifier's name and each pair, not its text;
  in memory the pair longest unused goes first.  The name must therefore state
  the model and every option that changes a verdict.
  """

  def __init__(self, verifier: Verifier, size: int, disk: Disk | None = None):
    self._verifier = verifier
    self._size = size
    self._disk = disk
    self._known: collections.OrderedDict[bytes, bool] = (
      collections.OrderedDict()
    )
    self.hits = 0  # pairs answered from memory or as repeats within a call
    self.read = 0  # pairs answered from disk
    self.misses = 0  # pairs the verifier was asked
    self.seconds = 0.0  # in all of its calls
    self._told = (0, 0, 0.0)  # what `metrics` counted up to
    self.name = verifier.name
    self._salt = hashlib.blake2b(self.name.encode(), digest_size=16).digest()

  def __call__(
    self, premises: Sequence[str], hypotheses: Sequence[str]
  ) -> list[bool]:
    """For each pair, what the verifier says or has said of it."""
    began = time.monotonic()
    pairs = list(zip(premises, hypotheses, strict=True))
    keys = [_digest(self._salt, *pair) for pair in pairs]
    answers = {key: self._known[key] for key in keys if key in self._known}
    new = {
      key: pair
      for key, pair in zip(keys, pairs, strict=True)
      if key not in answers
    }
    self.hits += len(pairs) - len(new)
    answers |= self._find(new)
    self._remember(answers)
    self.seconds += time.monotonic() - began
    return [answers[key] for key in keys]

  def metrics(self) -> dict[str, float]:
    """What was asked since the last call of this, and how fast it was told.

    verifier_pairs: pairs asked; and, if there were any, verifier_cache_hits:
    the share that memory or disk answered; verifier_pairs_per_second: pairs by
    the time of the calls, cached pairs included.
    """
    totals = (self.hits + self.read, self.misses, self.seconds)
    cached, asked, seconds = (
      now - then for now, then in zip(totals, self._told, strict=True)
    )
    self._told = totals
    pairs = cached + asked
    if not pairs:
      return {"verifier_pairs": 0.0}
    return {
      "verifier_pairs": float(pairs),
      "verifier_cache_hits": cached / pairs,
      "verifier_pairs_per_second": pairs / max(seconds, 1e-9),
    }

  def _find(self, new: dict[bytes, tuple[str, str]]) -> dict[bytes, bool]:
    """The verdicts on pairs that memory does not hold."""
    found = self._disk.find(list(new)) if self._disk and new else {}
    unknown = {key: pair for key, pair in new.items() if key not in found}
    self.read += len(found)
    self.misses += len(unknown)
    if not unknown:
      return found
    said = self._verifier(*map(list, zip(*unknown.values(), strict=True)))
    made = dict(zip(unknown, map(bool, said), strict=True))
    if self._disk:
      self._disk.add(made)
    return found | made

  def _remember(self, answers: dict[bytes, bool]) -> None:
    for key, answer in answers.items():
      self._known[key] = answer
      self._known.move_to_end(key)
    while len(self._known) > self._size:
      self._known.popitem(last=False)


def _digest(salt: bytes, premise: str, hypothesis: str) -> bytes:
  """A key of 16 bytes; the lengths keep ("ab", "c") from ("a", "bc")."""
  whole = f"{len(premise)}:{premise}{hypothesis}"
  return hashlib.blake2b(
    whole.encode("utf-8", "surrogatepass"), digest_size=16, salt=salt
  ).digest()
