"""An experiment's step on a TPU topology: its programs, and what they come to.

Every program that a run calls is compiled for devices that are not here.  The
numbers are the compiler's, and those that follow from them: no measurements.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import rich.table

from grounded_jax import (
  aot,
  config,
  counts,
  estimate,
  hlo,
  inputs,
  plan,
  t5,
  weights,
)
from grounded_jax import mesh as mesh_lib
from grounded_jax.records import UserError
from grounded_jax.verifiers import t5 as verifier_t5

# Of a verifier's array: about a passage and a statement.
_PAIR_TOKENS = 512


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
  """One program of a step, compiled or found not to fit."""

  name: str
  lower: Callable[[], jax.stages.Lowered]
  needed: int = 0  # operations of one device at least
  trips: int | None = None  # runs of loops whose length depends on data


def run(
  experiment: config.Experiment,
  topology: str,
  note: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
  """The tables of each stage's programs, and whether all of them fit.

  Args:
    experiment: its model, mesh, data, stages and verifiers.
    topology: a name like "v5e:4x4".
    note: told of each program before it is compiled.

  Raises:
    UserError: what the mesh or the topology does not allow.
  """
  _check(experiment)
  devices = aot.mesh(topology, experiment.mesh)
  at = aot.target(
    experiment.model,
    weights.decoder(experiment.model),
    devices,
    experiment.mesh.sampler_tensor,
  )
  stages = {}
  for stage in experiment.stages:
    note(f"{stage.name}:")
    stages[stage.name] = _stage(at, topology, stage, experiment.data, note)
  return {
    "topology": topology,
    "chip": at.chip.name,
    "devices": devices.size,
    "hbm_bytes": at.chip.memory,
    "mesh": dict(devices.shape),
    "sampler_mesh": dict(at.layout.mesh.shape),
    "stages": stages,
    "fits": all(
      program["fits"]
      for stage in stages.values()
      for program in stage["programs"].values()
    ),
  }


def _check(experiment: config.Experiment) -> None:
  """Refuses what a run would compile otherwise than this module does."""
  unknown = {"model.lora.rank": experiment.model.lora.rank}
  for stage in experiment.stages:
    if stage.objective == "grpo":
      unknown[f"stages.{stage.name}.grpo.pack"] = stage.grpo.pack
      unknown[f"stages.{stage.name}.grpo.slots"] = stage.grpo.slots
    elif stage.samples:
      raise UserError(
        "--mode=compile does not know sft.demonstrations=best, which stages."
        f"{stage.name} has: set it to gold, which compiles its update."
      )
  for name, value in unknown.items():
    if value:
      raise UserError(f"--mode=compile does not know {name} yet: set it to 0.")


def _stage(
  at: aot.Target,
  topology: str,
  stage: config.Stage,
  data: config.Data,
  note: Callable[[str], None],
) -> dict[str, Any]:
  """The tables of a stage's programs and of its whole step."""
  shape = plan.shape_of(stage, data)
  inputs.check_rows(at.devices, stage)
  programs = {}
  for program in _programs(at, topology, stage, shape):
    note(f"  {program.name}")
    programs |= compiled(at, program)
  for name, held in resident(programs, stage).items():
    table = programs[name]
    table["resident_bytes"] = held
    table["fits"] = table["memory_bytes"]["peak"] + held <= at.chip.memory
  return {"programs": programs, "step": _step(at, stage, shape, programs)}


def resident(
  programs: dict[str, dict[str, Any]], stage: config.Stage
) -> dict[str, int]:
  """Returns what lies in a device's memory beside each program's own arrays.

  Args:
    programs: tables of the stage's programs; those without memory did not fit.
    stage: which copies of the parameters it keeps.
  """
  sizes = {
    name: table["memory_bytes"]
    for name, table in programs.items()
    if "memory_bytes" in table
  }
  if "init" not in sizes:
    return {}
  params = sizes["init"]["arguments"]
  state = params + sizes["init"]["outputs"]
  held = {
    "init": 0,
    "reshard": state - params,
    "sampler": state,
    "logp": state - params,
    "update": 0,
    "verifier": state,
  }
  extra = 0
  if stage.objective == "grpo":
    # The reference of a KL term, and the copy that samples ahead.
    copies = (stage.grpo.beta > 0) + stage.grpo.off_policy_steps
    extra = copies * params
    if stage.grpo.sample_chunks > 1:  # sampled beside the scoring
      held["verifier"] += sizes.get("sampler", {}).get("arguments", 0)
  judge = sizes.get("verifier", {}).get("arguments", 0)
  return {
    name: held[name] + extra + (judge if name != "verifier" else 0)
    for name in sizes
  }


def _programs(
  at: aot.Target, topology: str, stage: config.Stage, shape: plan.Shape
) -> Iterator[Program]:
  """What a run of the stage calls."""
  work = counts.Work(
    prompts=shape.prompts,
    prompt_len=shape.prompt_len,
    group=shape.group,
    new_tokens=shape.new_tokens,
  )
  forward = counts.grouped(at.decoder, work)
  share = lambda adds: 2 * adds // at.devices.size
  yield Program(name="init", lower=lambda: aot.lower_init(at, stage))
  if not shape.supervised:
    yield Program(name="reshard", lower=lambda: aot.lower_reshard(at))
    prefill = counts.prefill(at.decoder, work).total
    chunk = share(prefill + counts.decode(at.decoder, work)) // shape.chunks
    yield Program(
      name="sampler",
      lower=lambda: aot.lower_sampler(at, shape, stage.grpo.temperature),
      needed=chunk,
      trips=shape.new_tokens - 1,
    )
  if stage.objective != "sft":
    yield Program(
      name="logp",
      lower=lambda: aot.lower_logp(at, stage, shape),
      needed=share(forward.total),
    )
  yield Program(
    name="update",
    lower=lambda: aot.lower_update(at, stage, shape),
    needed=share(counts.update(forward)),
    trips=shape.prompts // (shape.micro or shape.prompts),
  )
  judge = stage.rewards.verifier
  if judge.kind == "t5" and not shape.supervised:
    yield verifier(aot.host(topology, judge.mesh), judge)


def verifier(devices: jax.sharding.Mesh, cfg: config.Verifier) -> Program:
  """A T5 that judges a batch of pairs, cut over a process's own devices.

  The published judge's shape is known; of others config.json is read.
  """
  shape = t5.published(cfg.path) or weights.read_t5(cfg.path).shape
  dtype = cfg.dtype or "bfloat16"
  graphdef, params, axes = t5.abstract(shape, dtype)
  layout = mesh_lib.shardings(devices, axes, params)
  ways = mesh_lib.ways(devices, "batch")
  pairs = -(-cfg.batch_tokens // _PAIR_TOKENS // ways) * ways
  rows = mesh_lib.rows(devices)
  array = lambda *dims: jax.ShapeDtypeStruct(dims, "int32", sharding=rows)
  return Program(
    name="verifier",
    lower=lambda: verifier_t5.judge.lower(
      graphdef,
      mesh_lib.described(params, layout),
      array(pairs, _PAIR_TOKENS),
      array(pairs),
      one=1,  # which tokens they are changes nothing
      zero=0,
      dtype=dtype,
      precision="default",
    ),
    needed=2
    * pairs
    * counts.encoder(
      embed=shape.embed,
      mlp=shape.mlp,
      width=shape.heads * shape.head_dim,
      layers=shape.layers,
      tokens=_PAIR_TOKENS,
    )
    // devices.size,
  )


def compiled(at: aot.Target, program: Program) -> dict[str, dict[str, Any]]:
  """The table of a program; of a sampler, those of its two parts as well."""
  try:
    made = aot.compile(program.lower(), program.trips)
  except aot.DoesNotFit as error:
    return {program.name: {"fits": False, "reason": str(error)}}
  spent = estimate.seconds(made.counts, at.chip)
  out = {
    program.name: made.table()
    | {
      "fits": True,
      "collectives_beside": _beside(made.counts),
      "estimated_seconds": spent.table(),
      "estimated_utilisation": _utilisation(at, program.needed, spent),
    }
  }
  if program.name == "sampler":
    step = made.decode_step()
    each = estimate.seconds(step, at.chip)
    rest = {
      name: value - program.trips * each.table()[name]
      for name, value in spent.table().items()
    }
    out[program.name]["prefill"] = {"estimated_seconds": rest}
    out[program.name]["decode_step"] = step.table() | {
      "estimated_seconds": each.table(),
      "arguments_moved": aot.moved(step),
    }
  return out


def _beside(program: hlo.Program) -> float | None:
  """The share of collectives' bytes that other work may hide."""
  sizes = {True: 0, False: 0}
  for cost, each in program.collectives():
    sizes[each.asynchronous] += cost.times * each.bytes
  total = sum(sizes.values())
  return sizes[True] / total if total else None


def _utilisation(
  at: aot.Target, needed: int, spent: estimate.Estimate
) -> dict[str, float]:
  """Needed operations over what the chip could do in the time."""
  share = lambda seconds: needed / (seconds * at.chip.flops)
  return {"most": share(spent.least), "least": share(spent.most)}


def _step(
  at: aot.Target,
  stage: config.Stage,
  shape: plan.Shape,
  programs: dict[str, dict[str, Any]],
) -> dict[str, Any]:
  """A step's estimated seconds, and tokens a second of each chip.

  A completion's tokens count with its prompt's, as in `benchmark`.
  """
  if not all(program["fits"] for program in programs.values()):
    return {}
  times = {"update": 1}
  if stage.objective == "dpo":
    times["logp"] = 1
  if not shape.supervised:
    cfg = stage.grpo
    times["update"] = cfg.iterations
    times["logp"] = (cfg.iterations > 1) + (cfg.beta > 0)
    times |= {"reshard": 1, "sampler": shape.chunks}
  tokens = shape.prompts * shape.group * (shape.prompt_len + shape.new_tokens)
  seconds = {
    bound: sum(
      n * programs[name]["estimated_seconds"][bound]
      for name, n in times.items()
    )
    for bound in ("least", "most")
  }
  return {
    "estimated_seconds": seconds,
    "estimated_tokens_per_second_per_chip": {
      "most": tokens / seconds["least"] / at.devices.size,
      "least": tokens / seconds["most"] / at.devices.size,
    },
  }


def table(
  name: str, result: dict[str, Any], stage: dict[str, Any]
) -> rich.table.Table:
  """A stage's programs for people, of one device."""
  programs = stage["programs"]
  out = rich.table.Table(
    "",
    *programs,
    title=f"{name}: each of {result['devices']} {result['chip']}",
    box=None,
  )
  giga = lambda x: f"{x / 1e9:.2f}"
  span = lambda *ends: "-".join(dict.fromkeys(f"{x:.2g}" for x in ends))
  rows = {
    "arguments GB": lambda x: giga(x["memory_bytes"]["arguments"]),
    "temporaries GB": lambda x: giga(x["memory_bytes"]["temporaries"]),
    "peak GB": lambda x: giga(x["memory_bytes"]["peak"]),
    "beside them GB": lambda x: giga(x["resident_bytes"]),
    "TFLOP": lambda x: f"{x['flops'] / 1e12:.2f}",
    "traffic GB": lambda x: giga(x["main"]),
    "collectives GB": lambda x: giga(_sent(x["collectives"])),
    "of these beside": lambda x: _percent(x["collectives_beside"]),
    "estimated s": lambda x: span(
      x["estimated_seconds"]["least"], x["estimated_seconds"]["most"]
    ),
    "estimated use": lambda x: span(
      x["estimated_utilisation"]["least"], x["estimated_utilisation"]["most"]
    ),
    "compiled in s": lambda x: f"{x['compile_seconds']:.0f}",
  }
  for label, shown in rows.items():
    cells = (
      shown(x) if "memory_bytes" in x else "does not fit"
      for x in programs.values()
    )
    out.add_row(label, *cells)
  return out


def _sent(collectives: dict[str, dict[str, int]]) -> int:
  return sum(each["bytes"] for each in collectives.values())


def _percent(share: float | None) -> str:
  return "-" if share is None else f"{share:.0%}"
