"""Rollouts from weights that were cut to learn and moved once, on 8 devices."""

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import mesh_cases
import numpy as np

from grounded_jax import aot, config, hlo, layout, mesh, model, sampler, types

# Key/value heads: fewer than the devices of `tensor` are on each of them.
HEADS = {"data": 8, "fsdp": 8, "tensor": 2, "all": 1}


def prompts(p: int = 8, l: int = 12) -> types.PromptBatch:
  """Random prompts of several lengths."""
  rng = np.random.default_rng(0)
  return types.PromptBatch(
    tokens=rng.integers(0, 64, (p, l)).astype(np.int32),
    length=rng.integers(1, l + 1, p).astype(np.int32),
    key=np.arange(p, dtype=np.int32),
  )


def compiled(
  graphdef, weights, asked, made: config.Model
) -> jax.stages.Compiled:
  """The sampler of two completions of each prompt."""
  zero = jnp.int32(0)
  return sampler.sample.lower(
    graphdef,
    weights,
    asked,
    **dict.fromkeys(("seed", "stage", "step", "purpose"), zero),
    group=2,
    max_new_tokens=7,
    temperature=1.0,
    top_p=1.0,
    eos=(1,),
    model=made,
  ).compile()


def draw(program: jax.stages.Compiled, weights, asked) -> types.Rollout:
  zero = jnp.int32(0)
  address = dict.fromkeys(("seed", "stage", "step", "purpose"), zero)
  return jax.device_get(program(weights, asked, **address))


def compare(name: str) -> dict[str, object]:
  """Against one device: tokens, logp; and what the sampler's layout is."""
  sizes = dict(zip(mesh.AXES, mesh_cases.MESHES[name], strict=True))
  decoder = dataclasses.replace(mesh_cases.decoder(False), kv_heads=HEADS[name])
  made = config.Model(
    decoder=decoder, param_dtype="float64", compute_dtype="float64"
  )
  graphdef, params = model.init(decoder, jax.random.key(0), "float64")
  params = jax.tree.map(lambda x: 2 * x, params)
  want = draw(compiled(graphdef, params, prompts(), made), params, prompts())

  devices = mesh.make(config.Mesh(**sizes))
  axes = model.logical_axes(decoder)
  cut = jax.device_put(params, mesh.shardings(devices, axes, params))
  third = 3 * sum(x.nbytes for x in jax.tree.leaves(params)) // 4
  found = layout.make(made, decoder, devices, 0, third)
  weights = found.move(cut) if found.copies else cut
  asked = jax.tree.map(lambda x: jax.device_put(x, found.rows), prompts())
  program = compiled(graphdef, weights, asked, made)
  got = draw(program, weights, asked)
  counts = hlo.analyse(program.as_text())
  (loop,) = (loop for loop in counts.loops if loop.trips is None)
  return {
    "same": bool((got.tokens == want.tokens).all()),
    "logp": float(np.abs(got.logp - want.logp).max()),
    "sizes": list(found.mesh.shape.values()),
    "moved": aot.moved(counts.inside(loop.name)),
  }


if __name__ == "__main__":  # python tests/layout_cases.py MESH
  print(json.dumps(compare(sys.argv[1])))
