"""One table: which tensor of a model file is which leaf of the parameters.

Files hold a matrix as [outputs, inputs], a layer at a time, heads folded into
rows.  Our leaves are [layers, inputs..., outputs...] with heads apart: a leaf
is the transpose, reshaped; `inputs` counts the leaf's input axes.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from grounded_jax import config

Path = tuple[str, ...]
Sizes = Mapping[str, int]  # of each axis letter


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """A leaf, the names of its tensors and its axes within one layer."""

  path: Path
  hf: str  # "{}" stands for the layer
  gguf: str = ""
  axes: str
  inputs: int  # leading axes that are inputs; 0 = stored as it is
  depth: str = "Y"  # the letter of the axis that counts its layers

  @property
  def stacked(self) -> bool:
    return "{}" in self.hf


def _block(name: str, hf: str, gguf: str, axes: str, inputs: int) -> Row:
  return Row(
    path=("blocks", name),
    hf=f"model.layers.{{}}.{hf}.weight",
    gguf=f"blk.{{}}.{gguf}.weight",
    axes=axes,
    inputs=inputs,
  )


_ROWS = (
  Row(
    path=("embed",),
    hf="model.embed_tokens.weight",
    gguf="token_embd.weight",
    axes="V D",
    inputs=0,
  ),
  _block("attn_norm", "input_layernorm", "attn_norm", "D", 0),
  _block("q", "self_attn.q_proj", "attn_q", "D N H", 1),
  _block("k", "self_attn.k_proj", "attn_k", "D K H", 1),
  _block("v", "self_attn.v_proj", "attn_v", "D K H", 1),
  _block("o", "self_attn.o_proj", "attn_output", "N H D", 2),
  _block("mlp_norm", "post_attention_layernorm", "ffn_norm", "D", 0),
  _block("gate", "mlp.gate_proj", "ffn_gate", "D F", 1),
  _block("up", "mlp.up_proj", "ffn_up", "D F", 1),
  _block("down", "mlp.down_proj", "ffn_down", "F D", 1),
  Row(
    path=("norm",),
    hf="model.norm.weight",
    gguf="output_norm.weight",
    axes="D",
    inputs=0,
  ),
)
_QK_NORM = (
  _block("q_norm", "self_attn.q_norm", "attn_q_norm", "H", 0),
  _block("k_norm", "self_attn.k_norm", "attn_k_norm", "H", 0),
)
_HEAD = Row(
  path=("head",),
  hf="lm_head.weight",
  gguf="output.weight",
  axes="D V",
  inputs=1,
)


def rows(decoder: config.Decoder) -> tuple[Row, ...]:
  """The rows that a decoder has: QK norms and a head only if it has them."""
  norms = _QK_NORM if decoder.qk_norm else ()
  head = () if decoder.tied else (_HEAD,)
  return _ROWS + norms + head


def sizes(decoder: config.Decoder) -> dict[str, int]:
  """The size of each axis of a decoder's leaves."""
  return {
    "Y": decoder.layers,
    "V": decoder.vocab,
    "D": decoder.embed,
    "F": decoder.mlp,
    "N": decoder.heads,
    "K": decoder.kv_heads,
    "H": decoder.head_dim,
  }


def layer_shape(row: Row, sizes: Sizes) -> tuple[int, ...]:
  """The shape of a row's leaf within one layer."""
  return tuple(sizes[axis] for axis in row.axes.split())


def stored_shape(row: Row, sizes: Sizes) -> tuple[int, ...]:
  """The shape of a row's tensor in a file: [outputs, inputs]."""
  shape = layer_shape(row, sizes)
  if not row.inputs:
    return shape
  return math.prod(shape[row.inputs :]), math.prod(shape[: row.inputs])


def layers(row: Row, sizes: Sizes) -> range:
  """The layers that a row has a tensor for; one, nameless, if not stacked."""
  return range(sizes[row.depth] if row.stacked else 1)


def leaf_shape(row: Row, sizes: Sizes) -> tuple[int, ...]:
  """The shape of a row's leaf."""
  depth = (sizes[row.depth],) if row.stacked else ()
  return depth + layer_shape(row, sizes)


def leaf(
  row: Row,
  sizes: Sizes,
  tensor: Callable[[str], Any],
  dtype: np.dtype,
  index: Sequence[slice] | None = None,
) -> Float[np.ndarray, "..."]:
  """A row's leaf in `dtype`, or a part of it.

  Args:
    row: which leaf.
    sizes: of the axes.
    tensor: the tensor of a Hugging Face name: anything with a shape that
      gives the part which slices ask for; no more than that is read.
    dtype: of the result.
    index: a slice of each axis of the leaf; None = all of it.
  """
  shape = leaf_shape(row, sizes)
  index = index or [slice(None)] * len(shape)
  ranges = [range(n)[part] for n, part in zip(shape, index, strict=True)]
  each, own = (
    (ranges[0], ranges[1:]) if row.stacked else (layers(row, sizes), ranges)
  )
  out = np.empty((len(each), *map(len, own)), dtype)
  for i, layer in enumerate(each):
    out[i] = _part(row, sizes, tensor(row.hf.format(layer)), own)
  return out if row.stacked else out[0]


def _part(row: Row, sizes: Sizes, stored: Any, own: list[range]) -> np.ndarray:
  """The part of one layer's leaf: what it needs of the tensor, turned."""
  if not row.inputs:
    return stored[tuple(slice(r.start, r.stop) for r in own)]
  shape, k = layer_shape(row, sizes), row.inputs
  inputs, outputs = (shape[:k], own[:k]), (shape[k:], own[k:])
  value = stored[_flat(*outputs), _flat(*inputs)].T
  value = value.reshape(
    (*_loose(*inputs), *_loose(*outputs)),
  )
  rest = lambda ranges: [slice(r.start, r.stop) for r in ranges[1:]]
  return value[(slice(None), *rest(inputs[1]), slice(None), *rest(outputs[1]))]


def _flat(shape: tuple[int, ...], ranges: list[range]) -> slice:
  """The flat indices that hold the first axis's range, the others whole."""
  width = math.prod(shape[1:])
  return slice(ranges[0].start * width, ranges[0].stop * width)


def _loose(shape: tuple[int, ...], ranges: list[range]) -> tuple[int, ...]:
  return (len(ranges[0]), *shape[1:])


def tensors(
  row: Row, sizes: Sizes, value: Float[np.ndarray, "..."]
) -> dict[str, Float[np.ndarray, "..."]]:
  """A leaf's tensors as files hold them, by their Hugging Face names."""
  value = value if row.stacked else value[None]
  out = {}
  for i in layers(row, sizes):
    one = value[i]
    if row.inputs:
      one = one.reshape(math.prod(one.shape[: row.inputs]), -1).T
    out[row.hf.format(i)] = np.ascontiguousarray(one)
  return out


def stored_tree(
  rows: Sequence[Row], sizes: Sizes, params: Mapping[str, Any], dtype: str = ""
) -> dict[str, Float[np.ndarray, "..."]]:
  """A parameter tree as files hold it, in `dtype` ("" = each leaf's own)."""
  out = {}
  for row in rows:
    leaf = np.asarray(functools.reduce(dict.__getitem__, row.path, params))
    out |= tensors(row, sizes, leaf.astype(jnp.dtype(dtype or leaf.dtype)))
  return out
