"""Log-probabilities of completion tokens, never holding [P G C V] at once."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from grounded_jax import config, types
from grounded_jax import model as model_lib


class Scores(NamedTuple):
  """What the learner knows of each sampled token; 0 where not sampled."""

  logp: Float[Array, "P G C"]
  entropy: Float[Array, "P G C"]  # of the distribution it was drawn from
  best: Bool[Array, "P G C"]  # no token was more probable


def token_logp(
  graphdef: Any,
  params: Any,
  prompts: types.PromptBatch,
  tokens: Int[Array, "P G C"],
  sampled: Bool[Array, "P G C"],
  *,
  temperature: float,
  model: config.Model,
) -> tuple[Float[Array, "P G C"], Float[Array, "P G C"]]:
  """Returns (logp, entropy) of each sampled token, as `token_scores`."""
  scores = token_scores(
    graphdef,
    params,
    prompts,
    tokens,
    sampled,
    temperature=temperature,
    model=model,
  )
  return scores.logp, scores.entropy


def token_scores(
  graphdef: Any,
  params: Any,
  prompts: types.PromptBatch,
  tokens: Int[Array, "P G C"],
  sampled: Bool[Array, "P G C"],
  *,
  temperature: float,
  model: config.Model,
) -> Scores:
  """Returns logp, entropy and whether it is greedy of each sampled token.

  The distribution is softmax(logits / temperature), untruncated, as the
  sampler records it; temperature 0 (greedy) is read as 1.  The entropy
  carries no gradient.
  """
  precision = model.matmul_precision
  hidden = model_lib.grouped_hidden(
    graphdef,
    params,
    prompts,
    tokens,
    model.compute_dtype,
    model.remat,
    precision,
  )
  p, g, c, d = hidden.shape
  # Chunks run along the completion tokens of every prompt, so that the prompt
  # axis keeps its sharding.
  width = min(max(model.logp_chunk // p, 1), g * c)
  chunks = -(-g * c // width)
  pad = chunks * width - g * c
  hidden = jnp.pad(hidden.reshape(p, g * c, d), ((0, 0), (0, pad), (0, 0)))
  targets = jnp.pad(tokens.reshape(p, g * c), ((0, 0), (0, pad)))
  hidden = hidden.reshape(p, chunks, width, d).swapaxes(0, 1)
  targets = targets.reshape(p, chunks, width).swapaxes(0, 1)

  @functools.partial(jax.checkpoint, prevent_cse=False)
  def chunk(_, inputs):
    states, target = inputs
    scores = model_lib.logits(graphdef, params, states, precision)
    return None, _token_scores(scores / (temperature or 1.0), target)

  _, scores = jax.lax.scan(chunk, None, (hidden, targets))

  def restore(x):
    x = x.swapaxes(0, 1).reshape(p, -1)[:, : g * c].reshape(p, g, c)
    return jnp.where(sampled, x, jnp.zeros_like(x))

  return jax.tree.map(restore, scores)


def _token_scores(scores: Array, target: Array) -> Scores:
  total = jax.nn.logsumexp(scores, axis=-1)
  chosen = jnp.take_along_axis(scores, target[..., None], axis=-1)[..., 0]
  frozen = jax.lax.stop_gradient(scores)
  log_weights = frozen - jax.lax.stop_gradient(total)[..., None]
  entropy = -jnp.sum(jnp.exp(log_weights) * log_weights, axis=-1)
  best = jax.lax.stop_gradient(chosen) >= frozen.max(-1)
  return Scores(logp=chosen - total, entropy=entropy, best=best)
