"""A run whose rollouts are drawn in slots is the run without them."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import tiny

from grounded_jax import checkpoint, config, log, tokenizer, train
from grounded_jax import policy as policy_lib
from grounded_jax.records import UserError


def experiment(tmp_path, slots: int, **changes) -> config.Experiment:
  """Three steps of four prompts, some completions of which stop early."""
  grpo = dataclasses.replace(
    tiny.GRPO,
    prompts=4,
    group=4,
    max_new_tokens=12,
    stop="a|e|i|o",
    slots=slots,
    **changes,
  )
  path = tiny.write_records(tmp_path / "records.jsonl")
  return tiny.experiment(path, [tiny.stage("one", grpo=grpo)], evals=False)


def rollouts(workdir) -> list[dict]:
  files = sorted((workdir / "rollouts").iterdir())
  return [
    json.loads(line) for p in files for line in p.read_text().split("\n")[:-1]
  ]


def run(made, workdir, score=tiny.varied_score):
  train.run(made, workdir, score=score)
  saved = checkpoint.find(str(workdir))
  return jax.device_get(policy_lib.load(made, tokenizer.Bytes(), saved)[1])


def test_a_run_with_slots_is_the_run_without_and_resumes(tmp_path):
  """Its completions are the same; what is learned differs by rounding."""
  whole = run(experiment(tmp_path, 0), tmp_path / "whole")
  made = experiment(tmp_path, 2)

  calls = []

  def stops(examples, completions):
    calls.append(len(examples))
    if len(calls) == 3:
      raise KeyboardInterrupt
    return tiny.varied_score(examples, completions)

  with pytest.raises(KeyboardInterrupt):
    train.run(made, tmp_path / "parts", score=stops)
  parts = run(made, tmp_path / "parts")
  want, got = (rollouts(tmp_path / name) for name in ("whole", "parts"))
  assert got == want and len(want) == 3 * 16
  assert len({row["tokens"] for row in want}) > 4
  assert {row["finished"] for row in want} == {True, False}
  # A process compiles in its first step alone; the first had a checkpoint
  # after two steps.
  for name in ("whole", "parts"):
    compiled = [r["compiles"] for r in log.read_metrics(tmp_path / name)]
    assert compiled[0] > 0 and compiled[1] == 0, compiled
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
  jax.tree.map(close, parts, whole)


def test_slots_are_at_most_the_prompts_and_take_no_chunks():
  with pytest.raises(UserError, match="slots=5 must be from 0 to 4"):
    config.GRPO(prompts=4, slots=5)
  with pytest.raises(
    UserError, match="grpo.slots=2 needs grpo.sample_chunks=1"
  ):
    config.GRPO(prompts=4, slots=2, sample_chunks=2)
