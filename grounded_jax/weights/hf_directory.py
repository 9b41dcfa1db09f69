"""Hugging Face directories: safetensors and config.json, in and out."""

import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from grounded_jax import config
from grounded_jax.records import UserError, reading
from grounded_jax.weights import (
  checkpoint,
  hf_config,
  hf_settings,
  ranged,
  table,
)

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"


def read(
  path: pathlib.Path, bucket: epath.Path | None = None
) -> checkpoint.Checkpoint:
  """The model in a directory with config.json and safetensors.

  Args:
    path: where config.json is.
    bucket: where the safetensors are read by byte ranges; None = `path`.

  Raises:
    UserError: files are missing or broken, or a model that the decoder cannot
      be; the sentence names the file or the field.
  """
  file = path / "config.json"
  with reading(str(file), "fetch it again"):
    decoder = hf_config.decoder(file, _json(file))
  place = path if bucket is None else bucket
  opener = _open if bucket is None else ranged.File
  where = _shards(place, opener)
  files = {file: opener(file) for file in dict.fromkeys(where.values())}
  slices = {name: files[file].get_slice(name) for name, file in where.items()}
  shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
  # A tied model may still hold its head, and old ones their rotary tables.
  unused = lambda name: name == "lm_head.weight" or name.endswith(".inv_freq")
  checkpoint.check(place, decoder, shapes, unused)
  return checkpoint.Checkpoint(
    path=path,
    decoder=decoder,
    tensor=lambda name, index: slices[name][index],
  )


def save(
  path: pathlib.Path,
  decoder: config.Decoder,
  params: dict[str, Any],
  dtype: str = "",
) -> None:
  """Writes config.json and model.safetensors, as transformers reads them.

  Args:
    path: a directory, made if it does not exist.
    decoder: the model's shape, which some family must have.
    params: the parameter tree.
    dtype: stored as, "" = as the parameters are.
  """
  tensors = {}
  for row in table.rows(decoder):
    leaf = np.asarray(functools.reduce(dict.__getitem__, row.path, params))
    leaf = leaf.astype(jnp.dtype(dtype)) if dtype else leaf
    tensors |= table.tensors(row, decoder, leaf)
  stored = next(iter(tensors.values())).dtype.name
  path.mkdir(parents=True, exist_ok=True)
  safetensors.numpy.save_file(tensors, path / _SINGLE, {"format": "pt"})
  settings = json.dumps(hf_settings.settings(decoder, stored), indent=2)
  (path / "config.json").write_text(settings + "\n", "utf-8")


def _json(path: pathlib.Path | epath.Path) -> dict[str, Any]:
  if not path.is_file():
    raise UserError(
      f"There is no {path.name} in {path.parent}: give a whole Hugging Face"
      " directory, as `hf download NAME --local-dir DIR` makes it."
    )
  try:
    return json.loads(path.read_text())
  except json.JSONDecodeError as error:
    raise UserError(
      f"{path} line {error.lineno} is not JSON: {error.msg}."
    ) from None


def _shards(
  path: pathlib.Path | epath.Path, opener: Callable[[Any], Any]
) -> dict[str, pathlib.Path | epath.Path]:
  """The file of each tensor."""
  if (path / _INDEX).is_file():
    where = {n: path / f for n, f in _json(path / _INDEX)["weight_map"].items()}
    files = dict.fromkeys(where.values())
    missing = sorted(file.name for file in files if not file.exists())
    if missing:
      raise UserError(
        f"{path / _INDEX} names {missing[0]}, which is not there: the download"
        f" lacks {len(missing)} files."
      )
    return where
  if not (path / _SINGLE).is_file():
    raise UserError(
      f"{path} holds neither {_SINGLE} nor {_INDEX}: only safetensors are read;"
      " get them with `hf download NAME --local-dir DIR`."
    )
  return {name: path / _SINGLE for name in opener(path / _SINGLE).keys()}


def _open(file: pathlib.Path) -> Any:
  try:
    tensors = safetensors.safe_open(file, framework="np")
  except safetensors.SafetensorError as error:
    raise UserError(
      f"{file} is not a whole safetensors file ({error}): fetch it again."
    ) from None
  for name in tensors.keys():
    kind = tensors.get_slice(name).get_dtype()
    if kind not in ranged.DTYPES:
      raise UserError(
        f"{file}: the tensor {name} is stored as {kind}, which is not"
        " supported; use the unquantised model."
      )
  return tensors
