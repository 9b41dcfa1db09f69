"""Pretrained weights: safetensors, PyTorch and GGUF in, safetensors out.

`read` looks at names and shapes alone, so that everything that can be wrong
with a model's files is said before any array is allocated; `load` then builds
one leaf at a time, straight into its sharding.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jaxtyping import Float
from numpy import ndarray

from grounded_jax import config, files
from grounded_jax.records import UserError, reading
from grounded_jax.weights import (
  export,
  gguf_file,
  hf_directory,
  t5_directory,
  table,
)
from grounded_jax.weights.checkpoint import Checkpoint
from grounded_jax.weights.hf_directory import save
from grounded_jax.weights.t5_directory import T5Checkpoint
from grounded_jax.weights.t5_directory import save as save_t5

__all__ = [
  "Checkpoint",
  "T5Checkpoint",
  "decoder",
  "export",
  "load",
  "load_t5",
  "read",
  "read_t5",
  "save",
  "save_t5",
]


def read(model: config.Model) -> Checkpoint:
  """The model's files, checked: its decoder, and tensors on demand.

  Raises:
    UserError: `model.path` is "" or nothing that can be read is there.
  """
  if not model.path:
    raise UserError("model.path is empty: there are no weights to read.")
  found = files.find(model.path)
  with reading(f"The model {found.path}", "fetch its files again"):
    if found.kind == "gguf":
      return gguf_file.read(found.path)
    return hf_directory.read(found.path, found.bucket)


def decoder(model: config.Model) -> config.Decoder:
  """The decoder's shape: of the files, or `model.decoder` without a path."""
  return read(model).decoder if model.path else model.decoder


def load(model: config.Model, abstract: Any, shardings: Any = None) -> Any:
  """The parameters of `model.path`, each device's part read for it alone.

  Args:
    model: whose path is read.
    abstract: the parameter tree's shapes and dtypes (`model.abstract`).
    shardings: a tree of the same structure; None = the default device.
  """
  checkpoint = read(model)
  rows, sizes = table.rows(checkpoint.decoder), table.sizes(checkpoint.decoder)
  return _tree(checkpoint, rows, sizes, abstract, shardings)


def read_t5(path: str) -> T5Checkpoint:
  """The T5 that a directory or a name of the hub holds, checked.

  Raises:
    UserError: nothing that can be read is there.
  """
  found = files.find(path)
  if found.kind != "hf":
    raise UserError(
      f"{found.path} is no T5: give a directory with config.json and weights."
    )
  with reading(f"The model {found.path}", "fetch its files again"):
    return t5_directory.read(found.path, found.bucket)


def load_t5(
  checkpoint: T5Checkpoint, abstract: Any, shardings: Any = None
) -> Any:
  """The parameters of a T5, each device's part read for it alone.

  Args:
    checkpoint: from `read_t5`.
    abstract: the parameter tree's shapes and dtypes (`t5.abstract`).
    shardings: a tree of the same structure; None = the default device.
  """
  shape = checkpoint.shape
  rows, sizes = t5_directory.rows(shape), t5_directory.sizes(shape)
  return _tree(checkpoint, rows, sizes, abstract, shardings)


def _tree(
  checkpoint: Checkpoint | T5Checkpoint,
  rows: Sequence[table.Row],
  sizes: table.Sizes,
  abstract: Any,
  shardings: Any,
) -> Any:
  """A tree like `abstract`, of the leaf of each row."""
  out = {}
  for row in rows:
    get = functools.partial(functools.reduce, dict.__getitem__, row.path)
    want, shape = get(abstract), table.leaf_shape(row, sizes)
    if shape != want.shape:
      raise UserError(
        f"{checkpoint.path}: {'.'.join(row.path)} has shape {shape}, the"
        f" model built for it {want.shape}."
      )
    node = out
    for name in row.path[:-1]:
      node = node.setdefault(name, {})
    part = functools.partial(
      table.leaf, row, sizes, checkpoint.tensor, want.dtype
    )
    sharding = None if shardings is None else get(shardings)
    node[row.path[-1]] = _leaf(part, shape, sharding)
  return out


def _leaf(
  part: Callable[[table.Index], Float[ndarray, "..."]],
  shape: tuple[int, ...],
  sharding: Any,
) -> jax.Array:
  """A leaf, of which each device's part alone is read, one after another.

  Args:
    part: reads the part that a slice of each axis asks for.
    shape: of the leaf.
    sharding: None = the default device.
  """
  if sharding is None:
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  places = sharding.addressable_devices_indices_map(shape)
  parts = {}  # of devices that hold the same one
  for device, index in places.items():
    key = tuple(i.indices(n) for i, n in zip(index, shape, strict=True))
    parts.setdefault(key, (index, []))[1].append(device)
  arrays = []
  for index, devices in parts.values():
    host = part(index)
    arrays += [jax.device_put(host, device) for device in devices]
    # Before the next part is read this one leaves the host.
    jax.block_until_ready(arrays)
    del host
  return jax.make_array_from_single_device_arrays(shape, sharding, arrays)
