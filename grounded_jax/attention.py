"""Attention of a group: a prompt over itself, completions over it and theirs.

The tokens of a prompt and of its G completions stand in one row, prompt first.
A prompt token sees the prompt up to itself; completion token i sees its
prompt's `length` keys and its own completion up to i, never another's.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

_MASKED = -1e30  # finite: a row of masked scores stays a number


def _wide(x: Array):
  return jnp.promote_types(x.dtype, jnp.float32)


def _mask(length: Array, prompt_len: int, group: int, tokens: int) -> Array:
  """[P T T]: which key each query of the row sees."""
  index = jnp.arange(tokens)
  is_prompt = index < prompt_len
  own = max((tokens - prompt_len) // max(group, 1), 1)
  member = jnp.where(is_prompt, -1, (index - prompt_len) // own)
  same = member[:, None] == member[None, :]
  mask = same & (index[:, None] >= index[None, :])  # [T T]
  valid = index < length[:, None]  # [P T]
  over = ~is_prompt[:, None] & (is_prompt & valid)[:, None, :]
  return mask[None] | over


def dense(
  q: Float[Array, "P T N H"],
  k: Float[Array, "P T K H"],
  v: Float[Array, "P T K H"],
  length: Int[Array, " P"],
  prompt_len: int,
  group: int,
  precision: str = "default",
) -> Float[Array, "P T N H"]:
  """Returns the attention's output by one masked softmax over all keys."""
  p, t, n, h = q.shape
  q = q.reshape(p, t, k.shape[2], -1, h) * h**-0.5  # [P T K N/K H]
  scores = jnp.einsum(
    "pqkrh,pskh->pkrqs",
    q,
    k,
    precision=precision,
    preferred_element_type=_wide(q),
  )
  mask = _mask(length, prompt_len, group, t)[:, None, None]
  weights = jax.nn.softmax(jnp.where(mask, scores, _MASKED), axis=-1)
  out = jnp.einsum(
    "pkrqs,pskh->pqkrh", weights.astype(v.dtype), v, precision=precision
  )
  return out.reshape(p, t, n, h)


def grouped(
  q: Float[Array, "P T N H"],
  k: Float[Array, "P T K H"],
  v: Float[Array, "P T K H"],
  length: Int[Array, " P"],
  prompt_len: int,
  group: int,
  precision: str = "default",
) -> Float[Array, "P T N H"]:
  """Returns the attention's output; T = prompt_len + group * own tokens."""
  return dense(q, k, v, length, prompt_len, group, precision)


def decode(
  q: Float[Array, "P G N H"],
  prompt: tuple[
    Float[Array, "P L K H"], Float[Array, "P L K H"], Int[Array, " P"]
  ],
  past: tuple[
    Float[Array, "P G C K H"], Float[Array, "P G C K H"], Int[Array, ""]
  ],
  new: tuple[Float[Array, "P G K H"], Float[Array, "P G K H"]],
  precision: str = "default",
) -> Float[Array, "P G N H"]:
  """Returns the attention of one new token of each completion.

  Args:
    q: its query.
    prompt: keys, values and length of the prompts, one copy for a group.
    past: the completions' own keys and values, and how many are written.
    new: the key and value of the token itself.
  """
  prompt_k, prompt_v, length = prompt
  past_k, past_v, written = past
  p, g, n, h = q.shape
  q = q.reshape(p, g, prompt_k.shape[2], -1, h) * h**-0.5  # [P G K N/K H]
  wide = {"precision": precision, "preferred_element_type": _wide(q)}
  over = jnp.einsum("pgkrh,plkh->pgkrl", q, prompt_k, **wide)
  valid = jnp.arange(prompt_k.shape[1]) < length[:, None]
  over = jnp.where(valid[:, None, None, None], over, _MASKED)
  own = jnp.einsum("pgkrh,pgckh->pgkrc", q, past_k, **wide)
  own = jnp.where(jnp.arange(past_k.shape[2]) < written, own, _MASKED)
  self_score = jnp.einsum("pgkrh,pgkh->pgkr", q, new[0], **wide)

  # One softmax over the three parts, without joining their keys.
  top = jnp.maximum(over.max(-1), jnp.maximum(own.max(-1), self_score))
  over = jnp.exp(over - top[..., None])
  own = jnp.exp(own - top[..., None])
  self_weight = jnp.exp(self_score - top)
  total = over.sum(-1) + own.sum(-1) + self_weight
  out = jnp.einsum("pgkrl,plkh->pgkrh", over.astype(q.dtype), prompt_v, **wide)
  out += jnp.einsum("pgkrc,pgckh->pgkrh", own.astype(q.dtype), past_v, **wide)
  out += self_weight[..., None] * new[1][:, :, :, None].astype(out.dtype)
  out = out / total[..., None]
  return out.astype(q.dtype).reshape(p, g, n, h)
