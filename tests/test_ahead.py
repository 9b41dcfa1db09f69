"""Rollouts one step off-policy: whose they are, and that a run repeats them."""

import dataclasses
import threading

import jax
import numpy as np
import pytest
import rich.console
import tiny

from grounded_jax import (
  checkpoint,
  config,
  grpo,
  inputs,
  journal,
  log,
  sampler,
  tokenizer,
  train,
)
from grounded_jax import policy as policy_lib
from grounded_jax.records import UserError

PATIENCE = 60  # seconds after which what never happens has failed
TIMES = ("seconds", "elapsed", "score_share", "compiles")  # of a process
OFF = {"off_policy_steps": 1}
REFILL = {"zero_advantage": "refill", "refill_rounds": 1}


class Stop(Exception):
  """Stands for a process that is killed."""


def experiment(folder, steps=4, lr=1e-2, **changes) -> config.Experiment:
  path = tiny.write_records(folder / "records.jsonl", 12)
  stage = tiny.stage(
    "only",
    steps=steps,
    grpo=dataclasses.replace(tiny.GRPO, **changes),
    optimizer=config.Optimizer(lr=lr, warmup=0.0),
    save_every=1,
    keep=steps,
  )
  return tiny.experiment(path, [stage], evals=False)


def run(made, workdir, score=tiny.varied_score):
  console = rich.console.Console(quiet=True)
  return train.run(made, workdir, score=score, console=console)


def untimed(workdir):
  return [
    {k: v for k, v in row.items() if not k.startswith(TIMES)}
    for row in log.read_metrics(workdir)
  ]


def rollouts(workdir):
  """What every step drew, in order."""
  folder = sorted((workdir / "rollouts").iterdir())
  return [log.read_jsonl(path) for path in folder]


def saved(made, workdir, step):
  """The parameters after a step; before the first, those of the start."""
  folder = workdir / "only" / "checkpoints" / str(step)
  return policy_lib.load(made, tokenizer.Bytes(), folder if step else None)[1]


def same(a, b):
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), b)


def sometimes_equal(examples, completions):
  """Scores that leave some groups without advantage."""
  scores = tiny.varied_score(examples, completions)
  return [
    score if example.id[-1] in "1247" else dataclasses.replace(score, total=1.0)
    for example, score in zip(examples, scores, strict=True)
  ]


@pytest.fixture(scope="module", params=["keep", "refill"])
def unbroken(request, tmp_path_factory):
  """A run one step off-policy: (experiment, workdir, score)."""
  folder = tmp_path_factory.mktemp(request.param)
  changes, score = (
    (REFILL, sometimes_equal)
    if request.param == "refill"
    else ({}, tiny.varied_score)
  )
  made = experiment(folder, **OFF, **changes)
  run(made, folder / "run", score)
  return made, folder / "run", score


def test_a_rollout_is_that_of_the_policy_before_the_update(unbroken):
  """Bit for bit what the synchronous sampler draws from its parameters.

  Groups drawn anew included: those of step k + 1 are all drawn from the
  parameters that step k began with, the first step's from its own.
  """
  made, workdir, _ = unbroken
  stage, cursor = made.stages[0], 0
  data = inputs.load(made, tokenizer.Bytes()).stages[0]
  policy, _ = policy_lib.load(made, tokenizer.Bytes())
  for step, got in enumerate(rollouts(workdir)):
    params = saved(made, workdir, max(step - 1, 0))
    drawn = []
    for purpose in range(len(got) // 4):  # 2 prompts of 2 completions each
      prompts, examples = data.take(cursor, 2)
      begun = policy_lib.begin(
        *(policy, policy.for_sampling(params), prompts),
        seed=made.seed,
        stage=0,
        step=step,
        purpose=(sampler.PURPOSE_TRAIN, sampler.PURPOSE_REFILL)[purpose],
        group=2,
        max_new_tokens=stage.grpo.max_new_tokens,
        temperature=1.0,
      )
      _, rollout = policy_lib.fetch(policy, begun)
      texts = policy_lib.completions(policy, rollout, made.data)
      drawn += [
        (e.id, c.text) for e, g in zip(examples, texts, strict=True) for c in g
      ]
      cursor += 2
    assert [(row["id"], row["text"]) for row in got] == drawn


def test_some_steps_draw_groups_anew(unbroken):
  made, workdir, _ = unbroken
  counts = {len(drawn) for drawn in rollouts(workdir)}
  refills = made.stages[0].grpo.zero_advantage == "refill"
  assert counts == ({4, 8} if refills else {4})


def test_the_lag_and_the_weights_are_logged(unbroken):
  """A step behind from the second step on, and corrected for it."""
  _, workdir, _ = unbroken
  rows = log.read_metrics(workdir)
  assert [row["policy_lag"] for row in rows] == [0, 1, 1, 1]
  assert rows[0]["mismatch_logp_abs_max"] < 1e-4
  assert all(row["mismatch_logp_abs_max"] > 1e-3 for row in rows[1:])
  assert all(0 < row["mismatch_weight"] <= 2 for row in rows)
  assert all(row["ratio_max"] == 1 for row in rows)  # pi_old is the learner
  assert {"seconds_sample", "seconds_score"} <= set(rows[-1])


@pytest.mark.parametrize("calls", [1, 3])
def test_a_resumed_run_equals_the_unbroken_one(unbroken, tmp_path, calls):
  """Stopped while a rollout is scored; every step leaves a checkpoint."""
  made, workdir, score = unbroken
  left = [calls]

  def stopping(examples, completions):
    left[0] -= 1
    if left[0] < 0:
      raise Stop
    return score(examples, completions)

  with pytest.raises(Stop):
    run(made, tmp_path, stopping)
  run(made, tmp_path, score)
  assert untimed(tmp_path) == untimed(workdir)
  assert rollouts(tmp_path) == rollouts(workdir)
  same(saved(made, tmp_path, 4), saved(made, workdir, 4))


def test_every_checkpoint_but_the_last_holds_who_samples_next(unbroken):
  """So that a run can stop after any step."""
  made, workdir, _ = unbroken
  for step in (1, 2, 3):
    folder = workdir / "only" / "checkpoints" / str(step)
    assert (folder / "sampler").is_dir()
  assert not (workdir / "only" / "checkpoints" / "4" / "sampler").exists()


@pytest.mark.parametrize("changes", [{}, REFILL], ids=["keep", "refill"])
def test_with_nothing_to_learn_it_equals_the_synchronous_run(tmp_path, changes):
  """At a rate that moves no parameter: tokens, scores and metrics."""
  found = []
  for off in (0, 1):
    made = experiment(tmp_path, lr=1e-30, off_policy_steps=off, **changes)
    run(made, tmp_path / str(off), sometimes_equal)
    found.append((untimed(tmp_path / str(off)), rollouts(tmp_path / str(off))))
  (rows, drawn), (off_rows, off_drawn) = found
  assert off_drawn == drawn
  lags = [row.pop("policy_lag") for row in off_rows]
  assert lags == [0, 1, 1, 1]
  assert [row.pop("policy_lag") for row in rows] == [0, 0, 0, 0]
  assert off_rows == rows


def test_several_updates_on_a_rollout_are_one_step_of_lag(tmp_path):
  made = experiment(tmp_path, iterations=2, **OFF)
  run(made, tmp_path / "run")
  # Of the second update: one behind its own rollout's first, two more if the
  # rollout is one step old.
  lags = [row["policy_lag"] for row in log.read_metrics(tmp_path / "run")]
  assert lags == [1, 3, 3, 3]


def test_the_next_rollout_is_scored_while_the_update_waits(
  tmp_path, monkeypatch
):
  """Update k is held back until rollout k + 1 has its scores."""
  scored, update, seen = threading.Semaphore(0), grpo.update, []
  steps = 3

  def score(examples, completions):
    scored.release()
    return tiny.varied_score(examples, completions)

  def held(*args):
    more = 2 if not seen else int(len(seen) < steps - 1)
    for _ in range(more):
      assert scored.acquire(timeout=PATIENCE), "nothing is scored meanwhile"
    seen.append(more)
    return update(*args)

  monkeypatch.setattr(grpo, "update", held)
  run(experiment(tmp_path, steps=steps, **OFF), tmp_path / "run", score)
  assert seen == [2, 1, 0]


def test_slots_and_stop_strings_go_with_it(tmp_path):
  plain = experiment(tmp_path, stop="a", **OFF)
  slotted = experiment(tmp_path, stop="a", slots=1, **OFF)
  for name, made in (("plain", plain), ("slotted", slotted)):
    run(made, tmp_path / name)
  texts = lambda name: [
    [row["text"] for row in drawn] for drawn in rollouts(tmp_path / name)
  ]
  assert texts("plain")[:2] == texts("slotted")[:2]


def test_an_error_while_scoring_ahead_ends_the_run(tmp_path):
  calls = []

  def score(examples, completions):
    calls.append(len(examples))
    if len(calls) == 2:
      raise UserError("The verifier has no words.")
    return tiny.varied_score(examples, completions)

  made = experiment(tmp_path, **OFF)
  with pytest.raises(UserError, match="The verifier has no words."):
    run(made, tmp_path / "run", score)
  assert checkpoint.steps(tmp_path / "run", "only") == [1]


def test_a_stopwatch_takes_the_phases_of_another():
  one, other = journal.Stopwatch(), journal.Stopwatch()
  for watch in (one, other):
    with watch("sample"):
      pass
  alone = one.read()["seconds_sample"] + other.read()["seconds_sample"]
  one.add(other)
  assert one.read()["seconds_sample"] == alone


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"mismatch": "ignore"}, "set grpo.mismatch to truncate or sequence_mask"),
    ({"sample_chunks": 2}, "needs grpo.sample_chunks=1, not 2"),
    ({"off_policy_steps": 2}, "off_policy_steps=2 must be from 0 to 1"),
  ],
)
def test_what_it_does_not_go_with_is_refused(changes, words):
  with pytest.raises(UserError, match=words):
    dataclasses.replace(tiny.GRPO, **(OFF | changes))
  assert config.GRPO(**OFF).mismatch == "truncate"
