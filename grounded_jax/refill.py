"""Continuous refill: a slot whose group has ended is given to the next prompt.

The completions of a group end at different times, and a batch is as slow as
its longest.  Here S slots decode in blocks of a few tokens.  Between blocks the
host lets a group that has ended give its slot to the next prompt, and one whose
living completions fit a narrower part of a slot move there: a slot has parts of
G, G/2 and G/4 completions, all decoded by one program (`blocks`).

What is drawn is what `sampler.sample` draws: a draw is a function of prompt
key, completion and token.  Programs depend on the number of slots, the prompts'
padded length and the options alone, and the first call compiles all of them.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from grounded_jax import blocks, hosts, slots, types

# The number of a completion's tokens at which its text ends it, if it does.
Stopped = Callable[[Sequence[int]], int | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
  """What a stream computed, for comparison with other ways."""

  steps: int  # times that the weights were read to decode
  rows: int  # tokens decoded by them, those of ended completions included


class _Stream:
  """All prompts and their completions, as far as they are."""

  def __init__(
    self,
    options: slots.Options,
    params: Any,
    prompts: types.PromptBatch,
    address: tuple[np.int32, ...],
    limit: np.ndarray,
    stopped: Stopped | None,
  ):
    self.options, self.params, self.prompts = options, params, prompts
    self.address, self.limit, self.stopped = address, limit, stopped
    shape = (*limit.shape, options.max_new_tokens)
    self.rollout = types.Rollout(
      tokens=np.zeros(shape, np.int32),
      sampled=np.zeros(shape, bool),
      logp=np.zeros(shape, jnp.promote_types(options.dtype, jnp.float32)),
      finished=np.zeros(limit.shape, bool),
    )
    self.count = np.zeros(limit.shape, int)  # tokens of each completion
    self.waiting = 0  # the next prompt
    self.entry = 0  # of the rings, written next
    self.parts = [
      slots.Part(options.slots, width, blocks.empty(options, params, width))
      for width in options.widths
    ]
    self.work = Work(steps=0, rows=0)

  def compile(self) -> None:
    """Runs every program on empty slots, where it does nothing."""
    for i, source in enumerate(self.parts):
      self._decode(self.parts[i:])
      for target in self.parts[i + 1 :]:
        self._copy(source, target, 0, 0, np.arange(target.width))

  def run(self) -> None:
    """Decodes until every completion has ended."""
    while True:
      self._retire()
      self._narrow()
      if self._admit():
        continue  # a group may have ended with its first tokens
      live = [(part.prompt >= 0).any() for part in self.parts]
      if not any(live):
        return
      self._decode(self.parts[live.index(True) :])

  def _retire(self) -> None:
    """Frees the slots whose completions have all ended."""
    for part in self.parts:
      ended = (part.prompt >= 0) & ~part.rows.alive().any(1)
      for slot in np.flatnonzero(ended).tolist():
        part.clear(slot)

  def _narrow(self) -> None:
    """Moves groups with few living completions to the narrowest free part."""
    for i, source in enumerate(self.parts):
      living = source.rows.alive()
      for slot in np.flatnonzero(source.prompt >= 0).tolist():
        members = np.flatnonzero(living[slot])
        for target in reversed(self.parts[i + 1 :]):
          if len(members) <= target.width and target.free():
            self._move(source, target, slot, members)
            break

  def _move(
    self, source: slots.Part, target: slots.Part, slot: int, members: np.ndarray
  ) -> None:
    free = target.free()[0]
    # What fills the part is never alive.
    filled = np.resize(members, target.width)
    self._copy(source, target, slot, free, filled)
    row = lambda name: vars(source.rows)[name][slot, members]
    target.fill(
      free,
      int(source.prompt[slot]),
      source.members[slot, members],
      drawn=source.rows.drawn[slot],
      **{name: row(name) for name in ("key", "limit", "last", "finished")},
    )
    source.clear(slot)

  def _copy(
    self,
    source: slots.Part,
    target: slots.Part,
    origin: int,
    slot: int,
    members: np.ndarray,
  ) -> None:
    target.cache = blocks.move(
      self.options,
      source.cache,
      target.cache,
      np.int32(origin),
      np.int32(slot),
      members.astype(np.int32),
    )

  def _admit(self) -> bool:
    """Reads the next prompts into free slots; whether there were any."""
    wide, begun = self.parts[0], []
    free = wide.free()
    while free and self.waiting < len(self.limit):
      n = min(self.options.admit, len(free), len(self.limit) - self.waiting)
      rows = np.arange(self.waiting, self.waiting + n)
      begun.append((free[:n], rows, self._read(free[:n], rows)))
      self.waiting, free = self.waiting + n, free[n:]
    for taken, rows, drawn in begun:
      keys, token, logp = hosts.whole(drawn)
      every = np.arange(self.options.group)
      for k, (slot, i) in enumerate(zip(taken, rows.tolist(), strict=True)):
        wide.fill(
          slot,
          i,
          every,
          drawn=1,
          key=keys[k],
          limit=self.limit[i],
          last=token[k],
          finished=np.isin(token[k], self.options.eos),
        )
      n = len(rows)
      alive = (self.limit[rows] > 0)[..., None]
      self._record(wide, taken, alive, token[:n, :, None], logp[:n, :, None])
    return bool(begun)

  def _read(self, taken: list[int], rows: np.ndarray) -> tuple:
    """Begins to read prompts; their (keys, first tokens, logp)."""
    options, wide = self.options, self.parts[0]
    filled = np.resize(rows, options.admit)
    where = np.full(options.admit, options.slots, np.int32)  # nowhere
    where[: len(taken)] = taken
    prompts = jax.tree.map(lambda x: np.asarray(x)[filled], self.prompts)
    wide.cache, *drawn = blocks.admit(
      options, self.params, wide.cache, prompts, where, self.address
    )
    return tuple(drawn)

  def _decode(self, parts: list[slots.Part]) -> None:
    """A block of tokens of these parts."""
    caches, rows, done, out = blocks.block(
      self.options,
      self.params,
      tuple(part.cache for part in parts),
      tuple(part.rows for part in parts),
      np.int32(self.entry),
    )
    rows, done, out = hosts.whole((rows, done, out))
    self.entry = (self.entry + int(done)) % self.options.room
    widths = [part.width for part in parts]
    computed = int(done) * self.options.slots * sum(widths)
    self.work = Work(
      steps=self.work.steps + int(done), rows=self.work.rows + computed
    )
    ends = np.cumsum(widths)[:-1]
    columns = [
      np.split(out[name], ends, axis=1) for name in ("sampled", "token", "logp")
    ]
    for i, part in enumerate(parts):
      part.cache = caches[i]
      part.rows = jax.tree.map(np.array, rows[i])
      every = list(range(self.options.slots))
      self._record(part, every, *(column[i] for column in columns))

  def _record(
    self,
    part: slots.Part,
    taken: list[int],
    sampled: np.ndarray,
    token: np.ndarray,
    logp: np.ndarray,
  ) -> None:
    """Appends new tokens [taken, W, n] of some slots of a part."""
    s, w, n = np.nonzero(sampled)
    slot = np.asarray(taken)[s]
    i, j = part.prompt[slot], part.members[slot, w]
    at = self.count[i, j] + n
    self.rollout.tokens[i, j, at] = token[s, w, n]
    self.rollout.sampled[i, j, at] = True
    self.rollout.logp[i, j, at] = logp[s, w, n]
    np.add.at(self.count, (i, j), 1)
    self.rollout.finished[i, j] = part.rows.finished[slot, w]
    if self.stopped is not None:
      for row in sorted(set(zip(slot.tolist(), w.tolist(), strict=True))):
        self._stop(part, *row)

  def _stop(self, part: slots.Part, slot: int, w: int) -> None:
    """Ends a completion whose text says so."""
    row = part.prompt[slot], part.members[slot, w]
    end = self.stopped(self.rollout.tokens[row][: self.count[row]].tolist())
    if end is None:
      return
    part.rows.finished[slot, w] = self.rollout.finished[row] = True
    self.count[row] = end
    self.rollout.tokens[row][end:] = 0
    self.rollout.sampled[row][end:] = False
    self.rollout.logp[row][end:] = 0


def sample(
  options: slots.Options,
  params: Any,
  prompts: types.PromptBatch,
  *,
  seed: int,
  stage: int,
  step: int,
  purpose: int,
  limit: Int[np.ndarray, "P G"] | None = None,
  stopped: Stopped | None = None,
) -> tuple[types.Rollout, Work]:
  """Returns what `sampler.sample` does, on the host, and what it took.

  Args:
    options: of the programs.
    params: of the model.
    prompts: on the host, any number of them.
    seed: of what is drawn, as are stage, step and purpose.
    stage: as in `sampler.row_keys`.
    step: as above.
    purpose: as above.
    limit: tokens that each completion may have, where fewer than all.
    stopped: of the tokens so far, at which of them their text ends it.
  """
  every = np.full(
    (len(prompts.length), options.group), options.max_new_tokens, np.int32
  )
  stream = _Stream(
    options,
    blocks.prepare(options, params),
    prompts,
    tuple(np.int32(x) for x in (seed, stage, step, purpose)),
    every if limit is None else np.minimum(every, limit).astype(np.int32),
    stopped,
  )
  stream.compile()
  stream.run()
  return stream.rollout, stream.work
