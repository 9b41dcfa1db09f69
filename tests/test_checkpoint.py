"""Checkpoints: what is saved comes back, and what does not fit is named."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from grounded_jax import checkpoint, config, log, mesh, optim
from grounded_jax.records import UserError

CONFIG = config.to_dict(
  config.Experiment(
    name="run", stages=(config.Stage(name="one"), config.Stage(name="two"))
  )
)


def params(value: float = 1.0) -> dict:
  tree = {
    "embed": np.full((3, 4), value, np.float32),
    "blocks": {"q": np.arange(8, dtype=np.float32).reshape(2, 4) * value},
  }
  return jax.device_put(tree, mesh.rows(mesh.make(config.Mesh())))


def save_steps(workdir, stage, steps, keep=2, trusts=None, reference=None):
  """Saves params that hold the step's number, one checkpoint per step."""
  tx = optax.adam(1e-3)
  with checkpoint.open_manager(workdir, stage, keep) as manager:
    for step in steps:
      state = optim.init(tx, params(float(step)))
      state = dataclasses.replace(state, step=jnp.int32(step))
      trust = (trusts or {}).get(step)
      checkpoint.save(
        manager,
        state,
        step=step,
        total_steps=9,
        cursor=10 * step,
        config=CONFIG,
        reference=reference,
        metrics=None if trust is None else {"trust": trust},
      )


def test_a_stage_goes_on_where_its_last_checkpoint_stands(tmp_path):
  save_steps(tmp_path, "one", [1, 2, 3], reference=params(7.0))
  tx = optax.adam(1e-3)
  with checkpoint.open_manager(tmp_path, "one", 2) as manager:
    at = checkpoint.begin(manager, tx, params(0.0), with_reference=True)
  assert (at.step, at.cursor, int(at.state.step)) == (3, 30, 3)
  jax.tree.map(np.testing.assert_array_equal, at.state.params, params(3.0))
  jax.tree.map(np.testing.assert_array_equal, at.reference, params(7.0))
  fresh = tx.init(params(3.0))
  assert jax.tree.structure(at.state.opt_state) == jax.tree.structure(fresh)


def test_a_fresh_stage_copies_its_reference(tmp_path):
  start = params(5.0)
  with checkpoint.open_manager(tmp_path, "one", 2) as manager:
    at = checkpoint.begin(manager, optax.adam(1e-3), start, with_reference=True)
  assert (at.step, at.cursor) == (0, 0)
  for leaf in jax.tree.leaves((start, at.state.params)):
    leaf.delete()  # as donation does
  jax.tree.map(np.testing.assert_array_equal, at.reference, params(5.0))


def test_the_latest_and_the_best_are_kept(tmp_path):
  trusts = {1: 10.0, 2: 60.0, 3: 30.0}
  save_steps(tmp_path, "one", range(1, 7), keep=2, trusts=trusts)
  assert checkpoint.steps(tmp_path, "one") == [2, 5, 6]
  stage = str(tmp_path / "one")
  assert checkpoint.find(stage).name == "6"
  assert checkpoint.find(stage, best=True).name == "2"


def test_the_best_survives_a_restart(tmp_path):
  save_steps(tmp_path, "one", [1, 2], keep=1, trusts={1: 50.0})
  save_steps(tmp_path, "one", [3, 4], keep=1, trusts={3: 20.0})
  assert checkpoint.steps(tmp_path, "one") == [1, 4]


def test_a_workdir_names_its_last_stage(tmp_path):
  log.write_json(tmp_path / "config.json", CONFIG)
  save_steps(tmp_path, "one", [4])
  assert checkpoint.find(str(tmp_path)).parts[-3:] == (
    "one",
    "checkpoints",
    "4",
  )
  save_steps(tmp_path, "two", [1])
  assert checkpoint.find(str(tmp_path)).parts[-3:] == (
    "two",
    "checkpoints",
    "1",
  )
  named = tmp_path / "one" / "checkpoints" / "4"
  assert checkpoint.find(str(named)) == named
  assert checkpoint.find(str(named.parent)) == named


def test_parameters_alone_are_read_into_the_wanted_shapes(tmp_path):
  save_steps(tmp_path, "one", [2])
  found = checkpoint.find(str(tmp_path / "one"))
  like = checkpoint.abstract(params(0.0))
  got = checkpoint.restore_params(found, like)
  jax.tree.map(np.testing.assert_array_equal, got, params(2.0))


def test_a_checkpoint_of_another_shape_is_named(tmp_path):
  save_steps(tmp_path, "one", [2])
  found = checkpoint.find(str(tmp_path / "one"))
  other = params() | {"embed": params()["embed"].T}
  with pytest.raises(
    UserError, match=r"embed has shape \(3, 4\) there and \(4, 3\)"
  ):
    checkpoint.restore_params(found, checkpoint.abstract(other))


@pytest.mark.parametrize("best", [False, True])
def test_a_missing_checkpoint_is_a_sentence(tmp_path, best):
  with pytest.raises(UserError, match="no such directory"):
    checkpoint.find(str(tmp_path / "nowhere"), best=best)
  with pytest.raises(UserError, match="No checkpoint under"):
    checkpoint.find(str(tmp_path), best=best)
  log.write_json(tmp_path / "config.json", CONFIG)
  with pytest.raises(UserError, match="No checkpoint under"):
    checkpoint.find(str(tmp_path), best=best)


@pytest.mark.parametrize("content", [{"hidden_size": 4}, [], {"stages": 1}])
def test_a_directory_that_no_run_has_left_is_named(tmp_path, content):
  log.write_json(tmp_path / "config.json", content)
  with pytest.raises(UserError, match="config.json is not the config of a run"):
    checkpoint.find(str(tmp_path))


def test_a_damaged_checkpoint_is_named(tmp_path):
  save_steps(tmp_path, "one", [2])
  found = checkpoint.find(str(tmp_path / "one"))
  for path in (found / "params").rglob("*"):
    if path.is_file():
      path.unlink()
  with pytest.raises(UserError, match=f"checkpoint {found} cannot be read"):
    checkpoint.restore_params(found, checkpoint.abstract(params()))
  with (
    checkpoint.open_manager(tmp_path, "one", 2) as manager,
    pytest.raises(UserError, match="2 cannot be read .* delete it to go on"),
  ):
    checkpoint.begin(manager, optax.adam(1e-3), params(), with_reference=False)


def test_best_needs_an_evaluation(tmp_path):
  save_steps(tmp_path, "one", [1])
  with pytest.raises(UserError, match="was evaluated"):
    checkpoint.find(str(tmp_path / "one"), best=True)


def changed(path: str, value) -> dict:
  values = config.to_dict(config.from_dict(config.Experiment, CONFIG))
  *sections, name = path.split(".")
  functools.reduce(dict.__getitem__, sections, values)[name] = value
  return values


def stored(workdir, stage="one", step=1, values=CONFIG) -> None:
  """What a checkpoint says about the experiment that saved it."""
  path = workdir / stage / "checkpoints" / str(step) / "meta" / "metadata"
  log.write_json(path, {"cursor": 0, "config": values})


@pytest.mark.parametrize(
  ("path", "value"),
  [
    ("name", "other"),
    ("seed", 1),
    ("model.path", "elsewhere"),
    ("stages.two.optimizer.lr", 0.5),
    ("stages.one.steps", 3),
  ],
)
def test_a_workdir_of_another_experiment_is_refused(tmp_path, path, value):
  """Its config.json is not asked: it may be gone."""
  stored(tmp_path)
  with pytest.raises(UserError, match=f"its {path} is"):
    checkpoint.check_same_run(tmp_path, changed(path, value))


@pytest.mark.parametrize(
  ("path", "value"),
  [
    ("mesh.data", 2),
    ("stages.one.save_every", 3),
    ("stages.one.sft.micro", 4),
    ("stages.one.grpo.sample_chunks", 2),
    ("stages.one.rewards.verifier.cache", 3),
    ("stages.one.rewards.verifier.disk", "elsewhere"),
  ],
)
def test_what_changes_no_number_may_differ(tmp_path, path, value):
  stored(tmp_path)
  checkpoint.check_same_run(tmp_path, changed(path, value))


def without(path: str) -> dict:
  """CONFIG as a version that did not know this field wrote it."""
  values = config.to_dict(config.from_dict(config.Experiment, CONFIG))
  *sections, name = path.split(".")
  del functools.reduce(dict.__getitem__, sections, values)[name]
  return values


@pytest.mark.parametrize("path", ["seed", "stages.one.grpo.off_policy_steps"])
def test_a_field_newer_than_the_checkpoint_had_its_default(tmp_path, path):
  stored(tmp_path, values=without(path))
  checkpoint.check_same_run(tmp_path, CONFIG)
  with pytest.raises(UserError, match=f"its {path} is 0, not 1"):
    checkpoint.check_same_run(tmp_path, changed(path, 1))


def test_a_field_that_is_gone_makes_another_experiment(tmp_path):
  stored(tmp_path, values=CONFIG | {"gone": 1})
  with pytest.raises(UserError, match="its gone is set, not absent"):
    checkpoint.check_same_run(tmp_path, CONFIG)


def test_records_that_say_another_number_of_steps_are_refused(tmp_path):
  checkpoint.check_total(tmp_path, "one", 8)  # nothing is saved
  save_steps(tmp_path, "one", [1])
  checkpoint.check_total(tmp_path, "one", 9)
  with pytest.raises(UserError, match="took 9 steps .* and take 8 now"):
    checkpoint.check_total(tmp_path, "one", 8)


def test_the_order_of_the_stages_is_part_of_the_experiment(tmp_path):
  stored(tmp_path)
  stages = dict(reversed(CONFIG["stages"].items()))
  with pytest.raises(UserError, match="its stages is one, two, not two, one"):
    checkpoint.check_same_run(tmp_path, CONFIG | {"stages": stages})


def test_a_start_that_saved_nothing_leaves_the_workdir_free(tmp_path):
  log.write_json(tmp_path / "config.json", CONFIG)
  stored(tmp_path, step="1.orbax-checkpoint-tmp")  # half written
  checkpoint.check_same_run(tmp_path, changed("seed", 1))


def test_an_empty_workdir_holds_no_experiment(tmp_path):
  checkpoint.check_same_run(tmp_path, CONFIG)
