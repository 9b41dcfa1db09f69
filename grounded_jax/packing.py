"""Groups without their padding: several of them in one row of tokens.

A padded group has L + G (C - 1) cells: its prompt's, then those of its
completions' tokens but their last, which predict nothing.  A packed row holds
the filled cells of up to S groups one after another as T tokens.  All that is
computed for each token by itself (projections, MLP, norms, output head) is
computed for these alone; attention gets each group in its padded cells, so that
no token sees another group's and positions start anew in each.

The host deals groups to rows and says where each token goes; a row has as many
tokens as the fullest needs, rounded up to one of a few lengths, each of which
is a program of its own.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Shaped

from grounded_jax import config, mesh, types

# Rows are so many lengths at most, and these are multiples of so many tokens.
_LENGTHS = 16
_MULTIPLE = 64


def _taken(
  x: Shaped[Array, "R A *D"], index: Int[Array, "R B"], fill: int = 0
) -> Shaped[Array, "R B *D"]:
  """x[r, index[r, b]], or `fill` where the index is beyond x."""
  take = lambda x, i: x.at[i].get(mode="fill", fill_value=fill)
  return jax.vmap(take)(x, index)


def _inverse(index: Int[Array, "R B"], size: int) -> Int[Array, "R A"]:
  """Which entry of `index` names each of `size` places; B where none does."""
  count = index.shape[1]
  one = lambda i: (
    jnp.full(size, count, i.dtype)
    .at[i]
    .set(jnp.arange(count, dtype=i.dtype), mode="drop")
  )
  return jax.vmap(one)(index)


@jax.custom_vjp
def _moved(
  x: Shaped[Array, "R A *D"], source: Int[Array, "R B"], back: Int[Array, "R A"]
) -> Shaped[Array, "R B *D"]:
  """x[r, source[r, b]], 0 where it is beyond x; `back` is the inverse.

  So the gradient is read from where each entry went: nothing is added up.
  """
  return _taken(x, source)


_moved.defvjp(
  lambda x, source, back: (_taken(x, source), back),
  lambda back, d_out: (_taken(d_out, back), None, None),
)


class Padded:
  """The places of tokens that stand in the cells of their groups."""

  def tokens(self, x: Shaped[Array, "P W *D"]) -> Shaped[Array, "P W *D"]:
    return x

  cells = tokens


class Packed:
  """The places of tokens in packed rows, within jit."""

  def __init__(self, packing: types.Packing, groups: int, width: int):
    """Finds where each cell's token stands.

    Args:
      packing: which cell each token of a row fills.
      groups: P, those of all rows.
      width: W, the cells of a group.
    """
    self._cell = packing.cell
    self._shape = (groups, width)
    cells = groups * width // packing.cell.shape[0]
    self._token = _inverse(packing.cell, cells)  # [R S*W]

  def _rows(self, x: Shaped[Array, "P W *D"]) -> Shaped[Array, "R _ *D"]:
    return x.reshape(*self._token.shape, *x.shape[2:])

  def tokens(self, x: Shaped[Array, "P W *D"]) -> Shaped[Array, "R T *D"]:
    """The rows' tokens of what fills the cells."""
    return _moved(self._rows(x), self._cell, self._token)

  def cells(self, x: Shaped[Array, "R T *D"]) -> Shaped[Array, "P W *D"]:
    """Each cell's token; 0 where it has none."""
    x = _moved(x, self._token, self._cell)
    return x.reshape(*self._shape, *x.shape[2:])

  def predicting(
    self, x: Shaped[Array, "R T *D"], cell: Int[Array, "R H"]
  ) -> Shaped[Array, "R H *D"]:
    """The tokens in these cells; one may be asked for several times."""
    token = _taken(self._token, cell, fill=x.shape[1])
    return _taken(x, token)


def sources(
  packing: types.Packing,
  length: Int[Array, " P"],
  prompt_len: int,
  group: int,
  new_tokens: int,
) -> Int[Array, "R H"]:
  """Returns the cell of its row whose token predicts each target.

  Token 0 of a completion follows the prompt's last token, token c its own
  token c - 1.  Beyond a row's targets the cell is beyond its cells too.
  """
  width = prompt_len + group * (new_tokens - 1)
  slot, within = jnp.divmod(packing.target, group * new_tokens)
  member, c = jnp.divmod(within, new_tokens)
  length = length.reshape(packing.target.shape[0], -1)
  last = jnp.take_along_axis(length, slot, axis=1, mode="clip") - 1
  own = prompt_len + member * (new_tokens - 1) + c - 1
  return slot * width + jnp.where(c == 0, last, own)


def restored(
  packing: types.Packing, x: Shaped[Array, "R H"], shape: tuple[int, int, int]
) -> Shaped[Array, "P G C"]:
  """Returns what was computed for each target where it stands; 0 elsewhere."""
  places = math.prod(shape) // x.shape[0]
  return _taken(x, _inverse(packing.target, places)).reshape(shape)


def targets(
  packing: types.Packing, tokens: Int[Array, "P G C"]
) -> tuple[Int[Array, "R H"], Int[Array, ""]]:
  """Returns the tokens to be predicted, and how many the fullest row has."""
  tokens = tokens.reshape(packing.target.shape[0], -1)
  counted = packing.target < tokens.shape[1]
  return _taken(tokens, packing.target), counted.sum(1).max()


def filled(packing: types.Packing) -> Bool[Array, " R"]:
  """Returns which rows hold any group: the first token of one is in cell 0."""
  return packing.cell[:, 0] == 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Sizes:
  """Tokens of each group that counts, and what a row has room for."""

  load: np.ndarray  # tokens of each group
  targets: np.ndarray  # predicted tokens of each group
  room: tuple[int, int]  # tokens and targets of a row


def _dealt(load: np.ndarray, rows: int, slots: int) -> list[list[int]]:
  """Groups by row, the largest first, each to the emptiest with a free slot."""
  out, filled = [[] for _ in range(rows)], np.zeros(rows)
  for which in np.argsort(-load, kind="stable"):
    free = [len(row) < slots for row in out]
    row = int(np.argmin(np.where(free, filled, np.inf)))
    out[row].append(int(which))
    filled[row] += load[which]
  return out


def _chosen(
  sizes: _Sizes, least: int, most: int, ways: int
) -> tuple[list[list[int]], int]:
  """(groups by row, slots): the most slots, doubled from `least`, that fit.

  Fewer and fuller micro-batches read the weights less often.
  """
  count = len(sizes.load)
  options = [least]
  while 2 * options[-1] <= most:
    options.append(2 * options[-1])
  for slots in reversed(options):
    rows = _dealt(sizes.load, -(-count // (slots * ways)) * ways, slots)
    full = [
      max((sum(of[row]) for row in rows), default=0)
      for of in (sizes.load, sizes.targets)
    ]
    if all(need <= room for need, room in zip(full, sizes.room, strict=True)):
      break
  return rows, slots


def _length(needed: int, room: int) -> int:
  """The least of a row's lengths that holds so many tokens."""
  step = -(-room // (_LENGTHS * _MULTIPLE)) * _MULTIPLE
  return min(max(-(-needed // step), 1) * step, room)


def _places(
  row: list[int], batch: types.Batch | types.SFTBatch, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """The cells that a row's tokens fill, and its targets."""
  _, l = batch.prompts.tokens.shape
  _, g, c = batch.tokens.shape
  cells, targets = [], []
  for slot, which in enumerate(row):
    start = slot * (l + g * (c - 1))
    cells.append(start + np.arange(batch.prompts.length[which]))
    for member, count in enumerate(counts[which]):
      first = start + l + member * (c - 1)
      cells.append(first + np.arange(max(count - 1, 0)))
      targets.append((slot * g + member) * c + np.arange(count))
  join = lambda parts: np.concatenate([np.zeros(0, int), *parts])
  return join(cells), join(targets)


def pack(
  cfg: config.GRPO | config.SFT | config.DPO,
  batch: types.Batch | types.SFTBatch,
  ways: int,
) -> types.Batch | types.SFTBatch:
  """Returns the host batch with its groups in packed rows.

  Groups and completions without weight are in no row.  Rows that hold any
  come first on every device; as many follow as make the number of rows one.

  Args:
    cfg: micro and pack are read.
    batch: P groups, in any order.
    ways: in how many parts the devices cut them.

  Returns:
    R rows with S slots for groups each, in the order in which `optim.split`
    deals one row of every device to a micro-batch.
  """
  p, g, c = batch.tokens.shape
  each = (cfg.micro or p) // ways  # groups of full length in a row
  counts = batch.spans  # [P G]
  live = np.flatnonzero(counts.any(1))
  own = np.maximum(counts - 1, 0).sum(1)
  width = batch.prompts.tokens.shape[1] + g * (c - 1)
  sizes = _Sizes(
    load=(batch.prompts.length + own)[live],
    targets=counts.sum(1)[live],
    room=(each * width, each * g * c),
  )
  dealt, slots = _chosen(sizes, each, cfg.pack * each, ways)
  micro = p // (each * ways)  # micro-batches
  rows = [[] for _ in range(ways * micro)]
  for turn, row in enumerate(dealt):  # in turn over the devices
    rows[turn % ways * micro + turn // ways] = live[row].tolist()
  places = [_places(row, batch, counts) for row in rows]
  longest = max(len(cells) for cells, _ in places)
  packing = types.Packing(
    cell=_filled(
      [cells for cells, _ in places],
      _length(longest, sizes.room[0]),
      slots * width,
    ),
    target=_filled(
      [targets for _, targets in places], sizes.room[1], slots * g * c
    ),
  )
  where = _filled([np.array(row, int) for row in rows], slots, -1)
  where = where.reshape(ways, micro, slots).swapaxes(1, 2).ravel()
  return dataclasses.replace(_in_slots(batch, where), packing=packing)


def _filled(parts: list[np.ndarray], width: int, beyond: int) -> np.ndarray:
  """The parts as rows of one array, what is left filled with `beyond`."""
  out = np.full((len(parts), width), beyond, np.int32)
  for row, part in zip(out, parts, strict=True):
    row[: len(part)] = part
  return out


def _in_slots(
  batch: types.Batch | types.SFTBatch, where: np.ndarray
) -> types.Batch | types.SFTBatch:
  """The groups where they were dealt to; an empty slot weighs nothing."""
  pick = lambda x: x[np.maximum(where, 0)] if np.ndim(x) else x
  batch = jax.tree.map(pick, batch)
  filled = (where >= 0).reshape(-1, *(1,) * (batch.weight.ndim - 1))
  return dataclasses.replace(batch, weight=batch.weight * filled)


def micro_batches(
  micro: int, x: Shaped[Array, "P ..."], packing: types.Packing | None
) -> int:
  """Returns their number; a packed one has one row of each device.

  Args:
    micro: prompts of one that is not packed; 0 = all at once.
    x: an array of the batch.
    packing: of the batch, if it is packed.
  """
  if packing is not None:
    return packing.cell.shape[0] // mesh.row_ways(x)
  return x.shape[0] // (micro or x.shape[0])


def order(micro: int, batch: types.Batch | types.SFTBatch) -> dict[str, Any]:
  """Returns how `optim.micro_gradients` is to go through a batch.

  Micro-batches without weight are not computed.
  """
  weight, packing = batch.weight, batch.packing
  shards = mesh.row_ways(weight)
  size = weight.shape[0] // micro_batches(micro, weight, packing)
  if packing is None:
    live = (weight != 0).any(tuple(range(1, weight.ndim)))
    return {"micro": size, "shards": shards, "live": live}
  used = filled(packing).reshape(shards, -1).sum(1).max()
  return {"micro": size, "shards": shards, "used": used}
