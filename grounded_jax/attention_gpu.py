"""`attention.grouped` by cuDNN, through jax's public function, on CUDA GPUs.

Only whole softmaxes are asked for, since the log-sum-exp that the function
returns has no gradient: prompts causally over themselves, and a completion's
queries over its prompt's keys and its own, under a mask.  The gradients are
those of these calls.

Completions take turns at one buffer: the prompts' keys and, behind them, those
of the completion whose turn it is.  The mask is the same for each.  At
Qwen3-8B's shape (L = 2,048, G = 8, C = 512, K = 8, H = 128; bfloat16) a
layer's backward pass so takes, for a prompt and beside the row and its
gradients:

  buffers                  2 (L + C) K H 2    10.5 MB
  their gradients          2 (L + C) K H 2    10.5 MB
  mask                     C (L + C) 2         2.6 MB
  its gradient, unused     C (L + C) 2         2.6 MB
  sums over completions    2 L K H 4          16.8 MB

43 MB.  All completions at once would take 210 MB with the prompt's keys
repeated for each of them, and 101 MB, for 2.4 times the scores, under a mask
of G C queries by L + G C keys.  Nothing but the row and the output is kept
between the passes: the backward pass runs the forward kernels again, nine
products over the scores in all where seven would do.

A window makes a mask of prompts too: L L 2 bytes, and as much for its gradient.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from grounded_jax import mesh, softmax

# Queries of completions that take their turn together, if one has fewer: as
# many as a kernel's block.
_QUERIES = 128
_ALIGNED = 8  # tokens are padded to such a number: 16 bytes of a mask's row


def refusal(platform: str, dtype: str, head_dim: int, softcap: float) -> str:
  """Returns why cuDNN cannot compute a model's attention, "" if it can.

  Args:
    platform: of the devices: cpu, gpu or tpu.
    dtype: of queries, keys and values.
    head_dim: H.
    softcap: bound of the scores; 0 = none.
  """
  capability = mesh.cuda_capability(platform)
  if capability is None:
    return f"it needs a CUDA GPU, and the devices are of kind {platform}"
  if capability < (8, 0):
    found = ".".join(map(str, capability))
    return f"it needs compute capability 8.0 or more, and the GPU has {found}"
  if dtype not in ("bfloat16", "float16"):
    return f"it computes in 16-bit numbers alone, and the model in {dtype}"
  if softcap:
    return f"it caps no scores, and the model's attn_softcap is {softcap}"
  widest = 256 if capability >= (9, 0) else 128
  if head_dim % 8 or head_dim > widest:
    return (
      f"it needs a head_dim that is a multiple of 8 up to {widest}, and the"
      f" model's is {head_dim}"
    )
  return ""


def _padded(x: Array, axis: int, size: int) -> Array:
  """Zeros after the entries of an axis, up to so many."""
  pad = [(0, (size - x.shape[i]) * (i == axis)) for i in range(x.ndim)]
  return jnp.pad(x, pad)


def _up(count: int) -> int:
  return -(-count // _ALIGNED) * _ALIGNED


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Row:
  """Where prompt and completions lie, and who computes their attention."""

  prompt_len: int
  group: int
  own: int  # tokens of a completion
  scale: float
  implementation: str  # of `jax.nn.dot_product_attention`: cudnn, xla

  @property
  def members(self) -> int:
    """Completions that take their turn together."""
    most = max(_QUERIES // _up(self.own), 1)
    return max(m for m in range(1, most + 1) if self.group % m == 0)

  def attend(self, q, k, v, mask, causal=False) -> Array:
    return jax.nn.dot_product_attention(
      q,
      k,
      v,
      mask=mask,
      scale=self.scale,
      is_causal=causal,
      implementation=self.implementation,
    )

  def prompts(self, x: Float[Array, "P T N H"]) -> Float[Array, "P _ N H"]:
    return _padded(x[:, : self.prompt_len], 1, _up(self.prompt_len))

  def turns(self, x: Float[Array, "P T N H"]) -> Float[Array, "_ P _ N H"]:
    """The completions' tokens, those of each turn in one row."""
    p, _, n, h = x.shape
    x = x[:, self.prompt_len :].reshape(p, self.group, self.own, n, h)
    x = _padded(x, 2, _up(self.own))
    x = x.reshape(p, self.group // self.members, -1, n, h)
    return x.swapaxes(0, 1)

  def whole(self, prompts: Array, turns: Array | None) -> Array:
    """Undoes `prompts` and `turns`."""
    prompts = prompts[:, : self.prompt_len]
    if turns is None:
      return prompts
    p, _, n, h = prompts.shape
    own = turns.swapaxes(0, 1).reshape(p, self.group, -1, n, h)
    own = own[:, :, : self.own].reshape(p, -1, n, h)
    return jnp.concatenate([prompts, own], axis=1)

  def prompt_mask(self, window: Array | None) -> Bool[Array, "1 1 _ _"] | None:
    """Which keys the window does not hide; causality hides later ones."""
    if window is None:
      return None
    at = jnp.arange(_up(self.prompt_len))
    return (at[:, None] - at < window)[None, None]

  def mask(
    self, length: Int[Array, " P"], window: Array | None
  ) -> Bool[Array, "P 1 _ _"]:
    """Which keys of a buffer the queries of a turn see."""
    own, key = _up(self.own), jnp.arange(_up(self.prompt_len))
    at = jnp.arange(self.members * own)
    member, inside = at // own, at % own
    back = inside[:, None] - inside
    mine = (member[:, None] == member) & (back >= 0)
    over = jnp.broadcast_to(
      (key < length[:, None])[:, None], (length.size, at.size, key.size)
    )
    if window is not None:
      mine &= back < window
      position = length[:, None] + inside
      over &= position[:, :, None] - key < window
    mine = jnp.broadcast_to(mine, (length.size, *mine.shape))
    return jnp.concatenate([over, mine], axis=2)[:, None]

  def buffers(self, *prompts: Array) -> tuple[Array, ...]:
    """Prompts' keys and values, with room behind them for a turn's."""
    room = self.members * _up(self.own)
    return tuple(_padded(x, 1, x.shape[1] + room) for x in prompts)


def _put(buffers: Sequence[Array], own: Sequence[Array]) -> tuple[Array, ...]:
  """The buffers with the keys and values of a turn at their ends."""
  return tuple(
    x.at[:, x.shape[1] - y.shape[1] :].set(y)
    for x, y in zip(buffers, own, strict=True)
  )


def _forward(row: _Row, q, k, v, length, window=None):
  prompts = [row.prompts(x) for x in (q, k, v)]
  out = row.attend(*prompts, row.prompt_mask(window), causal=True)
  if not row.own:
    return (row.whole(out, None),)
  mask = row.mask(length, window)

  def turn(buffers, inputs):
    turn_q, *own = inputs
    buffers = _put(buffers, own)
    return buffers, row.attend(turn_q, *buffers, mask)

  turns = tuple(row.turns(x) for x in (q, k, v))
  _, own_out = jax.lax.scan(turn, row.buffers(*prompts[1:]), turns)
  return (row.whole(out, own_out),)


def _backward(row: _Row, q, k, v, d_out, length, window=None):
  prompts = [row.prompts(x) for x in (q, k, v)]
  attend = functools.partial(
    row.attend, mask=row.prompt_mask(window), causal=True
  )
  _, pullback = jax.vjp(attend, *prompts)
  grads = pullback(row.prompts(d_out))
  if not row.own:
    return tuple(row.whole(x, None) for x in grads)
  attend = functools.partial(row.attend, mask=row.mask(length, window))
  size = prompts[0].shape[1]

  def turn(carry, inputs):
    buffers, sums = carry
    turn_q, *own, d_turn = inputs
    buffers = _put(buffers, own)
    _, pullback = jax.vjp(attend, turn_q, *buffers)
    d_q, *d_buffers = pullback(d_turn)
    sums = [
      x + d[:, :size].astype(x.dtype)
      for x, d in zip(sums, d_buffers, strict=True)
    ]
    return (buffers, sums), (d_q, *(d[:, size:] for d in d_buffers))

  sums = [x.astype(softmax.wide(q)) for x in grads[1:]]
  turns = tuple(row.turns(x) for x in (q, k, v, d_out))
  (_, sums), own = jax.lax.scan(turn, (row.buffers(*prompts[1:]), sums), turns)
  grads = (grads[0], *(x.astype(q.dtype) for x in sums))
  return tuple(row.whole(x, y) for x, y in zip(grads, own, strict=True))


# Logical axes of what enters and leaves.  Queries are cut as their keys are.
_TOKENS = ("batch", None, "kv_heads", None)


def _per_device(function, outs, arrays, length, window, rule):
  """The function of the row, each device computing its prompts and heads."""
  prompt_len, group = rule.pop("prompt_len"), rule.pop("group")
  own = (arrays[0].shape[1] - prompt_len) // max(group, 1)
  row = _Row(prompt_len=prompt_len, group=group, own=own, **rule)
  windows = () if window is None else (window,)
  ins = (_TOKENS,) * len(arrays) + (("batch",),) + ((),) * len(windows)
  args = (*arrays, length, *windows)
  return mesh.per_device(functools.partial(function, row), ins, outs, args)


def forward(
  q: Float[Array, "P T N H"],
  k: Float[Array, "P T K H"],
  v: Float[Array, "P T K H"],
  length: Int[Array, " P"],
  window: Int[Array, ""] | None,
  **rule: int | float | str,
) -> Float[Array, "P T N H"]:
  """Returns the output of `attention.grouped`.

  Args:
    q: queries.
    k: keys.
    v: values.
    length: of the prompts.
    window: positions that a query sees; None = all.
    **rule: prompt_len, group, scale (as it is) and implementation, that of
      `jax.nn.dot_product_attention`: cudnn, or xla on other devices.
  """
  arrays = (q, k, v)
  outs = (_TOKENS,)
  (out,) = _per_device(_forward, outs, arrays, length, window, rule)
  return out


def backward(
  q: Float[Array, "P T N H"],
  k: Float[Array, "P T K H"],
  v: Float[Array, "P T K H"],
  length: Int[Array, " P"],
  window: Int[Array, ""] | None,
  d_out: Float[Array, "P T N H"],
  **rule: int | float | str,
) -> tuple[
  Float[Array, "P T N H"], Float[Array, "P T K H"], Float[Array, "P T K H"]
]:
  """Returns the gradients of q, k and v, given d_out, that of the output.

  All else is as in `forward`.
  """
  arrays = (q, k, v, d_out)
  outs = (_TOKENS,) * 3
  return _per_device(_backward, outs, arrays, length, window, rule)
