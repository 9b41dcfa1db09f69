"""What every reader of model files gives: a shape, and tensors on demand."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Float
from numpy import ndarray

from grounded_jax import config
from grounded_jax.records import UserError
from grounded_jax.weights import table


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
  """A model on disk, nothing read yet but names and shapes."""

  path: pathlib.Path
  decoder: config.Decoder
  # A part of the tensor of a Hugging Face name, as [outputs, inputs]; a head
  # is never cut.
  tensor: Callable[[str, table.Index], Float[ndarray, "..."]]


def make_decoder(path: pathlib.Path, **sizes: Any) -> config.Decoder:
  """The decoder that a file describes; what cannot be names the file."""
  try:
    return config.Decoder(**sizes)
  except UserError as error:
    raise UserError(f"{path}: {error}") from None


def check(
  path: os.PathLike,
  decoder: config.Decoder,
  shapes: Mapping[str, tuple[int, ...]],
  ignored: Callable[[str], bool] = lambda name: False,
) -> None:
  """Raises UserError unless the tensors are just those of `decoder`.

  Args:
    path: named in the message.
    decoder: what the file's own configuration says.
    shapes: of the tensors the file holds, by Hugging Face name.
    ignored: tensors that may stand in the file without use.
  """
  wanted = {
    row.hf.format(i): table.stored_shape(row, decoder)
    for row in table.rows(decoder)
    for i in table.layers(row, decoder)
  }
  for name, shape in wanted.items():
    if name not in shapes:
      raise UserError(
        f"{path} lacks the tensor {name}: the download is incomplete or the"
        " model is of another architecture."
      )
    if tuple(shapes[name]) != shape:
      raise UserError(
        f"{path}: the tensor {name} has shape {tuple(shapes[name])}, but the"
        f" file's configuration makes it {shape}."
      )
  extra = [n for n in shapes if n not in wanted and not ignored(n)]
  if extra:
    raise UserError(
      f"{path} holds {len(extra)} tensors that this decoder has no place for,"
      f" the first is {extra[0]}: the model is of an architecture that is not"
      " supported."
    )
