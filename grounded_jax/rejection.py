"""Self-distillation: supervised steps on the policy's own best completions.

Each step samples completions of its prompts from the policy as it is, scores
them as GRPO does, and learns by cross-entropy from the best of each prompt,
where they solve it (best of n by reward, RAFT, arXiv:2304.06767).  A prompt
that no completion solves has no weight, and is counted.

All that is drawn depends on (seed, stage, step), the data cursor and what the
order remembers alone, so a stage that was interrupted repeats what the unbroken
one does.
"""

from typing import Any

import numpy as np

from grounded_jax import (
  checkpoint,
  config,
  groups,
  inputs,
  journal,
  optim,
  overlap,
  pipeline,
  rollouts,
  sampler,
  taught,
  types,
  verifiers,
)


def stage(
  book: journal.Journal,
  index: int,
  params: Any,
  data: pipeline.Prompts,
  score: groups.Scorer,
  judge: verifiers.Verifier,
) -> Any:
  """The parameters after a stage of self-distillation from `params`."""
  stage, policy = book.experiment.stages[index], book.policy
  cfg = stage.sft
  tx = optim.make(stage.optimizer, stage.steps)
  book.progress.note(f"{stage.name}  {inputs.describe(data)}")
  saving = checkpoint.open_manager(book.workdir, stage.name, stage.keep)
  with saving as saves, overlap.thread() as beside:
    at = checkpoint.begin(saves, tx, params, with_reference=False)
    state, cursor = at.state, at.cursor
    data.order.restore(at.order)
    begin = rollouts.Rollouts(
      book=book, index=index, data=data, score=score, beside=beside
    ).begin
    for step in range(at.step, stage.steps):
      watch = journal.Stopwatch()
      # 1-3. Prompts, completions, scores.  [P L] -> [P G C] -> [P G]
      wait = begin(state.params, step, watch, cursor, sampler.PURPOSE_TRAIN)
      drawn = wait()
      cursor += cfg.prompts
      # 4. The best of each prompt.  [P K C], K = sft.group; update.
      rows, kept = best(drawn, stage.solved, cfg.group)
      with watch("update"):
        batch = demonstrations(drawn, rows, kept)
        state, learned = taught.learn(policy, cfg, tx, state, batch, at)
      # 5. Log; save (state and cursor, both after this step); evaluate.
      values = metrics(drawn, rows, kept, stage.rewards) | learned
      values |= data.order.observe(cursor, groups.solved(stage.solved, drawn))
      book.step(stage, step + 1, values | judge.metrics(), watch)
      book.rollouts(stage, step + 1, drawn)
      book.save(
        *(saves, stage, step + 1, state, cursor, None),
        order=data.order.state(),
      )
  return state.params


def best(
  drawn: groups.Groups, floor: float, most: int
) -> tuple[np.ndarray, np.ndarray]:
  """Which completions of each prompt to learn from, [P K], and whether, [P K].

  The ended ones of at least a reward, the highest first and of equals the
  first one, each text once.

  Args:
    drawn: scored completions.
    floor: the least reward.
    most: K, of a prompt.
  """
  good = drawn.rollout.finished & (drawn.total >= floor)
  count = len(good)
  rows, kept = np.zeros((count, most), int), np.zeros((count, most), bool)
  for p in range(count):
    order = np.argsort(-drawn.total[p], kind="stable")
    ids = lambda g, p=p: drawn.rollout.tokens[p, g][drawn.rollout.sampled[p, g]]
    # By text; the first of each, since a dictionary keeps its order.
    distinct = {}
    for g in order[good[p][order]].tolist():
      distinct.setdefault(ids(g).tobytes(), g)
    chosen = list(distinct.values())[:most]
    rows[p, : len(chosen)], kept[p, : len(chosen)] = chosen, True
  return rows, kept


def demonstrations(
  drawn: groups.Groups, rows: np.ndarray, kept: np.ndarray
) -> types.SFTBatch:
  """The chosen completions as what a supervised step learns from.

  Every token that was sampled is trained, the end included.
  """
  pick = lambda x: np.take_along_axis(x, rows[..., None], axis=1)
  sampled = pick(drawn.rollout.sampled) & kept[..., None]
  return types.SFTBatch(
    prompts=drawn.prompts,
    tokens=np.where(sampled, pick(drawn.rollout.tokens), 0),
    weight=sampled.astype(np.float32),
  )


def metrics(
  drawn: groups.Groups,
  rows: np.ndarray,
  kept: np.ndarray,
  rewards: config.Rewards,
) -> dict[str, float]:
  """What a step drew and what it kept of it, for the log.

  `counted_share` is the share of prompts with a completion to learn from.
  """
  out = groups.metrics(kept.any(1), drawn, rewards)
  out["completions_kept"] = float(kept.sum())
  if kept.any():
    chosen = np.take_along_axis(drawn.total, rows, axis=1)
    out["reward_kept"] = float(chosen[kept].mean())
  return out
