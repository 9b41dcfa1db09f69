"""The training loop: an experiment's stages in order, or what is left of them.

A stage starts from the parameters that the one before ended with, with a fresh
optimiser and schedule, and with those parameters as the reference of its KL
term.  All that is drawn depends on (seed, stage, step) and the data cursor
alone, so a run that was interrupted repeats what the unbroken one does.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import optax
import rich.console

from grounded_jax import (
  checkpoint,
  config,
  groups,
  grpo,
  hosts,
  inputs,
  journal,
  lessons,
  log,
  optim,
  overlap,
  pipeline,
  report,
  rewards,
  sft,
  stops,
  types,
  verifiers,
)
from grounded_jax import policy as policy_lib
from grounded_jax import tokenizer as tokenizer_lib

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
  hosts.once(
    lambda: checkpoint.check_same_run(workdir, config.to_dict(experiment))
  )
  for stage in experiment.stages:
    if stage.init_from and not checkpoint.steps(workdir, stage.name):
      checkpoint.find(stage.init_from)
  tokenizer = tokenizer_lib.load(experiment.model)
  found = inputs.load(experiment, tokenizer)
  policy, params = policy_lib.load(experiment, tokenizer)
  book = journal.Journal(
    experiment,
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
        loop = {"grpo": grpo_stage, "sft": sft_stage}[stage.objective]
        params = loop(book, index, params, found.stages[index], score)
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


def grpo_stage(
  book: journal.Journal,
  index: int,
  params: Any,
  data: pipeline.Prompts,
  score: groups.Scorer | None,
) -> Any:
  """The parameters after a GRPO stage that starts from `params`."""
  stage = book.experiment.stages[index]
  cfg = stage.grpo
  tx = optim.make(stage.optimizer, stage.steps * cfg.iterations)
  book.progress.note(f"{stage.name}  {inputs.describe(data)}")
  judge = verifiers.make(stage.rewards.verifier)
  score = score or scorer(stage, judge)
  with checkpoint.open_manager(book.workdir, stage.name, stage.keep) as saves:
    at = checkpoint.begin(saves, tx, params, with_reference=cfg.beta > 0)
    state, cursor = at.state, at.cursor
    for step in range(at.step, stage.steps):
      watch = Stopwatch()
      # 1-3. Prompts, G completions of each, their scores; anew for groups
      # that teach nothing.  [P L] -> [P G C] -> [P G]
      draw = functools.partial(
        draw_groups, book, index, data, score, state.params, step, watch
      )
      kept, counts, drawn, cursor = groups.collect(cfg, draw, cursor)
      # 4. Update.
      with watch("update"):
        batch = groups.batch(cfg, kept, counts, int(state.step))
        state, learned = learn(book.policy, cfg, tx, state, batch, at)
      # 5. Log; save (state and cursor, both after this step); evaluate.
      values = groups.metrics(counts, drawn, stage.rewards) | learned
      values |= judge.metrics()
      book.step(stage, step + 1, values, watch)
      book.rollouts(stage, step + 1, drawn)
      book.save(saves, stage, step + 1, state, cursor, at.reference)
  return state.params


def scorer(stage: config.Stage, judge: verifiers.Verifier) -> groups.Scorer:
  """The stage's rewards as a function of examples and completions."""
  return functools.partial(
    rewards.score_batch,
    cfg=stage.rewards,
    verifier=judge,
    max_tokens=stage.grpo.max_new_tokens,
  )


def draw_groups(
  book: journal.Journal,
  index: int,
  data: pipeline.Prompts,
  score: groups.Scorer,
  params: Any,
  step: int,
  watch: Stopwatch,
  cursor: int,
  purpose: int,
) -> groups.Groups:
  """The scored groups of the prompts from `cursor` on.

  In chunks: a thread scores one while the devices sample the next, which is
  begun before the one before it is fetched.
  """
  exp, stage = book.experiment, book.experiment.stages[index]
  cfg, stop = stage.grpo, stops.parse(stage.grpo.stop)

  def begun() -> Iterator[tuple]:
    size = cfg.prompts // cfg.sample_chunks
    for first in range(cursor, cursor + cfg.prompts, size):
      # 1. Prompts.  [P L]
      prompts, examples = data.take(first, size)
      # 2. Sample G completions of each.  [P G C]
      with watch("sample"):
        rollout = policy_lib.begin(
          book.policy,
          params,
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

  def scored(examples, prompts, rollout) -> groups.Groups:
    # 3. Score on the host.  -> [P G]
    with watch("score"):
      completions = policy_lib.completions(book.policy, rollout, exp.data, stop)
      return groups.scored(examples, prompts, rollout, completions, score)

  scores = []
  with overlap.thread() as beside:
    for examples, prompts, rollout in overlap.one_ahead(begun()):
      with watch("sample"):
        rows, rollout = policy_lib.fetch(book.policy, rollout, stop)
        own = [examples[row] for row in rows], groups.prompts_at(prompts, rows)
      with watch("score_wait"):  # the thread may hold the interpreter at once
        future = beside.submit(scored, *own, rollout)
        scores.append((future, rows, examples, prompts))
    with watch("score_wait"):
      drawn = groups.concatenate(
        [groups.gathered(own.result(), *whole) for own, *whole in scores]
      )
  if stage.shuffle_rewards:
    return groups.shuffled(drawn, (exp.seed, index, step, purpose))
  return drawn


def learn(
  policy: policy_lib.Policy,
  cfg: config.GRPO,
  tx: optax.GradientTransformation,
  state: types.TrainState,
  batch: types.Batch,
  at: checkpoint.Start,
) -> tuple[types.TrainState, dict[str, Any]]:
  """The state after `cfg.iterations` updates, and the last one's metrics."""
  batch = policy_lib.put(policy, batch)
  model, graphdef = policy.model, policy.graphdef
  logp = lambda params: grpo.rollout_logp(
    cfg, model, graphdef, policy.whole(params), batch.prompts, batch.rollout
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
  return state, jax.device_get(metrics)


def sft_stage(
  book: journal.Journal,
  index: int,
  params: Any,
  data: pipeline.Demonstrations | lessons.Lessons,
  score: groups.Scorer | None,
) -> Any:
  """The parameters after a supervised stage that starts from `params`."""
  del score  # demonstrations are not scored
  stage, policy = book.experiment.stages[index], book.policy
  tx = optim.make(stage.optimizer, stage.steps)
  book.progress.note(f"{stage.name}  {inputs.describe(data)}")
  with checkpoint.open_manager(book.workdir, stage.name, stage.keep) as saves:
    at = checkpoint.begin(saves, tx, params, with_reference=False)
    state, cursor = at.state, at.cursor
    for step in range(at.step, stage.steps):
      watch = Stopwatch()
      # 1. Prompts and their demonstrations.  [P L], [P G C]
      batch = policy_lib.put(policy, data.take(cursor, stage.sft.prompts))
      cursor += stage.sft.prompts
      # 2. Update.
      state, learned = sft.update(
        *(stage.sft, policy.model, policy.graphdef, tx, state, batch),
        policy.base,
      )
      state = checkpoint.place(state, at.like)
      # 3. Log; save (state and cursor, both after this step); evaluate.
      book.step(stage, step + 1, jax.device_get(learned), watch)
      book.save(saves, stage, step + 1, state, cursor, None)
  return state.params
