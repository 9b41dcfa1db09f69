"""T5 as an encoder-decoder: v1.1 (gated GELU, a head of its own) and v1.0.

Axes:  B texts   S tokens of a text   U tokens of an answer
       Y layers   N heads   H head dim   D embed   F mlp   V vocab

Scores of attention are not scaled; the first layer's table of relative
positions serves all layers of its stack; norms have no mean and no bias.
Norms, softmax and logits are float32 or wider in any compute dtype.  Texts are
right-padded, and nothing reads the padding.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from grounded_jax.model import Params, rms_norm
from grounded_jax.records import UserError

# Scores of one head that attention holds at once: B * queries * S.
_SCORES = 2**21


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
  """What a T5 is built of; read from a model's own config.json."""

  embed: int
  mlp: int
  heads: int
  layers: int
  decoder_layers: int
  head_dim: int = 64  # heads * head_dim need not be embed
  vocab: int = 32128
  buckets: int = 32  # of relative positions; the encoder splits them by sign
  max_distance: int = 128  # from here on all distances share a bucket
  norm_eps: float = 1e-6
  gated: bool = True  # gelu(gate) * up, else relu(up)
  tied: bool = False  # the head is the embedding, transposed
  scaled: bool = False  # the head reads hidden * embed**-0.5
  start: int = 0  # the token that a decoder begins with

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = vars(self)[field.name]
      if field.name != "start" and field.type in (int, float) and value <= 0:
        raise UserError(f"{field.name}={value} must be greater than 0.")
    # A broken file may claim any number of layers; each has its checks.
    for name in ("layers", "decoder_layers"):
      if vars(self)[name] > 10_000:
        raise UserError(f"{name}={vars(self)[name]} must be 10,000 at most.")
    # Half of the encoder's half is for exact distances; 0 has no logarithm.
    if self.buckets < 4 or self.max_distance <= self.buckets // 2:
      raise UserError(
        f"buckets={self.buckets} must be at least 4 and"
        f" max_distance={self.max_distance} more than half of them."
      )
    if not 0 <= self.start < self.vocab:
      raise UserError(f"start={self.start} must be below vocab={self.vocab}.")


def sized(size: str) -> Shape:
  """The shape of T5 v1.1 in one of its published sizes.

  Raises:
    UserError: there is no such size.
  """
  sizes = {  # embed, mlp, heads, layers
    "small": (512, 1024, 6, 8),
    "base": (768, 2048, 12, 12),
    "large": (1024, 2816, 16, 24),
    "xl": (2048, 5120, 32, 24),
    "xxl": (4096, 10240, 64, 24),
  }
  if size not in sizes:
    raise UserError(f"T5 has no size {size!r}; it has: {', '.join(sizes)}.")
  embed, mlp, heads, layers = sizes[size]
  return Shape(
    embed=embed, mlp=mlp, heads=heads, layers=layers, decoder_layers=layers
  )


def published(name: str) -> Shape | None:
  """The shape of the judge of the published scores, if that is the name."""
  return sized("xxl") if name == "google/t5_xxl_true_nli_mixture" else None


def _weight(key, axes: tuple[str, ...], shape, fan_in: int, dtype) -> nnx.Param:
  value = jax.random.normal(key, shape, dtype) * fan_in**-0.5
  return nnx.Param(value.astype(dtype), axes=axes)


def _scale(axes: tuple[str, ...], shape, dtype) -> nnx.Param:
  return nnx.Param(jnp.ones(shape, dtype), axes=axes)


class Attention(nnx.Module):
  """The attention of all layers of a stack, with the norm before it."""

  def __init__(self, shape: Shape, layers: int, key, dtype):
    y, d, n, h = layers, shape.embed, shape.heads, shape.head_dim
    keys = jax.random.split(key, 4)
    inward = ("layers", "embed", "heads", "head_dim")
    outward = ("layers", "heads", "head_dim", "embed")
    self.norm = _scale(("layers", "embed"), (y, d), dtype)
    # Scores are not divided by sqrt(H): the queries start that much smaller.
    self.q = _weight(keys[0], inward, (y, d, n, h), d * h, dtype)
    self.k = _weight(keys[1], inward, (y, d, n, h), d, dtype)
    self.v = _weight(keys[2], inward, (y, d, n, h), d, dtype)
    self.o = _weight(keys[3], outward, (y, n, h, d), n * h, dtype)


class MLP(nnx.Module):
  """The MLP of all layers of a stack, with the norm before it."""

  def __init__(self, shape: Shape, layers: int, key, dtype):
    y, d, f = layers, shape.embed, shape.mlp
    gate, up, down = jax.random.split(key, 3)
    inward = ("layers", "embed", "mlp")
    self.norm = _scale(("layers", "embed"), (y, d), dtype)
    if shape.gated:
      self.gate = _weight(gate, inward, (y, d, f), d, dtype)
    self.up = _weight(up, inward, (y, d, f), d, dtype)
    self.down = _weight(down, ("layers", "mlp", "embed"), (y, f, d), f, dtype)


class Encoder(nnx.Module):
  """The encoder's stack."""

  def __init__(self, shape: Shape, key, dtype):
    attention, mlp, bias = jax.random.split(key, 3)
    d, n = shape.embed, shape.heads
    self.attention = Attention(shape, shape.layers, attention, dtype)
    self.mlp = MLP(shape, shape.layers, mlp, dtype)
    self.bias = _weight(
      bias, ("buckets", "heads"), (shape.buckets, n), d, dtype
    )
    self.norm = _scale(("embed",), (d,), dtype)


class Decoder(nnx.Module):
  """The decoder's stack: its `cross` attention reads what was encoded."""

  def __init__(self, shape: Shape, key, dtype):
    attention, cross, mlp, bias = jax.random.split(key, 4)
    d, n = shape.embed, shape.heads
    self.attention = Attention(shape, shape.decoder_layers, attention, dtype)
    self.cross = Attention(shape, shape.decoder_layers, cross, dtype)
    self.mlp = MLP(shape, shape.decoder_layers, mlp, dtype)
    self.bias = _weight(
      bias, ("buckets", "heads"), (shape.buckets, n), d, dtype
    )
    self.norm = _scale(("embed",), (d,), dtype)


class T5(nnx.Module):
  """The parameters of a T5, with the logical axes of each."""

  def __init__(self, shape: Shape, key, dtype):
    self.shape = shape
    v, d = shape.vocab, shape.embed
    embed, encoder, decoder, head = jax.random.split(key, 4)
    # Of size 1, as T5 starts: nothing scales what is looked up.
    self.embed = _weight(embed, ("vocab", "embed"), (v, d), 1, dtype)
    self.encoder = Encoder(shape, encoder, dtype)
    self.decoder = Decoder(shape, decoder, dtype)
    if not shape.tied:
      self.head = _weight(head, ("embed", "vocab"), (d, v), d, dtype)


def init(
  shape: Shape, key: Array, param_dtype: str = "float32"
) -> tuple[Any, Params]:
  """Returns (graphdef, params) of a T5 with random weights."""
  graphdef, state = nnx.split(T5(shape, key, jnp.dtype(param_dtype)))
  return graphdef, nnx.to_pure_dict(state)


def abstract(
  shape: Shape, param_dtype: str = "float32"
) -> tuple[Any, Params, Params]:
  """Returns (graphdef, params, axes): shapes and axis names, no arrays."""
  make = lambda key: T5(shape, key, jnp.dtype(param_dtype))
  graphdef, state = nnx.split(nnx.eval_shape(make, jax.random.key(0)))
  is_variable = lambda leaf: isinstance(leaf, nnx.Variable)
  axes = jax.tree.map(lambda leaf: leaf.axes, state, is_leaf=is_variable)
  return graphdef, nnx.to_pure_dict(state), nnx.to_pure_dict(axes)


def shape_of(graphdef: Any, params: Params) -> Shape:
  """Returns the shape, which the graph definition carries."""
  return nnx.merge(graphdef, params).shape


def buckets(
  distance: Int[np.ndarray, " T"], shape: Shape, bidirectional: bool
) -> Int[np.ndarray, " T"]:
  """Returns the bucket of each distance, key position - query position.

  Half of the buckets hold one distance each, the others ranges that grow by
  a constant factor up to `max_distance`.  In the encoder keys before and
  after the query have buckets of their own; in the decoder only those before.
  In float32, step by step as the models were trained.
  """
  count, first = shape.buckets, np.zeros_like(distance)
  if bidirectional:
    count //= 2
    first = np.where(distance > 0, count, 0)
    away = np.abs(distance)
  else:
    away = -np.minimum(distance, 0)
  exact = count // 2
  share = np.log(np.maximum(away, 1).astype(np.float32) / np.float32(exact))
  share = share / np.float32(math.log(shape.max_distance / exact))
  far = exact + (share * np.float32(count - exact)).astype(np.int32)
  return first + np.where(away < exact, away, np.minimum(far, count - 1))


def _bias(table: Array, shape: Shape, tokens: int, bidirectional: bool):
  """[N 2T-1]: what each head adds for the distances 1-T to T-1."""
  distance = np.arange(1 - tokens, tokens)
  return table[buckets(distance, shape, bidirectional)].T


def _wide(x: Array) -> Any:
  """At least float32: float64 stays, for tests at that precision."""
  return jnp.promote_types(x.dtype, jnp.float32)


def _spread(bias: Array, start, rows: int) -> Array:
  """[N rows T] of the [N 2T-1] biases, for the queries from `start` on.

  Row i is the row before moved by one, which a pad and a reshape do: a
  gather of as many elements would be far slower on an accelerator.
  """
  n, width = bias.shape
  t = (width + 1) // 2
  near = jax.lax.dynamic_slice_in_dim(bias, t - rows - start, t + rows - 1, 1)
  near = jnp.pad(near, ((0, 0), (0, 1)))  # [N T+rows]
  flat = jnp.broadcast_to(near[:, None], (n, rows + 1, t + rows)).reshape(n, -1)
  flat = flat[:, rows - 1 :][:, : rows * (t + rows - 1)]
  return flat.reshape(n, rows, t + rows - 1)[:, :, :t]


def _self_attention(q, k, v, bias, seen, precision):
  """[B T N H] attended; `seen(queries)` says which keys each may read.

  Over as many queries at once as keep the scores small: texts may be long.
  """
  b, t, _, _ = q.shape
  fits = [c for c in range(1, t + 1) if t % c == 0 and b * c * t <= _SCORES]
  rows = max(fits, default=1)

  def some(start):
    own = jax.lax.dynamic_slice_in_dim(q, start, rows, axis=1)
    scores = jnp.einsum(
      "bqnh,bknh->bnqk",
      own,
      k,
      precision=precision,
      preferred_element_type=_wide(q),
    )
    weights = _softmax(
      scores + _spread(bias, start, rows), seen(start + jnp.arange(rows))
    )
    return jnp.einsum(
      "bnqk,bknh->bqnh", weights.astype(v.dtype), v, precision=precision
    )

  if rows == t:
    return some(0)
  out = jax.lax.map(some, jnp.arange(0, t, rows))  # [T/rows B rows N H]
  return jnp.moveaxis(out, 0, 1).reshape(q.shape)


def _softmax(scores: Array, seen: Array) -> Array:
  lowest = jnp.finfo(scores.dtype).min
  return jax.nn.softmax(jnp.where(seen, scores, lowest), axis=-1)


def _cross_attention(q, block, encoded, length, precision):
  """[B U N H]: each query over the encoded text.

  q.(W x) = (W^T q).x and sum p (W x) = W (sum p x): with few queries the
  weights of keys and values go to them, not to every token of the text,
  which would cost H times as much.
  """
  dots = lambda spec, *args, **kw: jnp.einsum(
    spec, *args, precision=precision, **kw
  )
  own = dots("bunh,dnh->bund", q, block["k"].astype(q.dtype))
  scores = dots("bund,bsd->bnus", own, encoded, preferred_element_type=_wide(q))
  seen = jnp.arange(encoded.shape[1]) < length[:, None]
  weights = _softmax(scores, seen[:, None, None]).astype(q.dtype)
  mixed = dots("bnus,bsd->bund", weights, encoded)
  return dots("bund,dnh->bunh", mixed, block["v"].astype(q.dtype))


def _heads(x, block, name, precision):
  w = block[name].astype(x.dtype)
  return jnp.einsum("btd,dnh->btnh", x, w, precision=precision)


def _out(attended, block, precision):
  w = block["o"].astype(attended.dtype)
  return jnp.einsum("btnh,nhd->btd", attended, w, precision=precision)


def _attend_self(block, x, bias, seen, shape, precision):
  h = rms_norm(x, block["norm"], shape.norm_eps)
  q, k, v = (_heads(h, block, name, precision) for name in "qkv")
  attended = _self_attention(q, k, v, bias, seen, precision)
  return x + _out(attended, block, precision)


def _mlp(block, x, shape, precision):
  h = rms_norm(x, block["norm"], shape.norm_eps)
  dense = lambda x, name: jnp.matmul(
    x, block[name].astype(x.dtype), precision=precision
  )
  up = dense(h, "up")
  if shape.gated:
    up = jax.nn.gelu(dense(h, "gate"), approximate=True) * up
  else:
    up = jax.nn.relu(up)
  return x + dense(up, "down")


def encode(
  graphdef: Any,
  params: Params,
  tokens: Int[Array, "B S"],
  length: Int[Array, " B"],
  compute_dtype: str = "float32",
  precision: str = "default",
) -> Float[Array, "B S D"]:
  """Returns each text's hidden states, after the last norm."""
  shape, stack = shape_of(graphdef, params), params["encoder"]
  s = tokens.shape[1]
  bias = _bias(stack["bias"], shape, s, bidirectional=True)
  within = (jnp.arange(s) < length[:, None])[:, None, None]  # [B 1 1 S]

  def body(x, block):
    x = _attend_self(
      block["attention"], x, bias, lambda _: within, shape, precision
    )
    return _mlp(block["mlp"], x, shape, precision), None

  x = params["embed"][tokens].astype(compute_dtype)
  layers = {name: stack[name] for name in ("attention", "mlp")}
  x, _ = jax.lax.scan(body, x, layers)
  return rms_norm(x, stack["norm"], shape.norm_eps)


def decode(
  graphdef: Any,
  params: Params,
  encoded: Float[Array, "B S D"],
  length: Int[Array, " B"],
  answer: Int[Array, "B U"],
  precision: str = "default",
) -> Float[Array, "B U V"]:
  """Returns the logits of what follows each token of the answer.

  In float32 or wider.

  Args:
    graphdef: of the model.
    params: its parameters.
    encoded: what `encode` returned, whose dtype is computed in.
    length: of the texts, in tokens.
    answer: the decoder's input; its first token is the shape's `start`.
    precision: of float32 products.
  """
  shape, stack = shape_of(graphdef, params), params["decoder"]
  u = answer.shape[1]
  bias = _bias(stack["bias"], shape, u, bidirectional=False)
  before = lambda queries: jnp.arange(u) <= queries[:, None]

  def body(x, block):
    x = _attend_self(block["attention"], x, bias, before, shape, precision)
    cross = block["cross"]
    h = rms_norm(x, cross["norm"], shape.norm_eps)
    attended = _cross_attention(
      _heads(h, cross, "q", precision), cross, encoded, length, precision
    )
    x = x + _out(attended, cross, precision)
    return _mlp(block["mlp"], x, shape, precision), None

  x = params["embed"][answer].astype(encoded.dtype)
  layers = {name: stack[name] for name in ("attention", "cross", "mlp")}
  x, _ = jax.lax.scan(body, x, layers)
  x = rms_norm(x, stack["norm"], shape.norm_eps)
  if shape.scaled:
    x = x * shape.embed**-0.5
  head = params["embed"] if shape.tied else params["head"]
  return jnp.einsum(
    "bud,vd->buv" if shape.tied else "bud,dv->buv",
    x,
    head.astype(x.dtype),
    precision=precision,
    preferred_element_type=_wide(x),
  )
