"""Checkpoints of a stage, saved asynchronously by Orbax.

`<workdir>/<stage>/checkpoints/<step>/` holds the items `params`, `optimizer`,
`meta` (the global data cursor, the stage's steps, what the order of prompts
remembers, config)
and, where they are needed, `reference` (the parameters of the KL term) and
`sampler` (those that the next rollout is sampled with, off-policy).  Parameters
are an item of their own, so that evaluation and the next stage read nothing
else.
"""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp

from grounded_jax import config as config_lib
from grounded_jax import files, log, optim, types
from grounded_jax.records import UserError, reading

policies = ocp.checkpoint_managers

# Fields that may differ between the run that saved and the run that resumes:
# they change neither what is learned nor from what.
FREE = (
  "mesh",
  "micro",
  "sample_chunks",
  "cache",
  "disk",
  "save_every",
  "keep",
  "log_rollouts",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
  """Where a stage begins, or goes on."""

  state: types.TrainState
  like: types.TrainState  # shapes and shardings of `state`
  reference: Any | None  # the parameters of the KL term, if any
  cursor: int = 0  # prompts read so far: the position in the global order
  step: int = 0  # steps done
  sampler: Any | None = None  # the parameters that sample next, if others
  order: dict[str, Any] | None = None  # what the order remembers, if anything


def open_manager(
  workdir: pathlib.Path, stage: str, keep: int
) -> ocp.CheckpointManager:
  """The manager of a stage's checkpoints: the latest `keep`, and the best.

  The best is the one with the highest `trust` among those saved with
  metrics, that is right after an evaluation.
  """
  trust = lambda metrics: metrics["trust"]
  best = policies.BestN(
    get_metric_fn=trust, n=1, keep_checkpoints_without_metrics=False
  )
  options = ocp.CheckpointManagerOptions(
    best_fn=trust,  # without it Orbax does not write the metrics
    preservation_policy=policies.AnyPreservationPolicy(
      [policies.LatestN(keep), best]
    ),
    cleanup_tmp_directories=True,
  )
  return ocp.CheckpointManager(
    _whole(workdir / stage / "checkpoints"), options=options
  )


def _whole(path: pathlib.Path) -> pathlib.Path:
  """The path as Orbax takes it, which knows no working directory."""
  return path if files.in_a_bucket(path) else path.absolute()


def save(
  manager: ocp.CheckpointManager,
  state: types.TrainState,
  *,
  step: int,
  total_steps: int,
  cursor: int,
  config: Mapping[str, Any],
  order: Mapping[str, Any] | None = None,
  reference: Any | None = None,
  sampler: Any | None = None,
  metrics: Mapping[str, float] | None = None,
) -> None:
  """Starts saving the stage as it stands after `step`; returns at once."""
  meta = {
    "cursor": cursor,
    "total_steps": total_steps,
    "config": dict(config),
  }
  if order is not None:
    meta["order"] = dict(order)
  items = {
    "params": ocp.args.StandardSave(state.params),
    "optimizer": ocp.args.StandardSave(
      {"opt_state": state.opt_state, "step": state.step}
    ),
    "meta": ocp.args.JsonSave(meta),
  }
  more = {"reference": reference, "sampler": sampler}
  for name, params in more.items():
    if params is not None:
      items[name] = ocp.args.StandardSave(params)
  manager.save(
    step,
    args=ocp.args.Composite(**items),
    metrics=dict(metrics) if metrics else None,
    force=True,
  )


def begin(
  manager: ocp.CheckpointManager,
  tx: optax.GradientTransformation,
  params: Any,
  *,
  with_reference: bool,
  with_sampler: bool = False,
) -> Start:
  """The stage after its last checkpoint, or fresh from `params`.

  Args:
    manager: of the stage's checkpoints.
    tx: the stage's optimiser.
    params: what a fresh stage starts from; given away.
    with_reference: whether the loss needs the parameters of the beginning.
    with_sampler: whether rollouts are sampled with parameters of their own.
  """
  like = describe(tx, params)
  if manager.latest_step() is None:
    # A copy: the stage gives the parameters' memory away.
    copy = jax.tree.map(jnp.copy, params) if with_reference else None
    init = initialise(tx, params)
    return Start(
      state=types.TrainState(**init(params)), like=like, reference=copy
    )
  items = {
    "params": ocp.args.StandardRestore(like.params),
    "optimizer": ocp.args.StandardRestore(
      {"opt_state": like.opt_state, "step": like.step}
    ),
    "meta": ocp.args.JsonRestore(),
  }
  more = {"reference": with_reference, "sampler": with_sampler}
  for name in [name for name, wanted in more.items() if wanted]:
    items[name] = ocp.args.StandardRestore(like.params)
  for leaf in jax.tree.leaves(params):  # else there would be both in memory
    leaf.delete()
  step = manager.latest_step()
  folder = manager.directory / str(step)
  with reading(str(folder), "delete it to go on from the one before"):
    got = manager.restore(step, args=ocp.args.Composite(**items))
  return Start(
    state=types.TrainState(
      params=got["params"],
      opt_state=got["optimizer"]["opt_state"],
      step=got["optimizer"]["step"],
    ),
    like=like,
    reference=got["reference"] if with_reference else None,
    sampler=got["sampler"] if with_sampler else None,
    cursor=got["meta"]["cursor"],
    order=got["meta"].get("order"),
    step=step,
  )


def initialise(tx: optax.GradientTransformation, params: Any) -> Any:
  """The jitted function from a stage's parameters to its state's fields.

  It takes the parameters' memory.
  """
  places = jax.tree.map(lambda x: x.sharding, vars(describe(tx, params)))
  return jax.jit(
    lambda params: vars(optim.init(tx, params)),
    out_shardings=places,
    donate_argnums=0,
  )


def describe(tx: optax.GradientTransformation, params: Any) -> types.TrainState:
  """The shapes, dtypes and shardings of a stage's state.

  What the optimiser keeps of a parameter lies where the parameter lies; the
  rest (counts) is whole on every device.
  """
  shapes = jax.eval_shape(functools.partial(optim.init, tx), params)
  leaves = jax.tree_util.tree_leaves_with_path(params)
  places = {path: (leaf.shape, leaf.sharding) for path, leaf in leaves}
  whole = jax.sharding.NamedSharding(
    leaves[0][1].sharding.mesh, jax.sharding.PartitionSpec()
  )

  def place(path, leaf):
    found = whole
    for i in range(len(path)):
      shape, sharding = places.get(path[i:], (None, whole))
      if shape == leaf.shape:
        found = sharding
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=found)

  return jax.tree_util.tree_map_with_path(place, shapes)


def place(state: types.TrainState, like: types.TrainState) -> types.TrainState:
  """The state laid out as `like`: nothing moves if it already is.

  The update returns layouts of the compiler's choice; brought back to those
  that the stage began with, the next step compiles nothing.
  """
  return jax.tree.map(lambda x, to: jax.device_put(x, to.sharding), state, like)


def abstract(tree: Any) -> Any:
  """The tree's shapes, dtypes and shardings, without its values."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(jnp.shape(x), x.dtype, sharding=x.sharding),
    tree,
  )


def steps(workdir: pathlib.Path, stage: str) -> list[int]:
  """The steps of a stage that have a finished checkpoint, ascending."""
  folder = workdir / stage / "checkpoints"
  if not folder.is_dir():
    return []
  return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())


def find(path: str, *, best: bool = False) -> pathlib.Path:
  """The checkpoint that a path names.

  Args:
    path: a workdir (its last stage that has a checkpoint), a stage's folder,
      its `checkpoints` folder, or one checkpoint.
    best: take the best evaluated one, not the latest.

  Raises:
    UserError: no such path, or no checkpoint there.
  """
  root = files.folder(path).expanduser()
  if not root.is_dir():
    raise UserError(
      f"No checkpoint at {path}: there is no such directory; name a workdir"
      " that a finished or interrupted run has left, or one checkpoint."
    )
  if (root / "params").is_dir():
    return root
  if root.name == "checkpoints":
    root = root.parent
  stages = [root.name] if (root / "checkpoints").is_dir() else None
  if stages:
    root = root.parent
  elif (root / "config.json").exists():
    stages = list(read_config(root)["stages"])
  for stage in reversed(stages or []):
    found = steps(root, stage)
    if found:
      step = _best(root / stage / "checkpoints", found) if best else found[-1]
      return root / stage / "checkpoints" / str(step)
  raise UserError(
    f"No checkpoint under {path}: train there first, or name another workdir."
  )


def _best(folder: pathlib.Path, found: list[int]) -> int:
  """The step with the highest `trust`."""
  scores = {}
  for step in found:
    path = folder / str(step) / "metrics" / "metrics"
    if path.exists():
      scores[step] = json.loads(path.read_text(encoding="utf-8"))["trust"]
  if not scores:
    raise UserError(
      f"No checkpoint in {folder} was evaluated: set the field `every` of an"
      " evaluation, or use --checkpoint=latest."
    )
  return max(scores, key=lambda step: (scores[step], step))


def restore_params(path: pathlib.Path, like: Any) -> Any:
  """The parameters of one checkpoint, as `like` (shapes and shardings).

  Raises:
    UserError: the checkpoint holds a model of another shape, or is damaged.
  """
  folder = _whole(path / "params")
  damaged = reading(f"The checkpoint {path}", "name another one")
  with damaged, ocp.StandardCheckpointer() as reader:
    saved = _shapes(reader.metadata(folder).item_metadata.tree)
    for name, shape in _shapes(like).items():
      if saved.get(name) != shape:
        raise UserError(
          f"The checkpoint {path} holds another model: {name} has shape"
          f" {saved.get(name)} there and {shape} in this config (with"
          " model.lora.rank a checkpoint holds the adapter alone)."
        )
    return reader.restore(folder, like)


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  leaves = jax.tree_util.tree_leaves_with_path(
    tree, is_leaf=lambda x: not isinstance(x, Mapping)
  )
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
    for path, leaf in leaves
  }


def read_config(workdir: pathlib.Path) -> dict[str, Any]:
  """The config.json of a workdir."""
  path = workdir / "config.json"
  value = log.read_json(path)
  if not isinstance(value, dict) or not isinstance(value.get("stages"), dict):
    raise UserError(
      f"{path} is not the config of a run: name a workdir that a run has left,"
      " or one checkpoint."
    )
  return value


def check_workdir(workdir: pathlib.Path) -> None:
  """Raises UserError if a workdir can be neither written nor made."""
  if files.in_a_bucket(workdir):
    return
  there = next(p for p in (workdir, *workdir.parents) if p.exists())
  if not there.is_dir():
    raise UserError(f"{there} is a file: give --workdir a directory.")
  if not os.access(there, os.W_OK | os.X_OK):
    raise UserError(f"{there} may not be written: use another --workdir.")


def check_same_run(workdir: pathlib.Path, config: Mapping[str, Any]) -> None:
  """Refuses a workdir that holds checkpoints of a different experiment.

  Fields that are newer than the checkpoints had their defaults.

  Raises:
    UserError: a field that decides what is learned differs; it is named.
  """
  check_workdir(workdir)
  metas = [
    path
    for path in workdir.glob("*/checkpoints/*/meta/metadata")
    if path.parts[-3].isdigit()  # else it is still being written
  ]
  if not metas:
    return
  # Each was held to those before it; the newest is what to name, if any.
  age = lambda path: path.stat().st_mtime
  newest = metas[-1] if files.in_a_bucket(workdir) else max(metas, key=age)
  with reading(str(newest), "use another --workdir"):
    saved = log.read_json(newest)["config"]
  path = _difference(_completed(saved), json.loads(json.dumps(config)))
  if path is not None:
    name, old, new = path
    raise UserError(
      f"{workdir} holds another experiment: its {name} is {old}, not {new};"
      " use another --workdir, or the config it was started with."
    )


def check_total(workdir: pathlib.Path, stage: str, total_steps: int) -> None:
  """Refuses to go on with a stage whose records say another number of steps.

  Raises:
    UserError: its last checkpoint was on the way to another one.
  """
  done = steps(workdir, stage)
  if not done:
    return
  path = workdir / stage / "checkpoints" / str(done[-1]) / "meta" / "metadata"
  with reading(str(path), "use another --workdir"):
    saved = log.read_json(path).get("total_steps", total_steps)
  if saved != total_steps:
    raise UserError(
      f"{stage}: its epochs took {saved} steps when the run in {workdir} began"
      f" and take {total_steps} now, so its records have changed: use another"
      " --workdir, or the records it was started with."
    )


def _completed(saved: dict[str, Any]) -> dict[str, Any]:
  """With every field of today; as it is if it has fields that are gone."""
  try:
    experiment = config_lib.from_dict(config_lib.Experiment, saved)
  except UserError:
    return saved
  return config_lib.to_dict(experiment)


def _difference(
  old: Any, new: Any, name: str = ""
) -> tuple[str, Any, Any] | None:
  """The first field, in order, whose value differs; None if there is none."""
  if not isinstance(old, dict) or not isinstance(new, dict):
    return None if old == new else (name, repr(old), repr(new))
  for key in [*old, *(k for k in new if k not in old)]:
    if key in FREE:
      continue
    if key not in old or key not in new:
      there = "set" if key in old else "absent"
      here = "set" if key in new else "absent"
      return f"{name}.{key}".lstrip("."), there, here
    found = _difference(old[key], new[key], f"{name}.{key}".lstrip("."))
    if found:
      return found
  if name == "stages" and list(old) != list(new):  # run in this order
    return name, ", ".join(old), ", ".join(new)
  return None
