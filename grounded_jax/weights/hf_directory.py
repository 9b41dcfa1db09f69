"""Hugging Face directories: config.json and weights in, safetensors out."""

import os
import pathlib
from typing import Any

import numpy as np
from etils import epath

from grounded_jax import config
from grounded_jax.records import UserError, reading
from grounded_jax.weights import (
  checkpoint,
  hf_config,
  hf_settings,
  stored,
  table,
)

_HEAD = "lm_head.weight"


def read(
  path: pathlib.Path, bucket: epath.Path | None = None
) -> checkpoint.Checkpoint:
  """The model in a directory with config.json and weights.

  Args:
    path: where config.json is.
    bucket: where the weights are read by byte ranges; None = `path`.

  Raises:
    UserError: files are missing or broken, or a model that the decoder cannot
      be; the sentence names the file or the field.
  """
  file = path / "config.json"
  with reading(str(file), "fetch it again"):
    decoder = hf_config.decoder(file, stored.json_of(file))
  tensors = stored.tensors(path, bucket)
  shapes = {name: tensor.shape for name, tensor in tensors.items()}
  # A tied model may still hold its head, and old files rotary tables.
  unused = lambda name: name == _HEAD or name.endswith(".inv_freq")
  place = path if bucket is None else bucket
  rows, sizes = table.rows(decoder), table.sizes(decoder)
  checkpoint.check(place, rows, sizes, shapes, unused)
  if decoder.tied and _HEAD in tensors:
    _check_head(place, tensors[_HEAD], tensors["model.embed_tokens.weight"])
  return checkpoint.Checkpoint(
    path=path, decoder=decoder, tensor=tensors.__getitem__
  )


def _check_head(
  path: os.PathLike, head: table.Tensor, embed: table.Tensor
) -> None:
  """Raises UserError if a tied model's file holds another head.

  Some rows tell: one that was trained apart differs in all of them.
  """
  if head.shape == embed.shape:
    rows = (slice(0, min(256, embed.shape[0])), slice(None))
    if np.array_equal(head[rows], embed[rows]):
      return
  raise UserError(
    f"{path} holds a tensor lm_head.weight that is not the embedding, but its"
    " config.json says tie_word_embeddings=True: set it to False if the head"
    " is meant, or remove the tensor."
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
  sizes = table.sizes(decoder)
  tensors = table.stored_tree(table.rows(decoder), sizes, params, dtype)
  held = next(iter(tensors.values())).dtype.name
  stored.save(path, tensors, hf_settings.settings(decoder, held))
