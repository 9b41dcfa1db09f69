"""Optimisers, learning-rate schedules, and the step that both losses share.

AdamW, or Muon (arXiv:2502.16982) for the matrices inside the blocks with AdamW
for embeddings, output head, biases and norm scales.  Muon's updates are scaled
to AdamW's root mean square, so that one learning rate serves both.

Moments, clipping and updates are float32 (or wider) whatever the parameters
are; a copy of bfloat16 parameters in float32 is optional.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from grounded_jax import config, types

# Axes of the stacked leaves that form one matrix (reduced, produced); the layer
# axis is left out, so each layer's matrix is orthogonalised alone.
_MATRICES = {
  "q": optax.contrib.MuonDimensionNumbers(1, (2, 3)),
  "k": optax.contrib.MuonDimensionNumbers(1, (2, 3)),
  "v": optax.contrib.MuonDimensionNumbers(1, (2, 3)),
  "o": optax.contrib.MuonDimensionNumbers((1, 2), 3),
  "gate": optax.contrib.MuonDimensionNumbers(1, 2),
  "up": optax.contrib.MuonDimensionNumbers(1, 2),
  "down": optax.contrib.MuonDimensionNumbers(1, 2),
}
_MUON_RMS = 0.2  # of an AdamW update, as measured in arXiv:2502.16982


def _name(path: tuple) -> str:
  return jax.tree_util.keystr(path[-1:], simple=True)


def _matrix_axes(params: Any) -> Any:
  """The tree of dimension numbers of a tree that holds matrices alone."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: _MATRICES[_name(path)], params
  )


def _kinds(params: Any) -> Any:
  """The tree of which optimiser moves which leaf."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: "muon" if _name(path) in _MATRICES else "adamw", params
  )


def _decayed(params: Any) -> Any:
  """The tree of booleans: weight decay for all but norm scales and biases."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: not _name(path).endswith(("norm", "bias")), params
  )


def schedule(
  cfg: config.Optimizer, steps: int
) -> Callable[[Int[Array, ""] | int], Float[Array, ""]]:
  """Returns the learning rate as a function of the steps already taken.

  The first step has rate lr / warm-up steps, not 0: no step is wasted, which
  matters in runs of 25 steps.  The last step still moves for the same reason.
  """
  warm = round(cfg.warmup * steps)
  rest = max(steps - warm, 1)

  def rate(count):
    count = jnp.asarray(count, jnp.float32)
    ramp = jnp.minimum(1.0, (count + 1) / max(warm, 1))
    done = jnp.clip((count - warm) / rest, 0.0, 1.0)
    decay = {
      "constant": jnp.ones_like(done),
      "linear": 1 - done,
      "cosine": 0.5 * (1 + jnp.cos(jnp.pi * done)),
    }[cfg.schedule]
    return cfg.lr * ramp * decay

  return rate


# One object per setting: it is static in `update`, and a new one compiles anew.
@functools.lru_cache(maxsize=16)
def make(cfg: config.Optimizer, steps: int) -> optax.GradientTransformation:
  """Returns the gradient transformation of a stage of `steps` updates."""
  rate = schedule(cfg, steps)
  tx = optax.adamw(
    rate,
    b1=cfg.b1,
    b2=cfg.b2,
    eps=cfg.eps,
    weight_decay=cfg.weight_decay,
    mask=_decayed,
  )
  if cfg.kind == "muon":
    # Muon sees the matrices alone: its own AdamW would be Nesterov's.
    muon = optax.contrib.muon(
      rate,
      weight_decay=cfg.weight_decay,
      muon_weight_dimension_numbers=_matrix_axes,
      consistent_rms=_MUON_RMS,
    )
    tx = optax.partition({"muon": muon, "adamw": tx}, _kinds)
  if cfg.grad_clip:
    tx = optax.chain(optax.clip_by_global_norm(cfg.grad_clip), tx)
  return with_master(tx) if cfg.master else _in_float32(tx)


def _widened(tree: Any) -> Any:
  return jax.tree.map(
    lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), tree
  )


def _in_float32(
  tx: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """`tx` as it is for float32 parameters, whatever theirs are.

  Without it Adam's second moment has the parameters' dtype: in bfloat16 it
  stands still, since 0.1% of itself is less than half of its last bit.
  """

  def update(grads, state, params):
    return tx.update(_widened(grads), state, _widened(params))

  return optax.GradientTransformation(
    lambda params: tx.init(_widened(params)), update
  )


class Master(NamedTuple):
  """The state of `with_master`."""

  inner: Any
  params: Any  # in float32


def with_master(
  tx: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """`tx` on a float32 copy of the parameters, which are the copy rounded."""

  def init(params):
    wide = _widened(params)
    return Master(inner=tx.init(wide), params=wide)

  def update(grads, state, params):
    grads = _widened(grads)
    updates, inner = tx.update(grads, state.inner, state.params)
    master = optax.apply_updates(state.params, updates)
    # Float32 may round these, but nothing adds up: the copy is what counts.
    steps = jax.tree.map(jnp.subtract, master, _widened(params))
    return steps, Master(inner=inner, params=master)

  return optax.GradientTransformation(init, update)


def init(tx: optax.GradientTransformation, params: Any) -> types.TrainState:
  """Returns the state before the first step of a stage."""
  return types.TrainState(
    params=params, opt_state=tx.init(params), step=jnp.zeros((), jnp.int32)
  )


def apply(
  tx: optax.GradientTransformation,
  state: types.TrainState,
  grads: Any,
  weight: Float[Array, ""],
) -> tuple[types.TrainState, dict[str, Array]]:
  """Returns the state after one step and its metrics.

  A batch of no `weight` (the loss's denominator) and a gradient that is not
  finite leave the whole state as it was, the step count included, and are
  reported in `skipped`.
  """
  grads = _widened(grads)
  norm = optax.tree.norm(grads)
  usable = jnp.isfinite(norm) & (weight > 0)
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  new = types.TrainState(
    params=optax.apply_updates(state.params, updates),
    opt_state=opt_state,
    step=state.step + 1,
  )
  state = _where(usable, new, state)
  return state, {
    "grad_norm": norm,
    "skipped": 1.0 - usable.astype(jnp.float32),
  }


def _where(condition: Bool[Array, ""], new: Any, old: Any) -> Any:
  return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def micro_gradients(
  loss: Callable[[Any, Any], tuple[Float[Array, ""], Any]],
  params: Any,
  batch: Any,
  micro: int,
  live: Bool[Array, " P"] | None = None,
  shards: int = 1,
  used: Int[Array, ""] | None = None,
) -> tuple[Any, Any]:
  """Returns the gradient summed over micro-batches, and each one's auxiliary.

  Args:
    loss: (params, micro-batch) -> (share of the global loss, auxiliary).  Its
      denominators must be those of the whole batch, so that shares add up.
    params: what is differentiated.
    batch: a pytree of arrays whose first axis is P.
    micro: prompts per micro-batch; 0 = all at once.
    live: which prompts have a share of the loss.  They come first, and
      micro-batches without any are not computed; their number is no part of
      the program.
    shards: in how many parts the prompts are cut over devices.
    used: micro-batches to compute, the first so many; None = all, or those
      that `live` leaves.

  Returns:
    The gradient, and the auxiliaries stacked along a new first axis; zeros
    for micro-batches that were not computed.
  """
  gradient = jax.grad(loss, has_aux=True)
  total = jax.tree.leaves(batch)[0].shape[0]
  count = total // (micro or total)
  if count == 1:
    grads, aux = gradient(params, batch)
    return grads, jax.tree.map(lambda x: x[None], aux)

  used = count if used is None else used
  if live is not None:
    batch, used = _live_first(batch, live, count, shards)
  leaves, rebuild = split(batch, count)
  one = lambda i: gradient(params, rebuild([leaf[i] for leaf in leaves]))

  def body(i, carry):
    total_grads, kept = carry
    grads, aux = one(i)
    kept = jax.tree.map(lambda x, new: x.at[i].set(new), kept, aux)
    return jax.tree.map(jnp.add, total_grads, _widened(grads)), kept

  zeros = jax.tree.map(jnp.zeros_like, _widened(params))
  _, aux = jax.eval_shape(one, 0)
  kept = jax.tree.map(lambda x: jnp.zeros((count, *x.shape), x.dtype), aux)
  return jax.lax.fori_loop(0, used, body, (zeros, kept))


def _live_first(
  batch: Any, live: Bool[Array, " P"], count: int, shards: int
) -> tuple[Any, Int[Array, ""]]:
  """(the batch, how many of `count` micro-batches have a live prompt).

  Prompts move within their shard alone, to where `split` deals the first
  micro-batches from.
  """
  live = live.reshape(shards, -1)
  size = live.shape[1] // count  # of a micro-batch on one shard
  order = jnp.argsort(~live, axis=1, stable=True)
  order = order.reshape(shards, count, size).swapaxes(1, 2).reshape(shards, -1)

  def move(x):
    if not x.ndim:
      return x
    cut = x.reshape(shards, -1, *x.shape[1:])
    index = order.reshape(*order.shape, *(1,) * (x.ndim - 1))
    return jnp.take_along_axis(cut, index, axis=1).reshape(x.shape)

  used = -(-live.sum(1).max() // size)
  # Fields state their axes, which stay as they are.
  return jax.tree.map(move, batch), used


def split(
  batch: Any, count: int
) -> tuple[list[Array], Callable[[list[Array]], Any]]:
  """Returns the leaves of `count` micro-batches, and what rebuilds one.

  Each leaf has the micro-batches along a new first axis.  Micro-batch i holds
  the rows i, i + count, ..., so that on a mesh every device keeps a share of
  each.  Scalars are repeated.  Leaves are stacked rather than the batch
  itself, whose fields state their axes.
  """
  leaves, tree = jax.tree.flatten(batch)
  stack = lambda x: (
    x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1)
    if x.ndim
    else jnp.broadcast_to(x, (count,))
  )
  return [stack(x) for x in leaves], tree.unflatten


def join(parts: Array) -> Array:
  """Returns in one the rows that `split` dealt to micro-batches."""
  return parts.swapaxes(0, 1).reshape(-1, *parts.shape[2:])
