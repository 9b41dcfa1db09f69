"""Optimisers, learning-rate schedules, and the step that both losses share.

AdamW, or Muon (arXiv:2502.16982) for the matrices inside the blocks with AdamW
for embeddings, output head, biases and norm scales.  Muon's updates are scaled
to AdamW's root mean square, so that one learning rate serves both.
"""

import functools
from collections.abc import Callable
from typing import Any

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
  if not cfg.grad_clip:
    return tx
  return optax.chain(optax.clip_by_global_norm(cfg.grad_clip), tx)


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
) -> tuple[Any, Any]:
  """Returns the gradient summed over micro-batches, and each one's auxiliary.

  Args:
    loss: (params, micro-batch) -> (share of the global loss, auxiliary).  Its
      denominators must be those of the whole batch, so that shares add up.
    params: what is differentiated.
    batch: a pytree of arrays whose first axis is P.
    micro: prompts per micro-batch; 0 = all at once.

  Returns:
    The gradient, and the auxiliaries stacked along a new first axis.
  """
  gradient = jax.grad(loss, has_aux=True)
  total = jax.tree.leaves(batch)[0].shape[0]
  count = total // (micro or total)
  if count == 1:
    grads, aux = gradient(params, batch)
    return grads, jax.tree.map(lambda x: x[None], aux)

  leaves, rebuild = split(batch, count)

  def body(total_grads, part):
    grads, aux = gradient(params, rebuild(part))
    return jax.tree.map(jnp.add, total_grads, grads), aux

  zeros = jax.tree.map(jnp.zeros_like, params)
  return jax.lax.scan(body, zeros, leaves)


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
