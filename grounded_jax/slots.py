"""Slots of continuous refill (`refill`): where completions are decoded.

Slot s has a part of each width, in which a group decodes: a prompt's cache and
the own caches of so many of its completions.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Int

from grounded_jax import config, draw, kv_cache, types

# Tokens of a block: few, so that no slot waits long, yet more work than a look.
BLOCK = 16


def widths(group: int) -> tuple[int, ...]:
  """Completions of each part of a slot: G, G/2 and G/4."""
  halves = (group, group // 2, group // 4)
  return tuple(dict.fromkeys(width for width in halves if width))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """What the programs are compiled for."""

  graphdef: Any
  model: config.Model
  rule: draw.Rule
  eos: tuple[int, ...]
  group: int
  max_new_tokens: int
  slots: int
  prompt_len: int  # tokens, with padding
  block: int = BLOCK  # tokens at most between two looks of the host
  admit: int = 1  # prompts that are read at once
  mesh: jax.sharding.Mesh | None = None  # None = the default device

  @property
  def dtype(self) -> str:
    """What is computed in."""
    return self.model.sampling_dtype

  @property
  def widths(self) -> tuple[int, ...]:
    """Completions of each part of a slot."""
    return widths(self.group)

  @property
  def room(self) -> int:
    """Own tokens in the cache: the last is never read back."""
    return self.max_new_tokens - 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
  """The completions in one part of all slots; on the host between blocks."""

  key: Array | np.ndarray  # data of the random keys, [S W 2]
  limit: Int[types.Array, "S W"]  # tokens that each may have; 0 = empty
  drawn: Int[types.Array, " S"]  # tokens that each of the slot's has, or had
  last: Int[types.Array, "S W"]  # the newest
  finished: Bool[types.Array, "S W"]

  def alive(self) -> Bool[Array | np.ndarray, "S W"]:
    """Which completions go on."""
    return ~self.finished & (self.drawn[:, None] < self.limit)


class Part:
  """One part of all slots: which prompts and completions are in it."""

  def __init__(self, s: int, width: int, cache: kv_cache.DecodeCache):
    self.width = width
    self.cache = cache
    self.prompt = np.full(s, -1)  # -1 = free
    self.members = np.zeros((s, width), int)
    self.rows = Rows(
      key=np.zeros((s, width, 2), np.uint32),
      limit=np.zeros((s, width), np.int32),
      drawn=np.zeros(s, np.int32),
      last=np.zeros((s, width), np.int32),
      finished=np.zeros((s, width), bool),
    )

  def free(self) -> list[int]:
    """The slots whose part is."""
    return np.flatnonzero(self.prompt < 0).tolist()

  def fill(self, slot: int, prompt: int, members: np.ndarray, **rows: Any):
    """Puts completions, with their entries of `rows`, into a slot."""
    n = len(members)
    self.prompt[slot] = prompt
    self.members[slot, :n] = members
    self.rows.drawn[slot] = rows.pop("drawn")
    for name, values in rows.items():
      vars(self.rows)[name][slot, :n] = values

  def clear(self, slot: int) -> None:
    """Frees a slot's part."""
    self.prompt[slot] = -1
    self.rows.limit[slot] = 0
