"""One table: which tensor of a model file is which leaf of the parameters.

Files hold a matrix as [outputs, inputs], a layer at a time, heads folded into
rows.  Our leaves are [layers, inputs..., outputs...] with heads apart: a leaf
is the transpose, reshaped; `inputs` counts the leaf's input axes.  Read in one
direction it imports, in the other it exports.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from grounded_jax import config

Path = tuple[str, ...]
Index = tuple[slice, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """A leaf, the names of its tensors and its axes within one layer."""

  path: Path
  hf: str  # "{}" stands for the layer
  gguf: str
  axes: str
  inputs: int  # leading axes that are inputs; 0 = stored as it is
  folded: bool = False  # no inputs, but heads are folded into one axis

  @property
  def stacked(self) -> bool:
    return self.path[0] == "blocks"


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


def layer_shape(row: Row, decoder: config.Decoder) -> tuple[int, ...]:
  """The shape of a row's leaf within one layer."""
  sizes = {
    "V": decoder.vocab,
    "D": decoder.embed,
    "F": decoder.mlp,
    "N": decoder.heads,
    "K": decoder.kv_heads,
    "H": decoder.head_dim,
  }
  return tuple(sizes[axis] for axis in row.axes.split())


def stored_shape(row: Row, decoder: config.Decoder) -> tuple[int, ...]:
  """The shape of a row's tensor in a file: [outputs, inputs]."""
  shape = layer_shape(row, decoder)
  if row.folded:
    return (math.prod(shape),)
  if not row.inputs:
    return shape
  return (math.prod(shape[row.inputs :]), math.prod(shape[: row.inputs]))


def leaf_shape(row: Row, decoder: config.Decoder) -> tuple[int, ...]:
  """The shape of a row's whole leaf, layers first if it is stacked."""
  shape = layer_shape(row, decoder)
  return (decoder.layers, *shape) if row.stacked else shape


def layers(row: Row, decoder: config.Decoder) -> range:
  """The layers that a row has a tensor for; one, nameless, if not stacked."""
  return range(decoder.layers if row.stacked else 1)


def _fold(index: Index, shape: tuple[int, ...]) -> slice:
  """The stored rows or columns of a part of axes that files fold into one.

  Only the first axis may be cut: the others must be whole.
  """
  first, *rest = index
  for part, size in zip(rest, shape[1:], strict=True):
    if part.indices(size) != (0, size, 1):
      raise ValueError(f"the axes {shape} are cut within a head: {index}.")
  start, stop, _ = first.indices(shape[0])
  inner = math.prod(shape[1:])
  return slice(start * inner, stop * inner)


def stored_index(row: Row, decoder: config.Decoder, index: Index) -> Index:
  """Which part of a row's tensor is `index` of its leaf within one layer."""
  shape = layer_shape(row, decoder)
  if row.folded:
    return (_fold(index, shape),)
  cut = row.inputs
  if not cut:
    whole = [part.indices(n) for part, n in zip(index, shape, strict=True)]
    return tuple(slice(start, stop) for start, stop, _ in whole)
  return _fold(index[cut:], shape[cut:]), _fold(index[:cut], shape[:cut])


def part(
  row: Row,
  decoder: config.Decoder,
  tensor: Callable[[str, Index], Float[np.ndarray, "..."]],
  dtype: np.dtype,
  index: Index,
) -> Float[np.ndarray, "..."]:
  """A part of a row's leaf in `dtype`, one layer read at a time.

  Args:
    row: of the table.
    decoder: whose sizes hold.
    tensor: gives a part of the tensor of a Hugging Face name.
    dtype: of the result.
    index: a slice for each axis of the leaf.
  """
  each = layers(row, decoder)
  if row.stacked:
    each, index = each[index[0]], index[1:]
  stored = stored_index(row, decoder, index)
  shape = [
    len(range(*piece.indices(size)))
    for piece, size in zip(index, layer_shape(row, decoder), strict=True)
  ]
  out = np.empty((len(each), *shape), dtype)
  for i, layer in enumerate(each):
    value = tensor(row.hf.format(layer), stored)
    out[i] = (value.T if row.inputs else value).reshape(shape)
  return out if row.stacked else out[0]


def leaf(
  row: Row,
  decoder: config.Decoder,
  tensor: Callable[[str, Index], Float[np.ndarray, "..."]],
  dtype: np.dtype,
) -> Float[np.ndarray, "..."]:
  """A row's whole leaf in `dtype`."""
  whole = tuple(slice(None) for _ in leaf_shape(row, decoder))
  return part(row, decoder, tensor, dtype, whole)


def tensors(
  row: Row, decoder: config.Decoder, value: Float[np.ndarray, "..."]
) -> dict[str, Float[np.ndarray, "..."]]:
  """A leaf's tensors as files hold them, by their Hugging Face names."""
  value = value if row.stacked else value[None]
  stored = stored_shape(row, decoder)
  out = {}
  for i in layers(row, decoder):
    # [outputs, inputs] is the transpose of the leaf with its axes folded.
    one = value[i].reshape(stored[::-1])
    one = one.T if row.inputs else one.reshape(stored)
    out[row.hf.format(i)] = np.ascontiguousarray(one)
  return out
