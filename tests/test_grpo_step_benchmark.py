"""The driver that times this project, TRL and Tunix side by side."""

import json
import os
import pathlib
import sys

import numpy as np
import pytest

from benchmarks import (
  grpo_step,
  grpo_summary,
  peer_work,
  quiet,
  runs,
  shapes,
  write_models,
)
from grounded_jax import config, weights


def step(seconds, disturbed=0.0, rollout=1.0):
  return {
    "seconds": seconds,
    "rollout": rollout,
    "update": seconds - rollout,
    "disturbed": disturbed,
  }


def run(system, steps, number=0, error="", peak=100):
  return {
    "shape": "a",
    "system": system,
    "round": number,
    "tokens": 60,
    "steps": steps,
    "error": error,
    "peak_rss_bytes": peak,
  }


# Command lines


@pytest.mark.parametrize(
  ("system", "module", "micro"),
  [
    ("ours", "grounded_jax.benchmark", 0),
    ("trl", "benchmarks.peer_trl", 2),
  ],
)
def test_all_systems_take_the_same_flags(system, module, micro):
  model, out = pathlib.Path("m"), pathlib.Path("o.json")
  got = shapes.command(
    system, shapes.SHAPES["d"], "python", model, out, ["--remat=full"]
  )
  assert got == [
    *("python", "-m", module, "--model=m", "--prompts=2"),
    *("--prompt_len=1024", "--group=8", "--new_tokens=96", "--steps=5"),
    *(f"--micro={micro}", "--out=o.json"),
    *(["--remat=full"] if system == "ours" else []),
  ]


def test_systems_take_turns_and_those_that_do_not_fit_are_left_out():
  got = list(shapes.turns(shapes.SHAPES["b"], shapes.SYSTEMS, 2))
  assert got == [(i, name) for i in (0, 1) for name in shapes.SYSTEMS]
  got = list(shapes.turns(shapes.SHAPES["c"], ["tunix", "ours"], 1))
  assert got == [(0, "ours")]


def test_tokens_count_each_completion_with_its_prompt():
  got = {name: shapes.SHAPES[name].tokens for name in "abcd"}
  assert got == {"a": 20480, "b": 2304, "c": 9216, "d": 17920}


def test_flags_override_the_shapes():
  args = grpo_step.parse(
    [
      *("--shapes=c,d", "--steps=6", "--micro=c:tunix:1", "--micro=d:trl:4"),
      *("--trl_python=env/bin/python", "--tunix_python=python3"),
    ]
  )
  assert [shape.steps for shape in args.chosen.values()] == [6, 6]
  assert args.chosen["c"].micro == {"ours": 0, "trl": 4, "tunix": 1}
  assert args.chosen["d"].micro == {"ours": 0, "trl": 4}
  assert args.trl_python == str(pathlib.Path("env/bin/python").absolute())
  assert args.tunix_python == "python3"  # found on the path


@pytest.mark.parametrize(
  ("flags", "said"),
  [
    (["--shapes=e"], "--shapes: 'e' is not one of a, b, c, d, smoke"),
    (["--systems=trl2"], "--systems: 'trl2' is not one of ours"),
    (["--shapes=a"], "--trl_python, --tunix_python must name"),
    (["--shapes=c"], "--trl_python must name"),
    (["--micro=a:trl"], "--micro=a:trl is not SHAPE:SYSTEM:SIZE"),
    (["--rounds=x"], "invalid int value"),
    (["--read=nowhere.json"], "--read=nowhere.json is no file"),
  ],
)
def test_a_mistake_is_one_sentence(flags, said, capsys):
  assert grpo_step.main(flags) == 2
  error = capsys.readouterr().err
  assert said in error and len(error.strip().splitlines()) == 1


# Quiet


def write_proc(path, busy, steal, own):
  (path / "7").mkdir(exist_ok=True)
  user, system = busy - 5, 5  # idle and iowait are nobody's
  line = f"cpu  {user} 0 {system} 999 99 0 0 {steal} 0 0\n"
  (path / "stat").write_text(line + "cpu0 1 2 3\n")
  before = "7 (a (b) c) S " + "0 " * 10
  (path / "7" / "stat").write_text(before + f"{own} 0 0 0 20 0\n")


def test_what_others_took_is_busy_and_stolen_time_minus_our_own(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(quiet.os, "sysconf", lambda _: 100)
  monkeypatch.setattr(quiet.time, "process_time", lambda: 3.0)
  stamps = []
  # In two seconds: 400 ticks busy, 370 of the timed process, 10 stolen.
  for wall, sizes in ((10.0, (1000, 50, 30)), (12.0, (1400, 60, 400))):
    write_proc(tmp_path, *sizes)
    monkeypatch.setattr(quiet.time, "perf_counter", lambda wall=wall: wall)
    stamps.append(quiet.stamp(7, tmp_path))
  assert quiet.disturbance(*stamps) == pytest.approx((0.3 + 0.1) / 2)
  assert not quiet.is_quiet(quiet.disturbance(*stamps))


def test_without_the_kernels_files_no_step_is_called_quiet(tmp_path):
  assert quiet.stamp(7, tmp_path) is None
  assert quiet.disturbance(None, None) is None
  assert not quiet.is_quiet(None)
  assert quiet.is_quiet(0.099) and not quiet.is_quiet(0.1)


# Runs


def test_steps_are_stamped_when_their_lines_arrive():
  code = (
    "import sys, time\n"
    "for i in (1, 2):\n"
    "  time.sleep(0.1)\n"
    "  print(f'step {i}/2: 9.00 s (rollout 1.25, update 7.75)',"
    " file=sys.stderr)\n"
    "print('step 9/9: 1.00 s (rollout 1.00, update 1.00)')"  # not on stderr
  )
  said = []
  steps, error = runs.follow([sys.executable, "-c", code], said.append)
  assert error == "" and len(steps) == len(said) == 2
  # A line that is read late makes its step longer and the next one shorter.
  assert 0.2 <= sum(s["seconds"] for s in steps) < 9
  assert [(s["rollout"], s["update"]) for s in steps] == [(1.25, 7.75)] * 2


def test_a_run_that_fails_says_why():
  code = "raise SystemExit('no room')"
  steps, error = runs.follow([sys.executable, "-c", code], print)
  assert steps == [] and error == "exit code 1: no room"


def test_a_run_ends_with_the_driver(tmp_path):
  code = (
    "import os, pathlib, sys, time\n"
    f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))\n"
    "print('step 1/2: 1.00 s (rollout 0.50, update 0.50)', file=sys.stderr)\n"
    "time.sleep(600)"
  )

  def stop(text):
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    runs.follow([sys.executable, "-c", code], stop)
  with pytest.raises(ProcessLookupError):
    os.kill(int((tmp_path / "pid").read_text()), 0)


# The summary


def test_medians_leave_out_two_steps_and_quiet_ones_those_disturbed():
  steps = [step(90), step(80), step(4), step(6, 0.5), step(2), step(12, None)]
  got = grpo_summary.system([run("ours", steps, peak=7)])
  assert (got["steps"], got["quiet_steps"]) == (4, 2)
  assert got["step_seconds"] == 5.0  # of 2 4 6 12
  assert (got["least_seconds"], got["most_seconds"]) == (2, 12)
  assert got["quiet_step_seconds"] == 3.0  # of 2 4
  assert got["tokens_per_second"] == 12.0
  assert got["quiet_tokens_per_second"] == 20.0
  assert got["update_seconds"] == 4.0
  assert got["disturbed_most"] == 0.5
  # From the start of the process to the end of step 5.
  assert got["cold_start_seconds"] == 90 + 80 + 4 + 6 + 2


def test_ratios_are_of_the_same_shape_and_paired_by_round():
  made = [
    run("ours", [step(9), step(9), step(2)], 0, peak=30),
    run("trl", [step(9), step(9), step(6)], 0, peak=90),
    run("tunix", [], 0, error="exit code 1: no room", peak=None),
    run("ours", [step(9), step(9), step(4)], 1, peak=20),
    run("trl", [step(9), step(9), step(20)], 1, peak=120),
  ]
  found = grpo_summary.summary(made)["a"]
  assert list(found["ours_over"]) == ["trl"]
  got = found["ours_over"]["trl"]
  assert got["speed"] == pytest.approx(13 / 3)  # medians 3 and 13
  assert got["speed_by_round"] == [3.0, 5.0]
  assert got["peak_rss"] == 0.25
  assert got["cold_start"] is None  # fewer than five steps
  assert found["failed"] == ["tunix, round 1: exit code 1: no room"]


def test_read_shows_runs_of_several_files(tmp_path, capsys):
  paths = [tmp_path / "1.json", tmp_path / "2.json"]
  parts = [[run("ours", [step(2)])], [run("trl", [step(4)])]]
  for path, part in zip(paths, parts, strict=True):
    path.write_text(json.dumps({"runs": part}))
  assert grpo_step.main([f"--read={path}" for path in paths]) == 0
  got = capsys.readouterr()
  assert json.loads(got.out)["a"]["ours_over"]["trl"]["speed"] == 2.0
  assert "a, ours" in got.err and "Ours over theirs" in got.err


# A peer's run, without the peer


def work(tmp_path):
  flags = "--prompts=2 --prompt_len=5 --group=3 --new_tokens=2 --steps=2"
  return peer_work.parse(
    "",
    [
      *flags.split(),
      *(f"--model={tmp_path}", "--micro=0", f"--out={tmp_path / 'o.json'}"),
    ],
  )


def test_prompts_have_exactly_their_length(tmp_path):
  texts = peer_work.prompts(work(tmp_path), 9)
  ids = np.array([[int(word) for word in text.split()] for text in texts])
  assert ids.shape == (4, 5) and ids.min() >= 3 and ids.max() < 9


def test_the_reward_is_the_share_of_even_tokens():
  reward = peer_work.Reward()
  assert reward(prompts=["", ""], completions=["2 4 5 7", "2 2"]) == [0.5, 1.0]
  assert reward.lengths == [4, 2]


@pytest.mark.parametrize(
  ("lengths", "moved"), [([2] * 11 + [1], 1.0), ([2] * 10, 1.0), ([2] * 12, 0)]
)
def test_less_work_than_asked_for_is_no_report(tmp_path, lengths, moved):
  steps, reward = peer_work.Steps(2), peer_work.Reward()
  steps.end(), steps.end()
  reward.lengths = lengths
  with pytest.raises(RuntimeError):
    peer_work.report(work(tmp_path), steps, reward, moved, {})


def test_a_steps_line_is_what_the_driver_reads(tmp_path, capsys):
  steps, reward = peer_work.Steps(2), peer_work.Reward()
  steps.rollout(lambda: None)()
  steps.end(), steps.end()
  reward.lengths = [2] * 12
  lines = capsys.readouterr().err.splitlines()
  assert [runs.STEP.search(line)[1] for line in lines] == ["1", "2"]
  peer_work.report(work(tmp_path), steps, reward, 1e-6, {"trl": "1"})
  report = json.loads((tmp_path / "o.json").read_text())
  assert len(report["step_seconds"]) == 2 and report["peak_rss_bytes"] > 1e6


def test_no_token_ends_a_text_of_the_written_model(tmp_path):
  path = tmp_path / "smoke"
  write_models.write("smoke", path)
  settings = json.loads((path / "config.json").read_text())
  assert {settings[f"{x}_token_id"] for x in ("bos", "eos", "pad")} == {None}
  assert not (path / "generation_config.json").exists()
  got = weights.decoder(config.Model(path=str(path)))
  assert got == write_models.MODELS["smoke"].decoder


@pytest.mark.slow
@pytest.mark.parity
def test_the_driver_times_ours_and_trl(tmp_path, capsys):
  pytest.importorskip("trl")
  out = tmp_path / "new" / "out.json"
  flags = ["--shapes=smoke", "--systems=ours,trl", f"--out={out}"]
  flags += [f"--trl_python={sys.executable}", f"--models={tmp_path}"]
  assert grpo_step.main([*flags, "--wait_quiet=0"]) == 0
  found = json.loads(capsys.readouterr().out)["smoke"]
  assert list(found["systems"]) == ["ours", "trl"]
  written = json.loads(out.read_text())["runs"]
  assert grpo_summary.summary(written)["smoke"] == found
  for row in found["systems"].values():
    assert row["steps"] == 3 and row["cold_start_seconds"] > 1
    assert row["peak_rss_bytes"] > 1e8
