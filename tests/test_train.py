"""The loop: it resumes bit for bit, and each stage starts where it should."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import rich.console
import tiny

from grounded_jax import (
  checkpoint,
  config,
  dpo,
  grpo,
  log,
  main,
  optim,
  packing,
  scoring,
  sft,
  tokenizer,
  train,
)
from grounded_jax import policy as policy_lib
from grounded_jax.records import UserError

TIMES = ("seconds", "elapsed", "score_share", "compiles")  # of a process
KL = dataclasses.replace(tiny.GRPO, beta=0.1, iterations=2)


class Stop(Exception):
  """Stands for a process that is killed."""


def quiet() -> rich.console.Console:
  return rich.console.Console(quiet=True)


def stopping(calls: int):
  """A score that stops the run in the middle of a rollout."""
  left = [calls]

  def score(examples, completions):
    left[0] -= 1
    if left[0] < 0:
      raise Stop
    return tiny.varied_score(examples, completions)

  return score


def run(experiment, workdir, score=tiny.varied_score):
  return train.run(experiment, workdir, score=score, console=quiet())


def final_params(experiment, workdir):
  found = checkpoint.find(str(workdir))
  return jax.device_get(
    policy_lib.load(experiment, tokenizer.Bytes(), found)[1]
  )


def untimed(rows):
  return [
    {k: v for k, v in row.items() if not k.startswith(TIMES)} for row in rows
  ]


def files(workdir, folder):
  """The content of every file of a folder, by name."""
  return {p.name: p.read_bytes() for p in sorted((workdir / folder).iterdir())}


@pytest.fixture(scope="module")
def two_stages(tmp_path_factory):
  """An unbroken run: (experiment, workdir, summary, compilations)."""
  folder = tmp_path_factory.mktemp("unbroken")
  path = tiny.write_records(folder / "records.jsonl")
  experiment = tiny.experiment(
    path,
    [
      tiny.stage("first", answerable="only"),
      tiny.stage("second", answerable="even", grpo=KL),
    ],
  )
  grpo.update.clear_cache()  # of what other tests have compiled
  summary = run(experiment, folder / "run")
  compiled = grpo.update._cache_size()
  return experiment, folder / "run", summary, compiled


def test_each_stage_compiles_its_update_once(two_stages):
  *_, compiled = two_stages
  assert compiled == 2


def test_parameters_move_in_every_step(two_stages):
  _, workdir, *_ = two_stages
  rows = log.read_metrics(workdir)
  assert [(r["stage"], r["step"]) for r in rows] == [
    (stage, step) for stage in ("first", "second") for step in (1, 2, 3)
  ]
  assert all(row["grad_norm"] > 0 for row in rows)
  # The sampler and the learner agree on what they sampled.
  assert all(row["mismatch_logp_abs_max"] < 1e-4 for row in rows)


@pytest.mark.parametrize(
  "stops",
  [
    pytest.param((2, 3), id="after-a-checkpoint-then-in-the-next-stage"),
    pytest.param((1, 4), id="before-a-checkpoint-then-after-one"),
  ],
)
def test_a_resumed_run_equals_the_unbroken_one(two_stages, tmp_path, stops):
  """Bit for bit: parameters, metrics, completions, evaluations."""
  experiment, unbroken, *_ = two_stages
  for calls in stops:
    with pytest.raises(Stop):
      run(experiment, tmp_path, stopping(calls))
  run(experiment, tmp_path)
  jax.tree.map(
    np.testing.assert_array_equal,
    final_params(experiment, tmp_path),
    final_params(experiment, unbroken),
  )
  assert untimed(log.read_metrics(tmp_path)) == untimed(
    log.read_metrics(unbroken)
  )
  for folder in ("rollouts", "eval"):
    assert files(tmp_path, folder) == files(unbroken, folder)


def test_a_finished_run_does_nothing_more(two_stages):
  experiment, workdir, *_ = two_stages
  before = log.read_metrics(workdir)

  def never(examples, completions):
    raise AssertionError("sampled again")

  run(experiment, workdir, never)
  assert log.read_metrics(workdir) == before


def test_the_summary_chains_the_evaluations(two_stages):
  _, workdir, summary, _ = two_stages
  assert summary == log.read_json(workdir / "summary.json") | {
    "seconds": summary["seconds"]
  }
  first, second = summary["stages"]
  assert [first["name"], second["name"]] == ["first", "second"]
  assert (first["steps"], second["steps"]) == (3, 3)
  assert second["eval_before"] == first["eval_after"]
  hashes = [
    e["dev"]["meta"]["hashes"]["model"]
    for e in (first["eval_before"], first["eval_after"], second["eval_after"])
  ]
  assert len(set(hashes)) == 3
  meta = first["eval_after"]["dev"]["meta"]
  assert {"verifier", "splitter", "decoding", "hashes"} <= set(meta)
  assert {"data", "prompt", "model"} == set(meta["hashes"])


def test_an_evaluation_and_its_gap_stand_in_the_row_of_its_step(two_stages):
  """Only the last step is evaluated; the gap is reward minus headline."""
  _, workdir, summary, _ = two_stages
  rows = log.read_metrics(workdir)
  assert all(
    ("eval/dev/verifier_gap" in row) == (row["step"] == 3) for row in rows
  )
  after = summary["stages"][0]["eval_after"]["dev"]
  for name, of in (
    ("verifier_gap", "f1_gc"),
    ("verifier_gap_f1_ac", "f1_ac"),
    ("verifier_gap_trust", "trust"),
  ):
    assert after[name] == after["reward_verifier"][of] - after[of]
    assert rows[2][f"eval/dev/{name}"] == after[name]
  assert rows[2]["eval/dev/trust"] == after["trust"]
  assert f"gap {after['verifier_gap']:+.1f}" in scoring.line(after)


def test_stage_two_starts_from_the_parameters_of_stage_one(
  two_stages, tmp_path
):
  """With nothing to learn, its parameters stay those it started from."""
  experiment, workdir, *_ = two_stages
  still = dataclasses.replace(
    experiment,
    name="still",
    stages=(
      tiny.stage(
        "only",
        steps=1,
        init_from=str(workdir),
        optimizer=config.Optimizer(lr=1e-30, warmup=0.0),
      ),
    ),
  )
  summary = run(still, tmp_path)
  wanted = final_params(experiment, workdir)
  jax.tree.map(
    np.testing.assert_array_equal, final_params(still, tmp_path), wanted
  )
  before = summary["stages"][0]["eval_before"]["dev"]["meta"]["hashes"]
  ended = log.read_json(workdir / "summary.json")["stages"][1]["eval_after"]
  assert before["model"] == ended["dev"]["meta"]["hashes"]["model"]


def test_the_reference_is_the_policy_that_the_stage_began_with(two_stages):
  experiment, workdir, *_ = two_stages
  first = checkpoint.find(str(workdir / "first"))
  start = jax.device_get(
    policy_lib.load(experiment, tokenizer.Bytes(), first)[1]
  )
  second = experiment.stages[1]
  tx = optim.make(second.optimizer, second.steps * second.grpo.iterations)
  with checkpoint.open_manager(workdir, "second", 2) as manager:
    params = policy_lib.load(experiment, tokenizer.Bytes())[1]
    at = checkpoint.begin(manager, tx, params, with_reference=True)
  jax.tree.map(np.testing.assert_array_equal, at.reference, start)
  assert int(at.state.step) == 6  # 3 steps of 2 iterations


def test_stored_outputs_score_to_the_same_numbers(two_stages, capsys):
  _, workdir, *_ = two_stages
  stored = log.read_json(workdir / "eval" / "dev-first-3.json")
  options = ["--mode=score", "--bootstrap=20"]
  path = workdir / "eval" / "dev-first-3.jsonl"
  assert main.main([*options, f"--outputs={path}"]) == 0
  again = json.loads(capsys.readouterr().out)
  for name in ("trust", "f1_ac", "f1_gr", "f1_gc", "intervals"):
    assert again[name] == stored[name]


def test_every_rollout_is_stored_with_its_parts(two_stages):
  _, workdir, *_ = two_stages
  rows = log.read_jsonl(workdir / "rollouts" / "first-000001.jsonl")
  assert len(rows) == 4  # 2 prompts of 2 completions
  for row in rows:
    assert row["reward"] == pytest.approx(sum(row["parts"].values()))
  metrics = log.read_metrics(workdir)[0]
  mean = np.mean([row["parts"]["luck"] for row in rows])
  assert metrics["reward/luck"] == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_supervised_steps_lower_the_loss_and_resume(
  objective, tmp_path, monkeypatch
):
  """Three epochs of 4 prompts in packed rows of 2, stopped in step 4."""
  monkeypatch.setattr(packing, "_LENGTHS", 1)  # of rows: one program
  path = tiny.write_records(tmp_path / "records.jsonl", count=4)
  common = {"prompts": 2, "micro": 1, "pack": 2, "max_new_tokens": 256}
  stage = tiny.stage(
    objective,
    objective=objective,
    epochs=3,
    sft=config.SFT(**common),
    dpo=config.DPO(**common),
    optimizer=config.Optimizer(lr=3e-2, warmup=0.0),
  )
  experiment = tiny.experiment(path, [stage], evals=False)
  run(experiment, tmp_path / "run")
  rows = log.read_metrics(tmp_path / "run")
  assert len(rows) == 6
  assert rows[-1]["loss"] < rows[0]["loss"] - 0.5
  if objective == "dpo":  # the reference is the start itself
    assert rows[0]["loss"] == pytest.approx(np.log(2), rel=1e-5)

  calls, module = [], {"sft": sft, "dpo": dpo}[objective]

  def fourth_fails(*args):
    calls.append(args)
    if len(calls) == 4:
      raise Stop
    return update(*args)

  update = module.update
  monkeypatch.setattr(module, "update", fourth_fails)
  with pytest.raises(Stop):
    run(experiment, tmp_path / "again")
  run(experiment, tmp_path / "again")
  assert len(calls) == 4 + 4  # from the checkpoint after step 2
  assert untimed(log.read_metrics(tmp_path / "again")) == untimed(rows)
  jax.tree.map(
    np.testing.assert_array_equal,
    final_params(experiment, tmp_path / "again"),
    final_params(experiment, tmp_path / "run"),
  )


def test_another_experiment_in_the_workdir_is_left_alone(two_stages):
  experiment, workdir, *_ = two_stages
  config_before = (workdir / "config.json").read_bytes()
  other = dataclasses.replace(experiment, seed=1)
  with pytest.raises(UserError, match="its seed is 0, not 1"):
    run(other, workdir)
  assert (workdir / "config.json").read_bytes() == config_before


def test_a_first_start_that_failed_binds_to_nothing(tmp_path):
  """Neither to its config nor to what it evaluated before training."""
  path = tiny.write_records(tmp_path / "records.jsonl")
  first = tiny.experiment(path, [tiny.stage("first", steps=1)])
  with pytest.raises(Stop):
    run(first, tmp_path / "run", stopping(0))
  summary = run(dataclasses.replace(first, seed=1), tmp_path / "run")
  meta = summary["stages"][0]["eval_before"]["dev"]["meta"]
  assert meta["decoding"]["seed"] == 1


def test_a_damaged_line_is_skipped_and_a_cut_evaluation_redone(
  two_stages, tmp_path
):
  experiment, workdir, *_ = two_stages
  again = tmp_path / "run"
  shutil.copytree(workdir, again)
  with (again / "metrics.jsonl").open("ab") as file:
    file.write(b'{"stage": "second"\n\xff\n3\n')
  cut = again / "eval" / "dev-second-3.json"
  cut.write_bytes(cut.read_bytes()[:50])
  run(experiment, again)
  assert log.read_metrics(again) == log.read_metrics(workdir)
  assert files(again, "eval") == files(workdir, "eval")


def test_evaluations_of_steps_to_be_done_again_are_forgotten(
  two_stages, tmp_path
):
  experiment, workdir, *_ = two_stages
  again = tmp_path / "run"
  shutil.copytree(workdir, again)
  for name in ("dev-second-9.json", "dev-second-9.jsonl"):
    (again / "eval" / name).write_text("{}")
  run(experiment, again)
  assert files(again, "eval") == files(workdir, "eval")
