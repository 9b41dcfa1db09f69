"""Programs compiled for devices that are not here: what they take and do.

The update and the sampler are lowered as a run calls them, for described
arrays over the devices of a named TPU topology, compiled, and counted (`hlo`).
All numbers are of one device.  Nothing is allocated and nothing runs: these
are the compiler's numbers, not measurements.
"""

import collections
import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from grounded_jax import (
  checkpoint,
  config,
  grpo,
  hlo,
  optim,
  plan,
  sampler,
  sft,
  weights,
)
from grounded_jax import mesh as mesh_lib
from grounded_jax import model as model_lib
from grounded_jax.records import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
  """A model laid out over devices that need not exist."""

  model: config.Model
  decoder: config.Decoder
  devices: Mesh
  params: Any  # described arrays


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
  """A program of a device."""

  seconds: float  # that its compilation took
  memory: dict[str, int]  # bytes, by what they are for
  counts: hlo.Program

  def table(self) -> dict[str, Any]:
    """The program as a result to print."""
    return (
      {"compile_seconds": self.seconds, "memory_bytes": self.memory}
      | self.counts.table()
      | {"arguments_moved": moved(self.counts)}
    )

  def decode_step(self) -> hlo.Program:
    """Of a sampler: one run of the loop over tokens."""
    (loop,) = (loop for loop in self.counts.loops if loop.trips is None)
    return self.counts.inside(loop.name)


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
  try:
    found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
  except Exception as error:  # whatever the compiler's library raises
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    raise UserError(
      f"No devices of topology {topology!r}: {reason}; names are like v5e:4x4,"
      " and the extra [tpu] must be installed."
    ) from error
  sizes = mesh_lib.sizes(cfg, len(found.devices))
  return Mesh(
    np.array(found.devices).reshape(sizes),
    mesh_lib.AXES,
    axis_types=(AxisType.Auto,) * len(sizes),
  )


def target(
  model: config.Model, decoder: config.Decoder, devices: Mesh
) -> Target:
  """Returns the model's parameters as they lie over the devices.

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
  )


def _batch(at: Target, shape: plan.Shape) -> Any:
  """What an update takes, over the target's devices."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=NamedSharding(at.devices, x.sharding.spec)
    ),
    plan.batch(shape, at.devices.abstract_mesh),
  )


def lower_update(
  at: Target, stage: config.Stage, shape: plan.Shape
) -> jax.stages.Lowered:
  """Returns the update of a stage, as a run would call it."""
  graphdef, _ = model_lib.abstract(at.decoder, at.model.param_dtype)
  tx = optim.make(stage.optimizer, max(stage.steps, 1))
  state = checkpoint.describe(tx, at.params)
  step, cfg = (sft, stage.sft) if shape.supervised else (grpo, stage.grpo)
  return step.update.lower(
    cfg, at.model, graphdef, tx, state, _batch(at, shape)
  )


def lower_sampler(
  at: Target, shape: plan.Shape, temperature: float = 1.0
) -> jax.stages.Lowered:
  """Returns the sampler of one chunk of a step's prompts."""
  graphdef, _ = model_lib.abstract(at.decoder, at.model.param_dtype)
  whole = NamedSharding(at.devices, PartitionSpec())
  number = jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)
  chunk = dataclasses.replace(shape, prompts=shape.prompts // shape.chunks)
  return sampler.sample.lower(
    graphdef,
    at.params,
    _batch(at, chunk).prompts,
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


def compile(lowered: jax.stages.Lowered) -> Compiled:
  """Returns what the compiler makes of a lowered program.

  Raises:
    UserError: it does not fit the devices' memory.
  """
  begun = time.perf_counter()
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    reason = str(error).splitlines()[0]
    raise UserError(
      f"A program does not fit: {reason} Cut the prompts, raise mesh.fsdp or"
      " set model.remat."
    ) from error
  found = compiled.memory_analysis()
  arguments, temporaries = (
    found.argument_size_in_bytes,
    found.temp_size_in_bytes,
  )
  outputs = found.output_size_in_bytes - found.alias_size_in_bytes
  return Compiled(
    seconds=time.perf_counter() - begun,
    memory={
      "arguments": arguments,
      "outputs": outputs,  # those that replace no argument
      "temporaries": temporaries,
      "peak": arguments + outputs + temporaries,
      "host": found.host_temp_size_in_bytes,
    },
    counts=hlo.analyse(compiled.as_text()),
  )


def run(
  experiment: config.Experiment, topology: str
) -> dict[str, dict[str, Any]]:
  """The table of each stage's programs, compiled for a topology.

  Raises:
    UserError: what the mesh, the topology or the memory does not allow.
  """
  if experiment.model.lora.rank:
    raise UserError("Compiling for a topology does not know adapters yet.")
  at = target(
    experiment.model,
    weights.decoder(experiment.model),
    mesh(topology, experiment.mesh),
  )
  return {
    stage.name: _stage(at, stage, experiment.data)
    for stage in experiment.stages
  }


def _stage(
  at: Target, stage: config.Stage, data: config.Data
) -> dict[str, Any]:
  shape = plan.shape_of(stage, data)
  chunk = shape.prompts // shape.chunks
  mesh_lib.check_rows(at.devices, f"{stage.objective}.prompts", chunk)
  out = {
    "devices": at.devices.size,
    "update": compile(lower_update(at, stage, shape)).table(),
  }
  if shape.supervised:
    return out
  drawn = compile(lower_sampler(at, shape, stage.grpo.temperature))
  step = drawn.decode_step()
  return out | {
    "sampler": drawn.table(),
    "decode_step": step.table() | {"arguments_moved": moved(step)},
  }
