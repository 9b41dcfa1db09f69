"""A stop string ends a completion as EOS does, whatever tokens it comes in."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import tiny

from grounded_jax import config, policy, stops, train, types
from grounded_jax import tokenizer as tokenizer_lib

BYTES = tokenizer_lib.Bytes()


class Pieces(tokenizer_lib.Bytes):
  """Token i is the i-th of these pieces; the last is its own end."""

  pieces = ("a", "</an", "swer>", "swer>b", "<", "/answer>")

  def decode(self, ids):
    return "".join(self.pieces[i] for i in ids)


def rollout(rows, width: int) -> types.Rollout:
  """One prompt's completions of these ids, none of them at its end."""
  tokens = np.zeros((1, len(rows), width), np.int32)
  sampled = np.zeros(tokens.shape, bool)
  for row, ids in enumerate(rows):
    tokens[0, row, : len(ids)] = ids
    sampled[0, row, : len(ids)] = True
  return types.Rollout(
    tokens=tokens,
    sampled=sampled,
    logp=np.where(sampled, np.float32(-1.0), np.float32(0.0)),
    finished=np.zeros(tokens.shape[:2], bool),
  )


def test_stop_strings_are_parted_by_bars():
  assert stops.parse("") == ()
  assert stops.parse("</answer>|\n\n") == ("</answer>", "\n\n")


@pytest.mark.parametrize(
  ("ids", "length"),
  [
    ([0, 1, 2, 0, 0], 3),  # over two tokens
    ([0, 1, 3, 0], 3),  # the last holds more
    ([4, 5, 0, 1, 2], 2),  # in other tokens; the first of two counts
    ([0, 4, 0, 5], None),
    ([1, 0, 2], None),
  ],
)
def test_a_completion_ends_with_the_token_that_completes_a_stop_string(
  ids, length
):
  assert stops.ends_at(Pieces(), ids, ("</answer>",)) == length
  before = rollout([ids, [0]], 6)
  after = stops.cut(Pieces(), before, ("</answer>", "zzz"))
  n = length or len(ids)
  assert after.sampled[0].sum(-1).tolist() == [n, 1]
  assert after.tokens[0, 0, :n].tolist() == ids[:n]
  assert not after.tokens[0, 0, n:].any() and not after.logp[0, 0, n:].any()
  assert (after.logp[0, 0, :n] == -1).all()
  assert after.finished.tolist() == [[length is not None, False]]


def test_without_stop_strings_a_rollout_is_as_it_was():
  before = rollout([[0, 1, 2]], 4)
  assert stops.cut(Pieces(), before, ()) is before
  after = stops.cut(Pieces(), before, ("q",))
  for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
    np.testing.assert_array_equal(x, y)


def test_the_text_ends_with_the_stop_string(tmp_path):
  path = tiny.write_records(tmp_path / "r.jsonl")
  experiment = tiny.experiment(path, [tiny.stage("one")])
  made, _ = policy.load(experiment, BYTES)
  ids = BYTES.encode("salt [1].\nmore")
  data = dataclasses.replace(experiment.data, tags=False)
  stop = (".\n", "ore")
  cut = stops.cut(BYTES, rollout([ids], 20), stop)
  (said,), *_ = policy.completions(made, cut, data, stop)
  assert said.text == "salt [1].\n" and said.finished
  assert said.tokens == 10
  whole = policy.completions(made, rollout([ids], 20), data)[0][0]
  assert whole.text == "salt [1].\nmore" and not whole.finished


def test_training_stops_where_the_text_says(tmp_path):
  path = tiny.write_records(tmp_path / "r.jsonl")
  grpo = dataclasses.replace(tiny.GRPO, max_new_tokens=32, stop="a|e|i|o|u")
  stage = tiny.stage("one", steps=1, grpo=grpo)
  experiment = tiny.experiment(path, [stage], evals=False)
  train.run(experiment, tmp_path / "run", score=tiny.varied_score)
  (stored,) = (tmp_path / "run" / "rollouts").iterdir()
  rows = [json.loads(line) for line in stored.read_text("utf-8").splitlines()]
  assert len(rows) == 4
  for row in rows:
    vowels = [c for c in row["text"] if c in "aeiou"]
    assert row["finished"] == (len(vowels) == 1)
    assert not vowels or row["text"][-1] == vowels[0]
  assert any(row["finished"] for row in rows)


def test_evaluation_and_training_take_the_same_options():
  shared = ("top_k", "top_p", "min_p", "stop")
  for cls, extra in (
    (config.GRPO, {}),
    (config.Eval, {"name": "x", "source": config.Source()}),
  ):
    defaults = [vars(cls(**extra))[name] for name in shared]
    assert defaults == [0, 1.0, 0.0, ""]
    for wrong in ({"top_k": -1}, {"min_p": 1.1}, {"top_p": 0.0}):
      with pytest.raises(config.UserError, match=next(iter(wrong))):
        cls(**(extra | wrong))
