"""Pretrained weights: safetensors and GGUF in, safetensors out.

`read` looks at names and shapes alone, so that everything that can be wrong
with a model's files is said before any array is allocated; `load` then builds
one leaf at a time, straight into its sharding.
"""

import functools
from typing import Any

import jax
from jaxtyping import Float
from numpy import ndarray

from grounded_jax import config, files
from grounded_jax.records import UserError, reading
from grounded_jax.weights import gguf_file, hf_directory, table
from grounded_jax.weights.checkpoint import Checkpoint
from grounded_jax.weights.hf_directory import save

__all__ = ["Checkpoint", "decoder", "load", "read", "save"]


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
    shape = table.leaf_shape(row, checkpoint.decoder)
    if shape != want.shape:
      raise UserError(
        f"{checkpoint.path}: {'.'.join(row.path)} has shape {shape}, the"
        f" model built for it {want.shape}."
      )
    sharding = get(shardings) if shardings is not None else None
    node = out
    for name in row.path[:-1]:
      node = node.setdefault(name, {})
    node[row.path[-1]] = _leaf(checkpoint, row, want, sharding)
  return out


def _leaf(
  checkpoint: Checkpoint, row: table.Row, want: Any, sharding: Any
) -> jax.Array:
  """A leaf, of which each device's part alone is read, one after another."""
  if sharding is None:
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  parts = {}  # of devices that hold the same one
  for device, index in sharding.addressable_devices_indices_map(
    want.shape
  ).items():
    key = tuple(
      part.indices(n) for part, n in zip(index, want.shape, strict=True)
    )
    parts.setdefault(key, (index, []))[1].append(device)
  arrays = []
  for index, devices in parts.values():
    host = _host_part(checkpoint, row, want, index)
    arrays += [jax.device_put(host, device) for device in devices]
    # Before the next part is read this one leaves the host.
    jax.block_until_ready(arrays)
    del host
  return jax.make_array_from_single_device_arrays(want.shape, sharding, arrays)


def _host_part(
  checkpoint: Checkpoint, row: table.Row, want: Any, index: table.Index
) -> Float[ndarray, "..."]:
  decoder = checkpoint.decoder
  return table.part(row, decoder, checkpoint.tensor, want.dtype, index)
