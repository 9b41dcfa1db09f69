"""Self-distillation: the choice by hand, and a tiny policy that it improves."""

import dataclasses
import string

import jax
import numpy as np
import pytest
import tiny
from test_groups import made
from test_train import Stop, final_params, run, untimed

from grounded_jax import config, log, packing, rejection, sft
from grounded_jax.records import Score, UserError


def drawn(rewards, texts, finished=None):
  """Groups of these rewards whose completions are one token, then EOS (1)."""
  groups = made(rewards, finished)
  tokens = np.zeros(groups.rollout.tokens.shape, np.int32)
  tokens[..., 0], tokens[..., 1] = texts, 1
  rollout = dataclasses.replace(
    groups.rollout, tokens=tokens, sampled=np.arange(4) < 2 + 0 * tokens
  )
  return dataclasses.replace(groups, rollout=rollout)


def test_the_highest_ended_and_distinct_completions_are_kept():
  groups = drawn(
    [[1, 4, 3, 4, 3], [2, 2, 2, 2, 9], [2.9, 0, 0, 0, 0]],
    [[5, 6, 7, 6, 8], [5, 5, 5, 5, 9], [5, 6, 7, 8, 9]],
    finished=[[True] * 5, [True] * 4 + [False], [True] * 5],
  )
  rows, kept = rejection.best(groups, 2.0, 3)
  # 4 once, since both texts are 6, and then both 3; a cut 9 is none.
  assert rows[kept].tolist() == [1, 2, 4, 0, 0]
  assert kept.sum(1).tolist() == [3, 1, 1]
  rows, kept = rejection.best(groups, 3.0, 1)
  assert kept[:, 0].tolist() == [True, False, False] and rows[0, 0] == 1


def test_what_was_sampled_is_taught_and_the_rest_has_no_weight():
  groups = drawn([[1, 4], [0, 0]], [[5, 6], [7, 8]])
  rows, kept = rejection.best(groups, 3.0, 2)
  batch = rejection.demonstrations(groups, rows, kept)
  assert batch.tokens[0, 0].tolist() == [6, 1, 0, 0]
  assert batch.weight[0, 0].tolist() == [1, 1, 0, 0]
  assert not batch.weight[0, 1].any() and not batch.weight[1].any()
  got = rejection.metrics(groups, rows, kept, config.Rewards())
  assert got["counted_share"] == 0.5 and got["completions_kept"] == 1
  assert (got["reward"], got["reward_kept"]) == (1.25, 4.0)
  nothing = rejection.metrics(groups, rows, kept & False, config.Rewards())
  assert nothing["counted_share"] == 0 and "reward_kept" not in nothing


def letters(examples, completions):
  """1 for a completion that begins with a small letter, else 0."""
  small = [c.text[:1] in set(string.ascii_lowercase) for c in completions]
  return [Score(total=float(x), parts={"letter": float(x)}) for x in small]


def experiment(folder, **changes) -> config.Experiment:
  """Random weights; a small letter ends a completion."""
  path = tiny.write_records(folder / "records.jsonl")
  values = {"prompts": 4, "max_new_tokens": 4, "micro": 2, "pack": 2}
  stage = tiny.stage(
    "best",
    objective="sft",
    steps=8,
    save_every=3,
    solved=1.0,
    redraw=0.3,
    answerable_share="0.75",
    sft=config.SFT(demonstrations="best", group=2, **values),
    grpo=config.GRPO(group=16, stop="|".join(string.ascii_lowercase)),
    optimizer=config.Optimizer(lr=3e-2, warmup=0.0, schedule="constant"),
  )
  stage = dataclasses.replace(stage, **changes)
  return tiny.experiment(path, [stage], evals=False)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
  folder = tmp_path_factory.mktemp("best")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(packing, "_LENGTHS", 1)  # of rows: one program
    made = experiment(folder)
    run(made, folder / "run", letters)
  return made, folder / "run", log.read_metrics(folder / "run")


def test_the_reward_rises_from_chance_to_most(unbroken):
  """26 of 260 tokens are small letters; the policy learns to begin with one."""
  _, _, rows = unbroken
  rewards = [row["reward"] for row in rows]
  assert rewards[0] < 0.3 and rewards[-1] > 0.6
  assert rows[-1]["loss"] < rows[0]["loss"]
  assert all(row["reward_kept"] == 1 for row in rows)
  assert rows[-1]["counted_share"] == 1
  assert all(row["answerable"] == 0.75 for row in rows)
  assert all(row["pass_rate"] == row["reward"] for row in rows)


def test_a_resumed_stage_equals_the_unbroken_one(
  unbroken, tmp_path, monkeypatch
):
  """Bit for bit: what was drawn by pass rates too; stopped in step 6."""
  made, workdir, rows = unbroken
  monkeypatch.setattr(packing, "_LENGTHS", 1)
  assert any(row["passed_over"] for row in rows)
  calls, update = [], sft.update

  def sixth_fails(*args):
    calls.append(args)
    if len(calls) == 6:
      raise Stop
    return update(*args)

  monkeypatch.setattr(sft, "update", sixth_fails)
  with pytest.raises(Stop):
    run(made, tmp_path, letters)
  run(made, tmp_path, letters)
  assert len(calls) == 6 + 5  # from the checkpoint after step 3
  assert untimed(log.read_metrics(tmp_path)) == untimed(rows)
  jax.tree.map(
    np.testing.assert_array_equal,
    final_params(made, tmp_path),
    final_params(made, workdir),
  )


def test_a_step_without_a_solution_computes_nothing():
  """No row of the packed step holds a group."""
  groups = drawn([[1, 4], [0, 0]], [[5, 6], [7, 8]])
  cfg = config.SFT(demonstrations="best", prompts=2, micro=1, pack=2)
  for floor, filled in ((9.0, 0), (4.0, 1)):
    rows, kept = rejection.best(groups, floor, 1)
    batch = rejection.demonstrations(groups, rows, kept)
    packed = packing.pack(cfg, batch, 1).packing
    assert (packed.cell[:, 0] == 0).sum() == filled


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"sft": {"group": 9}}, "sft.group=9 must be at most grpo.group=8"),
    ({"sft": {"max_len": 50}}, "sft.max_len=50 has no meaning with"),
    (
      {"sft": {"max_new_tokens": 3}, "rewards": {"overlong": 3}},
      "must be below",
    ),
    ({"grpo": {"off_policy_steps": 1}}, "grpo.off_policy_steps=1 has no mean"),
    ({"grpo": {"slots": 17}}, "slots=17 must be from 0 to 16"),
  ],
)
def test_a_stage_that_cannot_sample_its_demonstrations_is_refused(
  changes, message
):
  stage = config.Stage(
    name="x", objective="sft", sft=config.SFT(demonstrations="best")
  )
  values = config.to_dict(stage)
  for section, some in changes.items():
    values[section] |= some
  with pytest.raises(UserError, match=message):
    config.from_dict(config.Stage, values)
