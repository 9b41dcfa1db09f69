"""Pretrained weights: safetensors and GGUF in, safetensors out.

`read` looks at names and shapes alone, so that everything that can be wrong
with a model's files is said before any array is allocated; `load` then builds
one leaf at a time, straight into its sharding.
"""

import functools
from typing import Any

import jax

from grounded_jax import config, files
from grounded_jax.records import UserError, reading
from grounded_jax.weights import export, gguf_file, hf_directory, table
from grounded_jax.weights.checkpoint import Checkpoint
from grounded_jax.weights.hf_directory import save

__all__ = ["Checkpoint", "decoder", "export", "load", "read", "save"]

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
  out = {}
  for row in table.rows(checkpoint.decoder):
    get = functools.partial(functools.reduce, dict.__getitem__, row.path)
    want = get(abstract)
    leaf = table.leaf(row, checkpoint.decoder, checkpoint.tensor, want.dtype)
    if leaf.shape != want.shape:
      raise UserError(
        f"{checkpoint.path}: {'.'.join(row.path)} has shape {leaf.shape}, the"
        f" model built for it {want.shape}."
      )
    sharding = get(shardings) if shardings is not None else None
    node = out
    for name in row.path[:-1]:
      node = node.setdefault(name, {})
    node[row.path[-1]] = _place(leaf, sharding)
  return out


def _place(leaf: Any, sharding: Any) -> jax.Array:
  if sharding is None:
    return jax.device_put(leaf)
  # Each process hands over its own shards, and compares none with others.
  return jax.make_array_from_callback(leaf.shape, sharding, leaf.__getitem__)
