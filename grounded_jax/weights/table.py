"""One table: which tensor of a model file is which leaf of the parameters.

Files hold a matrix as [outputs, inputs], a layer at a time, heads folded into
rows.  Our leaves are [layers, inputs..., outputs...] with heads apart: a leaf
is the transpose, reshaped; `inputs` counts the leaf's input axes.  Read in one
direction it imports, in the other it exports.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from grounded_jax import config

Path = tuple[str, ...]
Index = tuple[slice, ...]
Sizes = Mapping[str, int]  # of each axis letter


@runtime_checkable
class Tensor(Protocol):
  """A tensor that is read where it is indexed; arrays are some too."""

  shape: tuple[int, ...]

  def __getitem__(self, index: Index) -> Float[np.ndarray, "..."]:
    """The part that a slice for each axis asks for."""
    ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """A leaf, the names of its tensors and its axes within one layer."""

  path: Path
  hf: str  # "{}" stands for the layer
  gguf: str = ""
  axes: str
  inputs: int  # leading axes that are inputs; 0 = stored as it is
  folded: bool = False  # no inputs, but heads are folded into one axis
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


def _bias(name: str, axes: str) -> Row:
  return Row(
    path=("blocks", f"{name}_bias"),
    hf=f"model.layers.{{}}.self_attn.{name}_proj.bias",
    gguf=f"blk.{{}}.attn_{name}.bias",
    axes=axes,
    inputs=0,
    folded=True,
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
# The norm before the MLP: with norms after the parts as well (Gemma), its name
# in Hugging Face's files is that of the norm after the attention in others.
_NORMS = (_block("mlp_norm", "post_attention_layernorm", "ffn_norm", "D", 0),)
_POST_NORMS = (
  _block(
    "post_attn_norm", "post_attention_layernorm", "post_attention_norm", "D", 0
  ),
  _block("mlp_norm", "pre_feedforward_layernorm", "ffn_norm", "D", 0),
  _block(
    "post_mlp_norm", "post_feedforward_layernorm", "post_ffw_norm", "D", 0
  ),
)
_QK_NORM = (
  _block("q_norm", "self_attn.q_norm", "attn_q_norm", "H", 0),
  _block("k_norm", "self_attn.k_norm", "attn_k_norm", "H", 0),
)
_QKV_BIAS = (_bias("q", "N H"), _bias("k", "K H"), _bias("v", "K H"))
_HEAD = Row(
  path=("head",),
  hf="lm_head.weight",
  gguf="output.weight",
  axes="D V",
  inputs=1,
)


def rows(decoder: config.Decoder) -> tuple[Row, ...]:
  """The rows that a decoder has: the optional ones only if it has them."""
  return (
    *_ROWS,
    *(_POST_NORMS if decoder.post_norms else _NORMS),
    *(_QK_NORM if decoder.qk_norm else ()),
    *(_QKV_BIAS if decoder.qkv_bias else ()),
    *(() if decoder.tied else (_HEAD,)),
  )


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
  if row.folded:
    return (math.prod(shape),)
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
  tensor: Callable[[str], Tensor],
  dtype: np.dtype,
  index: Sequence[slice] | None = None,
) -> Float[np.ndarray, "..."]:
  """A row's leaf in `dtype`, or a part of it, one layer read at a time.

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


def _part(
  row: Row, sizes: Sizes, stored: Tensor, own: list[range]
) -> Float[np.ndarray, "..."]:
  """The part of one layer's leaf: what it needs of the tensor, turned."""
  if not row.inputs and not row.folded:
    return stored[tuple(slice(r.start, r.stop) for r in own)]
  shape, k = layer_shape(row, sizes), row.inputs
  # The file's axes, of which each holds some of the leaf's.
  folds = [(shape[k:], own[k:])]
  if k:
    folds.insert(0, (shape[:k], own[:k]))
  value = stored[tuple(_flat(*fold) for fold in reversed(folds))].T
  value = value.reshape([n for fold in folds for n in _loose(*fold)])
  return value[tuple(part for fold in folds for part in _rest(fold[1]))]


def _flat(shape: tuple[int, ...], ranges: list[range]) -> slice:
  """The flat indices that hold the first axis's range, the others whole."""
  width = math.prod(shape[1:])
  return slice(ranges[0].start * width, ranges[0].stop * width)


def _loose(shape: tuple[int, ...], ranges: list[range]) -> tuple[int, ...]:
  return (len(ranges[0]), *shape[1:])


def _rest(ranges: list[range]) -> Index:
  """What is left to cut: a file is never asked for a part of a head."""
  return (slice(None), *(slice(r.start, r.stop) for r in ranges[1:]))


def tensors(
  row: Row, sizes: Sizes, value: Float[np.ndarray, "..."]
) -> dict[str, Float[np.ndarray, "..."]]:
  """A leaf's tensors as files hold them, by their Hugging Face names."""
  value = value if row.stacked else value[None]
  stored = stored_shape(row, sizes)
  out = {}
  for i in layers(row, sizes):
    # [outputs, inputs] is the transpose of the leaf with its axes folded.
    one = value[i].reshape(stored[::-1] if row.inputs else stored)
    one = one.T if row.inputs else one
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
