"""The training loop: an experiment's stages in order, or what is left of them.

A stage starts from the parameters that the one before ended with, with a fresh
optimiser and schedule, and with those parameters as the reference of its KL
term.  All that is drawn depends on (seed, stage, step) and the data cursor
alone, so a run that was interrupted repeats what the unbroken one does.
"""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import optax
import rich.console

from grounded_jax import (
  ahead,
  checkpoint,
  config,
  groups,
  grpo,
  hosts,
  inputs,
  journal,
  log,
  mesh,
  optim,
  overlap,
  packing,
  pipeline,
  rejection,
  report,
  rewards,
  rollouts,
  taught,
  types,
  verifiers,
)
from grounded_jax import policy as policy_lib
from grounded_jax import tokenizer as tokenizer_lib
from grounded_jax.records import UserError

Stopwatch = journal.Stopwatch


def run(
  experiment: config.Experiment,
  workdir: pathlib.Path,
  *,
  score: groups.Scorer | None = None,
  console: rich.console.Console | None = None,
  profile: int = 0,
) -> dict[str, Any]:
  """Trains the stages that are not done yet; returns the run's summary.

  Args:
    experiment: what to do.
    workdir: where the run lives; if it holds checkpoints, the run resumes.
    score: in place of the rewards of every stage.
    console: where progress is shown.
    profile: steps to trace for xprof.

  Raises:
    UserError: the experiment cannot run, or `workdir` holds another one.
  """
  stated = config.to_dict(experiment)
  hosts.once(lambda: checkpoint.check_same_run(workdir, stated))
  for stage in experiment.stages:
    if stage.init_from and not checkpoint.steps(workdir, stage.name):
      checkpoint.find(stage.init_from)
  tokenizer = tokenizer_lib.load(experiment.model)
  found = inputs.load(experiment, tokenizer)
  experiment = inputs.with_steps(experiment, found)
  for stage in experiment.stages:
    check = checkpoint.check_total
    hosts.once(functools.partial(check, workdir, stage.name, stage.steps))
  policy, params = policy_lib.load(experiment, tokenizer)
  book = journal.Journal(
    experiment,
    stated,
    workdir,
    policy,
    found.evals,
    console or rich.console.Console(quiet=not hosts.first()),
    profile,
  )
  try:
    book.opening()
    for index, stage in enumerate(experiment.stages):
      params = start(book, index, params)
      if book.done(stage) < stage.steps:
        data = found.stages[index]
        if stage.samples:
          params = sampled_stage(book, index, params, data, score)
        else:
          params = taught.stage(book, index, params, data)
      book.evaluate(stage, stage.steps, params)
      summary = hosts.once(book.write_summary)
    page = hosts.once(lambda: report.write(workdir))
    book.progress.note(f"Done in {log.duration(summary['seconds'])}: {page}")
  finally:
    book.close()
  return summary


def start(book: journal.Journal, index: int, params: Any) -> Any:
  """The parameters of a stage: where it ended, or what it starts from.

  Args:
    book: of the run.
    index: of the stage.
    params: those that the stage before ended with.
  """
  stage = book.experiment.stages[index]
  like = checkpoint.abstract(params)
  if stage.steps and book.done(stage) == stage.steps:
    folder = book.workdir / stage.name
    return checkpoint.restore_params(checkpoint.find(str(folder)), like)
  if stage.init_from and book.done(stage):
    return params  # not read: the stage goes on from its own checkpoint
  if stage.init_from:
    origin = checkpoint.find(stage.init_from)
    params = checkpoint.restore_params(origin, like)
    book.progress.note(f"{stage.name}  starts from {origin}")
  if index == 0 or stage.init_from:
    book.evaluate(stage, 0, params)
  return params


def sampled_stage(
  book: journal.Journal,
  index: int,
  params: Any,
  data: pipeline.Prompts,
  score: groups.Scorer | None,
) -> Any:
  """The parameters after a stage that learns from what it samples."""
  stage = book.experiment.stages[index]
  judge = verifiers.make(stage.rewards.verifier)
  learns = grpo_stage if stage.objective == "grpo" else rejection.stage
  score = score or scorer(stage, judge)
  return learns(book, index, params, data, score, judge)


def grpo_stage(
  book: journal.Journal,
  index: int,
  params: Any,
  data: pipeline.Prompts,
  score: groups.Scorer,
  judge: verifiers.Verifier,
) -> Any:
  """The parameters after a GRPO stage that starts from `params`."""
  stage = book.experiment.stages[index]
  cfg = stage.grpo
  if cfg.off_policy_steps and jax.process_count() > 1:
    # Its thread and the main one would begin collectives in any order.
    raise UserError(
      f"{stage.name}: grpo.off_policy_steps=1 runs in one process only: set it"
      " to 0."
    )
  tx = optim.make(stage.optimizer, stage.steps * cfg.iterations)
  book.progress.note(f"{stage.name}  {inputs.describe(data)}")
  saving = checkpoint.open_manager(book.workdir, stage.name, stage.keep)
  with saving as saves, overlap.thread() as beside:
    at = checkpoint.begin(
      *(saves, tx, params),
      with_reference=stage.refers,
      with_sampler=cfg.off_policy_steps > 0,
    )
    state, cursor, source = at.state, at.cursor, None
    if at.sampler is not None:
      before = int(state.step) - cfg.iterations
      source = ahead.Source(params=at.sampler, policy_step=before)
      at = dataclasses.replace(at, sampler=None)  # else it is never freed
    data.order.restore(at.order)
    begin = rollouts.Rollouts(
      book=book, index=index, data=data, score=score, beside=beside
    ).begin
    for step in range(at.step, stage.steps):
      watch = Stopwatch()
      source = source or ahead.Source.of(state)
      # 1-3. Prompts, G completions of each, their scores; anew for groups
      # that teach nothing.  [P L] -> [P G C] -> [P G]
      kept, counts, drawn, cursor = groups.collect(
        cfg, ahead.draws(source, begin, step, watch), cursor
      )
      judged = judge.metrics()  # before the next rollout's scores
      # Before the next prompts are drawn.
      passed = groups.solved(stage.solved, drawn)
      ordered = data.order.observe(cursor, passed)
      order = data.order.state()
      # 4. Update; off-policy, the next rollout is begun before it.
      with watch("update"):
        batch = groups.batch(cfg, kept, counts, source.policy_step)
        source = None  # its parameters are not needed any more
        if cfg.off_policy_steps and step + 1 < stage.steps:
          source = ahead.begin(begin, state, step + 1, cursor)
        state, learned = learn(book.policy, cfg, tx, state, batch, at)
      with watch("score_wait"):  # an evaluation may ask the same verifier
        overlap.settle(beside)
      # 5. Log; save (state and cursor, both after this step); evaluate.
      values = groups.metrics(counts, drawn, stage.rewards) | learned | judged
      values |= ordered
      book.step(stage, step + 1, values, watch)
      book.rollouts(stage, step + 1, drawn)
      sampler = source and source.params
      book.save(
        *(saves, stage, step + 1, state, cursor, at.reference, sampler, order)
      )
  return state.params


def scorer(stage: config.Stage, judge: verifiers.Verifier) -> groups.Scorer:
  """The stage's rewards as a function of examples and completions."""
  return functools.partial(
    rewards.score_batch,
    cfg=stage.rewards,
    verifier=judge,
    max_tokens=stage.samples.max_new_tokens,
  )


def learn(
  policy: policy_lib.Policy,
  cfg: config.GRPO,
  tx: optax.GradientTransformation,
  state: types.TrainState,
  batch: types.Batch,
  at: checkpoint.Start,
) -> tuple[types.TrainState, dict[str, Any]]:
  """The state after `cfg.iterations` updates, and the last one's metrics."""
  if cfg.pack:
    ways = mesh.ways(policy.rows.mesh, "batch")
    batch = packing.pack(cfg, batch, ways)
  batch = policy_lib.put(policy.rows, batch)
  model, graphdef = policy.model, policy.graphdef
  logp = lambda params: grpo.rollout_logp(
    *(cfg, model, graphdef, policy.whole(params)),
    *(batch.prompts, batch.rollout, batch.packing),
  )
  batch = dataclasses.replace(
    batch,
    old_logp=logp(state.params) if cfg.iterations > 1 else None,
    ref_logp=logp(at.reference) if cfg.beta else None,
  )
  for _ in range(cfg.iterations):
    state, metrics = grpo.update(
      cfg, model, graphdef, tx, state, batch, policy.base
    )
    state = checkpoint.place(state, at.like)
  metrics = jax.device_get(metrics)
  if cfg.pack:
    metrics["row_tokens"] = batch.packing.cell.shape[1]
  return state, metrics
