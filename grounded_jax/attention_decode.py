"""Attention of one new token of each completion, over caches.

The rule of `attention.grouped` for one row of queries: a token sees its
prompt, whose keys are one copy for a group, its own completion and itself.
XLA computes it on every device.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from grounded_jax import kv_cache, softmax


def _own_seen_by_next(
  entry: Array, written: Array, entries: int, window: Array | None
) -> Array:
  """[#P C]: which entries of a ring of own keys the next token sees.

  Entries are written in turn, so that the one before `entry` lies 1 back.
  """
  back = (entry - 1 - jnp.arange(entries)) % entries + 1
  seen = back <= written
  return seen if window is None else seen & (back < window)


def decode(
  q: Float[Array, "P G N H"],
  prompt: tuple[kv_cache.Entries, kv_cache.Entries, Int[Array, " P"]],
  past: tuple[
    kv_cache.Entries, kv_cache.Entries, Int[Array, "*P"], Int[Array, ""]
  ],
  new: tuple[Float[Array, "P G K H"], Float[Array, "P G K H"]],
  precision: str = "default",
  scale: float = 0.0,
  softcap: float = 0.0,
  window: Int[Array, ""] | None = None,
) -> Float[Array, "P G N H"]:
  """Returns the attention of one new token of each completion.

  Args:
    q: its query.
    prompt: keys [P K H L], values [P K L H] and length of the prompts, one copy
      for a group.
    past: the completions' own keys and values [P K G C H], a ring of C entries;
      how many are written, in all prompts or in each; the entry after the last.
    new: the key and value of the token itself.
    precision: of the matrix products.
    scale: as in `attention.grouped`; so are softcap and window.
    softcap: bound of the scores.
    window: positions that the token sees.
  """
  prompt_k, prompt_v, length = prompt
  past_k, past_v, written, entry = past
  p, g, n, h = q.shape
  q = q.reshape(p, g, new[0].shape[2], -1, h) * softmax.scale(scale, q)
  q = q.transpose(0, 2, 1, 3, 4)  # [P K G N/K H]
  dot = softmax.dots(q, precision)
  key = jnp.arange(prompt_v.values.shape[2])
  written = jnp.reshape(written, (-1, 1))  # [#P 1]
  valid = key < length[:, None]
  if window is not None:
    valid &= length[:, None] + written - key < window
  own_valid = _own_seen_by_next(entry, written, past_k.values.shape[3], window)
  over = dot("pkgrh,pkhl->pkgrl", q, prompt_k.values.astype(q.dtype))
  over = softmax.capped(over * _scales(prompt_k, (2, 3)), softcap)
  over = jnp.where(valid[:, None, None, None], over, softmax.MASKED)
  own = dot("pkgrh,pkgch->pkgrc", q, past_k.values.astype(q.dtype))
  own = softmax.capped(own * _scales(past_k, (3,)), softcap)
  own = jnp.where(own_valid[:, None, None, None], own, softmax.MASKED)
  itself = dot("pkgrh,pgkh->pkgr", q, new[0])[..., None]
  itself = softmax.capped(itself, softcap)
  values = (
    (
      "pkgrl,pklh->pkgrh",
      prompt_v.values.astype(q.dtype),
      _scales(prompt_v, (2, 3)),
    ),
    (
      "pkgrc,pkgch->pkgrh",
      past_v.values.astype(q.dtype),
      _scales(past_v, (3,)),
    ),
    ("pkgrx,pgkh->pkgrh", new[1].astype(q.dtype), 1),
  )
  out, _ = softmax.of_parts([over, own, itself], values, dot)
  return out.astype(q.dtype).transpose(0, 2, 1, 3, 4).reshape(p, g, n, h)


def _scales(cached: kv_cache.Entries, axes: tuple[int, ...]) -> Array | int:
  """What scores or weights [P K G R S] of cached vectors are multiplied by.

  Args:
    cached: keys or values.
    axes: those of the scores that their scales, [P K S] or [P K G S], lack.
  """
  return 1 if cached.scale is None else jnp.expand_dims(cached.scale, axes)
