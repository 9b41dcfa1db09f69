"""Attention of a group: a prompt over itself, completions over it and theirs.

The tokens of a prompt and of its G completions stand in one row, prompt first.
A prompt token sees the prompt up to itself; completion token i sees its
prompt's `length` keys and its own completion up to i, never another's.  With a
window w it sees, of all these, the last w positions, its own included; the
position of completion token i is the prompt's length + i.

Both parts are one function with one derivative.  Only the output and the
log-sum-exp of each query's scores are kept for the backward pass, which
recomputes the scores block by block (as in FlashAttention, arXiv:2205.14135),
so that no [queries, keys] array outlives its block.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from grounded_jax import attention_gpu, attention_tpu, mesh, softmax
from grounded_jax.records import UserError

# What a layer that is computed again need not compute again: see `model`.
OUTPUT = "attention_output"

# Queries per block.  Prompts are cut into at most _PROMPT_BLOCKS blocks, each
# of which reads only the keys up to its own end.
_PROMPT_QUERIES = 256
_PROMPT_BLOCKS = 8
_OWN_QUERIES = 128


def _mask(
  length: Array, prompt_len: int, group: int, tokens: int, window: Array | None
) -> Array:
  """[P T T]: which key each query of the row sees."""
  index = jnp.arange(tokens)
  is_prompt = index < prompt_len
  own = max((tokens - prompt_len) // max(group, 1), 1)
  member = jnp.where(is_prompt, -1, (index - prompt_len) // own)
  same = member[:, None] == member[None, :]
  mask = same & (index[:, None] >= index[None, :])  # [T T]
  valid = index < length[:, None]  # [P T]
  over = ~is_prompt[:, None] & (is_prompt & valid)[:, None, :]
  mask = mask[None] | over
  if window is None:
    return mask
  later = length[:, None] + (index - prompt_len) % own
  position = jnp.where(is_prompt, index, later)  # [P T]
  return mask & (position[:, :, None] - position[:, None, :] < window)


def dense(
  q: Float[Array, "P T N H"],
  k: Float[Array, "P T K H"],
  v: Float[Array, "P T K H"],
  length: Int[Array, " P"],
  prompt_len: int,
  group: int,
  precision: str = "default",
  scale: float = 0.0,
  softcap: float = 0.0,
  window: Int[Array, ""] | None = None,
) -> Float[Array, "P T N H"]:
  """Returns `grouped` computed by one masked softmax over all keys.

  It holds [P N T T] scores: the plain statement that tests compare with.
  """
  p, t, n, h = q.shape
  q = q.reshape(p, t, k.shape[2], -1, h)  # [P T K N/K H]
  q = q * softmax.scale(scale, q)
  dot = softmax.dots(q, precision)
  scores = softmax.capped(dot("pqkrh,pskh->pkrqs", q, k), softcap)
  mask = _mask(length, prompt_len, group, t, window)[:, None, None]
  weights = jax.nn.softmax(jnp.where(mask, scores, softmax.MASKED), axis=-1)
  out = dot("pkrqs,pskh->pqkrh", weights.astype(v.dtype), v)
  return out.astype(q.dtype).reshape(p, t, n, h)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6, 7, 8, 10))
def grouped(
  q: Float[Array, "P T N H"],
  k: Float[Array, "P T K H"],
  v: Float[Array, "P T K H"],
  length: Int[Array, " P"],
  prompt_len: int,
  group: int,
  precision: str = "default",
  scale: float = 0.0,
  softcap: float = 0.0,
  window: Int[Array, ""] | None = None,
  kernel: str = "auto",
) -> Float[Array, "P T N H"]:
  """Returns the attention's output; T = prompt_len + group * own tokens.

  Args:
    q: queries.
    k: keys.
    v: values.
    length: of the prompts; keys of a prompt beyond it are padding.
    prompt_len: L, the tokens of a prompt with its padding.
    group: G; 0 for prompts alone.
    precision: of the matrix products.
    scale: of the scores; 0 = H**-0.5.
    softcap: scores s become softcap * tanh(s / softcap); 0 = as they are.
    window: positions that a query sees, its own included; None = all.
    kernel: what computes it: xla, pallas (`attention_tpu`, which other devices
      than TPUs interpret, slowly), cudnn (`attention_gpu`, CUDA GPUs only), or
      auto = pallas on TPUs, cudnn where it can, xla elsewhere.

  Raises:
    UserError: the kernel is cudnn, which cannot compute it here.
  """
  out, _ = _chosen_forward(
    (q, k, v, length, window),
    prompt_len,
    group,
    precision,
    scale,
    softcap,
    kernel,
  )
  return out


def chosen(
  kernel: str, platform: str, dtype: str, head_dim: int, softcap: float
) -> str:
  """Returns what computes a model's attention: xla, pallas or cudnn.

  Args:
    kernel: one of these, or auto.
    platform: of the devices: cpu, gpu or tpu.
    dtype: of queries, keys and values.
    head_dim: H.
    softcap: bound of the scores; 0 = none.

  Raises:
    UserError: the kernel is cudnn, which cannot compute it here.
  """
  if kernel in ("xla", "pallas"):
    return kernel
  if kernel == "auto" and platform == "tpu":
    return "pallas"
  reason = attention_gpu.refusal(platform, dtype, head_dim, softcap)
  if kernel == "cudnn" and reason:
    raise UserError(
      f"model.attention=cudnn: {reason}: set model.attention=auto, which"
      " chooses what the devices can do."
    )
  return "xla" if reason else "cudnn"


def _chosen(kernel: str, q: Array, softcap: float) -> str:
  where, dtype = mesh.platform(q), str(q.dtype)
  return chosen(kernel, where, dtype, q.shape[-1], softcap)


def _chosen_forward(
  inputs, prompt_len, group, precision, scale, softcap, kernel
):
  """(output, what the backward pass of the same kernel needs of it)."""
  q = inputs[0]
  kernel = _chosen(kernel, q, softcap)
  if kernel == "xla":
    rule = (scale, softcap)
    return _forward(*inputs, prompt_len, group, precision, rule)
  if kernel == "cudnn":
    out = attention_gpu.forward(
      *inputs,
      prompt_len=prompt_len,
      group=group,
      scale=softmax.scale(scale, q),
      implementation="cudnn",
    )
    return out, None
  return attention_tpu.forward(
    *inputs,
    prompt_len=prompt_len,
    group=group,
    precision=precision,
    scale=softmax.scale(scale, q),
    softcap=softcap,
  )


def _prompt_blocks(prompt_len: int) -> list[tuple[int, int]]:
  size = max(_PROMPT_QUERIES, -(-prompt_len // _PROMPT_BLOCKS))
  starts = range(0, prompt_len, size)
  return [(start, min(start + size, prompt_len)) for start in starts]


def _own_blocks(group: int, own: int) -> tuple[int, int]:
  """(members per block, blocks per completion) of the completions' queries."""
  if own > _OWN_QUERIES:
    return 1, -(-own // _OWN_QUERIES)
  fitting = range(1, max(_OWN_QUERIES // own, 1) + 1)
  return max(m for m in fitting if group % m == 0), 1


def _heads_first(x: Array, kv_heads: int) -> Array:
  """[P T N H] -> [P K N/K T H]."""
  p, t, n, h = x.shape
  x = x.reshape(p, t, kv_heads, n // kv_heads, h)
  return x.transpose(0, 2, 3, 1, 4)


def _cut(x: Array, group: int, members: int, blocks: int) -> Array:
  """[P K R G*C H] -> [G/m blocks P K m R*c H]: queries in scanned blocks."""
  p, k, r, t, h = x.shape
  own = t // group
  x = x.reshape(p, k, r, group, own, h)
  size = -(-own // blocks)
  x = jnp.pad(x, ((0, 0),) * 4 + ((0, size * blocks - own), (0, 0)))
  x = x.reshape(p, k, r, group // members, members, blocks, size, h)
  x = x.transpose(3, 5, 0, 1, 4, 2, 6, 7)
  return x.reshape(group // members, blocks, p, k, members, r * size, h)


def _join(x: Array, repeat: int, own: int) -> Array:
  """Undoes `_cut`, without the padding: -> [P K R G*own H]."""
  outer, blocks, p, k, members, rows, h = x.shape
  size = rows // repeat
  x = x.reshape(outer, blocks, p, k, members, repeat, size, h)
  x = x.transpose(2, 3, 5, 0, 4, 1, 6, 7)
  x = x.reshape(p, k, repeat, outer * members, blocks * size, h)
  return x[:, :, :, :, :own].reshape(p, k, repeat, -1, h)


def _near(query: Array, key: Array, window: Array | None) -> Array:
  """Which keys a query sees: none after itself, all or its window before."""
  back = query[..., None] - key
  return back >= 0 if window is None else (back >= 0) & (back < window)


def _own_seen(block, size, repeat, length, prompt_len, own, window):
  """Which prompt key [P 1 1 R*c|1 L] and own key [R*c C] a block sees."""
  query = jnp.tile(block * size + jnp.arange(size), repeat)
  key = jnp.arange(prompt_len)
  over = (key < length[:, None])[:, None]
  if window is not None:
    over &= _near(length[:, None] + query, key, window)
  return over[:, None, None], _near(query, jnp.arange(own), window)


def _forward(q, k, v, length, window, prompt_len, group, precision, rule):
  p, t, n, h = q.shape
  kv_heads = k.shape[2]
  dot = softmax.dots(q, precision)
  scale, softcap = rule
  q = _heads_first(q * softmax.scale(scale, q), kv_heads)  # [P K R T H]
  k, v = (_heads_first(x, kv_heads)[:, :, 0] for x in (k, v))  # [P K T H]
  prompt_k, prompt_v = k[:, :, :prompt_len], v[:, :, :prompt_len]

  outs, sums = [], []
  for start, stop in _prompt_blocks(prompt_len):
    scores = dot(
      "pkrqh,pksh->pkrqs", q[:, :, :, start:stop], prompt_k[:, :, :stop]
    )
    seen = _near(jnp.arange(start, stop), jnp.arange(stop), window)
    scores = jnp.where(seen, softmax.capped(scores, softcap), softmax.MASKED)
    values = ("pkrqs,pksh->pkrqh", prompt_v[:, :, :stop], 1)
    out, lse = softmax.of_parts([scores], [values], dot)
    outs.append(out)
    sums.append(lse)
  lse_own = None
  if t > prompt_len:
    own_q = q[:, :, :, prompt_len:]
    out, lse_own = _own_forward(
      own_q, k, v, length, window, prompt_len, group, dot, softcap
    )
    outs.append(out)
  out = jnp.concatenate(outs, axis=3).astype(q.dtype)  # [P K R T H]
  lse = (jnp.concatenate(sums, axis=3), lse_own)
  return out.transpose(0, 3, 1, 2, 4).reshape(p, t, n, h), lse


def _own_scores(q, prompt_k, own_k, dot, softcap):
  """Scores of a block of completion queries over both parts, seen or not."""
  over = dot("pkmqh,pksh->pkmqs", q, prompt_k)
  own = dot("pkmqh,pkmch->pkmqc", q, own_k)
  return softmax.capped(over, softcap), softmax.capped(own, softcap)


def _own_keys(x, prompt_len, group, members, padded):
  """[P K T H] -> [G/m P K m C H]: the completions' own keys or values."""
  p, k, t, h = x.shape
  own = (t - prompt_len) // group
  x = x[:, :, prompt_len:].reshape(p, k, group // members, members, own, h)
  x = jnp.pad(x, ((0, 0),) * 4 + ((0, padded - own), (0, 0)))
  return x.transpose(2, 0, 1, 3, 4, 5)


def _own_forward(q, k, v, length, window, prompt_len, group, dot, softcap):
  repeat, own = q.shape[2], q.shape[3] // group
  members, blocks = _own_blocks(group, own)
  size = -(-own // blocks)
  queries = _cut(q, group, members, blocks)
  keys = [_own_keys(x, prompt_len, group, members, own) for x in (k, v)]
  prompt_k, prompt_v = k[:, :, :prompt_len], v[:, :, :prompt_len]

  def member(_, inputs):
    own_q, own_k, own_v = inputs
    values = (
      ("pkmqs,pksh->pkmqh", prompt_v, 1),
      ("pkmqc,pkmch->pkmqh", own_v, 1),
    )

    def block(_, inputs):
      index, block_q = inputs
      seen = _own_seen(index, size, repeat, length, prompt_len, own, window)
      parts = _own_scores(block_q, prompt_k, own_k, dot, softcap)
      parts = [
        jnp.where(mask, scores, softmax.MASKED)
        for mask, scores in zip(seen, parts, strict=True)
      ]
      out, lse = softmax.of_parts(parts, values, dot)
      return None, (out.astype(q.dtype), lse)

    return jax.lax.scan(block, None, (jnp.arange(blocks), own_q))

  _, (out, lse) = jax.lax.scan(member, None, (queries, *keys))
  return _join(out, repeat, own), lse


def _grouped_fwd(
  q, k, v, length, prompt_len, group, precision, scale, softcap, window, kernel
):
  inputs = (q, k, v, length, window)
  out, lse = _chosen_forward(
    inputs, prompt_len, group, precision, scale, softcap, kernel
  )
  out, lse = checkpoint_name((out, lse), OUTPUT)
  return out, (*inputs, out, lse)


def _score_grads(scores, seen, lse, d_weights, delta, softcap):
  """(weights, d scores) of one part, from the merged log-sum-exp.

  With s' = c tanh(s / c), d s = (1 - (s' / c)^2) d s'.
  """
  masked = jnp.where(seen, scores, softmax.MASKED)
  weights = jnp.exp(masked - lse[..., None])
  d_scores = weights * (d_weights - delta[..., None])
  if softcap:
    d_scores *= 1 - jnp.square(scores / softcap)
  return weights, d_scores


def _grouped_bwd(
  prompt_len, group, precision, scale, softcap, kernel, saved, d_out
):
  q = saved[0]
  kernel = _chosen(kernel, q, softcap)
  if kernel == "xla":
    rule = (scale, softcap)
    return _backward(saved, d_out, prompt_len, group, precision, rule)
  if kernel == "cudnn":
    *inputs, _, _ = saved
    grads = attention_gpu.backward(
      *inputs,
      d_out,
      prompt_len=prompt_len,
      group=group,
      scale=softmax.scale(scale, q),
      implementation="cudnn",
    )
    return *grads, None, None
  grads = attention_tpu.backward(
    *saved,
    d_out,
    prompt_len=prompt_len,
    group=group,
    precision=precision,
    scale=softmax.scale(scale, q),
    softcap=softcap,
  )
  return *grads, None, None


def _backward(saved, d_out, prompt_len, group, precision, rule):
  q, k, v, length, window, out, (lse, lse_own) = saved
  scale, softcap = rule
  p, t, n, h = q.shape
  kv_heads = k.shape[2]
  dtype = q.dtype
  dot = softmax.dots(q, precision)
  wide = softmax.wide(q)
  delta = jnp.sum(d_out.astype(wide) * out.astype(wide), -1)
  delta = _heads_first(delta[..., None], kv_heads)  # [P K R T 1]
  d_out = _heads_first(d_out, kv_heads)
  q = _heads_first(q * softmax.scale(scale, q), kv_heads)
  k, v = (_heads_first(x, kv_heads)[:, :, 0] for x in (k, v))
  # Gradients of keys and values are [P K H T] until the end: the products that
  # give them then read scores as they lie, and only the narrow queries turned.
  d_k = jnp.zeros((p, kv_heads, h, prompt_len), wide)
  d_v = jnp.zeros_like(d_k)

  d_q = []
  for start, stop in _prompt_blocks(prompt_len):
    rows = (slice(None),) * 3 + (slice(start, stop),)
    block_q, block_d, block_k, block_v = (
      q[rows],
      d_out[rows],
      k[:, :, :stop],
      v[:, :, :stop],
    )
    scores = dot("pkrqh,pksh->pkrqs", block_q, block_k)
    weights, d_scores = _score_grads(
      softmax.capped(scores, softcap),
      _near(jnp.arange(start, stop), jnp.arange(stop), window),
      lse[..., start:stop],
      dot("pkrqh,pksh->pkrqs", block_d, block_v),
      delta[rows][..., 0],
      softcap,
    )
    weights, d_scores = weights.astype(dtype), d_scores.astype(dtype)
    d_q.append(dot("pkrqs,pksh->pkrqh", d_scores, block_k))
    d_k = d_k.at[..., :stop].add(dot("pkrqh,pkrqs->pkhs", block_q, d_scores))
    d_v = d_v.at[..., :stop].add(dot("pkrqh,pkrqs->pkhs", block_d, weights))
  if t > prompt_len:
    own = (slice(None),) * 3 + (slice(prompt_len, None),)
    d_q_own, d_prompt, d_own = _own_backward(
      (q[own], k, v, length, window, d_out[own], delta[own], lse_own),
      (d_k, d_v),
      prompt_len,
      group,
      dot,
      softcap,
    )
    d_q.append(d_q_own)
    d_k, d_v = (
      jnp.concatenate([x, y], axis=3)
      for x, y in zip(d_prompt, d_own, strict=True)
    )
  d_q = jnp.concatenate(d_q, axis=3) * softmax.scale(scale, q)
  d_q = d_q.transpose(0, 3, 1, 2, 4).reshape(p, t, n, h)
  d_k, d_v = (x.transpose(0, 3, 1, 2).astype(dtype) for x in (d_k, d_v))
  return d_q.astype(dtype), d_k, d_v, None, None


def _own_backward(saved, d_prompt, prompt_len, group, dot, softcap):
  """(d q, d prompt (k, v), d own (k, v)) of the completions' queries."""
  q, k, v, length, window, d_out, delta, lse = saved
  dtype, repeat, own = q.dtype, q.shape[2], q.shape[3] // group
  members, blocks = _own_blocks(group, own)
  size = -(-own // blocks)
  queries = tuple(_cut(x, group, members, blocks) for x in (q, d_out, delta))
  keys = tuple(_own_keys(x, prompt_len, group, members, own) for x in (k, v))
  prompt_k, prompt_v = k[:, :, :prompt_len], v[:, :, :prompt_len]

  def member(d_prompt, inputs):
    block_inputs, (own_k, own_v) = inputs

    def block(carry, inputs):
      (d_pk, d_pv), (d_ok, d_ov) = carry
      index, (q, d_out, delta, lse) = inputs
      seen = _own_seen(index, size, repeat, length, prompt_len, own, window)
      scores = _own_scores(q, prompt_k, own_k, dot, softcap)
      d_over = dot("pkmqh,pksh->pkmqs", d_out, prompt_v)
      d_own = dot("pkmqh,pkmch->pkmqc", d_out, own_v)
      (w_over, d_over), (w_own, d_own) = (
        _score_grads(*part, lse, d, delta[..., 0], softcap)
        for *part, d in zip(scores, seen, (d_over, d_own), strict=True)
      )
      w_over, d_over, w_own, d_own = (
        x.astype(dtype) for x in (w_over, d_over, w_own, d_own)
      )
      d_q = dot("pkmqs,pksh->pkmqh", d_over, prompt_k)
      d_q += dot("pkmqc,pkmch->pkmqh", d_own, own_k)
      d_pk += dot("pkmqh,pkmqs->pkhs", q, d_over)
      d_pv += dot("pkmqh,pkmqs->pkhs", d_out, w_over)
      d_ok += dot("pkmqh,pkmqc->pkmhc", q, d_own)
      d_ov += dot("pkmqh,pkmqc->pkmhc", d_out, w_own)
      return ((d_pk, d_pv), (d_ok, d_ov)), d_q

    zeros = jnp.zeros(own_k.mT.shape, softmax.wide(q))
    (d_prompt, d_own), d_q = jax.lax.scan(
      block, (d_prompt, (zeros, zeros)), (jnp.arange(blocks), block_inputs)
    )
    return d_prompt, (d_q, d_own)

  d_prompt, (d_q, d_own) = jax.lax.scan(
    member, d_prompt, ((*queries, lse), keys)
  )
  p, heads = k.shape[:2]
  d_own = tuple(
    x.transpose(1, 2, 4, 0, 3, 5).reshape(p, heads, -1, group * own)
    for x in d_own
  )
  return _join(d_q, repeat, own), d_prompt, d_own


grouped.defvjp(_grouped_fwd, _grouped_bwd)
