"""Rollouts one step off-policy: begun before the update that precedes them.

While the learner makes its update of step k, the rollout of step k + 1 is
sampled with the parameters from before it, and scored:

  devices   sample k+1 | update k | sample k+2 | update k+1 | ...
  host      .......... | score k+1 .......... | score k+2 ...

so that the devices wait for the scores only if scoring takes longer than the
update.  One thread begins all of that on the devices, in an order that no
timing changes; a verifier that computes there too begins its own from another.

The rollouts of a step are a function of the parameters that sample them, of
the cursor and of the step.  Groups that are drawn anew come from the same
parameters.  A checkpoint therefore holds those parameters beside the learner's
own, and a resumed run draws again what was under way.  The loss corrects for
who sampled (`grpo_loss.mismatch_weight`).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from grounded_jax import groups, sampler, types
from grounded_jax.journal import Stopwatch

# (params, step, watch, cursor, purpose, fetch_beside=False): begins the groups
# of the prompts from `cursor` on, and returns what waits for them.  With
# `fetch_beside` it waits for nothing itself.
Begin = Callable[..., Callable[[], groups.Groups]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
  """Where a step's rollouts come from."""

  params: Any  # that sample
  policy_step: int  # updates that they have had
  wait: Callable[[], groups.Groups] | None = None  # for a first draw, if begun
  watch: Stopwatch | None = None  # of that draw

  @classmethod
  def of(cls, state: types.TrainState) -> "Source":
    """The learner itself."""
    return cls(params=state.params, policy_step=int(state.step))


def begin(
  begin_groups: Begin, state: types.TrainState, step: int, cursor: int
) -> Source:
  """The source of a step, its first draw begun with the learner's parameters.

  Args:
    begin_groups: of the stage.
    state: of the learner, whose memory the next update takes.
    step: that the rollouts are for.
    cursor: prompts read before.
  """
  source, watch = Source.of(state), Stopwatch()
  wait = begin_groups(
    *(source.params, step, watch, cursor, sampler.PURPOSE_TRAIN),
    fetch_beside=True,
  )
  copy = jax.tree.map(jnp.copy, source.params)
  return dataclasses.replace(source, params=copy, wait=wait, watch=watch)


def draws(
  source: Source, begin_groups: Begin, step: int, watch: Stopwatch
) -> Callable[[int, int], groups.Groups]:
  """The draws of a step, as `groups.collect` asks for them."""

  def draw(cursor: int, purpose: int) -> groups.Groups:
    if source.wait is None or purpose != sampler.PURPOSE_TRAIN:
      return begin_groups(source.params, step, watch, cursor, purpose)()
    drawn = source.wait()
    watch.add(source.watch)
    return drawn

  return draw
