"""Samples G completions of each prompt from one prompt cache.

The prompt is read once; each completion owns only the keys and values of its
own tokens.  A draw is a function of (seed, stage, step, purpose, prompt key,
completion, token), so it depends neither on the batch nor on the mesh.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from grounded_jax import config, lora, types
from grounded_jax import model as model_lib

# What a draw is for: two purposes never share randomness.
PURPOSE_TRAIN = 0
PURPOSE_EVAL = 1
PURPOSE_REFILL = 2  # + the refill round

_BANNED = -1e30  # finite: a banned token's logit stays a number


def row_keys(
  seed: Int[Array, ""] | int,
  stage: Int[Array, ""] | int,
  step: Int[Array, ""] | int,
  purpose: Int[Array, ""] | int,
  prompt_key: Int[Array, " P"],
  group: int,
) -> Array:
  """Returns the random key of each completion, [P G]."""
  key = jax.random.key(seed)
  for part in (stage, step, purpose):
    key = jax.random.fold_in(key, part)
  of_prompt = jax.vmap(jax.random.fold_in, (None, 0))(key, prompt_key)
  of_member = jax.vmap(jax.random.fold_in, (None, 0))
  return jax.vmap(of_member, (0, None))(of_prompt, jnp.arange(group))


def nucleus(
  scores: Float[Array, "P G V"], top_p: float
) -> Bool[Array, "P G V"]:
  """Returns the smallest set of likeliest tokens whose mass reaches top_p."""
  ordered = -jnp.sort(-scores, axis=-1)
  mass = jax.nn.softmax(ordered, axis=-1)
  kept = jnp.cumsum(mass, axis=-1) - mass < top_p  # the mass before each token
  lowest = jnp.min(jnp.where(kept, ordered, jnp.inf), axis=-1, keepdims=True)
  return scores >= lowest


def _first_above(weights: Array, mark: Array) -> tuple[Array, Array]:
  """(first index whose cumulative weight exceeds mark, weight before it).

  Rounding may leave the mark at the very end: then the last index that has
  any weight, so that what has none is never returned.
  """
  mass = jnp.cumsum(weights, axis=-1)
  index = jnp.sum(mass <= mark[..., None], axis=-1)
  positions = jnp.arange(weights.shape[-1])
  last = jnp.max(jnp.where(weights > 0, positions, 0), axis=-1)
  index = jnp.minimum(index, last)
  pick = lambda x: jnp.take_along_axis(x, index[..., None], axis=-1)[..., 0]
  return index, pick(mass - weights)


def categorical(
  scores: Float[Array, "P G V"], uniform: Float[Array, "P G"]
) -> Int[Array, "P G"]:
  """Returns the token at which the cumulative softmax passes `uniform`.

  One random number a row, where the Gumbel trick needs V of them; in two
  levels (blocks, then within one), so that no sum over V is long.
  """
  size = math.isqrt(scores.shape[-1] - 1) + 1
  weights = jnp.exp(scores - scores.max(-1, keepdims=True))
  pad = size * size - scores.shape[-1]
  weights = jnp.pad(weights, ((0, 0), (0, 0), (0, pad)))
  weights = weights.reshape(*uniform.shape, size, size)
  sums = weights.sum(-1)
  mark = uniform * sums.sum(-1)
  block, before = _first_above(sums, mark)
  inside = jnp.take_along_axis(weights, block[..., None, None], axis=-2)
  # Rounding may leave less than nothing of the mark.
  token, _ = _first_above(inside[..., 0, :], jnp.maximum(mark - before, 0))
  return block * size + token


def draw(
  scores: Float[Array, "P G V"],
  keys: Array,
  index: Int[Array, ""] | int,
  *,
  temperature: float,
  top_p: float,
  banned: tuple[int, ...] = (),
) -> tuple[Int[Array, "P G"], Float[Array, "P G"]]:
  """Returns (token, logp) of each row; temperature 0 takes the likeliest.

  logp is that of the temperature-scaled distribution before truncation and
  bans: the one whose gradient the learner takes.
  """
  scores = scores / (temperature or 1.0)
  choices = scores
  if banned:
    choices = choices.at[..., jnp.array(banned)].set(_BANNED)
  if temperature and top_p < 1:
    choices = jnp.where(nucleus(choices, top_p), choices, _BANNED)
  if temperature:
    uniform = lambda key: jax.random.uniform(
      jax.random.fold_in(key, index), dtype=scores.dtype
    )
    token = categorical(choices, jax.vmap(jax.vmap(uniform))(keys))
  else:
    token = jnp.argmax(choices, axis=-1)
  chosen = jnp.take_along_axis(scores, token[..., None], axis=-1)[..., 0]
  return token, chosen - jax.nn.logsumexp(scores, axis=-1)


def _cast(params: Any, dtype: str) -> Any:
  """The parameters in the sampler's dtype, as the learner casts them.

  It multiplies by the scales of norms in their own.
  """
  return jax.tree_util.tree_map_with_path(
    lambda path, x: x if "norm" in path[-1].key else x.astype(dtype), params
  )


def _empty(shape: tuple[int, int, int], dtype: Any, logp_dtype: Any) -> dict:
  """The state of [P G C] completions before their first token."""
  return {
    "tokens": jnp.zeros(shape, dtype),
    "sampled": jnp.zeros(shape, bool),
    "logp": jnp.zeros(shape, logp_dtype),
    "finished": jnp.zeros(shape[:2], bool),
    "last": jnp.zeros(shape[:2], dtype),
  }


def _record(
  state: dict, index: Array | int, token: Array, logp: Array, eos: Sequence[int]
) -> dict:
  """The state with token `index` of the completions that have not ended."""
  alive = ~state["finished"]
  token = jnp.where(alive, token, 0).astype(state["tokens"].dtype)
  logp = jnp.where(alive, logp, 0.0)
  columns = {"tokens": token, "sampled": alive, "logp": logp}
  written = {
    name: jax.lax.dynamic_update_index_in_dim(state[name], value, index, 2)
    for name, value in columns.items()
  }
  ended = functools.reduce(
    jnp.logical_or, [token == e for e in eos], jnp.zeros_like(alive)
  )
  finished = state["finished"] | (alive & ended)
  return state | written | {"last": token, "finished": finished}


@functools.partial(
  jax.jit,
  static_argnames=(
    "graphdef",
    "group",
    "max_new_tokens",
    "temperature",
    "top_p",
    "eos",
    "ban_eos",
    "model",
  ),
)
def sample(
  graphdef: Any,
  params: Any,
  prompts: types.PromptBatch,
  *,
  seed: Int[Array, ""] | int,
  stage: Int[Array, ""] | int,
  step: Int[Array, ""] | int,
  purpose: Int[Array, ""] | int,
  group: int,
  max_new_tokens: int,
  temperature: float,
  top_p: float,
  eos: tuple[int, ...],
  ban_eos: bool = False,
  model: config.Model,
) -> types.Rollout:
  """Returns G completions of each prompt, each up to and including its EOS.

  Args:
    top_p: draw only from the likeliest tokens of this mass; 1 = from all.
    eos: the tokens that end a completion.
    ban_eos: never draw one of them (every completion has full length).
  """
  dtype = model.sampler_dtype or model.compute_dtype
  precision = model.matmul_precision
  params = _cast(lora.merged(params), dtype)
  keys = row_keys(seed, stage, step, purpose, prompts.key, group)
  banned = eos if ban_eos else ()
  p, g, c = prompts.tokens.shape[0], group, max_new_tokens

  def next_token(hidden, index):
    scores = model_lib.logits(graphdef, params, hidden, precision)
    scores = jnp.broadcast_to(scores, (p, g, scores.shape[-1]))
    return draw(
      scores, keys, index, temperature=temperature, top_p=top_p, banned=banned
    )

  hidden, cache = model_lib.prefill(
    graphdef, params, prompts.tokens, prompts.length, dtype, precision
  )
  last = jnp.take_along_axis(hidden, prompts.length[:, None, None] - 1, axis=1)
  token, logp = next_token(last, 0)
  state = _empty((p, g, c), prompts.tokens.dtype, logp.dtype)
  state = _record(state, 0, token, logp, eos)
  # The last token is never read back.
  state["cache"] = model_lib.decode_cache(cache, g, c - 1)

  def go_on(carry):
    index, state = carry
    return (index < c) & ~jnp.all(state["finished"])

  def one_token(carry):
    index, state = carry
    hidden, cache = model_lib.decode_step(
      graphdef, params, state["cache"], state["last"], index - 1, precision
    )
    token, logp = next_token(hidden, index)
    state = _record(state, index, token, logp, eos)
    return index + 1, state | {"cache": cache}

  _, state = jax.lax.while_loop(go_on, one_token, (jnp.int32(1), state))
  return types.Rollout(
    tokens=state["tokens"],
    sampled=state["sampled"],
    logp=state["logp"],
    finished=state["finished"],
  )
