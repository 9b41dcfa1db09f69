"""Samples G completions of each prompt from one prompt cache.

The prompt is read once; each completion owns only the keys and values of its
own tokens.  A draw is a function of (seed, stage, step, purpose, prompt key,
completion, token), so it depends neither on the batch nor on the mesh.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from grounded_jax import config, draw, kv_cache, lora, types
from grounded_jax import model as model_lib

# What a draw is for: two purposes never share randomness.
PURPOSE_TRAIN = 0
PURPOSE_EVAL = 1
PURPOSE_REFILL = 2  # + the refill round


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


def cast(params: Any, dtype: str) -> Any:
  """The parameters in the sampler's dtype, as the learner casts them.

  It multiplies by the scales of norms in their own.
  """
  return jax.tree_util.tree_map_with_path(
    lambda path, x: x if "norm" in path[-1].key else x.astype(dtype), params
  )


def next_token(
  graphdef: Any,
  params: Any,
  hidden: Float[Array, "#P #G D"],
  keys: Array,
  index: Int[Array, "#P #G"] | Int[Array, ""] | int,
  rule: draw.Rule,
  precision: str,
) -> tuple[Int[Array, "P G"], Float[Array, "P G"]]:
  """Returns (token, logp) of each row after these hidden states.

  Args:
    graphdef: of the model.
    params: of the model.
    hidden: of each row, or of each prompt for all of its rows.
    keys: the random key of each row, [P G].
    index: of the token in its completion, as `draw.token` takes it.
    rule: how it is chosen.
    precision: of the matrix products.
  """
  scores = model_lib.logits(graphdef, params, hidden, precision)
  scores = jnp.broadcast_to(scores, (*keys.shape, scores.shape[-1]))
  return draw.token(scores, keys, index, rule)


def _empty(shape: tuple[int, int, int], dtype: Any, logp_dtype: Any) -> dict:
  """The state of [P G C] completions before their first token."""
  return {
    "tokens": jnp.zeros(shape, dtype),
    "sampled": jnp.zeros(shape, bool),
    "logp": jnp.zeros(shape, logp_dtype),
    "finished": jnp.zeros(shape[:2], bool),
    "last": jnp.zeros(shape[:2], dtype),
  }


def ends(token: Int[Array, "P G"], eos: Sequence[int]) -> Bool[Array, "P G"]:
  """Returns which of the tokens end a completion."""
  nowhere = jnp.zeros(token.shape, bool)
  return functools.reduce(jnp.logical_or, [token == e for e in eos], nowhere)


def _record(
  state: dict,
  index: Array | int,
  token: Array,
  logp: Array,
  eos: Sequence[int],
  limit: Array | int,
) -> dict:
  """The state with token `index` of the completions that have not ended."""
  alive = ~state["finished"] & (index < limit)
  token = jnp.where(alive, token, 0).astype(state["tokens"].dtype)
  logp = jnp.where(alive, logp, 0.0)
  columns = {"tokens": token, "sampled": alive, "logp": logp}
  written = {
    name: jax.lax.dynamic_update_index_in_dim(state[name], value, index, 2)
    for name, value in columns.items()
  }
  finished = state["finished"] | (alive & ends(token, eos))
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
    "top_k",
    "min_p",
    "banned",
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
  top_k: int = 0,
  min_p: float = 0.0,
  banned: tuple[int, ...] = (),
  ban_eos: bool = False,
  limit: Int[Array, "P G"] | None = None,
  model: config.Model,
) -> types.Rollout:
  """Returns G completions of each prompt, each up to and including its EOS.

  Args:
    temperature: as in `draw.Rule`; so are top_k, top_p, min_p and banned.
    eos: the tokens that end a completion.
    ban_eos: never draw one of them (every completion has full length).
    limit: tokens that each completion may have, where fewer than all.
  """
  dtype = model.sampling_dtype
  precision = model.matmul_precision
  params = cast(lora.merged(params), dtype)
  keys = row_keys(seed, stage, step, purpose, prompts.key, group)
  rule = draw.Rule(
    temperature=temperature,
    top_k=top_k,
    top_p=top_p,
    min_p=min_p,
    banned=banned + (eos if ban_eos else ()),
  )
  p, g, c = prompts.tokens.shape[0], group, max_new_tokens
  limit = c if limit is None else jnp.minimum(limit, c)

  def draw_next(hidden, index):
    return next_token(graphdef, params, hidden, keys, index, rule, precision)

  hidden, cache = model_lib.prefill(
    graphdef,
    params,
    prompts.tokens,
    prompts.length,
    dtype,
    precision,
    model.attention,
  )
  last = jnp.take_along_axis(hidden, prompts.length[:, None, None] - 1, axis=1)
  token, logp = draw_next(last, 0)
  state = _empty((p, g, c), prompts.tokens.dtype, logp.dtype)
  state = _record(state, 0, token, logp, eos, limit)
  # The last token is never read back.
  state["cache"] = kv_cache.decode_cache(cache, g, c - 1, model.kv_dtype)

  def go_on(carry):
    index, state = carry
    return jnp.any(~state["finished"] & (index < limit))

  def one_token(carry):
    index, state = carry
    hidden, cache = model_lib.decode_step(
      graphdef, params, state["cache"], state["last"], index - 1, precision
    )
    token, logp = draw_next(hidden, index)
    state = _record(state, index, token, logp, eos, limit)
    return index + 1, state | {"cache": cache}

  _, state = jax.lax.while_loop(go_on, one_token, (jnp.int32(1), state))
  return types.Rollout(
    tokens=state["tokens"],
    sampled=state["sampled"],
    logp=state["logp"],
    finished=state["finished"],
  )
