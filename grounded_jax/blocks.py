"""The device programs of continuous refill (`refill`).

One decodes a block of tokens in all slots at once, others read prompts into
slots and move completions between them.  What is drawn depends neither on the
slot nor on its part.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from grounded_jax import kv_cache, lora, sampler, slots, types
from grounded_jax import mesh as mesh_lib
from grounded_jax import model as model_lib


def _join(xs: Any) -> Array:
  return jnp.concatenate(list(xs), axis=1)


def _keep(options: slots.Options, cache: kv_cache.DecodeCache):
  """The cache with its slots over the devices as a batch's prompts are."""
  if options.mesh is None:
    return cache

  def place(x):
    axes = ("batch",) if x.ndim == 1 else ("layers", "batch", "kv_heads")
    where = mesh_lib.cut(options.mesh, axes, x.shape[: len(axes)])
    return jax.lax.with_sharding_constraint(x, where)

  return jax.tree.map(place, cache)


@functools.partial(jax.jit, static_argnames="options")
def prepare(options: slots.Options, params: Any) -> Any:
  """The parameters as the blocks read them."""
  return sampler.cast(lora.merged(params), options.dtype)


@functools.partial(jax.jit, static_argnames=("options", "width"))
def empty(
  options: slots.Options, params: Any, width: int
) -> kv_cache.DecodeCache:
  """The caches of one part of all slots."""
  decoder = model_lib.decoder_of(options.graphdef, params)
  shape = (decoder.layers, options.slots, options.prompt_len)
  blank = jnp.zeros((*shape, decoder.kv_heads, decoder.head_dim), options.dtype)
  prompts = kv_cache.PromptCache(
    k=blank, v=blank, length=jnp.ones(options.slots, jnp.int32)
  )
  kv_dtype = options.model.kv_dtype
  made = kv_cache.decode_cache(prompts, width, options.room, kv_dtype)
  return _keep(options, made)


def _next(
  options: slots.Options,
  params: Any,
  hidden: Array,
  row_keys: Array,
  index: Any,
):
  """(token, logp) after these hidden states."""
  return sampler.next_token(
    options.graphdef,
    params,
    hidden,
    jax.random.wrap_key_data(row_keys),
    index,
    options.rule,
    options.model.matmul_precision,
  )


@functools.partial(jax.jit, static_argnames="options", donate_argnames="cache")
def admit(
  options: slots.Options,
  params: Any,
  cache: kv_cache.DecodeCache,
  prompts: types.PromptBatch,
  where: Array,
  address: tuple[Array, ...],
) -> tuple[kv_cache.DecodeCache, Array, Array, Array]:
  """Reads prompts into slots, and draws their first tokens.

  Args:
    options: of the programs.
    params: as `prepare` makes them.
    cache: of the widest part.
    prompts: as many as are read at once.
    where: the slot of each; one that does not exist takes nothing, so that
      fewer prompts fill the shape.
    address: of what is drawn: the first arguments of `sampler.row_keys`.

  Returns:
    The cache; the data of the completions' keys; first tokens; their logp.
  """
  hidden, made = model_lib.prefill(
    options.graphdef,
    params,
    prompts.tokens,
    prompts.length,
    options.dtype,
    options.model.matmul_precision,
    options.model.attention,
  )
  last = jnp.take_along_axis(hidden, prompts.length[:, None, None] - 1, axis=1)
  made_keys = sampler.row_keys(*address, prompts.key, options.group)
  row_keys = jax.random.key_data(made_keys)
  token, logp = _next(options, params, last, row_keys, 0)
  put = lambda old, new: old.at[:, where].set(new, mode="drop")
  prompt_k, prompt_v = kv_cache.prompt_entries(made, options.model.kv_dtype)
  cache = dataclasses.replace(
    cache,
    prompt_k=jax.tree.map(put, cache.prompt_k, prompt_k),
    prompt_v=jax.tree.map(put, cache.prompt_v, prompt_v),
    length=cache.length.at[where].set(prompts.length, mode="drop"),
  )
  return _keep(options, cache), row_keys, token, logp


@functools.partial(jax.jit, static_argnames="options", donate_argnames="target")
def move(
  options: slots.Options,
  source: kv_cache.DecodeCache,
  target: kv_cache.DecodeCache,
  origin: Array,
  slot: Array,
  members: Array,
) -> kv_cache.DecodeCache:
  """The target with some completions of one of the source's slots in `slot`.

  All parts write one entry of their rings at a time, so that the entries keep
  their places.
  """
  put = lambda old, new: old.at[:, slot].set(new[:, origin])
  own = lambda old, new: old.at[:, slot].set(new[:, origin][:, :, members])
  moved = kv_cache.DecodeCache(
    prompt_k=jax.tree.map(put, target.prompt_k, source.prompt_k),
    prompt_v=jax.tree.map(put, target.prompt_v, source.prompt_v),
    length=target.length.at[slot].set(source.length[origin]),
    own_k=jax.tree.map(own, target.own_k, source.own_k),
    own_v=jax.tree.map(own, target.own_v, source.own_v),
  )
  return _keep(options, moved)


@functools.partial(jax.jit, static_argnames="options", donate_argnames="caches")
def block(
  options: slots.Options,
  params: Any,
  caches: tuple[kv_cache.DecodeCache, ...],
  rows: tuple[slots.Rows, ...],
  entry: Array,
) -> tuple[
  tuple[kv_cache.DecodeCache, ...], tuple[slots.Rows, ...], Array, dict
]:
  """A block's tokens of all parts, or fewer if no completion goes on.

  Returns:
    The caches; the rows; how many tokens; and them: token, sampled and logp,
    each [S, completions of all parts, tokens of a block].
  """
  ends = np.cumsum([r.last.shape[1] for r in rows])[:-1]
  split = lambda x: jnp.split(x, ends, axis=1)
  row_keys = _join(r.key for r in rows)

  def go_on(carry):
    done, _, rows, _ = carry
    return (done < options.block) & jnp.any(_join(r.alive() for r in rows))

  def one_token(carry):
    done, caches, rows, out = carry
    hidden, caches = model_lib.decode_parts(
      options.graphdef,
      params,
      caches,
      _join(r.last for r in rows),
      [r.drawn - 1 for r in rows],
      (entry + done) % options.room,
      options.model.matmul_precision,
    )
    index = _join(
      jnp.broadcast_to(r.drawn[:, None], r.last.shape) for r in rows
    )
    token, logp = _next(options, params, hidden, row_keys, index)
    alive = _join(r.alive() for r in rows)
    token = jnp.where(alive, token, 0).astype(rows[0].last.dtype)
    columns = {"token": token, "sampled": alive, "logp": logp}
    out = {
      name: jax.lax.dynamic_update_index_in_dim(out[name], x, done, 2)
      for name, x in columns.items()
    }
    ended = alive & sampler.ends(token, options.eos)
    rows = tuple(
      dataclasses.replace(
        r,
        drawn=r.drawn + jnp.any(r.alive(), axis=1),
        last=token,
        finished=r.finished | ended,
      )
      for r, token, ended in zip(rows, split(token), split(ended), strict=True)
    )
    return done + 1, caches, rows, out

  shape = (*row_keys.shape[:2], options.block)
  wide = jnp.promote_types(options.dtype, jnp.float32)
  out = {
    "token": jnp.zeros(shape, rows[0].last.dtype),
    "sampled": jnp.zeros(shape, bool),
    "logp": jnp.zeros(shape, wide),
  }
  done, caches, rows, out = jax.lax.while_loop(
    go_on, one_token, (jnp.int32(0), caches, rows, out)
  )
  caches = tuple(_keep(options, cache) for cache in caches)
  return caches, rows, done, out
