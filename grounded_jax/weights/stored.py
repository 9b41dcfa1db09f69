"""The tensors of a Hugging Face directory, in safetensors or PyTorch files.

Nothing is read but names and shapes until a part of a tensor is asked for.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from grounded_jax.records import UserError
from grounded_jax.weights import ranged, table, torch_file

SAFETENSORS = "model.safetensors"
TORCH = "pytorch_model.bin"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Safe:
  """A tensor of a safetensors file."""

  file: Any
  name: str
  shape: tuple[int, ...]

  def __getitem__(self, index: table.Index) -> np.ndarray:
    return self.file.get_slice(self.name)[index]


def tensors(
  path: pathlib.Path, bucket: epath.Path | None = None
) -> dict[str, table.Tensor]:
  """Every tensor of a directory by its name, from one file or from shards.

  Args:
    path: of the directory.
    bucket: where the weights are read by byte ranges, from safetensors alone;
      None = `path`.

  Raises:
    UserError: there are none, or one of their files is missing or broken.
  """
  place = path if bucket is None else bucket
  readers = {SAFETENSORS: ranged.read}
  if bucket is None:
    readers = {SAFETENSORS: _safetensors, TORCH: torch_file.read}
  for single, read in readers.items():
    index = place / f"{single}.index.json"
    if index.is_file():
      return _sharded(index, read)
    if (place / single).is_file():
      return dict(read(place / single))
  raise UserError(
    f"{place} holds neither {' nor '.join(readers)} nor an index of either:"
    " get a model's weights with `hf download NAME --local-dir DIR`."
  )


def _sharded(
  index: pathlib.Path | epath.Path,
  read: Callable[[Any], Mapping[str, table.Tensor]],
) -> dict[str, table.Tensor]:
  where = json_of(index)["weight_map"]
  names = sorted(set(where.values()))
  missing = [name for name in names if not (index.parent / name).exists()]
  if missing:
    raise UserError(
      f"{index} names {missing[0]}, which is not there: the download lacks"
      f" {len(missing)} files."
    )
  files = {name: read(index.parent / name) for name in names}
  return {name: files[file][name] for name, file in where.items()}


def _safetensors(file: pathlib.Path) -> dict[str, table.Tensor]:
  try:
    opened = safetensors.safe_open(file, framework="np")
  except safetensors.SafetensorError as error:
    raise UserError(
      f"{file} is not a whole safetensors file ({error}): fetch it again."
    ) from None
  out = {}
  for name in opened.keys():
    part = opened.get_slice(name)
    ranged.check_dtype(file, name, part.get_dtype())
    out[name] = _Safe(file=opened, name=name, shape=tuple(part.get_shape()))
  return out


def save(
  path: pathlib.Path,
  tensors: dict[str, np.ndarray],
  settings: Mapping[str, Any],
) -> None:
  """Writes a directory of one safetensors file and its config.json."""
  path.mkdir(parents=True, exist_ok=True)
  safetensors.numpy.save_file(tensors, path / SAFETENSORS, {"format": "pt"})
  content = json.dumps(settings, indent=2) + "\n"
  (path / "config.json").write_text(content, "utf-8")


def json_of(path: pathlib.Path | epath.Path) -> Any:
  """The JSON value of a file of a model's directory."""
  if not path.is_file():
    raise UserError(
      f"There is no {path.name} in {path.parent}: give a whole Hugging Face"
      " directory, as `hf download NAME --local-dir DIR` makes it."
    )
  try:
    return json.loads(path.read_text("utf-8"))
  except json.JSONDecodeError as error:
    raise UserError(
      f"{path} line {error.lineno} is not JSON: {error.msg}."
    ) from None
