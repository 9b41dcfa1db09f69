"""Stop strings: texts that end a completion, as its EOS does.

They are looked for in the text, on the host, so that no program depends on
them and it does not matter which tokens the model writes them with.
"""

import bisect
from collections.abc import Sequence

import numpy as np

from grounded_jax import types
from grounded_jax.tokenizer import Tokenizer


def parse(text: str) -> tuple[str, ...]:
  """The stop strings of a config's `stop`."""
  return tuple(part for part in text.split("|") if part)


def ends_at(
  tokenizer: Tokenizer, ids: Sequence[int], stop: Sequence[str]
) -> int | None:
  """How many of the tokens it takes for a stop string to stand in their text.

  None if they hold none.
  """
  if not stop:
    return None
  holds = lambda n: any(s in tokenizer.decode(ids[:n]) for s in stop)
  if not holds(len(ids)):
    return None
  return bisect.bisect_left(range(len(ids)), True, key=holds)


def cut(
  tokenizer: Tokenizer,
  rollout: types.Rollout,
  stop: Sequence[str],
) -> types.Rollout:
  """The rollout, its completions ended after the first stop string of each.

  The token that completes one is the last, and its completion finished.
  """
  if not stop:
    return rollout
  tokens, sampled, logp, finished = (
    np.array(x)
    for x in (rollout.tokens, rollout.sampled, rollout.logp, rollout.finished)
  )
  for row in np.ndindex(finished.shape):
    ids = tokens[row][sampled[row]].tolist()
    end = ends_at(tokenizer, ids, stop)
    if end is not None:
      finished[row] = True
      tokens[row][end:], sampled[row][end:], logp[row][end:] = 0, False, 0.0
  return types.Rollout(
    tokens=tokens, sampled=sampled, logp=logp, finished=finished
  )


def until(text: str, stop: Sequence[str]) -> str:
  """The text up to and including the stop string that ends first."""
  ends = [text.index(s) + len(s) for s in stop if s in text]
  return text[: min(ends)] if ends else text
