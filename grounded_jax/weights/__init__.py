"""Pretrained weights: safetensors, PyTorch and GGUF in, safetensors out.

`read` looks at names and shapes alone, so that everything that can be wrong
with a model's files is said before any array is allocated; `load` then builds
one leaf at a time, straight into its sharding.
"""

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax

from grounded_jax import config, files
from grounded_jax.records import UserError, reading
from grounded_jax.weights import gguf_file, hf_directory, t5_directory, table
from grounded_jax.weights.checkpoint import Checkpoint
from grounded_jax.weights.hf_directory import save
from grounded_jax.weights.t5_directory import T5Checkpoint
from grounded_jax.weights.t5_directory import save as save_t5

__all__ = [
  "Checkpoint",
  "T5Checkpoint",
  "decoder",
  "load",
  "load_t5",
  "read",
  "read_t5",
  "save",
  "save_t5",
]

_READERS = {"gguf": gguf_file.read, "hf": hf_directory.read}


def read(model: config.Model) -> Checkpoint:
  """The model's files, checked: its decoder, and tensors on demand.

  Raises:
    UserError: `model.path` is "" or nothing that can be read is there.
  """
  if not model.path:
    raise UserError("model.path is empty: there are no weights to read.")
  found = files.find(model.path)
  with reading(f"The model {found.path}", "fetch its files again"):
    return _READERS[found.kind](found.path)


def decoder(model: config.Model) -> config.Decoder:
  """The decoder's shape: of the files, or `model.decoder` without a path."""
  return read(model).decoder if model.path else model.decoder


def load(model: config.Model, abstract: Any, shardings: Any = None) -> Any:
  """The parameters of `model.path`, a tree like `abstract`.

  Args:
    model: whose path is read.
    abstract: the parameter tree's shapes and dtypes (`model.abstract`).
    shardings: a tree of the same structure; None = the default device.
  """
  checkpoint = read(model)
  sizes = table.sizes(checkpoint.decoder)

  def place(row: table.Row, dtype: Any, sharding: Any) -> jax.Array:
    # Whole: a quantised tensor is not read in parts.
    leaf = table.leaf(row, sizes, checkpoint.tensor, dtype)
    if sharding is None:
      return jax.device_put(leaf)
    # Each process hands over its own shards, and compares none with others.
    return jax.make_array_from_callback(leaf.shape, sharding, leaf.__getitem__)

  rows = table.rows(checkpoint.decoder)
  return _tree(checkpoint.path, rows, sizes, abstract, shardings, place)


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
    return t5_directory.read(found.path)


def load_t5(
  checkpoint: T5Checkpoint, abstract: Any, shardings: Any = None
) -> Any:
  """The parameters of a T5, each device's part read for it alone.

  Args:
    checkpoint: from `read_t5`.
    abstract: the parameter tree's shapes and dtypes (`t5.abstract`).
    shardings: a tree of the same structure; None = the default device.
  """
  sizes = t5_directory.sizes(checkpoint.shape)

  def place(row: table.Row, dtype: Any, sharding: Any) -> jax.Array:
    part = functools.partial(table.leaf, row, sizes, checkpoint.tensor, dtype)
    if sharding is None:
      return jax.device_put(part())
    shape, known = table.leaf_shape(row, sizes), {}

    def read_part(index: tuple[slice, ...]) -> Any:
      key = tuple((i.start, i.stop) for i in index)
      if key not in known:  # devices that hold the same part read it once
        known[key] = part(index)
      return known[key]

    return jax.make_array_from_callback(shape, sharding, read_part)

  rows = t5_directory.rows(checkpoint.shape)
  return _tree(checkpoint.path, rows, sizes, abstract, shardings, place)


def _tree(
  path: pathlib.Path,
  rows: Sequence[table.Row],
  sizes: table.Sizes,
  abstract: Any,
  shardings: Any,
  place: Callable[[table.Row, Any, Any], jax.Array],
) -> Any:
  """A tree like `abstract` of what `place` makes of each row."""
  out = {}
  for row in rows:
    get = functools.partial(functools.reduce, dict.__getitem__, row.path)
    want, shape = get(abstract), table.leaf_shape(row, sizes)
    if shape != want.shape:
      raise UserError(
        f"{path}: {'.'.join(row.path)} has shape {shape}, the model built for"
        f" it {want.shape}."
      )
    node = out
    for name in row.path[:-1]:
      node = node.setdefault(name, {})
    sharding = get(shardings) if shardings is not None else None
    node[row.path[-1]] = place(row, want.dtype, sharding)
  return out
