"""Safetensors files written one tensor at a time, in shards with an index.

A file is the length of its header (8 bytes, little-endian), the header (JSON:
each tensor's dtype, shape and place) and the tensors' bytes.  All of the header
is known before the first value is, so that no more than one tensor is held.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from grounded_jax.records import UserError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# numpy's names of the dtypes, and the format's.
_DTYPES = {
  "float64": "F64",
  "float32": "F32",
  "float16": "F16",
  "bfloat16": "BF16",
}
_ALIGNMENT = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tensor:
  """A tensor that is made when it is written."""

  name: str
  shape: tuple[int, ...]
  value: Callable[[], Float[np.ndarray, "..."]]

  def size(self, dtype: np.dtype) -> int:
    """Bytes on disk."""
    return math.prod(self.shape) * dtype.itemsize


def write(
  folder: pathlib.Path,
  tensors: Sequence[Tensor],
  dtype: np.dtype,
  shard_bytes: int,
) -> None:
  """Writes model.safetensors, or numbered shards and their index.

  Args:
    folder: exists.
    tensors: in the order of the files.
    dtype: stored as.
    shard_bytes: of a file at most; a larger tensor has a file of its own.

  Raises:
    UserError: a value that is not finite, or not so in `dtype`.
  """
  parts = list(_split(tensors, dtype, shard_bytes))
  if len(parts) == 1:
    write_file(folder / SINGLE, tensors, dtype)
    return
  where: dict[str, str] = {}
  for i, part in enumerate(parts, start=1):
    name = f"model-{i:05d}-of-{len(parts):05d}.safetensors"
    write_file(folder / name, part, dtype)
    where |= dict.fromkeys((tensor.name for tensor in part), name)
  total = sum(tensor.size(dtype) for tensor in tensors)
  index = {"metadata": {"total_size": total}, "weight_map": where}
  (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")


def _split(
  tensors: Sequence[Tensor], dtype: np.dtype, limit: int
) -> Iterator[list[Tensor]]:
  part, size = [], 0
  for tensor in tensors:
    if part and size + tensor.size(dtype) > limit:
      yield part
      part, size = [], 0
    part.append(tensor)
    size += tensor.size(dtype)
  yield part


def write_file(
  path: pathlib.Path, tensors: Sequence[Tensor], dtype: np.dtype
) -> None:
  """Writes one safetensors file, its tensors in this order."""
  header = _header(tensors, dtype)
  text = json.dumps(header, separators=(",", ":")).encode()
  text += b" " * (-len(text) % _ALIGNMENT)
  with path.open("wb") as file:
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)
    for tensor in tensors:
      file.write(_bytes(tensor, dtype))


def _header(
  tensors: Sequence[Tensor], dtype: np.dtype
) -> Mapping[str, Mapping[str, object]]:
  header: dict[str, Mapping[str, object]] = {"__metadata__": {"format": "pt"}}
  start = 0
  for tensor in tensors:
    stop = start + tensor.size(dtype)
    header[tensor.name] = {
      "dtype": _DTYPES[dtype.name],
      "shape": list(tensor.shape),
      "data_offsets": [start, stop],
    }
    start = stop
  return header


def _bytes(tensor: Tensor, dtype: np.dtype) -> bytes:
  value = tensor.value()
  if value.shape != tensor.shape:
    raise ValueError(f"{tensor.name}: {value.shape=}, not {tensor.shape}")
  with np.errstate(over="ignore"):  # said below
    value = value.astype(dtype)
  if not np.isfinite(value).all():
    raise UserError(
      f"The tensor {tensor.name} holds values that are not finite in"
      f" {dtype.name}: the model is broken, or needs another --dtype."
    )
  return value.tobytes()
