"""The only masked sums and means: masked values never reach the result.

A mask may be boolean or hold weights; where it is 0 the value is replaced
before the product, so that even a NaN there changes neither the result nor its
gradient.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Mask = Bool[Array, "..."] | Float[Array, "..."]
Axis = int | tuple[int, ...] | None


def sum(x: Float[Array, "..."], mask: Mask, axis: Axis = None):
  """Returns the sum of x times its mask, which broadcasts against x."""
  return (jnp.where(mask != 0, x, 0) * mask).sum(axis)


def mean(x: Float[Array, "..."], mask: Mask, axis: Axis = None):
  """Returns the mean of x weighted by its mask; 0 where the mask is empty."""
  weight = jnp.broadcast_to(mask, x.shape).astype(x.dtype).sum(axis)
  return divide(sum(x, mask, axis), weight)


def divide(total: Float[Array, "..."], count: Float[Array, "..."]):
  """Returns total / count, and 0 where the count is 0."""
  return jnp.where(count != 0, total / jnp.where(count != 0, count, 1), 0)
