"""A step's rollout: prompts, their completions, and the scores of these."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any

import numpy as np

from grounded_jax import (
  config,
  groups,
  journal,
  overlap,
  pipeline,
  stops,
  types,
)
from grounded_jax import policy as policy_lib
from grounded_jax.records import Example


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rollouts:
  """What a stage samples, and who scores it.

  In chunks: a thread scores one while the devices sample the next, which is
  begun before the one before it is fetched.
  """

  book: journal.Journal  # of the run
  index: int  # of the stage
  data: pipeline.Prompts
  score: groups.Scorer  # on the host
  beside: futures.Executor  # the thread

  @property
  def _stage(self) -> config.Stage:
    return self.book.experiment.stages[self.index]

  @property
  def _stop(self) -> tuple[str, ...]:
    return stops.parse(self._stage.samples.stop)

  def begin(
    self,
    params: Any,
    step: int,
    watch: journal.Stopwatch,
    cursor: int,
    purpose: int,
    *,
    fetch_beside: bool = False,
  ) -> Callable[[], groups.Groups]:
    """Begins the scored groups of the prompts from `cursor` on.

    Args:
      params: that sample; the sampler's copy of them lives no longer than this.
      step: of the stage.
      watch: of the phases.
      cursor: prompts read before.
      purpose: of the draw.
      fetch_beside: the thread waits for the devices too; the caller does not.

    Returns:
      What waits for the groups, and returns them.
    """
    with watch("sample"):
      weights = self.book.policy.for_sampling(params)
    begun = self._sampled(weights, step, watch, cursor, purpose)
    scores = []
    for examples, prompts, rollout in overlap.one_ahead(begun):
      if not fetch_beside:
        rollout = self._fetched(rollout, watch)
      args = (examples, prompts, rollout, watch)
      with watch("score_wait"):  # the thread may hold the interpreter at once
        own = self.beside.submit(self._scored, *args, fetch=fetch_beside)
      scores.append((own, examples, prompts))

    def finished() -> groups.Groups:
      with watch("score_wait"):
        drawn = groups.concatenate(
          [groups.gathered(*own.result(), *whole) for own, *whole in scores]
        )
      if self._stage.shuffle_rewards:
        seed = self.book.experiment.seed
        return groups.shuffled(drawn, (seed, self.index, step, purpose))
      return drawn

    return finished

  def _sampled(
    self,
    weights: Any,
    step: int,
    watch: journal.Stopwatch,
    cursor: int,
    purpose: int,
  ) -> Iterator[tuple[Sequence[Example], types.PromptBatch, types.Rollout]]:
    """Each chunk: prompts, [P L], and G completions begun, [P G C]."""
    policy, cfg = self.book.policy, self._stage.samples
    size = cfg.prompts // cfg.sample_chunks
    for first in range(cursor, cursor + cfg.prompts, size):
      prompts, examples = self.data.take(first, size)
      with watch("sample"):
        rollout = policy_lib.begin(
          policy,
          weights,
          prompts,
          seed=self.book.experiment.seed,
          stage=self.index,
          step=step,
          purpose=purpose,
          group=cfg.group,
          max_new_tokens=cfg.max_new_tokens,
          temperature=cfg.temperature,
          top_k=cfg.top_k,
          top_p=cfg.top_p,
          min_p=cfg.min_p,
          stop=self._stop,
          slots=cfg.slots,
        )
      yield examples, prompts, rollout

  def _fetched(
    self, rollout: types.Rollout, watch: journal.Stopwatch
  ) -> tuple[np.ndarray, types.Rollout]:
    """This process's rows, on the host."""
    with watch("sample"):
      return policy_lib.fetch(self.book.policy, rollout, self._stop)

  def _scored(
    self,
    examples: Sequence[Example],
    prompts: types.PromptBatch,
    rollout: types.Rollout | tuple[np.ndarray, types.Rollout],
    watch: journal.Stopwatch,
    *,
    fetch: bool,
  ) -> tuple[groups.Groups, np.ndarray]:
    """This process's groups with their scores, [P G], and which rows they are.

    Args:
      examples: of all processes; so are the prompts.
      prompts: of the chunk.
      rollout: on the devices if it is to be fetched, else as `_fetched` has it.
      watch: of the phases.
      fetch: whether it is.
    """
    rows, own = self._fetched(rollout, watch) if fetch else rollout
    policy, data = self.book.policy, self.book.experiment.data
    with watch("score"):
      made = groups.scored(
        [examples[row] for row in rows],
        groups.prompts_at(prompts, rows),
        own,
        policy_lib.completions(policy, own, data, self._stop),
        self.score,
      )
    return made, rows
