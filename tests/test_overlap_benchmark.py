"""The schedules' seconds, worked by hand."""

import json
import subprocess
import sys

import pytest

from benchmarks import overlap
from grounded_jax import log
from grounded_jax.records import UserError

# Sampling 4 s, scoring 2 s, updating 3 s.
WORK = overlap.Work(sample=4, score=2, update=3)


def close(seconds):
  return pytest.approx(seconds, rel=1e-9)


def test_one_after_another_is_the_sum():
  assert overlap.synchronous(WORK) == close(4 + 2 + 3)


def test_in_chunks_only_the_last_chunk_s_scores_are_waited_for():
  assert overlap.synchronous(WORK, chunks=4) == close(4 + 2 / 4 + 3)
  # Scoring of 8 s is the longer one: it waits for the first chunk alone.
  slow = overlap.Work(sample=4, score=8, update=3)
  assert overlap.synchronous(slow, chunks=4) == close(4 / 4 + 8 + 3)


def test_one_step_off_hides_the_scores_behind_the_update():
  assert overlap.one_step_off(WORK) == close(4 + 3)
  slow = overlap.Work(sample=4, score=5, update=3)  # 2 s longer than it
  assert overlap.one_step_off(slow) == close(4 + 5)


def test_a_split_takes_as_long_as_its_slower_side():
  """With half of 8 devices each: 8 s and 2 s of scores, beside 6 s."""
  assert overlap.one_step_off(WORK, devices=8, sampling=4) == close(8 + 2)
  # 6 of 8: 16/3 s and 2 s, beside 12 s.
  assert overlap.one_step_off(WORK, devices=8, sampling=6) == close(12)


def test_what_latency_bounds_takes_no_longer_on_fewer_devices():
  work = overlap.Work(sample=4, score=0, update=3, fixed=1)
  # All of sampling: 4 s on one of 4 devices, beside 3 s * 4 / 3.
  assert overlap.one_step_off(work, devices=4, sampling=1) == close(4)
  half = overlap.Work(sample=4, score=0, update=3, fixed=0.5)
  assert overlap.one_step_off(half, devices=4, sampling=1) == close(2 + 2 * 4)


def test_parameters_that_travel_long_are_waited_for_every_other_step():
  work = overlap.Work(sample=4, score=2, update=3, transfer=1)
  assert overlap.one_step_off(work, devices=8, sampling=4) == close(8 + 2)
  # Update k + 1 begins 11 s, 2 s of sampling after update k - 1 has ended, and
  # update k takes 12 s between: two steps take all three.
  work = overlap.Work(sample=1, score=0, update=6, transfer=11)
  found = overlap.one_step_off(work, devices=2, sampling=1)
  assert found == close((11 + 2 + 12) / 2)


def test_groups_drawn_anew_wait_for_the_scores_before():
  """Two draws of 2 s and 1 s each: the second one's scores are not hidden."""
  twice = overlap.Work(sample=4, score=2, update=3, draws=2)
  assert overlap.synchronous(twice) == close(4 + 2 + 3)
  assert overlap.one_step_off(twice) == close((2 + 3) + (2 + 1))


def test_the_best_split_is_found():
  work = overlap.Work(sample=6, score=0, update=2)
  found = overlap.table(work, chunks=2, devices=8)["split"]
  # 6 s * 8 / 6 and 2 s * 8 / 2: both sides take 8 s, as all devices would.
  assert (found["sampling"], found["updating"]) == (6, 2)
  assert found["seconds"] == close(8)
  assert "split" not in overlap.table(work, chunks=2, devices=1)


def test_a_run_s_medians_are_those_of_its_last_stage(tmp_path):
  row = lambda stage, s: {
    "stage": stage,
    "step": 1,
    **{f"seconds_{n}": s for n in ("sample", "score", "update")},
  }
  path = tmp_path / "metrics.jsonl"
  rows = [row("one", 9.0), row("two", 1.0), row("two", 2.0), row("two", 7.0)]
  log.write_jsonl(path, rows)
  assert overlap.measured(str(path), 3) == overlap.Work(
    sample=2.0, score=2.0, update=2.0, draws=3
  )
  log.write_jsonl(path, [{"stage": "sft", "step": 1}])
  with pytest.raises(UserError, match="does not end with a stage of GRPO"):
    overlap.measured(str(path), 1)


def test_the_command_prints_every_schedule():
  options = ["--sample=4", "--score=2", "--update=3", "--devices=2"]
  command = [sys.executable, "-m", "benchmarks.overlap", *options]
  done = subprocess.run(command, check=True, capture_output=True, text=True)
  printed = json.loads(done.stdout)
  assert printed["one_step_off"] == {"seconds": 7.0, "times_faster": 1.286}
  assert set(printed) == {
    *("work", "synchronous", "chunked", "one_step_off", "split")
  }
