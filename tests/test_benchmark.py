import json

import numpy as np
import pytest

from grounded_jax import benchmark

KEYS = {
  "step_seconds",
  "median_step_seconds",
  "rollout_seconds",
  "update_seconds",
  "tokens_per_second",
  "compile_seconds",
  "peak_rss_bytes",
}
FLAGS = (
  "--prompts=2",
  "--prompt_len=8",
  "--group=4",
  "--new_tokens=4",
  "--steps=3",
)


def shape(*flags):
  return benchmark.parse(["benchmark", *FLAGS, *flags])[0]


def test_the_first_two_steps_are_left_out_of_the_medians():
  rows = [(90.0, 9.0), (80.0, 8.0), (1.0, 3.0), (3.0, 5.0), (2.0, 2.0)]
  got = benchmark.summary(shape(), rows, [0.0] * 5, 1.0)
  assert got["median_step_seconds"] == 4.0
  assert (got["rollout_seconds"], got["update_seconds"]) == (2.0, 3.0)
  # 2 prompts x 4 completions x (8 + 4) tokens
  assert got["tokens_per_second"] == 96 / 4
  assert got["step_seconds"] == [99.0, 88.0, 4.0, 8.0, 4.0]


def test_the_reward_is_the_share_of_even_tokens():
  got = benchmark.even_share(np.array([[[2, 4, 6, 7], [1, 3, 5, 2]]]))
  np.testing.assert_array_equal(got, [[0.75, 0.25]])


def test_every_completion_has_its_full_length_and_every_weight_moves():
  timed = shape("--micro=1", "--beta=0.04")
  made, params, state, programs = _compiled(timed)
  batch = benchmark.policy.put(made.rows, benchmark.prompts(timed, 259, 0))
  rollout = programs.sample(params, batch, np.int32(0))
  assert np.asarray(rollout.sampled).all()
  before = benchmark.jax.device_get(params)
  state, *_ = benchmark.one_step(timed, programs, state, before, 0, 259)
  moved = benchmark.jax.tree.map(
    lambda a, b: np.abs(a - b).max() > 0, before, state.params
  )
  assert all(benchmark.jax.tree.leaves(moved))


def _compiled(timed):
  made, params = benchmark.policy.load(
    benchmark.experiment(timed), benchmark.tokenizer.Bytes()
  )
  tx = benchmark.optim.make(benchmark.OPTIMIZER, timed.steps)
  state = benchmark.optim.init(tx, benchmark.jax.tree.map(np.array, params))
  programs = benchmark.compile_step(timed, made, state, tx)
  return made, params, state, programs


@pytest.mark.slow
def test_the_command_writes_what_it_prints(tmp_path, capsys):
  out = tmp_path / "new" / "step.json"
  assert benchmark.main([*FLAGS, f"--out={out}"]) == 0
  printed = json.loads(capsys.readouterr().out)
  assert printed == json.loads(out.read_text())
  assert printed.keys() >= KEYS
  assert len(printed["step_seconds"]) == 3
  assert printed["peak_rss_bytes"] > 1e8


@pytest.mark.parametrize(
  ("flag", "said"),
  [
    ("--prompts=0", "prompts"),
    ("--micro=3", "prompts=2 is not divisible by grpo.micro=3"),
    ("--model=./nowhere", "does not exist"),
    ("--what=1", "Unknown command line flag 'what'"),
    ("more", "What is 'more'"),
  ],
)
def test_a_mistake_is_one_sentence(flag, said, capsys):
  assert benchmark.main([*FLAGS, flag]) == 2
  assert said in capsys.readouterr().err
