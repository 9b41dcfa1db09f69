"""Which prompts are drawn: shares by hand, pass rates, restarts; no model."""

import collections
import dataclasses
import json
from fractions import Fraction

import pytest
from test_pipeline import DATA, TOKENIZER, example

from grounded_jax import config, curriculum, inputs, pipeline, tokenizer
from grounded_jax.records import UserError

STAGE = config.Stage(
  name="x", steps=10, grpo=config.GRPO(prompts=10, group=2, slots=0)
)


def pool(answerable=6, unanswerable=4):
  """Examples e0, e1, ...; the answerable ones come first."""
  kinds = [3] * answerable + [2] * unanswerable
  return [example(i, docs=docs) for i, docs in enumerate(kinds)]


def order(examples=None, **changes):
  cfg = dataclasses.replace(STAGE, **changes)
  examples = pool() if examples is None else examples
  return curriculum.maker(cfg, 3, 1)(examples)


def test_the_share_moves_evenly_and_holds_at_its_end():
  """From 1 to 1/2 over 100: the mean is 3/4, of the first half 7/8."""
  schedule = curriculum.Schedule(Fraction(1), Fraction(1, 2), 100)
  assert schedule.before(50) == 43  # 43.75
  assert schedule.before(100) == 75
  assert schedule.before(300) == 75 + 100
  steps = [schedule.before(k + 1) - schedule.before(k) for k in range(300)]
  assert set(steps) == {0, 1}
  assert steps[:10] == [0] + [1] * 9  # 1 is reached at k = 2 at the latest


@pytest.mark.parametrize("share", ["0.3", "1", "0:1", "1:0.5"])
def test_every_stretch_has_its_share_and_every_epoch_of_a_kind_its_prompts(
  share,
):
  made = order(answerable_share=share)
  start, end = dataclasses.replace(STAGE, answerable_share=share).shares
  taken = made.take(0, 120)
  for first in range(0, 100, 20):
    counted = sum(which < 6 for which, _ in taken[first : first + 20])
    middle = start + (end - start) * Fraction(first + 10, 100)
    assert abs(counted - 20 * middle) <= 1
  for kind in (range(6), range(6, 10)):
    drawn = [entry for entry in taken if entry[0] in kind]
    whole = len(drawn) // len(kind) * len(kind)
    counts = collections.Counter(epoch for _, epoch in drawn[:whole])
    assert set(counts.values()) <= {len(kind)}
    assert len(set(drawn)) == len(drawn)  # a prompt once in an epoch


@pytest.mark.parametrize("redraw", [1.0, 0.2])
def test_a_position_is_the_same_however_it_is_read(redraw):
  changes = {"answerable_share": "1:0.5", "redraw": redraw}
  whole = order(**changes).take(0, 30)
  parts = [order(**changes).take(k, 10) for k in range(0, 30, 10)]
  assert whole == [entry for part in parts for entry in part]
  cfg = dataclasses.replace(STAGE, **changes)
  other = curriculum.maker(cfg, 4, 1)(pool()).take(0, 30)
  assert other != whole


def test_without_a_choice_the_order_is_the_plain_one():
  assert curriculum.maker(STAGE, 3, 1) is None
  # Nothing is known yet: every chance is 1.
  plain = pipeline.Order(len(pool()), 3, 1)
  assert order(redraw=0.1).take(0, 30) == plain.take(0, 30)


@pytest.mark.parametrize("options", [{"mix": "nq=1"}, {"in_memory": 0}])
def test_a_curriculum_of_a_mix_or_on_disk_is_refused(tmp_path, options):
  row = '{"question": "q", "answers": [["a"]], "dataset": "nq", "docs": '
  row += '[{"title": "t", "text": "a", "answers_found": [1]}]}'
  (tmp_path / "a.jsonl").write_text(f"{row}\n")
  source = config.Source(path=str(tmp_path / "a.jsonl"), **options)
  experiment = config.Experiment(
    name="e",
    data=config.Data(train=source),
    stages=(dataclasses.replace(STAGE, redraw=0.5),),
  )
  with pytest.raises(UserError, match="in memory that are not mixed"):
    inputs.training_data(experiment, 0, tokenizer.Bytes())


def test_a_prompt_is_drawn_where_all_would_be_passed_over():
  """Else a step would walk about 1/redraw candidates for each."""
  made = order(redraw=1e-12)
  made.observe(0, [(f"e{i}", 1.0) for i in range(10)] * 40)
  assert len(made.take(0, 20)) == 20


def test_always_and_never_solved_prompts_are_drawn_with_the_chance_redraw():
  """Ten prompts: four always solved, three never, three now and then."""
  made = order(redraw=0.25)
  shares = [1.0] * 4 + [0.0] * 3 + [0.5] * 3
  made.observe(10, [(f"e{i}", share) for i, share in enumerate(shares)])
  drawn = collections.Counter(which for which, _ in made.take(10, 190))
  # Of an epoch 7 * 0.25 + 3 = 4.75 prompts are drawn: in 40 epochs 70 of the
  # seven, with a standard deviation of 7.
  for which in (7, 8, 9):
    assert drawn[which] == pytest.approx(40, abs=4)
  assert sum(drawn[which] for which in range(7)) == pytest.approx(70, abs=15)


def test_a_rate_is_the_mean_of_the_last_draw_and_of_those_before():
  made = order(redraw=0.5)
  made.observe(1, [("e0", 1.0)])
  made.observe(2, [("e0", 0.0)])
  got = made.observe(4, [("e0", 0.5), ("e1", 0.25)])
  assert made.state()["rates"] == {"e0": 0.5, "e1": 0.25}
  assert got["pass_rate"] == 0.375


def test_what_is_passed_over_is_counted_and_offered_again():
  """Once all are known and half are drawn, a redraw of 1e-9 skips the rest."""
  made = order(redraw=1e-9)
  shares = [(f"e{i}", 1.0 if i < 5 else 0.5) for i in range(10)]
  assert made.observe(10, shares)["passed_over"] == 0
  first = made.take(10, 10)
  got = made.observe(20, shares[5:])
  assert {which for which, _ in first} == set(range(5, 10))
  assert len(set(first)) == 10  # of two epochs
  assert 5 <= got["passed_over"] <= 10


def test_a_restart_draws_what_the_unbroken_run_does():
  changes = {"answerable_share": "1:0.5", "redraw": 0.3}
  unbroken, cursor, kept, drawn = order(**changes), 0, None, []
  for step in range(8):
    if step == 4:
      kept = json.loads(json.dumps(unbroken.state()))
    taken = unbroken.take(cursor, 10)
    cursor += 10
    shares = [(f"e{which}", which % 3 / 2) for which, _ in taken]
    unbroken.observe(cursor, shares)
    drawn.append(taken)
  resumed = order(**changes)
  resumed.restore(kept)
  for step in range(4, 8):
    # As a refill or a second chunk reads it: what was drawn stays.
    first, second = resumed.take(10 * step, 4), resumed.take(10 * step + 4, 6)
    assert first + second == drawn[step]
    shares = [(f"e{which}", which % 3 / 2) for which, _ in drawn[step]]
    resumed.observe(10 * step + 10, shares)
  assert drawn[4:] != [order(**changes).take(k, 10) for k in range(40, 80, 10)]


def test_prompts_are_taken_in_the_order_that_is_given():
  made = pipeline.Prompts(
    pool(),
    TOKENIZER,
    DATA,
    3,
    1,
    order=lambda e: order(e, answerable_share="0"),
  )
  batch, examples = made.take(0, 8)
  assert not any(e.answerable for e in examples)
  assert len(set(batch.key.tolist())) == 8  # the second epoch's differ


def test_a_kind_that_does_not_exist_is_named():
  with pytest.raises(UserError, match="none of the 3 is unanswerable"):
    order(pool(3, 0), answerable_share="1:0.5")
  assert order(pool(3, 0), answerable_share="1").take(0, 3)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"answerable_share": "1:2"}, "must be a share from 0 to 1, or two like"),
    ({"answerable_share": "half"}, "answerable_share='half' must be a share"),
    ({"answerable_share": "1/0"}, "must be a share"),
    ({"answerable_share": "1", "answerable": "only"}, "any or even, not only"),
    ({"redraw": 0.0}, "redraw=0.0 must be greater than 0"),
    ({"redraw": 1.5}, "redraw=1.5 must be from 0 to 1"),
    ({"redraw": 0.5, "objective": "sft"}, "redraw=0.5 is for stages that samp"),
    ({"answerable_share": "1", "objective": "dpo"}, "for stages that sample"),
  ],
)
def test_a_curriculum_that_cannot_be_is_refused(changes, message):
  with pytest.raises(UserError, match=message):
    dataclasses.replace(STAGE, **changes)
