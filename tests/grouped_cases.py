"""Small decoders and groups, and the plain transformer they must agree with."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from grounded_jax import config, types
from grounded_jax import model as model_lib

_SMALL = dict(
  layers=3, embed=16, mlp=24, heads=4, kv_heads=2, head_dim=4, vocab=37
)
_GEMMA = dict(
  activation="gelu",
  post_norms=True,
  plus_one=True,
  scaled_embed=True,
  window=4,
)
DECODERS = {
  "plain": config.Decoder(
    layers=2, embed=16, mlp=24, heads=4, kv_heads=4, head_dim=4, vocab=37
  ),
  "shared_kv": config.Decoder(
    layers=2, embed=16, mlp=24, heads=4, kv_heads=2, head_dim=4, vocab=37
  ),
  "untied_qk_norm": config.Decoder(
    layers=2,
    embed=16,
    mlp=24,
    heads=4,
    kv_heads=1,
    head_dim=6,
    vocab=37,
    tied=False,
    qk_norm=True,
  ),
  "llama3": config.Decoder(
    **_SMALL, rope_scaling="llama3", rope_factor=8.0, rope_original=64
  ),
  "qwen2": config.Decoder(**_SMALL, qkv_bias=True),
  "gemma2": config.Decoder(
    **_SMALL,
    **_GEMMA,
    pattern="LG",
    query_scalar=9.0,
    attn_softcap=2.0,
    final_softcap=3.0,
  ),
  "gemma3": config.Decoder(
    **_SMALL,
    **_GEMMA,
    pattern="LLG",
    qk_norm=True,
    rope_theta=50.0,
    local_rope_theta=5.0,
    rope_scaling="linear",
    rope_factor=4.0,
  ),
  "mistral": config.Decoder(**_SMALL, pattern="L", window=2),
  "smollm3": config.Decoder(**_SMALL, pattern="Ggl", window=3),
}


@functools.cache
def parameters(decoder: config.Decoder, dtype: str = "float32"):
  """(graphdef, params), random; the scales of the norms too."""
  graphdef, shapes = model_lib.abstract(decoder, dtype)
  random = np.random.default_rng(1)

  def draw(path, leaf):
    value = random.normal(size=leaf.shape)
    if "norm" in path[-1].key:
      return jnp.array((not decoder.plus_one) + 0.3 * value, dtype)
    return jnp.array(value * decoder.embed**-0.5, dtype)

  return graphdef, jax.tree_util.tree_map_with_path(draw, shapes)


def prompts(lengths=(7, 3, 5), width: int = 8, vocab: int = 37):
  """Prompts of these lengths, right-padded with a token that is not 0."""
  random = np.random.default_rng(3)
  tokens = random.integers(0, vocab, (len(lengths), width))
  return types.PromptBatch(
    tokens=jnp.array(tokens, jnp.int32),
    length=jnp.array(lengths, jnp.int32),
    key=jnp.arange(10, 10 + len(lengths), dtype=jnp.int32),
  )


def take(batch: types.PromptBatch, rows) -> types.PromptBatch:
  """These prompts, in this order."""
  return jax.tree.map(lambda x: x[jnp.array(rows)], batch)


def completions(p: int, g: int, c: int, vocab: int = 37):
  """(tokens, sampled) [P G C]: completions that stop at different places."""
  random = np.random.default_rng(4)
  tokens = random.integers(0, vocab, (p, g, c))
  stops = random.integers(1, c + 1, (p, g))
  stops[0, 0], stops[-1, -1] = c, 1
  sampled = np.arange(c) < stops[..., None]
  return jnp.array(tokens, jnp.int32), jnp.array(sampled)


def _norm(x, scale, eps):
  return x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + eps) * scale


def _speeds(decoder, kind):
  """Radians a position of each pair of dimensions in a layer of this kind."""
  h, theta = decoder.head_dim, decoder.rope_theta
  if kind in "gl":
    return np.zeros(h // 2)
  local = kind == "L" and decoder.local_rope_theta
  speed = (local or theta) ** (-np.arange(0, h, 2) / h)
  if local or decoder.rope_scaling == "none":
    return speed
  if decoder.rope_scaling == "linear":
    return speed / decoder.rope_factor
  wave = 2 * np.pi / speed
  out = []
  for s, w in zip(speed, wave, strict=True):
    turns = decoder.rope_original / w
    low, high = decoder.rope_low, decoder.rope_high
    if turns > high:
      out.append(s)
    elif turns < low:
      out.append(s / decoder.rope_factor)
    else:
      share = (turns - low) / (high - low)
      out.append((1 - share) * s / decoder.rope_factor + share * s)
  return np.array(out)


def _rope(x, speed):
  """[T N H] turned as complex numbers: pair (i, i + H/2), angle t * speed."""
  t, _, h = x.shape
  angle = (np.arange(t)[:, None] * speed)[:, None]
  z = (x[..., : h // 2] + 1j * x[..., h // 2 :]) * np.exp(1j * angle)
  return jnp.concatenate([z.real, z.imag], -1).astype(x.dtype)


def _attend(decoder, kind, w, h):
  """[T N H]: one layer's attention over the normed states [T D]."""
  norm = lambda x, name: _norm(x, decoder.plus_one + w[name], decoder.norm_eps)
  q, k, v = (jnp.tensordot(h, w[name], 1) for name in "qkv")
  if decoder.qkv_bias:
    q, k, v = (
      x + w[f"{n}_bias"] for n, x in zip("qkv", (q, k, v), strict=True)
    )
  if decoder.qk_norm:
    q, k = norm(q, "q_norm"), norm(k, "k_norm")
  speed = _speeds(decoder, kind)
  q, k = _rope(q, speed), _rope(k, speed)
  group = decoder.heads // decoder.kv_heads
  k, v = (jnp.repeat(a, group, axis=1) for a in (k, v))  # one per query head
  scalar = decoder.query_scalar or decoder.head_dim
  scores = jnp.einsum("qnh,knh->nqk", q, k) / np.sqrt(scalar)
  if decoder.attn_softcap:
    cap = decoder.attn_softcap
    scores = cap * jnp.tanh(scores / cap)
  seen = np.tril(np.ones(scores.shape[1:], bool))
  if kind in "Ll":
    seen &= ~np.tril(seen, -decoder.window)
  weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), -1)
  return jnp.einsum("nqk,knh->qnh", weights, v)


def _activated(decoder, x):
  if decoder.activation == "silu":
    return x / (1 + jnp.exp(-x))
  cubic = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
  return x * (1 + jnp.tanh(cubic)) / 2


def plain_logits(decoder: config.Decoder, params, tokens):
  """[T V]: one sequence through a transformer written without any of ours."""
  norm = lambda x, scale: _norm(x, decoder.plus_one + scale, decoder.norm_eps)
  x = params["embed"][tokens]
  x = x * np.sqrt(decoder.embed) if decoder.scaled_embed else x
  for y in range(decoder.layers):
    w = {name: leaf[y] for name, leaf in params["blocks"].items()}
    kind = decoder.pattern[y % len(decoder.pattern)]
    heads = _attend(decoder, kind, w, norm(x, w["attn_norm"]))
    out = jnp.einsum("tnd,nde->te", heads, w["o"])
    x = x + (norm(out, w["post_attn_norm"]) if decoder.post_norms else out)
    h = norm(x, w["mlp_norm"])
    out = (_activated(decoder, h @ w["gate"]) * (h @ w["up"])) @ w["down"]
    x = x + (norm(out, w["post_mlp_norm"]) if decoder.post_norms else out)
  x = norm(x, params["norm"])
  out = x @ (params["embed"].T if decoder.tied else params["head"])
  cap = decoder.final_softcap
  return cap * jnp.tanh(out / cap) if cap else out


def plain_logp(decoder, params, batch, tokens, temperature=1.0):
  """[P G C]: all P*G sequences by themselves, each L + C tokens long."""
  p, g, c = tokens.shape
  l = batch.tokens.shape[1]
  prompt = jnp.repeat(batch.tokens, g, axis=0)
  start = jnp.repeat(batch.length, g)[:, None]
  # The completion follows its prompt at once; what is left at the end is
  # padding, which no earlier token sees.
  rows = jnp.arange(p * g)[:, None]
  sequences = jnp.pad(prompt, ((0, 0), (0, c)))
  sequences = sequences.at[rows, start + jnp.arange(c)].set(
    tokens.reshape(-1, c)
  )
  assert sequences.shape == (p * g, l + c)
  one = lambda sequence: plain_logits(decoder, params, sequence)
  logp = jax.nn.log_softmax(jax.vmap(one)(sequences) / temperature, -1)
  logp = logp[rows, start - 1 + jnp.arange(c)]  # [P*G C V]
  chosen = jnp.take_along_axis(logp, tokens.reshape(-1, c)[..., None], -1)
  return chosen.reshape(p, g, c)


def model(decoder: config.Decoder, dtype: str = "float32", **changes):
  """The section of a config that names this decoder and number format."""
  base = config.Model(
    decoder=decoder, param_dtype=dtype, compute_dtype=dtype, logp_chunk=7
  )
  return dataclasses.replace(base, **changes)


def worst(got, want) -> float:
  """The largest difference of any leaf, as a share of its largest entry."""
  shares = jax.tree.map(
    lambda a, b: np.abs(a - b).max() / np.abs(b).max(),
    jax.device_get(got),
    jax.device_get(want),
  )
  return float(max(jax.tree.leaves(shares)))
