"""What the processes of a run share out, and what they tell each other.

Every process runs the same program over the same global arrays.  Of the rows
of an array (its prompts) each process reads, samples and scores those that its
devices hold; where several hold the same rows, because `tensor` spans them,
they deal them out among themselves.  What is decided on the host is decided
alike everywhere: from values that `every` process has told, or that the first
one has found (`once`).

Both are collectives: all processes call them, in the same order, from the
thread that also runs the programs.
"""

import pickle
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

from grounded_jax import verifiers
from grounded_jax.records import UserError

Value = TypeVar("Value")


def first() -> bool:
  """Whether this process is the one that writes and speaks for all."""
  return jax.process_index() == 0


def every(value: Value) -> list[Value]:
  """The value of each process, by its number."""
  if jax.process_count() == 1:
    return [value]
  data = np.frombuffer(pickle.dumps(value), np.uint8)
  sizes = multihost_utils.process_allgather(np.int32(data.size))
  # A power of two: few shapes, few compilations.
  padded = np.zeros(1 << int(sizes.max() - 1).bit_length(), np.uint8)
  padded[: data.size] = data
  told = multihost_utils.process_allgather(padded)
  return [
    pickle.loads(row[:size].tobytes())
    for row, size in zip(told, sizes, strict=True)
  ]


def once(function: Callable[[], Value]) -> Value:
  """What the function returns on the first process, on all of them.

  A mistake or a failure to read or write is raised on all of them too.
  """
  if jax.process_count() == 1:
    return function()
  result, error = None, None
  if first():
    try:
      result = function()
    except (UserError, OSError) as raised:
      error = raised
  result, error = every((result, error))[0]
  if error is not None:
    raise error
  return result


class Shared:
  """A verifier that every process asks about its share of the same pairs."""

  def __init__(self, verifier: verifiers.Metered):
    self._verifier = verifier
    self.name = verifier.name

  def __call__(
    self, premises: Sequence[str], hypotheses: Sequence[str]
  ) -> list[bool]:
    """The verdicts of all pairs; a collective, with the same pairs on all."""
    processes, own = jax.process_count(), jax.process_index()
    verdicts = [False] * len(premises)
    told = every(
      self._verifier(premises[own::processes], hypotheses[own::processes])
    )
    for process, said in enumerate(told):
      verdicts[process::processes] = said
    return verdicts

  def metrics(self) -> dict[str, float]:
    """Of this process's share."""
    return self._verifier.metrics()


def share(layout: NamedSharding, count: int) -> np.ndarray:
  """Which of `count` rows are this process's to fetch and score, ascending.

  Args:
    layout: of the rows over the devices of all processes.
    count: of rows.
  """
  if jax.process_count() == 1:
    return np.arange(count)
  holders = {}
  for device, index in layout.devices_indices_map((count,)).items():
    start, stop, _ = index[0].indices(count)
    holders.setdefault((start, stop), set()).add(device.process_index)
  return dealt(holders, jax.process_index())


def dealt(holders: dict[tuple[int, int], set[int]], process: int) -> np.ndarray:
  """A process's rows, those that several hold dealt out in turn.

  Args:
    holders: the processes that hold the rows start .. stop - 1.
    process: which one is asked for.
  """
  rows = []
  for (start, stop), processes in holders.items():
    order = sorted(processes)
    if process in order:
      rows += range(start + order.index(process), stop, len(order))
  return np.array(sorted(rows), int)


def fetch(tree: Any, layout: NamedSharding, rows: np.ndarray) -> Any:
  """These rows of every array of the tree, on the host.

  Args:
    tree: arrays over all devices, or on the host.
    layout: that this process holds these rows in.
    rows: as `share` gives them.
  """
  if jax.process_count() == 1:
    return jax.device_get(tree)

  def held(x):
    if not isinstance(x, jax.Array):
      return x[rows]
    found = {}
    for shard in jax.device_put(x, layout).addressable_shards:
      start, stop, _ = shard.index[0].indices(x.shape[0])
      found |= zip(range(start, stop), np.asarray(shard.data), strict=True)
    blank = np.empty((len(rows), *x.shape[1:]), x.dtype)
    for at, row in enumerate(rows):
      blank[at] = found[int(row)]
    return blank

  return jax.tree.map(held, tree)


def whole(tree: Any) -> Any:
  """Every array of the tree with all of its rows, on the host.

  For small ones that all processes go by.
  """
  if jax.process_count() == 1:
    return jax.device_get(tree)
  return multihost_utils.process_allgather(tree, tiled=True)


def put(x: Any, layout: NamedSharding) -> jax.Array:
  """An array that every process has whole, each placing its devices' part."""
  if jax.process_count() == 1:
    return jax.device_put(x, layout)
  x = np.asarray(x)
  return jax.make_array_from_callback(x.shape, layout, lambda index: x[index])
