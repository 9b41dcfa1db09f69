"""The programs of a step compiled from shapes, to compare with their plan."""

import dataclasses
import json
import sys
from typing import Any

import jax
import jax.numpy as jnp

from grounded_jax import checkpoint, config, grpo, optim, plan, sampler, sft
from grounded_jax import mesh as mesh_lib
from grounded_jax import model as model_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
  """A model and the arrays of its step."""

  decoder: config.Decoder
  shape: plan.Shape
  remat: str
  compute_dtype: str
  logp_chunk: int = 512
  optimizer: config.Optimizer = config.Optimizer()

  @property
  def model(self) -> config.Model:
    """The model's section."""
    return config.Model(
      decoder=self.decoder,
      remat=self.remat,
      compute_dtype=self.compute_dtype,
      logp_chunk=self.logp_chunk,
    )

  def machine(self) -> plan.Machine:
    """A device of all there are, along fsdp."""
    devices = jax.device_count()
    return plan.machine(self.model, self.decoder, config.Mesh(), devices, True)


def shape(p: int, l: int, g: int, c: int, micro: int = 0, **other):
  """The shape of a GRPO step without reference, or with `other`."""
  fields = {"chunks": 1, "extra_logp": 0, "supervised": False} | other
  return plan.Shape(
    prompts=p, prompt_len=l, group=g, new_tokens=c, micro=micro, **fields
  )


def _real(tree: Any) -> Any:
  """The description over the devices that there are."""
  mesh = mesh_lib.make(config.Mesh())
  place = lambda x: jax.ShapeDtypeStruct(
    x.shape, x.dtype, sharding=jax.sharding.NamedSharding(mesh, x.sharding.spec)
  )
  return jax.tree.map(place, tree)


def update(case: Case) -> Any:
  """The compiled update."""
  at, arrays = case.machine(), case.shape
  graphdef, _ = model_lib.abstract(case.decoder)
  tx = optim.make(case.optimizer, 1)
  state = _real(checkpoint.describe(tx, at.params))
  batch = _real(plan.batch(arrays, at.mesh))
  if arrays.supervised:
    cfg, step = config.SFT(prompts=arrays.prompts, micro=arrays.micro), sft
  else:
    cfg, step = config.GRPO(prompts=arrays.prompts, micro=arrays.micro), grpo
  lowered = step.update.lower(cfg, case.model, graphdef, tx, state, batch)
  return lowered.compile()


def sample(case: Case) -> Any:
  """The compiled sampler."""
  at, arrays = case.machine(), case.shape
  graphdef, _ = model_lib.abstract(case.decoder)
  number = jax.ShapeDtypeStruct((), jnp.int32)
  return sampler.sample.lower(
    graphdef,
    _real(at.params),
    _real(plan.batch(arrays, at.mesh).prompts),
    seed=number,
    stage=number,
    step=number,
    purpose=number,
    group=arrays.group,
    max_new_tokens=arrays.new_tokens,
    temperature=1.0,
    top_p=1.0,
    eos=(1,),
    model=case.model,
  ).compile()


def ratios(program: plan.Program, compiled: Any) -> tuple[float, float]:
  """Planned over compiled (arguments, peak)."""
  found = compiled.memory_analysis()
  arguments = found.argument_size_in_bytes
  peak = arguments + found.output_size_in_bytes + found.temp_size_in_bytes
  peak -= found.alias_size_in_bytes
  planned = sum(program.arguments.values())
  return planned / arguments, program.peak / peak


def compare(case: Case) -> dict[str, tuple[float, float]]:
  """The ratios of the update and of the sampler."""
  at = case.machine()
  planned = plan.update(at, case.optimizer, case.shape)
  out = {"update": ratios(planned, update(case))}
  if not case.shape.supervised:
    out["sampler"] = ratios(plan.sampler(at, case.shape), sample(case))
  return out


_SMALL = config.Decoder(
  layers=2, embed=64, mlp=128, heads=4, kv_heads=2, head_dim=16, vocab=260
)
_MEDIUM = config.Decoder(
  layers=6, embed=384, mlp=1024, heads=6, kv_heads=2, head_dim=64, vocab=4096
)
_LARGE = config.Decoder(
  layers=10, embed=512, mlp=1536, heads=8, kv_heads=8, head_dim=64, vocab=16384
)

# Parameters: 0.1, 12 and 42 million.
CASES = {
  "small": Case(
    decoder=_SMALL,
    shape=shape(4, 64, 4, 16),
    remat="none",
    compute_dtype="float32",
    logp_chunk=256,
  ),
  "small, recomputed, bfloat16": Case(
    decoder=_SMALL,
    shape=shape(4, 64, 4, 16, micro=2),
    remat="full",
    compute_dtype="bfloat16",
    logp_chunk=256,
  ),
  "small, supervised": Case(
    decoder=_SMALL,
    shape=shape(8, 96, 1, 24, micro=4, supervised=True),
    remat="dots",
    compute_dtype="float32",
  ),
  "medium": Case(
    decoder=_MEDIUM,
    shape=shape(2, 512, 8, 32, micro=1, extra_logp=1),
    remat="none",
    compute_dtype="float32",
  ),
  "medium, recomputed, bfloat16": Case(
    decoder=_MEDIUM,
    shape=shape(2, 512, 8, 32),
    remat="full",
    compute_dtype="bfloat16",
  ),
  "large, bfloat16": Case(
    decoder=_LARGE,
    shape=shape(4, 128, 4, 128, micro=2),
    remat="none",
    compute_dtype="bfloat16",
  ),
  "large, products kept": Case(
    decoder=dataclasses.replace(_LARGE, kv_heads=2),
    shape=shape(2, 384, 6, 48, micro=1),
    remat="dots",
    compute_dtype="float32",
  ),
  "sharded": Case(
    decoder=dataclasses.replace(_MEDIUM, vocab=2048),
    shape=shape(16, 128, 4, 32, micro=8),
    remat="full",
    compute_dtype="float32",
  ),
}

if __name__ == "__main__":  # python tests/plan_cases.py NAME: its ratios
  print(json.dumps(compare(CASES[sys.argv[1]])))
