"""One decoder for every family: grouped-query attention, gated MLP, RMS norm.

Flax NNX declares the parameters and their logical axes; what computes is pure
functions of `(graphdef, params)`, where `params` is a nested dictionary of
arrays whose blocks are stacked over layers and scanned.

A group is computed once: the G completions of a prompt share its L tokens, so
every layer sees L + G*C tokens a prompt and not G*(L+C) (see `attention`).
Norms, rotary positions, softmax and logits are float32 (or wider) whatever the
compute dtype.

Families differ by the fields of `config.Decoder`.  Where the layers of one
model differ (local or global attention, rotary positions or none), the scanned
body is the same and reads what the layer is from arrays over the layers.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from grounded_jax import (
  attention,
  attention_decode,
  config,
  kv_cache,
  lora,
  mesh,
  rotary,
  types,
)
from grounded_jax import packing as packing_lib

Params = dict[str, Any]


# The window of a layer that sees everything.
_ENDLESS = 2**30


def _weight(key, axes: tuple[str, ...], shape, fan_in: int, dtype) -> nnx.Param:
  value = jax.random.normal(key, shape, dtype) * fan_in**-0.5
  return nnx.Param(value.astype(dtype), axes=axes)


def _constant(value: float, axes: tuple[str, ...], shape, dtype) -> nnx.Param:
  return nnx.Param(jnp.full(shape, value, dtype), axes=axes)


class Blocks(nnx.Module):
  """All layers, stacked: the leading axis of every weight is the layer."""

  def __init__(self, decoder: config.Decoder, key, dtype):
    y, d, f = decoder.layers, decoder.embed, decoder.mlp
    n, k, h = decoder.heads, decoder.kv_heads, decoder.head_dim
    keys = jax.random.split(key, 7)
    heads = ("layers", "embed", "heads", "head_dim")
    kv_heads = ("layers", "embed", "kv_heads", "head_dim")
    scale = functools.partial(_constant, 0.0 if decoder.plus_one else 1.0)
    over_embed = (("layers", "embed"), (y, d), dtype)
    over_head = (("layers", "head_dim"), (y, h), dtype)
    self.attn_norm = scale(*over_embed)
    self.q = _weight(keys[0], heads, (y, d, n, h), d, dtype)
    self.k = _weight(keys[1], kv_heads, (y, d, k, h), d, dtype)
    self.v = _weight(keys[2], kv_heads, (y, d, k, h), d, dtype)
    # The two matrices that write to the residual stream start smaller, so
    # that its variance does not grow with depth.
    self.o = _weight(
      keys[3],
      ("layers", "heads", "head_dim", "embed"),
      (y, n, h, d),
      n * h * 2 * y,
      dtype,
    )
    self.mlp_norm = scale(*over_embed)
    inner = ("layers", "embed", "mlp")
    self.gate = _weight(keys[4], inner, (y, d, f), d, dtype)
    self.up = _weight(keys[5], inner, (y, d, f), d, dtype)
    self.down = _weight(
      keys[6], ("layers", "mlp", "embed"), (y, f, d), f * 2 * y, dtype
    )
    if decoder.qk_norm:
      self.q_norm = scale(*over_head)
      self.k_norm = scale(*over_head)
    if decoder.qkv_bias:
      zeros = functools.partial(_constant, 0.0)
      axes = [("layers", axis, "head_dim") for axis in ("heads", "kv_heads")]
      self.q_bias = zeros(axes[0], (y, n, h), dtype)
      self.k_bias = zeros(axes[1], (y, k, h), dtype)
      self.v_bias = zeros(axes[1], (y, k, h), dtype)
    if decoder.post_norms:
      self.post_attn_norm = scale(*over_embed)
      self.post_mlp_norm = scale(*over_embed)


class Transformer(nnx.Module):
  """The parameters of a decoder, with the logical axes of each."""

  def __init__(self, decoder: config.Decoder, key, dtype):
    self.decoder = decoder
    v, d = decoder.vocab, decoder.embed
    embed, blocks, head = jax.random.split(key, 3)
    self.embed = _weight(embed, ("vocab", "embed"), (v, d), d, dtype)
    self.blocks = Blocks(decoder, blocks, dtype)
    scale = 0.0 if decoder.plus_one else 1.0
    self.norm = _constant(scale, ("embed",), (d,), dtype)
    if not decoder.tied:
      self.head = _weight(head, ("embed", "vocab"), (d, v), d, dtype)


def init(
  decoder: config.Decoder, key: Array, param_dtype: str = "float32"
) -> tuple[Any, Params]:
  """Returns (graphdef, params) of a decoder with random weights."""
  graphdef, state = nnx.split(Transformer(decoder, key, jnp.dtype(param_dtype)))
  return graphdef, nnx.to_pure_dict(state)


def _abstract(decoder: config.Decoder, param_dtype: str) -> tuple[Any, Any]:
  make = lambda key: Transformer(decoder, key, jnp.dtype(param_dtype))
  return nnx.split(nnx.eval_shape(make, jax.random.key(0)))


def abstract(
  decoder: config.Decoder, param_dtype: str = "float32"
) -> tuple[Any, Params]:
  """Returns (graphdef, params) with shapes and dtypes in place of arrays."""
  graphdef, state = _abstract(decoder, param_dtype)
  return graphdef, nnx.to_pure_dict(state)


def logical_axes(decoder: config.Decoder) -> Params:
  """Returns the parameter tree with each leaf's tuple of axis names."""
  _, state = _abstract(decoder, "float32")
  is_variable = lambda leaf: isinstance(leaf, nnx.Variable)
  axes = jax.tree.map(lambda leaf: leaf.axes, state, is_leaf=is_variable)
  return nnx.to_pure_dict(axes)


def decoder_of(graphdef: Any, params: Params) -> config.Decoder:
  """Returns the decoder's shape, which the graph definition carries."""
  return nnx.merge(graphdef, params).decoder


def _wide(x: Array) -> Array:
  """At least float32: float64 stays, for tests at that precision."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def rms_norm(
  x: Float[Array, "*T W"],
  scale: Float[Array, " W"],
  eps: float,
  plus_one: bool = False,
) -> Float[Array, "*T W"]:
  """Returns x over its root mean square, times the scale, in x's dtype.

  With `plus_one` times 1 + the scale.
  """
  wide = _wide(x)
  variance = jnp.mean(wide * wide, axis=-1, keepdims=True)
  factor = _wide(scale) + 1 if plus_one else _wide(scale)
  out = wide * jax.lax.rsqrt(variance + eps) * factor
  return out.astype(x.dtype)


def _norm(x: Array, scale: Array, decoder: config.Decoder) -> Array:
  return rms_norm(x, scale, decoder.norm_eps, decoder.plus_one)


def _per_layer(decoder: config.Decoder) -> dict[str, Array]:
  """What sets layers apart beside their weights, [Y] each; often nothing."""
  out = {}
  if decoder.window:
    windows = {"L": decoder.window, "G": _ENDLESS}
    each = [windows[kind.upper()] for kind in decoder.kinds]
    out["window"] = jnp.array(each, jnp.int32)
  if len(rotary.variants(decoder)) > 1:
    out["variant"] = jnp.array(rotary.index(decoder), jnp.int32)
  return out


def _rule(decoder: config.Decoder, layer: dict, precision: str) -> dict:
  """The options of a layer's attention."""
  return {
    "precision": precision,
    "scale": decoder.query_scalar**-0.5 if decoder.query_scalar else 0.0,
    "softcap": decoder.attn_softcap,
    "window": layer.get("window"),
  }


def _project(block, layer, x, turns, decoder, precision):
  """The rotated queries and keys, and the values, of each token of x."""
  h = _norm(x, block["attn_norm"], decoder)
  qkv = []
  for name in ("q", "k", "v"):
    out = _dense(h, block[name], 1, precision)
    if decoder.qkv_bias:
      out += block[name + "_bias"].astype(out.dtype)
    if decoder.qk_norm and name != "v":
      out = _norm(out, block[name + "_norm"], decoder)
    if name != "v":
      out = rotary.rotate(out, turns, layer.get("variant"))
    qkv.append(out)
  return qkv


def _finish(block, x, attended, decoder, precision):
  """Adds the attention's output and the MLP to the residual stream."""
  out = _dense(attended, block["o"], 2, precision)
  if decoder.post_norms:
    out = _norm(out, block["post_attn_norm"], decoder)
  x = x + out
  h = _norm(x, block["mlp_norm"], decoder)
  gate = _dense(h, block["gate"], 1, precision)
  up = _dense(h, block["up"], 1, precision)
  out = _dense(
    _GATED[decoder.activation](gate, up), block["down"], 1, precision
  )
  if decoder.post_norms:
    out = _norm(out, block["post_mlp_norm"], decoder)
  return x + out


# Recomputed in the backward pass: cheaper than to keep what it needs.
_GATED = {
  "silu": jax.checkpoint(
    lambda gate, up: jax.nn.silu(gate) * up, prevent_cse=False
  ),
  "gelu": jax.checkpoint(
    lambda gate, up: jax.nn.gelu(gate, approximate=True) * up,
    prevent_cse=False,
  ),
}


def _dense(x, w, axes, precision):
  """The product over the last `axes` axes of x and the first ones of w.

  As matrices: with more axes the gradients take twice as long on a CPU.
  """
  width = math.prod(w.shape[:axes])
  out = lora.matmul(x.reshape(-1, width), w, precision)
  out = out.reshape(*x.shape[: x.ndim - axes], *w.shape[axes:])
  return checkpoint_name(out, _PRODUCT)


# A product with weights: what `dots` keeps, beside attention's output.
_PRODUCT = "product"
# The residual stream that enters a layer: what `offload` keeps, on the host.
_STREAM = "residual_stream"


def _gathered(block: Params, axes: Params, dtype: Any) -> Params:
  """A layer's matrices as its products read them, from all devices at once."""

  def one(name, leaf):
    if name not in config.ADAPTABLE or isinstance(leaf, lora.Adapted):
      return leaf
    return mesh.gathered(leaf.astype(dtype), axes[name][1:])

  return {name: one(name, leaf) for name, leaf in block.items()}


def _remat(body, remat: str):
  if remat == "none":
    return body
  policies = jax.checkpoint_policies
  policy = {
    "dots": policies.save_only_these_names(_PRODUCT, attention.OUTPUT),
    "full": policies.nothing_saveable,
    "offload": policies.save_and_offload_only_these_names(
      names_which_can_be_saved=[],
      names_which_can_be_offloaded=[_STREAM],
      offload_src="device",
      offload_dst="pinned_host",
    ),
  }[remat]
  return jax.checkpoint(body, policy=policy, prevent_cse=False)


def _embed(
  params: Params, tokens: Array, decoder: config.Decoder, compute_dtype: str
) -> Array:
  x = mesh.keep_rows(params["embed"][tokens].astype(compute_dtype))
  # The factor is rounded to the compute dtype, as in training.
  scale = jnp.asarray(decoder.embed**0.5, x.dtype)
  return x * scale if decoder.scaled_embed else x


def prefill(
  graphdef: Any,
  params: Params,
  tokens: Int[Array, "P L"],
  length: Int[Array, " P"],
  compute_dtype: str = "float32",
  precision: str = "default",
  kernel: str = "auto",
) -> tuple[Float[Array, "P L D"], kv_cache.PromptCache]:
  """Returns the prompts' hidden states (after the last norm) and their cache.

  Entries at and beyond a prompt's length are padding; nothing reads them.
  """
  decoder = decoder_of(graphdef, params)
  p, l = tokens.shape
  positions = jnp.broadcast_to(jnp.arange(l), (p, l))
  turns = rotary.turns(positions, decoder, compute_dtype)

  def body(x, inputs):
    block, layer = inputs
    q, k, v = _project(block, layer, x, turns, decoder, precision)
    rule = _rule(decoder, layer, precision)
    out = attention.grouped(q, k, v, length, l, 0, kernel=kernel, **rule)
    return _finish(block, x, out, decoder, precision), (k, v)

  x = _embed(params, tokens, decoder, compute_dtype)
  layers = (params["blocks"], _per_layer(decoder))
  x, (k, v) = jax.lax.scan(body, x, layers)
  hidden = _norm(x, params["norm"], decoder)
  return hidden, kv_cache.PromptCache(k=k, v=v, length=length)


def decode_step(
  graphdef: Any,
  params: Params,
  cache: kv_cache.DecodeCache,
  tokens: Int[Array, "P G"],
  index: Int[Array, ""],
  precision: str = "default",
) -> tuple[Float[Array, "P G D"], kv_cache.DecodeCache]:
  """Returns the hidden states after completion token `index`, and the cache."""
  hidden, (cache,) = decode_parts(
    graphdef, params, (cache,), tokens, (index,), index, precision
  )
  return hidden, cache


def decode_parts(
  graphdef: Any,
  params: Params,
  caches: Sequence[kv_cache.DecodeCache],
  tokens: Int[Array, "P R"],
  written: Sequence[Int[Array, "*P"]],
  entry: Int[Array, ""],
  precision: str = "default",
) -> tuple[Float[Array, "P R D"], tuple[kv_cache.DecodeCache, ...]]:
  """Returns the hidden states after one more token of each row.

  Row p holds completions of several prompts, one of each cache: what knows no
  attention is computed over all of them at once, so that the weights are read
  once.

  The layers read the caches as they were and return only the token's own keys
  and values, written once for all layers: a cache carried through the layers
  would be copied for every token.

  Args:
    graphdef: of the model.
    params: of the model, in the dtype to compute in.
    caches: of as many prompts each; the own entries of all are rings of one
      size.
    tokens: to read, those of the first cache's completions first.
    written: for each cache, the own tokens before: of all, or of each prompt.
    entry: of the rings, where the new keys and values go.
    precision: of the matrix products.
  """
  decoder = decoder_of(graphdef, params)
  dtype = params["embed"].dtype.name
  groups = [cache.group for cache in caches]
  ends = list(itertools.accumulate(groups))[:-1]
  positions = [
    jnp.broadcast_to((cache.length + done)[:, None], (tokens.shape[0], group))
    for cache, done, group in zip(caches, written, groups, strict=True)
  ]
  turns = rotary.turns(jnp.concatenate(positions, axis=1), decoder, dtype)

  def body(x, inputs):
    block, layer, *entries = inputs
    qkv = _project(block, layer, x, turns, decoder, precision)
    parts = zip(*(jnp.split(x, ends, axis=1) for x in qkv), strict=True)
    rule = _rule(decoder, layer, precision)
    outs = [
      attention_decode.decode(
        q, (*prompt, cache.length), (*past, done, entry), (k, v), **rule
      )
      for (q, k, v), (prompt, past), cache, done in zip(
        parts, entries, caches, written, strict=True
      )
    ]
    out = jnp.concatenate(outs, axis=1)
    return _finish(block, x, out, decoder, precision), tuple(qkv[1:])

  x = _embed(params, tokens, decoder, dtype)
  entries = [((c.prompt_k, c.prompt_v), (c.own_k, c.own_v)) for c in caches]
  layers = (params["blocks"], _per_layer(decoder), *entries)
  x, new = jax.lax.scan(body, x, layers)
  new = zip(*(jnp.split(x, ends, axis=2) for x in new), strict=True)
  caches = tuple(
    dataclasses.replace(
      cache,
      own_k=kv_cache.write(cache.own_k, k, entry),
      own_v=kv_cache.write(cache.own_v, v, entry),
    )
    for cache, (k, v) in zip(caches, new, strict=True)
  )
  return _norm(x, params["norm"], decoder), caches


def grouped_hidden(
  graphdef: Any,
  params: Params,
  prompts: types.PromptBatch,
  tokens: Int[Array, "P G C"],
  compute_dtype: str = "float32",
  remat: str = "none",
  precision: str = "default",
  kernel: str = "auto",
  packing: types.Packing | None = None,
) -> Float[Array, "P G C D"] | Float[Array, "R H D"]:
  """Returns the hidden states that predict each completion token.

  Token 0 of all G completions is predicted by the prompt's last token, token
  c by completion token c - 1; the last token of a completion predicts nothing
  and is not computed.  With `packing` they are those of its targets.
  """
  decoder = decoder_of(graphdef, params)
  p, l = prompts.tokens.shape
  _, g, c = tokens.shape
  own = jnp.arange(c - 1) + prompts.length[:, None]  # [P C-1]
  positions = jnp.concatenate(
    [
      jnp.broadcast_to(jnp.arange(l), (p, l)),
      jnp.broadcast_to(own[:, None], (p, g, c - 1)).reshape(p, -1),
    ],
    axis=1,
  )
  places = packing_lib.Padded()
  if packing is not None:
    places = packing_lib.Packed(packing, *positions.shape)
  turns = rotary.turns(places.tokens(positions), decoder, compute_dtype)

  axes = logical_axes(decoder)["blocks"]

  def body(x, inputs):
    x = checkpoint_name(x, _STREAM)
    block, layer = inputs
    if remat != "none":  # else every layer's would be kept
      block = _gathered(block, axes, x.dtype)
    qkv = _project(block, layer, x, turns, decoder, precision)
    q, k, v = (places.cells(x) for x in qkv)
    rule = _rule(decoder, layer, precision)
    out = attention.grouped(
      q, k, v, prompts.length, l, g, kernel=kernel, **rule
    )
    return _finish(block, x, places.tokens(out), decoder, precision), None

  inputs = tokens[:, :, :-1].reshape(p, -1)
  x = jnp.concatenate([prompts.tokens, inputs], axis=1)  # [P L+G(C-1)]
  x = _embed(params, places.tokens(x), decoder, compute_dtype)
  layers = (params["blocks"], _per_layer(decoder))
  x, _ = jax.lax.scan(_remat(body, remat), x, layers)
  if packing is not None:
    cells = packing_lib.sources(packing, prompts.length, l, g, c)
    return _norm(places.predicting(x, cells), params["norm"], decoder)
  last = jnp.take_along_axis(x, prompts.length[:, None, None] - 1, axis=1)
  first = jnp.broadcast_to(last[:, None], (p, g, 1, x.shape[-1]))
  rest = x[:, l:].reshape(p, g, c - 1, -1)
  hidden = jnp.concatenate([first, rest], axis=2)
  return _norm(hidden, params["norm"], decoder)


def head(decoder: config.Decoder, params: Params) -> Float[Array, "_ _"]:
  """Returns the matrix of `project`: [V D] of tied models, [D V] of others."""
  return params["embed"] if decoder.tied else params["head"]


def project(
  decoder: config.Decoder,
  matrix: Float[Array, "_ _"],
  hidden: Float[Array, "*T D"],
  precision: str = "default",
) -> Float[Array, "*T V"]:
  """Returns the logits before their cap, in float32 or wider."""
  return jnp.einsum(
    "...d,vd->...v" if decoder.tied else "...d,dv->...v",
    hidden,
    matrix.astype(hidden.dtype),
    precision=precision,
    preferred_element_type=jnp.promote_types(hidden.dtype, jnp.float32),
  )


def logits(
  graphdef: Any,
  params: Params,
  hidden: Float[Array, "*T D"],
  precision: str = "default",
) -> Float[Array, "*T V"]:
  """Returns the logits of normed hidden states, in float32 or wider."""
  decoder = decoder_of(graphdef, params)
  out = project(decoder, head(decoder, params), hidden, precision)
  cap = decoder.final_softcap
  return cap * jnp.tanh(out / cap) if cap else out
