"""The steps of `attention_tpu`'s kernels: one pair of blocks at a time.

With scores s = q k, log-sum-exp l of each query and out = sum softmax(s) v,
as in FlashAttention (arXiv:2205.14135, arXiv:2307.08691):

  w = exp(s - l)   d v = w^T d out   d w = d out v^T
  d s = w (d w - delta)   delta = sum(out * d out)   d q = d s k   d k = d s^T q

Scores lie turned, [keys queries]: what belongs to a query (its maximum, its
sum, l, delta) is then one row of a register's lanes, and sums over keys need
no move across lanes.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array

from grounded_jax import attention_blocks, softmax


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
  """How scores come of queries and keys, and how it is computed."""

  scale: float
  softcap: float  # 0 = none
  precision: str  # of float32 products
  interpret: bool  # without a TPU: slow

  def dot(self, x: Array, y: Array, over: tuple[int, int]) -> Array:
    """The product of matrices over one axis of each, float32 or wider."""
    # There is no third choice in a kernel; products of bfloat16 are exact.
    exact = self.precision != "default" and x.dtype != jnp.bfloat16
    return jax.lax.dot_general(
      x,
      y,
      (((over[0],), (over[1],)), ((), ())),
      precision=jax.lax.Precision.HIGHEST if exact else None,
      preferred_element_type=softmax.wide(x),
    )

  def scores(self, q: Array, k: Array) -> Array:
    """[keys queries], capped."""
    return softmax.capped(self.dot(k, q, (1, 1)), self.softcap)


class Walk(NamedTuple):
  """What the kernels read to find their way: arrays, or references to them."""

  query: Any  # the blocks of each step
  key: Any
  length: Any  # of each prompt
  window: Any  # one

  def pair(self, prompt: Array, step: Array) -> tuple[Array, ...]:
    """What says which queries of a step's pair of blocks see which keys."""
    return self.query[step], self.key[step], self.length[prompt], self.window[0]


def _ends(owner, step: Array) -> tuple[Array, Array]:
  """Whether a step is the first, and the last, of those of its block."""
  count = owner.shape[0]
  before, after = jnp.maximum(step - 1, 0), jnp.minimum(step + 1, count - 1)
  first = (step == 0) | (owner[before] != owner[step])
  return first, (step == count - 1) | (owner[after] != owner[step])


def _visit(layout: attention_blocks.Layout, pair, add) -> None:
  """Adds a pair of blocks, with a mask only where some scores are hidden."""
  some, every = layout.visible(*pair)

  @pl.when(some & every)
  def _():
    add(lambda scores: scores)

  @pl.when(some & jnp.logical_not(every))
  def _():
    seen = layout.mask(*pair)
    add(lambda scores: jnp.where(seen, scores, softmax.MASKED))


def forward(layout, rule, *refs):
  walk, (q, k, v, out, lse, top, total, acc) = Walk(*refs[:4]), refs[4:]
  step = pl.program_id(2)
  first, last = _ends(walk.query, step)

  @pl.when(first)
  def _():
    top[...] = jnp.full(top.shape, softmax.MASKED, top.dtype)
    total[...] = jnp.zeros(total.shape, total.dtype)
    acc[...] = jnp.zeros(acc.shape, acc.dtype)

  def add(hide):
    scores = hide(rule.scores(q[...], k[...]))
    new = jnp.maximum(top[...], scores.max(0, keepdims=True))
    weights = jnp.exp(scores - new)
    fade = jnp.exp(top[...] - new)
    top[...] = new
    total[...] = total[...] * fade + weights.sum(0, keepdims=True)
    more = rule.dot(v[...], weights.astype(v.dtype), (0, 0))  # [H queries]
    acc[...] = acc[...] * fade + more

  _visit(layout, walk.pair(pl.program_id(0), step), add)

  @pl.when(last)
  def _():
    # Nothing was added for queries that lie beyond their prompt's length.
    mass = jnp.where(total[...] == 0, 1, total[...])
    out[...] = (acc[...] / mass).T.astype(out.dtype)
    lse[...] = top[...] + jnp.log(mass)


def _weight_grads(rule, hide, q, k, v, d_out, lse, delta):
  """(weights, d scores) [keys queries] of a pair of blocks."""
  scores = rule.scores(q[...], k[...])
  weights = jnp.exp(hide(scores) - lse[...])
  d_weights = rule.dot(v[...], d_out[...], (1, 1))
  d_scores = weights * (d_weights - delta[...])
  if rule.softcap:  # s' = c tanh(s / c): d s = (1 - (s' / c)^2) d s'
    d_scores *= 1 - jnp.square(scores / rule.softcap)
  return weights.astype(q.dtype), d_scores.astype(q.dtype)


def backward_of_queries(layout, rule, *refs):
  walk, (q, k, v, d_out, lse, delta, d_q, acc) = Walk(*refs[:4]), refs[4:]
  step = pl.program_id(2)
  first, last = _ends(walk.query, step)

  @pl.when(first)
  def _():
    acc[...] = jnp.zeros(acc.shape, acc.dtype)

  def add(hide):
    _, d_scores = _weight_grads(rule, hide, q, k, v, d_out, lse, delta)
    acc[...] += rule.dot(k[...], d_scores, (0, 0))  # [H queries]

  _visit(layout, walk.pair(pl.program_id(0), step), add)

  @pl.when(last)
  def _():
    d_q[...] = (acc[...].T * rule.scale).astype(d_q.dtype)


def backward_of_keys(layout, rule, *refs):
  walk, refs = Walk(*refs[:4]), refs[4:]
  q, k, v, d_out, lse, delta, d_k, d_v, acc_k, acc_v = refs
  step, head = pl.program_id(2), pl.program_id(3)
  first, last = _ends(walk.key, step)

  @pl.when(first & (head == 0))
  def _():
    acc_k[...] = jnp.zeros(acc_k.shape, acc_k.dtype)
    acc_v[...] = jnp.zeros(acc_v.shape, acc_v.dtype)

  def add(hide):
    weights, d_scores = _weight_grads(rule, hide, q, k, v, d_out, lse, delta)
    acc_k[...] += rule.dot(d_scores, q[...], (1, 0))  # [keys H]
    acc_v[...] += rule.dot(weights, d_out[...], (1, 0))

  _visit(layout, walk.pair(pl.program_id(0), step), add)

  @pl.when(last & (head == pl.num_programs(3) - 1))
  def _():
    d_k[...] = acc_k[...].astype(d_k.dtype)
    d_v[...] = acc_v[...].astype(d_v.dtype)
