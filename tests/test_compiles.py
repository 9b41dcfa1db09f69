"""A run over several lengths of prompts compiles each program once a length."""

import dataclasses
import json

import pytest
import rich.console
import tiny

from grounded_jax import grpo, log, sampler, train

STEPS = 9


def experiment(folder, pack: int):
  """Prompts of 112, 172 and 230 bytes, one a step, in three of four buckets."""
  records = tiny.records(6)
  for i, record in enumerate(records):
    record["docs"][1]["text"] = "It is wet. " + "x" * (60 * (i % 3))
  path = folder / "records.jsonl"
  path.write_text("".join(json.dumps(r) + "\n" for r in records))
  algorithm = dataclasses.replace(tiny.GRPO, prompts=1, pack=pack)
  stage = tiny.stage("only", steps=STEPS, grpo=algorithm, save_every=STEPS)
  made = tiny.experiment(str(path), [stage], evals=False)
  data = dataclasses.replace(made.data, buckets=4)
  return dataclasses.replace(made, data=data)


@pytest.mark.parametrize("pack", [0, 1])
def test_steps_compile_only_for_a_length_that_is_new(tmp_path, pack):
  grpo.update.clear_cache()
  sampler.sample.clear_cache()
  train.run(
    experiment(tmp_path, pack),
    tmp_path / "run",
    score=tiny.varied_score,
    console=rich.console.Console(quiet=True),
  )
  rows = log.read_metrics(tmp_path / "run")
  keys = [(row["prompt_bucket"], row.get("row_tokens")) for row in rows]
  first = [key not in keys[:i] for i, key in enumerate(keys)]
  assert [row["compiles"] > 0 for row in rows] == first
  assert len(rows) == STEPS and first.count(False) > 0
  buckets = {bucket for bucket, _ in keys}
  assert len(buckets) == 3
  assert sampler.sample._cache_size() == len(buckets)
  assert grpo.update._cache_size() == len(set(keys))
  # Beyond the first step's, programs are those two alone.
  later = sum(row["compiles"] for row in rows[1:])
  assert later == len(buckets) + len(set(keys)) - 2
