"""Safetensors files read by byte ranges: in a bucket, or wherever epath opens.

The format: 8 bytes of length, little end first; a JSON header of that length
that gives each tensor's dtype, shape and [begin, end) after the header; data.
"""

import json
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Float

from grounded_jax.records import UserError

DTYPES = {
  "F64": "float64",
  "F32": "float32",
  "F16": "float16",
  "BF16": "bfloat16",
}
_MOST_HEADER = 100_000_000  # bytes, as the format's own reader allows
_READ = 2**26  # bytes read at once


class Tensor:
  """One tensor of a file; indexing it reads."""

  def __init__(self, file: epath.Path, start: int, entry: dict[str, Any]):
    self._file, self._entry = file, entry
    self._start = start + entry["data_offsets"][0]

  def get_shape(self) -> list[int]:
    return self._entry["shape"]

  def __getitem__(self, index: tuple[slice, ...]) -> Float[np.ndarray, "..."]:
    """The rows and columns of a tensor of one or two axes."""
    dtype = jnp.dtype(DTYPES[self._entry["dtype"]])
    shape = self.get_shape()
    first, *rest = (
      range(*part.indices(size))
      for part, size in zip(index, shape, strict=True)
    )
    out = np.empty([len(first), *map(len, rest)], dtype)
    width = math.prod(shape[1:]) * dtype.itemsize  # bytes of a row
    step = max(_READ // width, 1)
    columns = tuple(slice(r.start, r.stop) for r in rest)
    with self._file.open("rb") as stream:
      stream.seek(self._start + first.start * width)
      for row in range(0, len(first), step):
        count = min(step, len(first) - row)
        data = stream.read(count * width)
        rows = np.frombuffer(data, dtype).reshape(count, *shape[1:])
        out[row : row + count] = rows[(slice(None), *columns)]
    return out


class File:
  """The tensors of a safetensors file, by name."""

  def __init__(self, file: epath.Path):
    """Reads the header.

    Raises:
      UserError: the file is cut short, or of another format.
    """
    broken = UserError(
      f"{file} is not a whole safetensors file: copy it there again."
    )
    size = file.stat().length
    with file.open("rb") as stream:
      length = int.from_bytes(stream.read(8), "little")
      if size < 8 or not 0 < length <= min(size - 8, _MOST_HEADER):
        raise broken
      header = stream.read(length)
    try:
      entries = json.loads(header)
    except ValueError:
      raise broken from None
    entries.pop("__metadata__", None)
    for name, entry in entries.items():
      if entry["dtype"] not in DTYPES:
        raise UserError(
          f"{file}: the tensor {name} is stored as {entry['dtype']}, which is"
          " not supported."
        )
      begin, end = entry["data_offsets"]
      width = jnp.dtype(DTYPES[entry["dtype"]]).itemsize
      if end - begin != math.prod(entry["shape"]) * width:
        raise broken
      if 8 + length + end > size:
        raise broken
    self._tensors = {
      name: Tensor(file, 8 + length, entry) for name, entry in entries.items()
    }

  def keys(self) -> list[str]:
    return list(self._tensors)

  def get_slice(self, name: str) -> Tensor:
    return self._tensors[name]
