"""One table: which tensor of a model file is which leaf of the parameters.

Files hold a matrix as [outputs, inputs], a layer at a time, heads folded into
rows.  Our leaves are [layers, inputs..., outputs...] with heads apart: a leaf
is the transpose, reshaped; `inputs` counts the leaf's input axes.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from grounded_jax import config

Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """A leaf, the names of its tensors and its axes within one layer."""

  path: Path
  hf: str  # "{}" stands for the layer
  gguf: str
  axes: str
  inputs: int  # leading axes that are inputs; 0 = stored as it is

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
  if not row.inputs:
    return shape
  return (
    int(np.prod(shape[row.inputs :])),
    int(np.prod(shape[: row.inputs])),
  )


def layers(row: Row, decoder: config.Decoder) -> range:
  """The layers that a row has a tensor for; one, nameless, if not stacked."""
  return range(decoder.layers if row.stacked else 1)


def leaf(
  row: Row,
  decoder: config.Decoder,
  tensor: Callable[[str], Float[np.ndarray, "..."]],
  dtype: np.dtype,
) -> Float[np.ndarray, "..."]:
  """A row's leaf in `dtype`, from `tensor(name of Hugging Face)`."""
  shape = layer_shape(row, decoder)
  each = layers(row, decoder)
  out = np.empty((len(each), *shape), dtype)
  for i in each:
    value = tensor(row.hf.format(i))
    out[i] = (value.T if row.inputs else value).reshape(shape)
  return out if row.stacked else out[0]


def tensors(
  row: Row, decoder: config.Decoder, value: Float[np.ndarray, "..."]
) -> dict[str, Float[np.ndarray, "..."]]:
  """A leaf's tensors as files hold them, by their Hugging Face names."""
  value = value if row.stacked else value[None]
  out = {}
  for i in layers(row, decoder):
    one = value[i]
    if row.inputs:
      one = one.reshape(int(np.prod(one.shape[: row.inputs])), -1).T
    out[row.hf.format(i)] = np.ascontiguousarray(one)
  return out
