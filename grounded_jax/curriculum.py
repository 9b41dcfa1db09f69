"""Which prompt is drawn next: how many answerable ones, and how hard ones.

The kinds.  With a schedule of the answerable prompts' share s(k), of the first
k prompts floor(S(k)) are answerable, where S(k) is the sum of the share over
them in closed form: every stretch of prompts has its share, to within one.
Each kind has its own epoch-shuffled order.

The difficulty.  A group whose completions all solve their prompt, or none, has
little or nothing to teach.  A prompt's pass rate r is the share of its
completions that solved it, a running mean over its draws.  When its turn comes
in its order, it is drawn with the chance

  redraw + (1 - redraw) 4 r (1 - r)

and else passed over until the next epoch.

So position k is a function of (seed, stage, k) and, with `redraw` below 1, of
the pass rates that were known when its step began.  All processes know all
scores, and a checkpoint holds the rates, so that both are the same everywhere
and after a restart.
"""

import itertools
import random
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from grounded_jax import config, pipeline
from grounded_jax.records import Example, UserError

# What the latest draw counts in a prompt's pass rate.
_LATEST = 0.5


def maker(
  cfg: config.Stage, seed: int, stage: int
) -> Callable[[Sequence[Example]], pipeline.Order] | None:
  """What makes the order of a stage's prompts of them, as they are shown.

  None if the stage takes them as they come.

  Args:
    cfg: the stage, which samples.
    seed: of the order.
    stage: its number.
  """
  if cfg.shares is None and cfg.redraw == 1:
    return None

  def make(examples: Sequence[Example]) -> pipeline.Order:
    length = cfg.epochs * len(examples) or cfg.samples.prompts * cfg.steps
    schedule = Schedule(*cfg.shares, length) if cfg.shares else None
    return Curriculum(
      examples, schedule=schedule, redraw=cfg.redraw, seed=seed, stage=stage
    )

  return make


class Schedule:
  """The share of answerable prompts, from one value evenly to another."""

  def __init__(self, start: Fraction, end: Fraction, length: int):
    """The `end` is reached at position `length`, and holds from there on."""
    self.start, self.end, self._length = start, end, max(length, 1)

  def before(self, k: int) -> int:
    """How many of the first k prompts are answerable."""
    moving = min(k, self._length)
    slope = (self.end - self.start) / self._length
    total = self.start * moving + slope * moving * moving / 2
    return int(total + self.end * (k - moving))


class Curriculum(pipeline.Order):
  """An order by kinds and pass rates."""

  def __init__(
    self,
    examples: Sequence[Example],
    *,
    schedule: Schedule | None,
    redraw: float,
    seed: int,
    stage: int,
  ):
    self._names = [example.id for example in examples]
    self._schedule = schedule
    self._redraw = redraw
    self._address = f"{seed}/{stage}"
    self._kinds = [list(range(len(examples)))]
    if schedule:
      self._kinds = [
        [i for i, e in enumerate(examples) if e.answerable == wanted]
        for wanted in (True, False)
      ]
      self._check()
    self._orders = [
      pipeline.Order(max(len(kind), 1), seed, stage, f"/{i}" if i else "")
      for i, kind in enumerate(self._kinds)
    ]
    self._rates: dict[str, float] = {}
    # The position up to which prompts were observed, and how far each kind's
    # order had been read there.
    self._base, self._read = 0, [0] * len(self._kinds)
    self._forget()

  def _check(self) -> None:
    start, end = self._schedule.start, self._schedule.end
    for kind, name, most in zip(
      self._kinds,
      ("answerable", "unanswerable"),
      (max(start, end), 1 - min(start, end)),
      strict=True,
    ):
      if most and not kind:
        raise UserError(
          f"answerable_share={float(start):g}:{float(end):g} draws {name}"
          f" prompts, but none of the {len(self._names)} is {name}: change the"
          " share or data.train."
        )

  def take(self, cursor: int, n: int) -> list[tuple[int, int]]:
    """(which, epoch) at positions cursor .. cursor + n - 1.

    With `redraw` below 1 the cursor is not before what was last observed.
    """
    if self._redraw < 1:
      self._walk(cursor + n)
      first = cursor - self._base
      return self._taken[first : first + n]
    taken = []
    for k in range(cursor, cursor + n):
      kind = self._kind(k)
      answerable = self._schedule.before(k)
      taken.append(
        self._candidate(kind, k - answerable if kind else answerable)
      )
    return taken

  def observe(
    self, cursor: int, solved: Sequence[tuple[str, float]]
  ) -> dict[str, float]:
    """Counts a step's prompts, those before `cursor`, in their pass rates."""
    if self._redraw == 1:
      return {}
    self._walk(cursor)
    passed_over = sum(self._reached) - sum(self._read) - len(self._taken)
    self._base, self._read = cursor, self._reached
    self._forget()
    for name, share in solved:
      rate = self._rates.get(name, share)
      self._rates[name] = rate + _LATEST * (share - rate)
    return {
      "pass_rate": sum(share for _, share in solved) / len(solved),
      "passed_over": float(passed_over),
    }

  def state(self) -> dict[str, Any] | None:
    """The pass rates, and how far the orders were read for the cursor."""
    if self._redraw == 1:
      return None
    return {
      "cursor": self._base,
      "read": list(self._read),
      "rates": dict(self._rates),
    }

  def restore(self, state: dict[str, Any] | None) -> None:
    """Goes on with what `state` gave."""
    if state is not None:
      self._base = state["cursor"]
      self._read, self._rates = list(state["read"]), dict(state["rates"])
      self._forget()

  def _kind(self, k: int) -> int:
    """Of which kind the prompt at position k is."""
    if not self._schedule:
      return 0
    return int(self._schedule.before(k + 1) == self._schedule.before(k))

  def _candidate(self, kind: int, position: int) -> tuple[int, int]:
    """(which, epoch) at a position of a kind's own order."""
    ((which, epoch),) = self._orders[kind].take(position, 1)
    return self._kinds[kind][which], epoch

  def _forget(self) -> None:
    """Nothing has been drawn since the base."""
    self._taken, self._reached = [], list(self._read)

  def _walk(self, end: int) -> None:
    """Draws what is missing between the base and `end`."""
    for k in range(self._base + len(self._taken), end):
      kind = self._kind(k)
      for passed in itertools.count():
        at = self._reached[kind]
        self._reached[kind] += 1
        found = self._candidate(kind, at)
        luck = random.Random(f"{self._address}/{kind}/{at}").random()
        # Where all are passed over, the next comes as in its order.
        everything = passed >= len(self._kinds[kind])
        if everything or luck < self._chance(self._names[found[0]]):
          break
      self._taken.append(found)

  def _chance(self, name: str) -> float:
    rate = self._rates.get(name, 0.5)
    return self._redraw + (1 - self._redraw) * 4 * rate * (1 - rate)
