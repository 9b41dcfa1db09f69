"""Prompts of a large source, made when they are taken.

What is taken at a position is a function of the position alone; threads may
make it ahead of time, and then it is the same.
"""

import dataclasses
from collections.abc import Callable, Sequence
from concurrent import futures

from grounded_jax.data import pool
from grounded_jax.records import Example, UserError

# Examples looked at for one that keeps its answer.
_LOOK = 1000

Fit = Callable[[Example], tuple[Example, list[int]]]
# (which, epoch) at positions cursor .. cursor + n - 1 of an order.
Take = Callable[[int, int], list[tuple[int, int]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """A prompt that was asked for."""

  name: str  # the prompt's, within an epoch
  example: Example  # as it is shown
  ids: list[int]


class Rows:
  """The prompts of examples that are not in memory."""

  def __init__(
    self, examples: pool.Kept, fit: Fit, *, choice: str, workers: int
  ):
    """Takes the examples, chosen as `choice` says: any, only, even."""
    self._examples, self._fit = examples, fit
    # Losing its last passages makes an example unanswerable, never the reverse.
    self._guarded = choice != "any"
    self._ahead: dict[tuple[int, int], futures.Future] = {}
    self._threads = futures.ThreadPoolExecutor(workers) if workers else None

  def __len__(self) -> int:
    return len(self._examples)

  def make(self, which: int) -> Row:
    """The prompt of an example.

    Where the choice needs an answerable one and `max_prompt_len` took the
    answer from it, the next example that keeps its own stands in.

    Raises:
      UserError: a prompt does not fit, or no example keeps its answer.
    """
    example, ids = self._fit(self._examples[which])
    if (
      not self._guarded
      or example.answerable == self._examples.answerable[which]
    ):
      return Row(name=example.id, example=example, ids=ids)
    asked = example.id
    for step in range(1, min(len(self), _LOOK)):
      other = (which + step) % len(self)
      if self._examples.answerable[other]:
        example, ids = self._fit(self._examples[other])
        if example.answerable:
          name = f"{example.id}/{asked}"
          return Row(name=name, example=example, ids=ids)
    raise UserError(
      "No prompt keeps an answer once passages are dropped to fit"
      f" data.max_prompt_len, at the record {asked!r} and for {_LOOK} after it:"
      " raise it."
    )

  def take(self, order: Take, cursor: int, n: int) -> list[tuple[Row, int]]:
    """(row, epoch) at positions cursor .. cursor + n - 1."""
    taken = order(cursor, n)
    if self._threads is None:
      return [(self.make(which), epoch) for which, epoch in taken]
    wanted = dict.fromkeys(taken)
    following = dict.fromkeys(order(cursor + n, n))
    self._ahead = {
      entry: self._ahead.get(entry) or self._threads.submit(self.make, entry[0])
      for entry in wanted | following
    }
    return [(self._ahead[entry].result(), entry[1]) for entry in taken]


def fit_many(
  examples: Sequence[Example], fit: Fit, workers: int
) -> list[tuple[Example, list[int]]]:
  """The fit of each example, in their order, made by so many threads."""
  if not workers:
    return [fit(example) for example in examples]
  with futures.ThreadPoolExecutor(workers) as threads:
    return list(threads.map(fit, examples))
