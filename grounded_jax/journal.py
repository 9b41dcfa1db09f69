"""What a run leaves in its workdir, and what it finds there when it resumes.

config.json, metrics.jsonl, TensorBoard events, rollouts/, eval/, summary.json
and the checkpoints of each stage.  The first process alone writes them, but for
checkpoints, which all write together; what it finds all go by.
"""

import contextlib
import pathlib
import statistics
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
import rich.console

from grounded_jax import (
  checkpoint,
  compiles,
  config,
  distributed,
  evaluate,
  groups,
  hosts,
  inputs,
  log,
  scoring,
  types,
)
from grounded_jax import policy as policy_lib
from grounded_jax.records import Preempted, UserError

_WARM = 2  # steps that compile, before a trace begins
# What metrics.jsonl has of an evaluation after a step.
_LOGGED = (
  *("trust", "f1_ac", "f1_gr", "f1_gc", "answered_ratio"),
  *("verifier_gap", "verifier_gap_f1_ac", "verifier_gap_trust"),
)


def _stored(path: pathlib.Path) -> Any:
  """The value of a JSON file; None if it is not there or damaged."""
  try:
    return log.read_json(path)
  except (FileNotFoundError, UserError):
    return None


class Stopwatch:
  """The seconds of a step and of its phases."""

  def __init__(self):
    self._began = time.monotonic()
    self._phases = {}

  @contextlib.contextmanager
  def __call__(self, phase: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    spent = time.monotonic() - began
    self._phases[phase] = self._phases.get(phase, 0.0) + spent

  def add(self, other: "Stopwatch") -> None:
    """Counts another one's phases here too."""
    for name, spent in other._phases.items():
      self._phases[name] = self._phases.get(name, 0.0) + spent

  def read(self) -> dict[str, float]:
    """`seconds` since the start, and those of each phase.

    Phases may run side by side.  Where one is waiting for scores, score_share
    is its share of `seconds`: what scoring costs beyond what is hidden.
    """
    whole = time.monotonic() - self._began
    read = {f"seconds_{name}": s for name, s in self._phases.items()}
    if "score_wait" in self._phases:
      read["score_share"] = self._phases["score_wait"] / whole
    return {"seconds": whole, **read}


class Journal:
  """Writes a run's files; opened on an interrupted run it continues them."""

  def __init__(
    self,
    experiment: config.Experiment,
    stated: Mapping[str, Any],
    workdir: pathlib.Path,
    policy: policy_lib.Policy,
    sets: Mapping[str, inputs.Fitted],
    console: rich.console.Console,
    profile: int = 0,
  ):
    """Opens the workdir.

    Args:
      experiment: what is run.
      stated: it as its user stated it, which is what is kept.
      workdir: made if it does not exist.
      policy: what is evaluated.
      sets: the prompts of each evaluation.
      console: where progress is shown.
      profile: steps to trace for xprof, once compiled.
    """
    self.experiment = experiment
    self.workdir = workdir
    self.policy = policy
    self._sets = sets
    self._config = stated
    self._profile = profile
    self._tracing = False
    self._steps = 0  # done by this process
    self._pending = None  # the step whose evaluations may still come
    self._elapsed = 0.0
    self._metrics = None  # of the first process alone
    done = {stage.name: self.done(stage) for stage in experiment.stages}
    hosts.once(lambda: self._open(done))
    self._began = time.monotonic()
    self._compiles = compiles.Counter()
    self._notice = distributed.Notice()
    self.progress = log.Progress(console)

  def _open(self, done: Mapping[str, int]) -> None:
    """Goes on with the files, as they were after the steps `done`."""
    self._forget(done)
    log.write_json(self.workdir / "config.json", self._config)
    # Steps after the last checkpoint are done again.
    self._metrics = log.Metrics(
      self.workdir, lambda row: row["step"] <= done.get(row["stage"], 0)
    )
    rows = log.read_metrics(self.workdir)
    self._elapsed = rows[-1]["elapsed"] if rows else 0.0

  def _forget(self, done: Mapping[str, int]) -> None:
    """Removes the evaluations after steps that are done again.

    Where nothing was saved and the config has changed, all of them.
    """
    config_file = self.workdir / "config.json"
    same = any(done.values()) or _stored(config_file) == self._config
    for stage in self.experiment.stages:
      for item in self.experiment.evals:
        prefix = f"{item.name}-{stage.name}-"
        for path in (self.workdir / "eval").glob(f"{prefix}*.json*"):
          step = path.stem.removeprefix(prefix)
          if step.isdigit() and int(step) > (done[stage.name] if same else -1):
            path.unlink()

  def _stop_trace(self) -> None:
    self._tracing = False
    jax.profiler.stop_trace()
    self.progress.note(f"Trace written to {self.workdir / 'profile'}.")

  def _write_step(self, evaluated: Mapping[str, float]) -> None:
    if self._pending and self._metrics:
      self._metrics.write(*self._pending, evaluated)
    self._pending = None

  def close(self) -> None:
    self._write_step({})
    if self._tracing:  # a run shorter than the trace
      self._stop_trace()
    if self._metrics:
      self._metrics.close()
    self._compiles.close()
    self._notice.close()
    self.progress.close()

  def opening(self) -> None:
    """Says what is run where, and where it goes on."""
    devices = self.policy.rows.mesh.devices
    plan = ", ".join(
      f"{stage.name} {self.done(stage)}/{stage.steps}"
      for stage in self.experiment.stages
    )
    self.progress.note(
      f"{self.experiment.name} in {self.workdir} on {devices.size}"
      f" {devices.flat[0].device_kind}; steps done: {plan}"
    )

  def done(self, stage: config.Stage) -> int:
    """The step of the stage's last checkpoint; 0 if it has none."""
    return hosts.once(
      lambda: max(checkpoint.steps(self.workdir, stage.name), default=0)
    )

  def elapsed(self) -> float:
    """Seconds that the run has taken, those before a restart included."""
    return self._elapsed + time.monotonic() - self._began

  def step(
    self,
    stage: config.Stage,
    step: int,
    values: Mapping[str, Any],
    watch: Stopwatch,
  ) -> None:
    """Records a step that was done; `save` writes it with its evaluations."""
    numbers = {name: float(value) for name, value in values.items()}
    numbers |= watch.read() | {"elapsed": self.elapsed()}
    numbers["compiles"] = float(self._compiles.take())
    self._pending = (stage.name, step, numbers)
    self.progress.step(stage.name, step, stage.steps, numbers)
    self._steps += 1
    if self._profile and self._steps == _WARM:
      self._tracing = True
      jax.profiler.start_trace(str(self.workdir / "profile"))
    if self._tracing and self._steps == _WARM + self._profile:
      self._stop_trace()

  def rollouts(
    self, stage: config.Stage, step: int, drawn: groups.Groups
  ) -> None:
    """Stores some steps' completions with each part of their reward."""
    every = stage.log_rollouts
    if hosts.first() and every and (step == 1 or step % every == 0):
      path = self.workdir / "rollouts" / f"{stage.name}-{step:06d}.jsonl"
      log.write_jsonl(path, list(groups.rows(drawn)))

  def save(
    self,
    saves: ocp.CheckpointManager,
    stage: config.Stage,
    step: int,
    state: types.TrainState,
    cursor: int,
    reference: Any | None,
    sampler: Any | None = None,
    order: Mapping[str, Any] | None = None,
  ) -> None:
    """Evaluates and saves the stage after `step`, where either is due.

    What is evaluated is saved, so that the best checkpoint exists; the step's
    row is written before, so that no saved step lacks one.

    Raises:
      Preempted: the run was told to end; all up to here is saved.
    """
    last, told = step == stage.steps, self._notice.reached(self._steps)
    trust, evaluated = None, {}
    for item in self.experiment.evals:
      if last or (item.every and step % item.every == 0):
        result = self._evaluate(item, stage, step, state.params)
        trust = result["trust"] if trust is None else trust
        evaluated |= {
          f"eval/{item.name}/{name}": result[name] for name in _LOGGED
        }
    self._write_step(evaluated)
    due = last or trust is not None or step % stage.save_every == 0
    if due or told:
      checkpoint.save(
        saves,
        state,
        step=step,
        total_steps=stage.steps,
        cursor=cursor,
        config=self._config,
        order=order,
        reference=reference,
        sampler=sampler,
        metrics=None if trust is None else {"trust": trust},
      )
    if told:
      saves.wait_until_finished()
      raise Preempted(
        f"Told to end: {stage.name} is saved after step {step}. The same"
        " command goes on from there."
      )

  def evaluate(self, stage: config.Stage, step: int, params: Any) -> None:
    """Evaluates every set that has not been evaluated after this step."""
    for item in self.experiment.evals:
      self._evaluate(item, stage, step, params)

  def _evaluate(
    self, item: config.Eval, stage: config.Stage, step: int, params: Any
  ) -> dict[str, Any]:
    path = self._evaluation(item.name, stage, step)
    if stored := hosts.once(lambda: _stored(path)):
      return stored
    result = evaluate.run(
      self.policy,
      params,
      self._sets[item.name],
      item,
      data=self.experiment.data,
      rewards=stage.rewards,
      seed=self.experiment.seed,
    )
    if self._metrics:
      # The numbers last: they say that the outputs are complete.
      log.write_jsonl(path.with_suffix(".jsonl"), result.records)
      log.write_json(path, result.metrics)
      about = f"eval/{item.name}"
      self._metrics.scalars(about, stage.name, step, result.metrics)
    self.progress.note(
      f"{stage.name}  step {step}  {item.name}  {scoring.line(result.metrics)}"
    )
    return result.metrics

  def _evaluation(
    self, name: str, stage: config.Stage, step: int
  ) -> pathlib.Path:
    return self.workdir / "eval" / f"{name}-{stage.name}-{step}.json"

  def _results(self, stage: config.Stage, step: int) -> dict[str, Any]:
    paths = {
      item.name: self._evaluation(item.name, stage, step)
      for item in self.experiment.evals
    }
    found = {name: _stored(path) for name, path in paths.items()}
    return {name: value for name, value in found.items() if value}

  def write_summary(self) -> dict[str, Any]:
    """Writes summary.json, of the stages as far as they are; returns it."""
    rows = log.read_metrics(self.workdir)
    stages, after = [], {}
    for stage in self.experiment.stages:
      seconds = [r["seconds"] for r in rows if r["stage"] == stage.name]
      # The evaluation after one stage is the one before the next.
      before = self._results(stage, 0) or after
      after = self._results(stage, stage.steps)
      stages.append(
        {
          "name": stage.name,
          "steps": len(seconds),
          "seconds": sum(seconds),
          "seconds_per_step": statistics.median(seconds) if seconds else None,
          "eval_before": before,
          "eval_after": after,
        }
      )
    summary = {
      "name": self.experiment.name,
      "seconds": self.elapsed(),
      "stages": stages,
    }
    log.write_json(self.workdir / "summary.json", summary)
    return summary
