"""The memory of a device that an experiment's programs take, from shapes alone.

Arguments (parameters, optimiser state, batch) are counted from the shapes,
dtypes and shardings of the very trees that the programs take.  What the
backward pass of a layer keeps is counted in its jaxpr: the stacked outputs of
the scan over layers, whose shapes are those of one device's share.  The rest
is a sum of named buffers, one formula each.  A program's peak is

  arguments + what is held throughout + the largest of its working sets

since the working sets are never alive together: the output head is done with
before the layers' backward pass begins.

Each multiple of a buffer counts the arrays of its size that are alive at once
in what XLA's CPU compiler allocates; no other factor stands here.  For CPUs
bfloat16 temporaries take 4 bytes: they are computed and kept in float32.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, NamedSharding

from grounded_jax import (
  checkpoint,
  config,
  inputs,
  lora,
  optim,
  slots,
  types,
  weights,
)
from grounded_jax import layout as layout_lib
from grounded_jax import mesh as mesh_lib
from grounded_jax import model as model_lib

# Arrays of one size that are alive at once.
_LOGITS = 2  # logits and their gradient, in float32
_LOGITS_CAST = 3  # and the gradient in the compute dtype, if that is another
_SCORES = 2  # attention's scores and weights
_SCORES_BACK = 3  # scores or weights, and the gradients of both
_OWN_SCORES_BACK = 4  # as above, over the prompt's keys and the own ones
_STREAM = 4  # the stream, its norm, and the gradients of both
_MLP = 3  # gate, up and their product, or the gradients of these
_DRAW = 4  # logits, weights, their padded blocks and cumulative sums


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
  """Bytes of one device while it runs, by what they are for."""

  arguments: dict[str, int]
  held: dict[str, int]  # temporaries alive throughout
  working: dict[str, int]  # sets of temporaries, one alive at a time
  host: int = 0  # offloaded to the host's memory; in none of the above

  @property
  def peak(self) -> int:
    """Arguments and temporaries; outputs replace arguments."""
    working = max(self.working.values(), default=0)
    return sum(self.arguments.values()) + sum(self.held.values()) + working


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
  """The arrays of a stage's step."""

  prompts: int
  prompt_len: int  # tokens
  group: int
  new_tokens: int  # of each completion
  micro: int  # prompts per micro-batch; 0 = all at once
  chunks: int  # in which the prompts are sampled
  extra_logp: int  # [P G C] arrays beside the sampler's: old_logp, ref_logp
  supervised: bool
  slots: int = 0  # prompts decoded at once; 0 = those of a chunk


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
  """What a device of the mesh holds of the model."""

  model: config.Model
  decoder: config.Decoder  # one device's share: heads, mlp, vocab over tensor
  kept_heads: int  # key/value heads in its caches
  mesh: AbstractMesh
  params: Any  # leaves with shape, dtype and sharding
  cpu: bool  # bfloat16 is computed and kept in float32

  @property
  def ways(self) -> int:
    """In how many parts the prompts are cut."""
    return self.mesh.shape["data"] * self.mesh.shape["fsdp"]

  def width(self, dtype: Any) -> int:
    """Bytes of a temporary's element."""
    size = jnp.dtype(dtype).itemsize
    floating = jnp.issubdtype(dtype, jnp.floating)
    return max(size, 4) if self.cpu and floating else size

  def rows(self, prompts: int) -> int:
    """A device's share of so many prompts."""
    return -(-prompts // self.ways)


def machine(
  model: config.Model,
  decoder: config.Decoder,
  mesh: config.Mesh,
  devices: int,
  cpu: bool,
) -> Machine:
  """A device of a mesh of so many, which need not exist.

  Raises:
    UserError: the mesh does not fit the devices or the weights.
  """
  sizes = mesh_lib.sizes(mesh, devices)
  kinds = (AxisType.Auto,) * len(sizes)
  abstract = AbstractMesh(sizes, mesh_lib.AXES, kinds)
  _, shapes = model_lib.abstract(decoder, model.param_dtype)
  axes = model_lib.logical_axes(decoder)
  cuts = mesh_lib.shardings(abstract, axes, shapes)
  params = mesh_lib.described(shapes, cuts)
  return _machine(model, decoder, abstract, params, cpu)


def _machine(
  model: config.Model,
  decoder: config.Decoder,
  mesh: AbstractMesh,
  params: Any,
  cpu: bool,
) -> Machine:
  """A device with its share of the whole decoder."""
  tensor = mesh.shape["tensor"]
  cut = dataclasses.replace(
    decoder,
    heads=decoder.heads // tensor,
    kv_heads=max(decoder.kv_heads // tensor, 1),
    mlp=decoder.mlp // tensor,
    vocab=decoder.vocab // tensor,
  )
  whole = decoder.kv_heads < tensor  # then each device keeps them all
  return Machine(
    model=model,
    decoder=cut,
    kept_heads=decoder.kv_heads if whole else cut.kv_heads,
    mesh=mesh,
    params=params,
    cpu=cpu,
  )


def of_sampler(
  experiment: config.Experiment, at: Machine, memory: int | None
) -> Machine:
  """What a device holds of the sampler's weights, beside a learner's.

  Args:
    experiment: its model and mesh.
    at: the learner's.
    memory: bytes of a device, if known.
  """
  made = layout_lib.make(
    at.model,
    weights.decoder(at.model),
    at.mesh,
    experiment.mesh.sampler_tensor,
    memory,
  )
  if not made.copies:
    return at
  model = dataclasses.replace(
    at.model, param_dtype=at.model.sampling_dtype, lora=config.LoRA()
  )
  decoder = weights.decoder(at.model)
  return _machine(model, decoder, made.mesh, made.params, at.cpu)


def trained(at: Machine) -> Any:
  """The described parameters that training changes: all, or the adapters."""
  adapters = at.model.lora
  if not adapters.rank:
    return at.params
  axes = model_lib.logical_axes(weights.decoder(at.model))
  shapes = lora.abstract(adapters, at.params)
  names = lora.logical_axes(adapters, axes)
  layout = mesh_lib.shardings(at.mesh, names, shapes)
  return mesh_lib.described(shapes, layout)


def batch(shape: Shape, mesh: AbstractMesh) -> Any:
  """The arrays that an update takes, as `types.Batch` or `types.SFTBatch`."""
  p, g, c = shape.prompts, shape.group, shape.new_tokens
  rows = mesh_lib.rows(mesh)
  make = lambda dtype, *size: jax.ShapeDtypeStruct(size, dtype, sharding=rows)
  prompts = types.PromptBatch(
    tokens=make(jnp.int32, p, shape.prompt_len),
    length=make(jnp.int32, p),
    key=make(jnp.int32, p),
  )
  tokens, floats = make(jnp.int32, p, g, c), make(jnp.float32, p, g, c)
  if shape.supervised:
    return types.SFTBatch(prompts=prompts, tokens=tokens, weight=floats)
  extra = [floats] * shape.extra_logp + [None] * (2 - shape.extra_logp)
  whole = NamedSharding(mesh, jax.sharding.PartitionSpec())
  return types.Batch(
    prompts=prompts,
    rollout=types.Rollout(
      tokens=tokens,
      sampled=make(bool, p, g, c),
      logp=floats,
      finished=make(bool, p, g),
    ),
    advantage=make(jnp.float32, p, g),
    weight=make(jnp.float32, p, g),
    policy_step=jax.ShapeDtypeStruct((), jnp.int32, sharding=whole),
    ref_logp=extra[0],
    old_logp=extra[1],
  )


def residuals(at: Machine, shape: Shape, remat: str) -> tuple[int, int]:
  """(device, host) bytes that the layers keep for the backward pass, all Y.

  Read from the jaxpr of the gradient over one device's share of a
  micro-batch: what the forward scan over the layers stacks.
  """
  p = at.rows(shape.micro or shape.prompts)
  graphdef, params = model_lib.abstract(at.decoder, at.model.param_dtype)
  make = lambda *size: jax.ShapeDtypeStruct(size, jnp.int32)
  prompts = types.PromptBatch(
    tokens=make(p, shape.prompt_len), length=make(p), key=make(p)
  )

  def total(params, prompts, tokens):
    hidden = model_lib.grouped_hidden(
      graphdef,
      params,
      prompts,
      tokens,
      at.model.compute_dtype,
      remat,
      at.model.matmul_precision,
      at.model.attention,
    )
    return hidden.astype(jnp.float32).sum()

  tokens = make(p, shape.group, shape.new_tokens)
  jaxpr = jax.make_jaxpr(jax.grad(total))(params, prompts, tokens)
  device = host = 0
  for equation in jaxpr.eqns:
    if equation.primitive.name != "scan" or equation.params["reverse"]:
      continue
    for out in equation.outvars[equation.params["num_carry"] :]:
      size = out.aval.size * at.width(out.aval.dtype)
      if out.aval.memory_space == jax.memory.Space.Host:
        host += size
      else:
        device += size
  return device, host


def _layer(at: Machine) -> int:
  """Elements of one layer's weights on a device, gathered over fsdp."""
  _, params = model_lib.abstract(at.decoder)
  return sum(
    math.prod(leaf.shape[1:]) for leaf in jax.tree.leaves(params["blocks"])
  )


def _scores(at: Machine, prompts: int, prompt_len: int) -> int:
  """Bytes of the scores of one block of a prompt's queries."""
  block = min(max(256, -(-prompt_len // 8)), prompt_len)
  wide = max(jnp.dtype(at.model.compute_dtype).itemsize, 4)
  return prompts * at.decoder.heads * block * prompt_len * wide


def _own_scores(at: Machine, prompts: int, shape: Shape) -> int:
  """Bytes of the scores of one block of completion queries over the prompt."""
  own = shape.new_tokens - 1
  block = min(128, own * shape.group)
  wide = max(jnp.dtype(at.model.compute_dtype).itemsize, 4)
  return prompts * at.decoder.heads * block * (shape.prompt_len + own) * wide


def _layer_backward(at: Machine, shape: Shape, again: int) -> int:
  """One layer's backward pass: the larger of its MLP's and its attention's.

  Args:
    at: the device.
    shape: of the step.
    again: bytes of what the layer computes again.
  """
  model, decoder = at.model, at.decoder
  p = at.rows(shape.micro or shape.prompts)
  tokens = p * (shape.prompt_len + shape.group * (shape.new_tokens - 1))
  each = tokens * at.width(model.compute_dtype)
  mlp = _MLP * each * decoder.mlp
  attention = max(
    _SCORES_BACK * _scores(at, p, shape.prompt_len),
    _OWN_SCORES_BACK * _own_scores(at, p, shape),
  )
  # q, k, v, the output's gradient, and theirs, in the attention's layout.
  heads = 4 * decoder.heads + 4 * decoder.kv_heads
  attention += heads * decoder.head_dim * each
  # By then what the MLP computed again is gone.
  attention += max(again - mlp, 0)
  dtypes = (model.compute_dtype, model.param_dtype)
  weights_and_gradients = sum(_layer(at) * at.width(d) for d in dtypes)
  stream = _STREAM * each * decoder.embed
  return max(again + mlp, attention) + stream + weights_and_gradients


def update(
  at: Machine, cfg: config.Optimizer, shape: Shape, remat: str = ""
) -> Program:
  """The learner's step (`update` of grpo, sft or dpo)."""
  learned = trained(at)
  state = checkpoint.describe(optim.make(cfg, 1), learned)
  frozen = {}
  if at.model.lora.rank:
    frozen = {"frozen weights": mesh_lib.held(at.params)}
  remat = remat or at.model.remat
  micro = shape.micro or shape.prompts
  kept, host = residuals(at, shape, remat)
  # Layers whose residuals are not all kept compute the rest again, one by one.
  every = residuals(at, shape, "none")[0] if remat != "none" else kept
  again = max(every - kept - host, 0) // at.decoder.layers
  grads = mesh_lib.held(learned)
  return Program(
    arguments=frozen
    | {
      "parameters": mesh_lib.held(state.params),
      "optimiser": mesh_lib.held((state.opt_state, state.step)),
      "batch": mesh_lib.held(batch(shape, at.mesh)),
    },
    held={
      # The sum over micro-batches, and that of one.
      "gradients": grads * (2 if micro < shape.prompts else 1),
      "activations": kept,
    },
    working={
      "logits chunk": _chunk(at, shape),
      "layer backward": _layer_backward(at, shape, again),
    },
    host=host,
  )


def _cut(at: Machine) -> bool:
  """Whether weights are gathered before they are used."""
  return at.mesh.shape["fsdp"] > 1


def _head(at: Machine, dtype: str) -> int:
  """Bytes of the output head on a device, gathered over fsdp."""
  return at.decoder.vocab * at.decoder.embed * at.width(dtype)


def _chunk(at: Machine, shape: Shape) -> int:
  """The output head's backward pass over one chunk, and its input."""
  model, decoder = at.model, at.decoder
  micro = shape.micro or shape.prompts
  per_prompt = shape.group * shape.new_tokens
  each = model.logp_chunk * at.ways // micro
  tokens = min(max(each, 1), per_prompt)
  wide = max(jnp.dtype(model.compute_dtype).itemsize, 4)
  cast = model.compute_dtype != model.param_dtype
  copies = _LOGITS_CAST if model.compute_dtype == "bfloat16" else _LOGITS
  p = at.rows(micro)
  logits = copies * p * tokens * decoder.vocab * wide
  head = _head(at, model.compute_dtype) if cast or _cut(at) else 0
  # A device's own sum of the head's gradient, in float32.
  own = _head(at, "float32") if at.ways > 1 else 0
  states = 2 * p * per_prompt * decoder.embed * at.width(model.compute_dtype)
  return logits + states + head + own


def _entry(at: Machine, dtype: str, kv_dtype: str = "") -> int:
  """Bytes of a token's keys and values in all layers."""
  vectors = 2 * at.decoder.layers * at.kept_heads
  if kv_dtype == "int8":
    return vectors * (at.decoder.head_dim + 4)  # and a float32 scale
  # A cache keeps its own dtype, whatever computes with it.
  return vectors * at.decoder.head_dim * jnp.dtype(dtype).itemsize


def sampler(at: Machine, shape: Shape) -> Program:
  """The sampler of one chunk of a step's prompts, or of its slots.

  `sampler.sample` or, with slots, the programs of `blocks`, whose caches are
  alive throughout.
  """
  model, decoder = at.model, at.decoder
  dtype = model.sampling_dtype
  width = at.width(dtype)
  read = shape.prompts // shape.chunks  # prompts whose tokens are read at once
  parts = (shape.group,)
  if shape.slots:
    read, parts = at.ways, slots.widths(shape.group)
  cut = dataclasses.replace(shape, prompts=read)
  tokens = at.rows(read) * shape.prompt_len
  held_prompts = at.rows(shape.slots or read) * len(parts)
  entry = _entry(at, dtype, model.kv_dtype)
  prompt = entry * held_prompts * shape.prompt_len
  rows = at.rows(shape.slots or read) * sum(parts)
  cast = 0
  if dtype != model.param_dtype:
    numbers = sum(
      math.prod(leaf.sharding.shard_shape(leaf.shape))
      for leaf in jax.tree.leaves(at.params)
    )
    cast = numbers * width
  heads = decoder.heads + 2 * decoder.kv_heads
  attention = _SCORES * _scores(at, at.rows(read), shape.prompt_len)
  attention += tokens * heads * decoder.head_dim * width
  mlp = _MLP * tokens * decoder.mlp * width
  layer = _layer(at) * width
  head = _head(at, dtype) if _cut(at) else 0
  wide = max(jnp.dtype(dtype).itemsize, 4)
  return Program(
    arguments={
      "parameters": mesh_lib.held(at.params),
      "batch": mesh_lib.held(batch(cut, at.mesh).prompts),
    },
    held={
      "cast weights": cast,
      "prompt cache": prompt,
      "own cache": entry * rows * (shape.new_tokens - 1),
    },
    working={
      "prefill": max(attention, mlp)
      + tokens * decoder.embed * width
      + layer
      + head,
      # The prompts' keys and values are laid out anew before the first token.
      "decode": _entry(at, dtype) * tokens
      + layer
      + head
      + _DRAW * rows * decoder.vocab * at.mesh.shape["tensor"] * wide,
    },
  )


def shape_of(stage: config.Stage, data: config.Data) -> Shape:
  """The largest arrays that a stage can make: prompts as long as allowed."""
  supervised = stage.objective != "grpo"
  section, extra = stage.learns, 0
  if not supervised:
    extra = (section.beta > 0) + (section.iterations > 1)
  return Shape(
    prompts=section.prompts,
    prompt_len=data.max_prompt_len,
    group=section.group,
    new_tokens=section.max_new_tokens,
    micro=section.micro,
    chunks=1 if supervised else section.sample_chunks,
    slots=0 if supervised else section.slots,
    extra_logp=extra,
    supervised=supervised,
  )


def sampled_shape_of(stage: config.Stage, shape: Shape) -> Shape:
  """The arrays of a stage's rollout, beside its update's."""
  drawn = stage.samples
  return dataclasses.replace(
    shape, group=drawn.group, chunks=drawn.sample_chunks, slots=drawn.slots
  )


def of_stage(
  at: Machine,
  stage: config.Stage,
  data: config.Data,
  drawing: Machine | None = None,
) -> dict[str, Program]:
  """The programs of a stage, with what lies beside each while it runs.

  Args:
    at: what a device holds while it learns.
    stage: the stage.
    data: how long prompts may be.
    drawing: what it holds of the sampler's own weights, if it has any.

  Raises:
    UserError: prompts that the mesh does not divide.
  """
  shape = shape_of(stage, data)
  inputs.check_rows(at.mesh, stage)
  learner = update(at, stage.optimizer, shape)
  samples = stage.samples
  ahead = samples is not None and samples.off_policy_steps > 0
  copies = {
    "reference": stage.refers,
    "sampling parameters": ahead,
  }
  size = mesh_lib.held(trained(at))
  more = {name: size for name, needed in copies.items() if needed}
  beside = lambda program, more: dataclasses.replace(
    program, arguments=program.arguments | more
  )
  if samples is None:
    return {"update": beside(learner, more)}
  idle = {"optimiser": learner.arguments["optimiser"]}
  if drawing is not None and drawing is not at:
    idle["learner's parameters"] = mesh_lib.held(at.params)
    if at.model.lora.rank:
      idle["adapters"] = learner.arguments["parameters"]
  drawn = sampler(drawing or at, sampled_shape_of(stage, shape))
  return {
    "update": beside(learner, more),
    "sampler": beside(drawn, idle | more),
  }


def run(
  experiment: config.Experiment,
  devices: int,
  cpu: bool,
  memory: int | None = None,
) -> dict[str, dict[str, Program]]:
  """The programs of every stage, by its name; nothing is allocated.

  Args:
    experiment: its model, mesh, data and stages.
    devices: in the mesh; they need not exist.
    cpu: count as XLA does on CPUs, not on accelerators.
    memory: bytes of a device, which may decide how the sampler is laid out.
  """
  decoder = weights.decoder(experiment.model)
  at = machine(experiment.model, decoder, experiment.mesh, devices, cpu)
  drawing = of_sampler(experiment, at, memory)
  return {
    stage.name: of_stage(at, stage, experiment.data, drawing)
    for stage in experiment.stages
  }


def on_cpu() -> bool:
  """Whether this machine computes on CPUs."""
  return jax.default_backend() == "cpu"


def rows(programs: dict[str, Program]) -> list[tuple]:
  """The table of a stage: a label, then bytes or None for each program."""
  columns = [
    program.arguments
    | program.held
    | {f"one of: {name}": size for name, size in program.working.items()}
    | {"peak": program.peak}
    | ({"on the host": program.host} if program.host else {})
    for program in programs.values()
  ]
  labels = dict.fromkeys(name for column in columns for name in column)
  ends = ("peak", "on the host")
  order = sorted(labels, key=lambda name: name in ends)
  return [(name, *(column.get(name) for column in columns)) for name in order]


def to_dict(program: Program) -> dict[str, Any]:
  """The program as a result to print."""
  return vars(program) | {"peak": program.peak}
