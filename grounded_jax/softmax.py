"""Scores of queries and keys, and one softmax over several parts of them."""

import functools
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

MASKED = -1e30  # finite: a row of masked scores stays a number


def wide(x: Float[Array, "..."]) -> np.dtype:
  """Returns what scores of x are added up in: float32 or wider."""
  return jnp.promote_types(x.dtype, jnp.float32)


def scale(given: float, q: Float[Array, "... H"]) -> float:
  """Returns the scale of scores, of which 0 means H**-0.5."""
  return given or q.shape[-1] ** -0.5


def capped(scores: Float[Array, "..."], softcap: float) -> Float[Array, "..."]:
  """Returns scores bounded by +-softcap; 0 leaves them as they are."""
  return softcap * jnp.tanh(scores / softcap) if softcap else scores


def dots(x: Float[Array, "..."], precision: str) -> Callable[..., Array]:
  """Returns einsum with at least float32 accumulation."""
  return functools.partial(
    jnp.einsum, precision=precision, preferred_element_type=wide(x)
  )


def of_parts(
  parts: Sequence[Array],
  values: Sequence[tuple[str, Array, Array | int]],
  dot: Callable[..., Array],
) -> tuple[Array, Array]:
  """Returns (output, log-sum-exp) of one softmax over scores of several parts.

  Args:
    parts: scores [... q s] of each part.
    values: for each part, (einsum of weights and values, values, what else
      multiplies the weights).
    dot: einsum.
  """
  top = functools.reduce(jnp.maximum, [s.max(-1) for s in parts])
  weights = [jnp.exp(s - top[..., None]) for s in parts]
  total = sum(w.sum(-1) for w in weights)
  out = sum(
    dot(spec, (w * factor).astype(v.dtype), v)
    for w, (spec, v, factor) in zip(weights, values, strict=True)
  )
  return out / total[..., None], top + jnp.log(total)
