"""Which token comes next: a draw from scores, truncated or not.

Order and definitions are those of transformers' logits warpers: banned tokens
first, then temperature, top-k, top-p, min-p, each of which renormalises what
the one before it kept.  (vLLM takes min-p before top-k and top-p.)  Tokens of
equal score are kept or dropped together.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

_BANNED = -1e30  # finite: a banned token's logit stays a number


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
  """How a token is chosen; static, so that each rule is a program."""

  temperature: float  # 0 = the likeliest token
  top_k: int = 0  # only the likeliest so many; 0 = all
  top_p: float = 1.0  # the fewest likeliest that reach this mass; 1 = all
  min_p: float = 0.0  # of at least this share of the likeliest one's; 0 = all
  banned: tuple[int, ...] = ()  # tokens that are never drawn

  @property
  def truncates(self) -> bool:
    """Whether anything but bans keeps a token from being drawn."""
    return self.top_k > 0 or self.top_p < 1 or self.min_p > 0


def kept(scores: Float[Array, "P G V"], rule: Rule) -> Bool[Array, "P G V"]:
  """Returns the tokens that top-k, top-p and min-p all leave.

  Each keeps a prefix of the tokens in order of their scores, so that all of
  them are one threshold.

  Args:
    scores: over the temperature, bans applied.
    rule: its truncations are read.
  """
  lowest = -jnp.inf
  if rule.top_k or rule.top_p < 1:
    if 0 < rule.top_k < scores.shape[-1]:
      ordered = jax.lax.top_k(scores, rule.top_k)[0]
    else:
      ordered = -jnp.sort(-scores, axis=-1)
    mass = jax.nn.softmax(ordered, axis=-1)
    # The mass before each token; of the likeliest it is 0.
    within = jnp.cumsum(mass, axis=-1) - mass < rule.top_p
    lowest = jnp.where(within | (rule.top_p >= 1), ordered, jnp.inf)
    lowest = jnp.min(lowest, axis=-1, keepdims=True)
  if rule.min_p:
    least = scores.max(-1, keepdims=True) + math.log(rule.min_p)
    lowest = jnp.maximum(lowest, least)
  return scores >= lowest


def _first_above(weights: Array, mark: Array) -> tuple[Array, Array]:
  """(first index whose cumulative weight exceeds mark, weight before it).

  Rounding may leave the mark at the very end: then the last index that has
  any weight, so that what has none is never returned.
  """
  mass = jnp.cumsum(weights, axis=-1)
  index = jnp.sum(mass <= mark[..., None], axis=-1)
  positions = jnp.arange(weights.shape[-1])
  last = jnp.max(jnp.where(weights > 0, positions, 0), axis=-1)
  index = jnp.minimum(index, last)
  pick = lambda x: jnp.take_along_axis(x, index[..., None], axis=-1)[..., 0]
  return index, pick(mass - weights)


def categorical(
  scores: Float[Array, "P G V"], uniform: Float[Array, "P G"]
) -> Int[Array, "P G"]:
  """Returns the token at which the cumulative softmax passes `uniform`.

  One random number a row, where the Gumbel trick needs V of them; in two
  levels (blocks, then within one), so that no sum over V is long.
  """
  size = math.isqrt(scores.shape[-1] - 1) + 1
  weights = jnp.exp(scores - scores.max(-1, keepdims=True))
  pad = size * size - scores.shape[-1]
  weights = jnp.pad(weights, ((0, 0), (0, 0), (0, pad)))
  weights = weights.reshape(*uniform.shape, size, size)
  sums = weights.sum(-1)
  mark = uniform * sums.sum(-1)
  block, before = _first_above(sums, mark)
  inside = jnp.take_along_axis(weights, block[..., None, None], axis=-2)
  # Rounding may leave less than nothing of the mark.
  token, _ = _first_above(inside[..., 0, :], jnp.maximum(mark - before, 0))
  return block * size + token


def token(
  scores: Float[Array, "P G V"],
  keys: Array,
  index: Int[Array, "#P #G"] | Int[Array, ""] | int,
  rule: Rule,
) -> tuple[Int[Array, "P G"], Float[Array, "P G"]]:
  """Returns (token, logp) of each row.

  logp is that of the temperature-scaled distribution before truncation and
  bans: the one whose gradient the learner takes.

  Args:
    scores: logits.
    keys: the random key of each row, [P G].
    index: of the token in its completion: one for all rows, or each one's.
    rule: how it is chosen.
  """
  scores = scores / (rule.temperature or 1.0)
  choices = scores
  if rule.banned:
    choices = choices.at[..., jnp.array(rule.banned)].set(_BANNED)
  if rule.temperature:
    if rule.truncates:
      choices = jnp.where(kept(choices, rule), choices, _BANNED)
    uniform = lambda key, index: jax.random.uniform(
      jax.random.fold_in(key, index), dtype=scores.dtype
    )
    index = jnp.broadcast_to(jnp.asarray(index), keys.shape)
    drawn = categorical(choices, jax.vmap(jax.vmap(uniform))(keys, index))
  else:
    drawn = jnp.argmax(choices, axis=-1)
  chosen = jnp.take_along_axis(scores, drawn[..., None], axis=-1)[..., 0]
  return drawn, chosen - jax.nn.logsumexp(scores, axis=-1)
