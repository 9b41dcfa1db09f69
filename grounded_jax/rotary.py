"""Rotary positions (arXiv:2104.09864), scaled or not, by kind of layer.

Layers of one decoder may turn differently: Gemma 3's local layers by a base of
their own, SmolLM3's every fourth not at all.  A decoder has one table of
cosines and sines for each such variant, and each layer an index into it.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from grounded_jax import config


def _variant(decoder: config.Decoder, kind: str) -> str:
  if kind.islower():
    return "none"
  return "local" if kind == "L" and decoder.local_rope_theta else "global"


def variants(decoder: config.Decoder) -> tuple[str, ...]:
  """Returns the ways in which layers turn: of global, local and none."""
  return tuple(sorted({_variant(decoder, kind) for kind in decoder.kinds}))


def index(decoder: config.Decoder) -> tuple[int, ...]:
  """Returns which of the variants each layer turns by."""
  names = variants(decoder)
  return tuple(names.index(_variant(decoder, kind)) for kind in decoder.kinds)


def _llama3(speed: Array, decoder: config.Decoder) -> Array:
  """Angles per position, those of long waves divided by the factor."""
  turns = decoder.rope_original * speed / (2 * math.pi)
  low, high = decoder.rope_low, decoder.rope_high
  fast = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
  return (1 - fast) * speed / decoder.rope_factor + fast * speed


def frequencies(
  decoder: config.Decoder, variant: str, dtype: str
) -> Float[Array, " H2"]:
  """Returns the angle per position of each pair of a head's dimensions."""
  wide = jnp.promote_types(jnp.dtype(dtype), jnp.float32)
  half = decoder.head_dim // 2
  if variant == "none":
    return jnp.zeros(half, wide)
  exponents = jnp.arange(half, dtype=wide) / half
  if variant == "local":
    return decoder.local_rope_theta**-exponents
  speed = decoder.rope_theta**-exponents
  if decoder.rope_scaling == "linear":
    return speed / decoder.rope_factor
  return _llama3(speed, decoder) if decoder.rope_scaling == "llama3" else speed


def turns(
  positions: Int[Array, "*T"], decoder: config.Decoder, dtype: str
) -> tuple[Float[Array, "*VT 1 H2"], Float[Array, "*VT 1 H2"]]:
  """Returns the cosines and sines that turn the heads at these positions.

  With several variants they stand along a new first axis.
  """
  names = variants(decoder)
  speeds = [frequencies(decoder, name, dtype) for name in names]
  angles = [positions[..., None].astype(s.dtype) * s for s in speeds]
  angle = angles[0] if len(names) == 1 else jnp.stack(angles)
  return jnp.cos(angle)[..., None, :], jnp.sin(angle)[..., None, :]


def _rotate(x: Array, cos: Array, sin: Array) -> Array:
  """Turns the pair (x[i], x[i + H/2]) by its angle, as HF Llama does."""
  wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  first, second = jnp.split(wide, 2, axis=-1)
  out = jnp.concatenate(
    [first * cos - second * sin, second * cos + first * sin], axis=-1
  )
  return out.astype(x.dtype)


def _select(x: Array, cos: Array, sin: Array, variant: Array) -> Array:
  pick = lambda table: jax.lax.dynamic_index_in_dim(
    table, variant, keepdims=False
  )
  return _rotate(x, pick(cos), pick(sin))


# The backward pass picks the table again: kept, it would be kept by layer.
_rotate_by = jax.checkpoint(_select, prevent_cse=False)


def rotate(
  x: Float[Array, "*T N H"],
  turns: tuple[Float[Array, "*VT 1 H2"], Float[Array, "*VT 1 H2"]],
  variant: Int[Array, ""] | None = None,
) -> Float[Array, "*T N H"]:
  """Returns the heads turned: by the one table, or by the variant's."""
  if variant is None:
    return _rotate(x, *turns)
  return _rotate_by(x, *turns, variant)
