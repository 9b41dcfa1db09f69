"""Supervised stages: demonstrations (SFT) and preferences (DPO).

What is drawn depends on (seed, stage) and the data cursor alone, so a stage
that was interrupted repeats what the unbroken one does.
"""

from typing import Any

import jax
import optax

from grounded_jax import (
  checkpoint,
  config,
  dpo,
  inputs,
  journal,
  lessons,
  mesh,
  optim,
  packing,
  sft,
  types,
  written,
)
from grounded_jax import policy as policy_lib


def stage(
  book: journal.Journal,
  index: int,
  params: Any,
  data: written.Written | lessons.Lessons,
) -> Any:
  """The parameters after a supervised stage that starts from `params`."""
  stage, policy = book.experiment.stages[index], book.policy
  cfg = stage.learns
  tx = optim.make(stage.optimizer, stage.steps)
  book.progress.note(f"{stage.name}  {inputs.describe(data)}")
  with checkpoint.open_manager(book.workdir, stage.name, stage.keep) as saves:
    at = checkpoint.begin(saves, tx, params, with_reference=stage.refers)
    state, cursor = at.state, at.cursor
    for step in range(at.step, stage.steps):
      watch = journal.Stopwatch()
      # 1. Prompts and their completions.  [P L], [P G C]
      batch = data.take(cursor, cfg.prompts)
      cursor += cfg.prompts
      # 2. Update.
      state, learned = learn(policy, cfg, tx, state, batch, at)
      # 3. Log; save (state and cursor, both after this step); evaluate.
      book.step(stage, step + 1, learned, watch)
      book.save(saves, stage, step + 1, state, cursor, at.reference)
  return state.params


def learn(
  policy: policy_lib.Policy,
  cfg: config.SFT | config.DPO,
  tx: optax.GradientTransformation,
  state: types.TrainState,
  batch: types.SFTBatch,
  at: checkpoint.Start,
) -> tuple[types.TrainState, dict[str, Any]]:
  """The state after one update on a host batch, and its metrics."""
  if cfg.pack:
    batch = packing.pack(cfg, batch, mesh.ways(policy.rows.mesh, "batch"))
  batch = policy_lib.put(policy.rows, batch)
  common = (cfg, policy.model, policy.graphdef)
  if isinstance(cfg, config.DPO):
    reference = policy.whole(at.reference)
    ref_logp = dpo.completion_logp(*common, reference, batch)
    state, metrics = dpo.update(
      *common, tx, state, batch, ref_logp, policy.base
    )
  else:
    state, metrics = sft.update(*common, tx, state, batch, policy.base)
  state = checkpoint.place(state, at.like)
  metrics = jax.device_get(metrics)
  if cfg.pack:
    metrics["row_tokens"] = batch.packing.cell.shape[1]
  return state, metrics
