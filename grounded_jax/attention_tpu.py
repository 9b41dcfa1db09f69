"""`attention.grouped` as kernels for TPUs (Pallas), forward and backward.

Each of the three kernels walks over pairs of blocks (see `attention_blocks`)
in the order of the blocks that it writes, adding up in VMEM.  A pair that no
query of this prompt sees is passed over: it is neither computed nor are its
blocks fetched.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from grounded_jax import attention_blocks, attention_kernels, mesh, softmax

_ENDLESS = 2**30  # a window that hides nothing


def _specs(layout, repeat: int, width: int, by_key: bool):
  """Block specs (queries, one number for each of them, keys).

  Of a pair that is passed over, the block that is only read is block 0, so
  that a run of such pairs fetches one.
  """

  def spec(shape, place):
    def index(prompt, head, step, inner, *walk):
      pair = attention_kernels.Walk(*walk).pair(prompt, step)
      some, _ = layout.visible(*pair)
      query, key, *_ = pair
      if by_key:
        query = jnp.where(some, query, 0)
        return place(prompt, head * repeat + inner, head, query, key)
      key = jnp.where(some, key, 0)
      return place(prompt, head, head // repeat, query, key)

    return pl.BlockSpec((None, None, *shape), index)

  block = (layout.block, width)
  return (
    spec(block, lambda p, n, k, query, key: (p, n, query, 0)),
    spec((1, layout.block), lambda p, n, k, query, key: (p, n, 0, query)),
    spec(block, lambda p, n, k, query, key: (p, k, key, 0)),
  )


def _walk(layout, length, window, by_key: bool) -> attention_kernels.Walk:
  pairs = layout.pairs()
  if by_key:
    pairs = sorted(pairs, key=lambda pair: pair[::-1])
  query, key = np.array(pairs, np.int32).T
  return attention_kernels.Walk(
    query=jnp.asarray(query),
    key=jnp.asarray(key),
    length=length.astype(jnp.int32),
    window=jnp.reshape(window, 1).astype(jnp.int32),
  )


def _cost(layout, q: Array, products: int) -> pl.CostEstimate:
  """What a kernel does if lengths and windows hide nothing."""
  p, n, _, h = q.shape
  pairs = p * n * len(layout.pairs())
  scores = pairs * layout.block**2
  fetched = 2 * pairs * layout.block * h + 2 * q.size
  return pl.CostEstimate(
    flops=2 * products * scores * h,
    transcendentals=scores,
    bytes_accessed=fetched * q.dtype.itemsize,
  )


def _call(kernel, layout, rule, args, length, window, products, outs, scratch):
  """Runs a kernel over the pairs of blocks of every prompt and head.

  Args:
    kernel: one of the three of `attention_kernels`.
    layout: of the row.
    rule: of the scores.
    args: q, k, v and in the backward pass d out, lse, delta, all laid out.
    length: of the prompts.
    window: positions that a query sees.
    products: matrix products of a pair of blocks.
    outs: of what shape and dtype each output is: q, k or lse.
    scratch: shapes of the sums that stay in VMEM.
  """
  q, k = args[:2]
  (p, n, t, h), kv_heads = q.shape, k.shape[1]
  by_key = kernel is attention_kernels.backward_of_keys
  walk = _walk(layout, length, window, by_key)
  queries, numbers, keys = _specs(layout, n // kv_heads, h, by_key)
  shape = jax.ShapeDtypeStruct
  kinds = {
    "q": (queries, shape(q.shape, q.dtype)),
    "k": (keys, shape(k.shape, k.dtype)),
    "lse": (numbers, shape((p, n, 1, t), softmax.wide(q))),
  }
  specs, shapes = zip(*(kinds[name] for name in outs), strict=True)
  heads = (kv_heads, n // kv_heads) if by_key else (n, 1)
  ins = (queries, keys, keys, queries, numbers, numbers)
  return pl.pallas_call(
    functools.partial(kernel, layout, rule),
    name="grouped_attention_" + kernel.__name__,
    out_shape=shapes,
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=len(walk),
      grid=(p, heads[0], len(walk.query), heads[1]),
      in_specs=ins[: len(args)],
      out_specs=specs,
      scratch_shapes=[pltpu.VMEM(s, softmax.wide(q)) for s in scratch],
    ),
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel", "parallel", "arbitrary", "arbitrary")
    ),
    cost_estimate=_cost(layout, q, products),
    interpret=rule.interpret,
  )(*walk, *args)


def _forward(layout, rule, q, k, v, length, window):
  args = tuple(layout.lay(x) for x in (q * rule.scale, k, v))
  row, h = (1, layout.block), q.shape[-1]
  out, lse = _call(
    attention_kernels.forward,
    layout,
    rule,
    args,
    length,
    window,
    products=2,
    outs=("q", "lse"),
    scratch=(row, row, (h, layout.block)),
  )
  return layout.unlay(out), lse[:, :, 0]


def _backward(layout, rule, q, k, v, length, window, out, lse, d_out):
  dtype = softmax.wide(q)
  delta = d_out.astype(dtype) * out.astype(dtype)
  delta = layout.lay(delta.sum(-1, keepdims=True)).mT
  laid = [layout.lay(x) for x in (q * rule.scale, k, v, d_out)]
  call = functools.partial(
    _call,
    layout=layout,
    rule=rule,
    args=(*laid, lse[:, :, None], delta),
    length=length,
    window=window,
  )
  b, h = layout.block, q.shape[-1]
  (d_q,) = call(
    attention_kernels.backward_of_queries,
    products=3,
    outs=("q",),
    scratch=((h, b),),
  )
  d_k, d_v = call(
    attention_kernels.backward_of_keys,
    products=4,
    outs=("k", "k"),
    scratch=((b, h),) * 2,
  )
  return tuple(layout.unlay(x) for x in (d_q, d_k, d_v))


# Logical axes of what enters and leaves.  Queries are cut as their keys are.
_TOKENS = ("batch", None, "kv_heads", None)
_INPUTS = (_TOKENS, _TOKENS, _TOKENS, ("batch",), ())
_LSE = ("batch", "kv_heads", None)


def _parts(function, q, prompt_len, group, scale, softcap, precision):
  """The function of what is computed, bound to its layout and rule."""
  rule = attention_kernels.Rule(
    scale=scale,
    softcap=softcap,
    precision=precision,
    interpret=mesh.platform(q) != "tpu",
  )
  made = attention_blocks.layout(prompt_len, q.shape[1], group)
  return functools.partial(function, made, rule)


def forward(
  q: Float[Array, "P T N H"],
  k: Float[Array, "P T K H"],
  v: Float[Array, "P T K H"],
  length: Int[Array, " P"],
  window: Int[Array, ""] | None,
  **rule: int | float | str,
) -> tuple[Float[Array, "P T N H"], Float[Array, "P N _"]]:
  """Returns the output of `attention.grouped` and what `backward` needs.

  Queries of a prompt beyond its length see what they may, or nothing: nobody
  reads their output.

  Args:
    q: queries.
    k: keys.
    v: values.
    length: of the prompts.
    window: positions that a query sees; None = all.
    **rule: prompt_len, group, scale (as it is), softcap and precision.
  """
  window = jnp.asarray(_ENDLESS if window is None else window)
  return mesh.per_device(
    _parts(_forward, q, **rule),
    _INPUTS,
    (_TOKENS, _LSE),
    (q, k, v, length, window),
  )


def backward(
  q: Float[Array, "P T N H"],
  k: Float[Array, "P T K H"],
  v: Float[Array, "P T K H"],
  length: Int[Array, " P"],
  window: Int[Array, ""] | None,
  out: Float[Array, "P T N H"],
  lse: Float[Array, "P N _"],
  d_out: Float[Array, "P T N H"],
  **rule: int | float | str,
) -> tuple[
  Float[Array, "P T N H"], Float[Array, "P T K H"], Float[Array, "P T K H"]
]:
  """Returns the gradients of queries, keys and values.

  Args:
    q: queries.
    k: keys.
    v: values.
    length: of the prompts.
    window: as in `forward`, and so is **rule.
    out: the output.
    lse: the log-sum-exp of each query's scores, as `forward` gave it.
    d_out: the gradient of the output.
    **rule: as in `forward`.
  """
  window = jnp.asarray(_ENDLESS if window is None else window)
  return mesh.per_device(
    _parts(_backward, q, **rule),
    (*_INPUTS, _TOKENS, _LSE, _TOKENS),
    (_TOKENS,) * 3,
    (q, k, v, length, window, out, lse, d_out),
  )
