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
    self.shape = tuple(entry["shape"])

  def __getitem__(self, index: tuple[slice, ...]) -> Float[np.ndarray, "..."]:
    """The rows and columns of a tensor of one or two axes."""
    dtype = jnp.dtype(DTYPES[self._entry["dtype"]])
    first, *rest = (
      range(*part.indices(size))
      for part, size in zip(index, self.shape, strict=True)
    )
    out = np.empty([len(first), *map(len, rest)], dtype)
    width = math.prod(self.shape[1:]) * dtype.itemsize  # bytes of a row
    step = max(_READ // width, 1)
    columns = tuple(slice(r.start, r.stop) for r in rest)
    with self._file.open("rb") as stream:
      stream.seek(self._start + first.start * width)
      for row in range(0, len(first), step):
        count = min(step, len(first) - row)
        data = stream.read(count * width)
        rows = np.frombuffer(data, dtype).reshape(count, *self.shape[1:])
        out[row : row + count] = rows[(slice(None), *columns)]
    return out


def check_dtype(file: Any, name: str, dtype: str) -> None:
  """Raises UserError unless a tensor's numbers can be read."""
  if dtype not in DTYPES:
    raise UserError(
      f"{file}: the tensor {name} is stored as {dtype}, which is not"
      " supported; use the unquantised model."
    )


def read(file: epath.Path) -> dict[str, Tensor]:
  """The tensors of a safetensors file by name; its header is read.

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
    check_dtype(file, name, entry["dtype"])
    begin, end = entry["data_offsets"]
    width = jnp.dtype(DTYPES[entry["dtype"]]).itemsize
    if end - begin != math.prod(entry["shape"]) * width:
      raise broken
    if 8 + length + end > size:
      raise broken
  return {name: Tensor(file, 8 + length, e) for name, e in entries.items()}
