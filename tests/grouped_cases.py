"""Small decoders and groups, and the plain transformer they must agree with."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from grounded_jax import config, types
from grounded_jax import model as model_lib

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
}


@functools.cache
def parameters(decoder: config.Decoder, dtype: str = "float32"):
  """(graphdef, params), random; the scales of the norms too."""
  graphdef, shapes = model_lib.abstract(decoder, dtype)
  random = np.random.default_rng(1)

  def draw(path, leaf):
    value = random.normal(size=leaf.shape)
    if "norm" in path[-1].key:
      return jnp.array(1 + 0.3 * value, dtype)
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


def _rope(x, theta):
  """[T N H] turned as complex numbers: pair (i, i + H/2), angle t/theta^."""
  t, _, h = x.shape
  speed = theta ** (-np.arange(0, h, 2) / h)
  angle = (np.arange(t)[:, None] * speed)[:, None]
  z = (x[..., : h // 2] + 1j * x[..., h // 2 :]) * np.exp(1j * angle)
  return jnp.concatenate([z.real, z.imag], -1).astype(x.dtype)


def plain_logits(decoder: config.Decoder, params, tokens):
  """[T V]: one sequence through a transformer written without any of ours."""
  x = params["embed"][tokens]
  group = decoder.heads // decoder.kv_heads
  for y in range(decoder.layers):
    w = {name: leaf[y] for name, leaf in params["blocks"].items()}
    h = _norm(x, w["attn_norm"], decoder.norm_eps)
    q, k, v = (jnp.tensordot(h, w[name], 1) for name in "qkv")
    if decoder.qk_norm:
      q = _norm(q, w["q_norm"], decoder.norm_eps)
      k = _norm(k, w["k_norm"], decoder.norm_eps)
    q, k = _rope(q, decoder.rope_theta), _rope(k, decoder.rope_theta)
    k, v = (jnp.repeat(a, group, axis=1) for a in (k, v))  # one per query head
    scores = jnp.einsum("qnh,knh->nqk", q, k) / np.sqrt(decoder.head_dim)
    causal = np.tril(np.ones(scores.shape[1:], bool))
    weights = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf), -1)
    heads = jnp.einsum("nqk,knh->qnh", weights, v)
    x = x + jnp.einsum("tnd,nde->te", heads, w["o"])
    h = _norm(x, w["mlp_norm"], decoder.norm_eps)
    gate = h @ w["gate"]
    x = x + (gate / (1 + jnp.exp(-gate)) * (h @ w["up"])) @ w["down"]
  x = _norm(x, params["norm"], decoder.norm_eps)
  return x @ (params["embed"].T if decoder.tied else params["head"])


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
