"""Groups: refilling, shuffling, weights; hand-made numbers, no model."""

import dataclasses

import numpy as np
import pytest

from grounded_jax import config, groups, sampler, types
from grounded_jax.records import Completion, Example, Score

CFG = config.GRPO(prompts=2, group=2, refill_rounds=2)


def made(rewards, finished=None, start=0) -> groups.Groups:
  """Groups with these rewards [P G]; row i's example is called start + i."""
  rewards = np.array(rewards, np.float32)
  p, g = rewards.shape
  done = np.ones((p, g), bool) if finished is None else np.array(finished)
  example = lambda i: Example(
    id=str(start + i),
    task="short",
    question="?",
    docs=(),
    answers=(),
    answerable=True,
  )
  return groups.scored(
    [example(i) for i in range(p)],
    types.PromptBatch(
      tokens=np.zeros((p, 3), np.int32),
      length=np.ones(p, np.int32),
      key=np.arange(start, start + p, dtype=np.int32),
    ),
    types.Rollout(
      tokens=np.zeros((p, g, 4), np.int32),
      sampled=np.ones((p, g, 4), bool),
      logp=np.zeros((p, g, 4), np.float32),
      finished=done,
    ),
    [
      [
        Completion(text="x", answer="x", finished=bool(done[i, j]), tokens=4)
        for j in range(g)
      ]
      for i in range(p)
    ],
    lambda examples, completions: [
      Score(total=float(r), parts={"part": float(r)}) for r in rewards.flat
    ],
  )


def source(*rollouts):
  """A `draw` that gives these rollouts in turn and records its calls."""
  calls = []

  def draw(cursor, purpose):
    calls.append((cursor, purpose))
    return made(rollouts[len(calls) - 1], start=cursor)

  return draw, calls


def test_groups_without_advantage_are_replaced_by_the_next_prompts():
  draw, calls = source([[1, 1], [0, 1]], [[0, 2], [2, 2]])
  kept, counts, drawn, cursor = groups.collect(CFG, draw, 10)
  assert calls == [
    (10, sampler.PURPOSE_TRAIN),
    (12, sampler.PURPOSE_REFILL),
  ]
  assert [e.id for e in kept.examples] == ["11", "12"]
  assert kept.prompts.key.tolist() == [11, 12]
  np.testing.assert_array_equal(kept.total, [[0, 1], [0, 2]])
  assert (counts.tolist(), cursor, len(drawn.examples)) == ([1, 1], 14, 4)


def test_what_cannot_be_refilled_keeps_its_shape_with_weight_zero():
  draw, calls = source([[1, 1], [0, 1]], [[2, 2], [2, 2]], [[3, 3], [3, 3]])
  kept, counts, _, cursor = groups.collect(CFG, draw, 0)
  assert len(calls) == 3 and cursor == 6
  assert [e.id for e in kept.examples] == ["1", "0"]
  assert counts.tolist() == [1, 0]
  batch = groups.batch(CFG, kept, counts, step=7)
  np.testing.assert_array_equal(batch.weight, [[1, 1], [0, 0]])
  np.testing.assert_array_equal(batch.advantage, [[-0.5, 0.5], [0, 0]])
  assert int(batch.policy_step) == 7


def test_groups_that_fill_the_shape_stay_out_of_the_batch_s_statistics():
  cfg = dataclasses.replace(CFG, scale="batch")
  drawn = made([[0, 2], [9, 9]])
  batch = groups.batch(cfg, drawn, np.array([1, 0], np.float32), step=0)
  alone = groups.batch(cfg, made([[0, 2]]), np.ones(1, np.float32), step=0)
  np.testing.assert_array_equal(batch.advantage[:1], alone.advantage)
  assert (batch.advantage[1] == 0).all()
  none = groups.batch(cfg, drawn, np.zeros(2, np.float32), step=0)
  assert (none.advantage == 0).all() and (none.weight == 0).all()


def test_a_full_first_rollout_draws_no_more():
  draw, calls = source([[0, 1], [1, 0]])
  *_, cursor = groups.collect(CFG, draw, 4)
  assert len(calls) == 1 and cursor == 6


def test_keep_leaves_groups_without_advantage_in():
  cfg = dataclasses.replace(CFG, zero_advantage="keep")
  draw, calls = source([[1, 1], [0, 1]])
  kept, counts, *_ = groups.collect(cfg, draw, 0)
  assert len(calls) == 1 and counts.tolist() == [1, 1]
  assert [e.id for e in kept.examples] == ["0", "1"]


def test_truncated_completions_have_no_weight_but_count_in_the_mean():
  drawn = made([[0, 3]], finished=[[True, False]])
  batch = groups.batch(CFG, drawn, np.ones(1, np.float32), step=0)
  np.testing.assert_array_equal(batch.weight, [[1, 0]])
  np.testing.assert_array_equal(batch.advantage, [[-1.5, 1.5]])
  keep = dataclasses.replace(CFG, truncated="keep")
  np.testing.assert_array_equal(groups.weight(keep, drawn), [[1, 1]])


def test_a_group_all_truncated_teaches_nothing():
  drawn = made([[0, 1], [0, 1]], finished=[[False, False], [True, False]])
  assert groups.informative(CFG, drawn).tolist() == [False, True]


def test_shuffling_keeps_each_group_s_rewards_and_their_parts_together():
  drawn = made(np.arange(40).reshape(5, 8))
  mixed = groups.shuffled(drawn, (0, 1, 2, 3))
  np.testing.assert_array_equal(np.sort(mixed.total, 1), drawn.total)
  np.testing.assert_array_equal(mixed.parts["part"], mixed.total)
  assert (mixed.total != drawn.total).any(1).all()
  again = groups.shuffled(drawn, (0, 1, 2, 3))
  np.testing.assert_array_equal(again.total, mixed.total)
  other = groups.shuffled(drawn, (0, 1, 3, 3))
  assert (other.total != mixed.total).any()


def test_metrics_are_means_over_everything_drawn():
  drawn = made([[0, 1], [2, 2]], finished=[[True, False], [True, True]])
  got = groups.metrics(np.array([1.0, 0.0]), drawn, config.Rewards())
  assert got["reward"] == pytest.approx(1.25)
  assert got["reward/part"] == pytest.approx(1.25)
  assert got["truncated"] == pytest.approx(0.25)
  assert got["groups_counted"] == 1 and got["groups_drawn"] == 2
