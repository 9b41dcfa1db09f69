"""The tensors of a file that `torch.save` wrote, without running its pickle.

Such a file is a zip archive: `data.pkl` says which tensors there are and
`data/KEY` holds the numbers of each storage as they lie in memory.  A pickle
is a program that may call anything; here it may name what rebuilds a tensor
and nothing else, and those names stand for the classes below, which only note
what they are given.  What they noted is then checked against the archive.
Neither torch nor a copy of the numbers is needed: storages are mapped.
"""

import collections
import dataclasses
import math
import pathlib
import pickle
import re
import struct
import zipfile
from typing import Any, NoReturn

import ml_dtypes
import numpy as np

from grounded_jax.records import UserError

_STORAGES = {
  "FloatStorage": np.dtype(np.float32),
  "DoubleStorage": np.dtype(np.float64),
  "HalfStorage": np.dtype(np.float16),
  "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
  "LongStorage": np.dtype(np.int64),
  "IntStorage": np.dtype(np.int32),
  "ShortStorage": np.dtype(np.int16),
  "CharStorage": np.dtype(np.int8),
  "ByteStorage": np.dtype(np.uint8),
  "BoolStorage": np.dtype(np.bool_),
}
_ADVICE = (
  "convert the model to safetensors where you trust it"
  " (model.save_pretrained(DIR) of transformers) and give that directory"
)
_MOST = 2**28  # bytes of data.pkl; names and shapes take a few hundred each
_HEADER = struct.Struct("<4s5H3I2H")  # of an archive's entry


@dataclasses.dataclass(frozen=True)
class _Kind:
  """Stands for a class of storages."""

  __slots__ = ("dtype",)
  dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class _Storage:
  """A storage as the pickle names it."""

  __slots__ = ("dtype", "key", "count")
  dtype: np.dtype
  key: str
  count: int


@dataclasses.dataclass(frozen=True)
class _View:
  """A tensor as the pickle describes it; strides count elements."""

  __slots__ = ("storage", "offset", "shape", "stride")
  storage: Any
  offset: Any
  shape: Any
  stride: Any


class _Rebuild:
  """Stands for the function that rebuilds a tensor."""

  __slots__ = ()

  def __call__(self, storage, offset, shape, stride, *rest) -> _View:
    del rest  # whether it wants a gradient, and hooks
    return _View(storage, offset, shape, stride)


class _Refused(Exception):
  """What the pickle holds that is no part of a tensor."""


class _Unpickler(pickle.Unpickler):
  """Unpickles what describes tensors, and stops at anything else.

  What it returns for a name has no attributes that could be set, so that no
  instruction of the pickle can change what another does.
  """

  def find_class(self, module: str, name: str) -> Any:
    if (module, name) == ("collections", "OrderedDict"):
      return collections.OrderedDict
    if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
      return _Rebuild()
    if module == "torch" and name in _STORAGES:
      return _Kind(_STORAGES[name])
    raise _Refused(f"{module}.{name}")

  def persistent_load(self, pid: Any) -> _Storage:
    if type(pid) is tuple and len(pid) == 5:
      tag, kind, key, _, count = pid
      types = tuple(map(type, (tag, kind, key, count)))
      if types == (str, _Kind, str, int) and tag == "storage":
        return _Storage(kind.dtype, key, count)
    raise _Refused("a reference that is no storage")


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
  """The tensors of a file by name, as read-only views of the mapped file.

  Raises:
    UserError: the file is of another format, broken, or holds more than
      tensors; the sentence says what was found.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      return _tensors(path, archive)
  except zipfile.BadZipFile:
    _refuse(path, "is no zip archive as torch.save writes since 1.6")


def _refuse(path: pathlib.Path, what: str) -> NoReturn:
  raise UserError(f"{path} {what}, so nothing of it was loaded: {_ADVICE}.")


def _tensors(
  path: pathlib.Path, archive: zipfile.ZipFile
) -> dict[str, np.ndarray]:
  entries = {info.filename: info for info in archive.infolist()}
  names = [n for n in entries if re.fullmatch(r"[^/]+/data\.pkl", n)]
  if len(names) != 1 or entries[names[0]].file_size > _MOST:
    _refuse(path, "has no single data.pkl of a plausible size")
  root = names[0].removesuffix("data.pkl")
  order = f"{root}byteorder"
  if order in entries and archive.open(order).read(16) != b"little":
    _refuse(path, "was written on a machine of another byte order")
  with archive.open(names[0]) as stream:
    found = _unpickled(path, stream)
  if not isinstance(found, dict):
    _refuse(path, f"holds a {type(found).__name__} in place of named tensors")
  storages, out = {}, {}
  for name, view in found.items():
    if type(name) is not str or type(view) is not _View:
      _refuse(path, f"holds {name!r:.80}, which is no named tensor")
    if not _plausible(view):
      _refuse(path, f"describes the tensor {name} wrongly")
    key = (view.storage.key, view.storage.dtype)
    if key not in storages:
      entry = entries.get(f"{root}data/{view.storage.key}")
      storages[key] = _mapped(path, entry, view.storage)
    out[name] = _viewed(path, name, view, storages[key])
  return out


def _unpickled(path: pathlib.Path, stream: Any) -> Any:
  try:
    return _Unpickler(stream).load()
  except _Refused as refused:
    _refuse(path, f"names {refused}, which is no part of a tensor")
  except Exception as error:  # a pickle may fail in any way
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    _refuse(path, f"has a data.pkl that describes no tensors ({reason})")


def _plausible(view: _View) -> bool:
  """Whether every number has its type; an instruction may have set others."""
  shape, stride, storage = view.shape, view.stride, view.storage
  return (
    type(storage) is _Storage
    and isinstance(storage.dtype, np.dtype)
    and type(storage.key) is str
    and type(shape) is tuple
    and type(stride) is tuple
    and len(shape) == len(stride) <= 8
    and all(
      type(n) is int and n >= 0
      for n in (view.offset, storage.count, *shape, *stride)
    )
  )


def _mapped(
  path: pathlib.Path, entry: zipfile.ZipInfo | None, storage: _Storage
) -> np.ndarray:
  """The numbers of a storage where they lie in the file."""
  size = storage.count * storage.dtype.itemsize
  if entry is None:
    _refuse(path, f"lacks the storage {storage.key}: it is not whole")
  if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != size:
    _refuse(path, f"stores {storage.key} otherwise than torch.save does")
  with path.open("rb") as file:
    file.seek(entry.header_offset)
    header = _HEADER.unpack(file.read(_HEADER.size))
  start = entry.header_offset + _HEADER.size + header[-2] + header[-1]
  if start + size > path.stat().st_size:
    _refuse(path, f"ends within the storage {storage.key}")
  if not size:
    return np.empty(0, storage.dtype)
  return np.memmap(path, storage.dtype, "r", start, (storage.count,))


def _viewed(
  path: pathlib.Path, name: str, view: _View, numbers: np.ndarray
) -> np.ndarray:
  """The tensor over its storage, never beyond it."""
  last = view.offset + sum(
    (n - 1) * step for n, step in zip(view.shape, view.stride, strict=True)
  )
  if not math.prod(view.shape):
    return np.empty(view.shape, numbers.dtype)
  if last >= len(numbers):
    _refuse(path, f"describes the tensor {name} beyond its storage")
  width = numbers.dtype.itemsize
  return np.lib.stride_tricks.as_strided(
    numbers[view.offset :],
    view.shape,
    [step * width for step in view.stride],
    writeable=False,
  )
