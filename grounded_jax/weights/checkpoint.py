"""What every reader of model files gives: a shape, and tensors on demand."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from grounded_jax import config
from grounded_jax.records import UserError
from grounded_jax.weights import table


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
  """A model on disk, nothing read yet but names and shapes."""

  path: pathlib.Path
  decoder: config.Decoder
  # The tensor of a Hugging Face name, as [outputs, inputs]: what reads the
  # part that slices ask for, of which none is asked to cut a head.
  tensor: Callable[[str], table.Tensor]


def make_decoder(path: pathlib.Path, **sizes: Any) -> config.Decoder:
  """The decoder that a file describes; what cannot be names the file."""
  try:
    return config.Decoder(**sizes)
  except UserError as error:
    raise UserError(f"{path}: {error}") from None


def check(
  path: os.PathLike,
  rows: Sequence[table.Row],
  sizes: table.Sizes,
  shapes: Mapping[str, tuple[int, ...]],
  ignored: Callable[[str], bool] = lambda name: False,
) -> None:
  """Raises UserError unless the tensors are just those of `rows`.

  Args:
    path: named in the message.
    rows: what the model of the file's own configuration has.
    sizes: of its axes.
    shapes: of the tensors the file holds, by Hugging Face name.
    ignored: tensors that may stand in the file without use.
  """
  wanted = {
    row.hf.format(i): table.stored_shape(row, sizes)
    for row in rows
    for i in table.layers(row, sizes)
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
      f"{path} holds {len(extra)} tensors that this model has no place for,"
      f" the first is {extra[0]}: the model is of an architecture that is not"
      " supported."
    )
