"""A step's rollout: prompts, their completions, and the scores of these."""

from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import numpy as np

from grounded_jax import groups, journal, overlap, pipeline, stops, types
from grounded_jax import policy as policy_lib


def begin(
  book: journal.Journal,
  index: int,
  data: pipeline.Prompts,
  score: groups.Scorer,
  beside: futures.Executor,
  params: Any,
  step: int,
  watch: journal.Stopwatch,
  cursor: int,
  purpose: int,
  *,
  fetch_beside: bool = False,
) -> Callable[[], groups.Groups]:
  """Begins the scored groups of the prompts from `cursor` on.

  In chunks: a thread scores one while the devices sample the next, which is
  begun before the one before it is fetched.

  Args:
    book: of the run.
    index: of the stage.
    data: the stage's prompts.
    score: on the host.
    beside: the thread.
    params: that sample; the sampler's copy of them lives no longer than this.
    step: of the stage.
    watch: of the phases.
    cursor: prompts read before.
    purpose: of the draw.
    fetch_beside: the thread waits for the devices too; the caller does not.

  Returns:
    What waits for the groups, and returns them.
  """
  exp, stage = book.experiment, book.experiment.stages[index]
  cfg, stop = stage.samples, stops.parse(stage.samples.stop)
  with watch("sample"):
    weights = book.policy.for_sampling(params)

  def begun() -> Iterator[tuple]:
    size = cfg.prompts // cfg.sample_chunks
    for first in range(cursor, cursor + cfg.prompts, size):
      # 1. Prompts.  [P L]
      prompts, examples = data.take(first, size)
      # 2. Sample G completions of each.  [P G C]
      with watch("sample"):
        rollout = policy_lib.begin(
          book.policy,
          weights,
          prompts,
          seed=exp.seed,
          stage=index,
          step=step,
          purpose=purpose,
          group=cfg.group,
          max_new_tokens=cfg.max_new_tokens,
          temperature=cfg.temperature,
          top_k=cfg.top_k,
          top_p=cfg.top_p,
          min_p=cfg.min_p,
          stop=stop,
          slots=cfg.slots,
        )
      yield examples, prompts, rollout

  def fetched(rollout) -> tuple[np.ndarray, types.Rollout]:
    with watch("sample"):
      return policy_lib.fetch(book.policy, rollout, stop)

  def scored(examples, prompts, rollout) -> tuple[groups.Groups, np.ndarray]:
    rows, own = fetched(rollout) if fetch_beside else rollout
    # 3. Score on the host.  -> [P G]
    with watch("score"):
      made = groups.scored(
        *([examples[row] for row in rows], groups.prompts_at(prompts, rows)),
        *(own, policy_lib.completions(book.policy, own, exp.data, stop)),
        score,
      )
    return made, rows

  scores = []
  for examples, prompts, rollout in overlap.one_ahead(begun()):
    rollout = rollout if fetch_beside else fetched(rollout)
    with watch("score_wait"):  # the thread may hold the interpreter at once
      future = beside.submit(scored, examples, prompts, rollout)
      scores.append((future, examples, prompts))

  def finished() -> groups.Groups:
    with watch("score_wait"):
      drawn = groups.concatenate(
        [groups.gathered(*own.result(), *whole) for own, *whole in scores]
      )
    if stage.shuffle_rewards:
      return groups.shuffled(drawn, (exp.seed, index, step, purpose))
    return drawn

  return finished
