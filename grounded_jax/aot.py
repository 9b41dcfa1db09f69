"""Programs compiled for devices that are not here: what they take and do.

The programs of a step are lowered as a run calls them, for described arrays
over the devices of a named TPU topology, compiled, counted (`hlo`) and timed by
the compiler's own estimate (`estimate`).  All numbers are of one device.
Nothing is allocated and nothing runs: these are no measurements.
"""

import collections
import dataclasses
import os
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from grounded_jax import (
  checkpoint,
  chips,
  config,
  dpo,
  grpo,
  hlo,
  optim,
  plan,
  sampler,
  sft,
  types,
)
from grounded_jax import layout as layout_lib
from grounded_jax import mesh as mesh_lib
from grounded_jax import model as model_lib
from grounded_jax.records import UserError

# What the compiler's library would otherwise ask a server that is not there.
# Another process may hold the library: no chip is touched.
_ALONE = {
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
  """A model laid out over devices that need not exist."""

  model: config.Model
  decoder: config.Decoder
  devices: Mesh
  params: Any  # described arrays
  layout: layout_lib.Layout  # of the sampler

  @property
  def graphdef(self) -> Any:
    """Of the model."""
    return model_lib.abstract(self.decoder, self.model.param_dtype)[0]

  @property
  def chip(self) -> chips.Chip:
    """One of the devices."""
    return chips.find(self.devices.devices.flat[0])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
  """A program of a device."""

  seconds: float  # that its compilation took
  memory: dict[str, int]  # bytes, by what they are for
  counts: hlo.Program
  unknown: tuple[str, ...]  # loops whose length the program does not tell

  def table(self) -> dict[str, Any]:
    """The program as a result to print."""
    return (
      {"compile_seconds": self.seconds, "memory_bytes": self.memory}
      | self.counts.table()
      | {"arguments_moved": moved(self.counts)}
    )

  def decode_step(self) -> hlo.Program:
    """Of a sampler: one run of the loop over tokens."""
    (name,) = self.unknown
    return self.counts.inside(name)


def moved(counts: hlo.Program) -> dict[str, int]:
  """Returns the bytes that collectives move of the program's arguments."""
  out = collections.Counter()
  for cost, collective in counts.collectives():
    if collective.argument:
      out[collective.argument] += cost.times * collective.bytes
  return dict(out)


def mesh(topology: str, cfg: config.Mesh) -> Mesh:
  """Returns the mesh over a topology's devices.

  Args:
    topology: a name like "v5e:4x4".
    cfg: sizes of the axes.

  Raises:
    UserError: no such topology, no TPU compiler, or sizes that do not fit.
  """
  return _over(_described(topology), cfg)


def host(topology: str, cfg: config.Mesh) -> Mesh:
  """Returns the mesh of what a process asks alone: of one host's devices.

  The compiler takes no part of a topology, so these are a topology of their
  own.

  Args:
    topology: of all hosts.
    cfg: sizes of the axes; of fewer devices than a host has, the first so many.
  """
  devices = _described(topology)
  first = devices[0].process_index
  count = sum(device.process_index == first for device in devices)
  if count < len(devices):
    kind, shape = topology.split(":")
    flat = "x1" * (shape.count("x") - 1)
    devices = _described(f"{kind}:2x{count // 2}{flat}")
  return _over(devices[: mesh_lib.wanted(cfg, len(devices))], cfg)


def _described(topology: str) -> list[Any]:
  for name, value in _ALONE.items():
    os.environ.setdefault(name, value)
  try:
    found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
  except Exception as error:  # whatever the compiler's library raises
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    raise UserError(
      f"No devices of topology {topology!r}: {reason}; names are like v5e:4x4,"
      " and the extra [tpu] must be installed."
    ) from error
  return list(found.devices)


def _over(devices: Sequence[Any], cfg: config.Mesh) -> Mesh:
  sizes = mesh_lib.sizes(cfg, len(devices))
  return Mesh(
    np.array(devices).reshape(sizes),
    mesh_lib.AXES,
    axis_types=(AxisType.Auto,) * len(sizes),
  )


def target(
  model: config.Model,
  decoder: config.Decoder,
  devices: Mesh,
  sampler_tensor: int = 0,
) -> Target:
  """Returns the model's parameters as they lie over the devices.

  Args:
    model: its section.
    decoder: its shape.
    devices: the learner's mesh.
    sampler_tensor: `mesh.sampler_tensor`.

  Raises:
    UserError: sizes that the mesh does not divide.
  """
  _, shapes = model_lib.abstract(decoder, model.param_dtype)
  axes = model_lib.logical_axes(decoder)
  layout = mesh_lib.shardings(devices, axes, shapes)
  return Target(
    model=model,
    decoder=decoder,
    devices=devices,
    params=mesh_lib.described(shapes, layout),
    layout=layout_lib.make(
      model,
      decoder,
      devices,
      sampler_tensor,
      chips.memory(devices.devices.flat[0]),
    ),
  )


def _batch(devices: Mesh, shape: plan.Shape) -> Any:
  """What an update takes, over such a mesh."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=NamedSharding(devices, x.sharding.spec)
    ),
    plan.batch(shape, devices.abstract_mesh),
  )


def lower_init(at: Target, stage: config.Stage) -> jax.stages.Lowered:
  """Returns what makes a stage's state from the parameters."""
  tx = optim.make(stage.optimizer, max(stage.steps, 1))
  return checkpoint.initialise(tx, at.params).lower(at.params)


def lower_reshard(at: Target) -> jax.stages.Lowered:
  """Returns the move of the weights to the sampler's layout."""
  return at.layout.move.lower(at.params)


def lower_logp(
  at: Target, stage: config.Stage, shape: plan.Shape
) -> jax.stages.Lowered:
  """Returns the log-probabilities of a step's rollout, or of its pairs."""
  batch = _batch(at.devices, shape)
  common = (stage.learns, at.model, at.graphdef, at.params)
  if stage.objective == "dpo":
    return dpo.completion_logp.lower(*common, batch)
  return grpo.rollout_logp.lower(*common, batch.prompts, batch.rollout)


def lower_update(
  at: Target, stage: config.Stage, shape: plan.Shape
) -> jax.stages.Lowered:
  """Returns the update of a stage, as a run would call it."""
  tx = optim.make(stage.optimizer, max(stage.steps, 1))
  state = checkpoint.describe(tx, at.params)
  batch = _batch(at.devices, shape)
  step = {"grpo": grpo, "sft": sft, "dpo": dpo}[stage.objective]
  reference = [] if step is not dpo else [_reference_logp(batch)]
  return step.update.lower(
    *(stage.learns, at.model, at.graphdef, tx, state, batch), *reference
  )


def _reference_logp(batch: types.SFTBatch) -> jax.ShapeDtypeStruct:
  """Of each completion."""
  weight = batch.weight
  return jax.ShapeDtypeStruct(
    weight.shape[:2], weight.dtype, sharding=weight.sharding
  )


def lower_sampler(
  at: Target, shape: plan.Shape, temperature: float = 1.0
) -> jax.stages.Lowered:
  """Returns the sampler of one chunk of a step's prompts."""
  whole = NamedSharding(at.layout.mesh, PartitionSpec())
  number = jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)
  chunk = dataclasses.replace(shape, prompts=shape.prompts // shape.chunks)
  return sampler.sample.lower(
    at.graphdef,
    at.layout.params,
    _batch(at.layout.mesh, chunk).prompts,
    seed=number,
    stage=number,
    step=number,
    purpose=number,
    group=shape.group,
    max_new_tokens=shape.new_tokens,
    temperature=temperature,
    top_p=1.0,
    eos=(1,),  # which token it is changes nothing
    model=at.model,
  )


class DoesNotFit(UserError):
  """A program that a device's memory does not hold."""


def compile(lowered: jax.stages.Lowered, trips: int | None = None) -> Compiled:
  """Returns what the compiler makes of a lowered program.

  Args:
    lowered: the program.
    trips: runs of every loop whose length the program does not tell.

  Raises:
    DoesNotFit: the devices' memory does not hold it.
  """
  begun = time.perf_counter()
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    reason = str(error).splitlines()[0]
    raise DoesNotFit(
      f"A program does not fit: {reason} Cut the prompts, raise mesh.fsdp or"
      " set model.remat."
    ) from error
  found = compiled.memory_analysis()
  arguments, temporaries = (
    found.argument_size_in_bytes,
    found.temp_size_in_bytes,
  )
  outputs = found.output_size_in_bytes - found.alias_size_in_bytes
  seconds, text = time.perf_counter() - begun, compiled.as_text()
  counts = hlo.analyse(text)
  unknown = tuple(loop.name for loop in counts.loops if loop.trips is None)
  if trips is not None and unknown:
    counts = hlo.analyse(text, dict.fromkeys(unknown, trips))
  return Compiled(
    seconds=seconds,
    memory={
      "arguments": arguments,
      "outputs": outputs,  # those that replace no argument
      "temporaries": temporaries,
      "peak": arguments + outputs + temporaries,
      "host": found.host_temp_size_in_bytes,
    },
    counts=counts,
    unknown=unknown,
  )
