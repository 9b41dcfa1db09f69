"""Keys and values of prompts and completions, as sampling keeps them.

In int8 each vector of a head is its nearest multiples of 1/127 of its largest
entry, which is its scale.  A score is linear in the key, and an output in the
values: attention multiplies scores and weights by the scales (`attention`) and
never makes the vectors anew.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

_LEVELS = 127  # int8 without -128: symmetric


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Entries:
  """Keys or values."""

  values: Float[Array, "..."] | Int[Array, "..."]
  scale: Float[Array, "..."] | None = None  # without the axis H; None = of 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptCache:
  """The keys and values of P prompts, read by all completions of each."""

  k: Float[Array, "Y P L K H"]
  v: Float[Array, "Y P L K H"]
  length: Int[Array, " P"]  # entries beyond it are padding


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodeCache:
  """What decoding reads, laid out so that its products copy nothing."""

  prompt_k: Entries  # [Y P K H L]
  prompt_v: Entries  # [Y P K L H]
  length: Int[Array, " P"]
  own_k: Entries  # [Y P K G C H]
  own_v: Entries  # [Y P K G C H]

  @property
  def group(self) -> int:
    """Completions of each prompt."""
    return self.own_k.values.shape[3]

  @property
  def room(self) -> int:
    """Own tokens of a completion."""
    return self.own_k.values.shape[4]


def entries(x: Float[Array, "..."], axis: int, kv_dtype: str = "") -> Entries:
  """Returns the vectors along `axis`, as they are or in int8."""
  if not kv_dtype:
    return Entries(values=x)
  wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  scale = jnp.abs(wide).max(axis, keepdims=True) / _LEVELS
  # A vector of zeros is one at any scale.
  values = jnp.round(wide / jnp.where(scale > 0, scale, 1))
  return Entries(values=values.astype(jnp.int8), scale=scale.squeeze(axis))


def prompt_entries(
  cache: PromptCache, kv_dtype: str = ""
) -> tuple[Entries, Entries]:
  """Returns the prompts' keys and values as decoding reads them."""
  k, v = cache.k.transpose(0, 1, 3, 4, 2), cache.v.transpose(0, 1, 3, 2, 4)
  return entries(k, -2, kv_dtype), entries(v, -1, kv_dtype)


def decode_cache(
  cache: PromptCache, group: int, tokens: int, kv_dtype: str = ""
) -> DecodeCache:
  """Returns the prompts' cache with room for `tokens` of each completion."""
  y, p, _, k, h = cache.k.shape
  own = jnp.zeros((y, p, k, group, tokens, h), cache.k.dtype)
  own = entries(own, -1, kv_dtype)
  prompt_k, prompt_v = prompt_entries(cache, kv_dtype)
  return DecodeCache(
    prompt_k=prompt_k,
    prompt_v=prompt_v,
    length=cache.length,
    own_k=own,
    own_v=own,
  )


def write(
  own: Entries, new: Float[Array, "Y P G K H"], entry: Int[Array, ""]
) -> Entries:
  """Returns the own entries [Y P K G C H] with one token's at `entry`."""
  kv_dtype = "" if own.scale is None else own.values.dtype.name
  made = entries(new.transpose(0, 1, 3, 2, 4), -1, kv_dtype)
  put = lambda old, x: jax.lax.dynamic_update_index_in_dim(
    old, x, entry, axis=4
  )
  return jax.tree.map(put, own, made)
