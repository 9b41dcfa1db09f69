"""Seconds to compile the update's loss and gradient, by depth.

    python -m benchmarks.compile_depth --family=gemma3

Depths take turns, so that a busy machine slows them alike; medians of the
process's own CPU time and of wall time.
"""

import argparse
import json
import statistics
import time

import jax
import jax.numpy as jnp

from grounded_jax import config, logp, model, types

_FAMILIES = {
  "llama": {},
  "gemma3": {
    "activation": "gelu",
    "post_norms": True,
    "plus_one": True,
    "scaled_embed": True,
    "qk_norm": True,
    "pattern": "LLLLLG",
    "window": 16,
    "local_rope_theta": 10_000.0,
    "rope_scaling": "linear",
    "rope_factor": 8.0,
  },
}


def _compile(family: str, layers: int) -> tuple[float, float]:
  """(CPU seconds, wall seconds) of lowering and compiling."""
  decoder = config.Decoder(
    layers=layers,
    embed=32,
    mlp=64,
    heads=4,
    kv_heads=2,
    head_dim=8,
    vocab=64,
    **_FAMILIES[family],
  )
  graphdef, params = model.abstract(decoder)
  p, g, c, l = 2, 4, 16, 64
  shape = lambda *sizes, dtype=jnp.int32: jax.ShapeDtypeStruct(sizes, dtype)
  batch = types.PromptBatch(tokens=shape(p, l), length=shape(p), key=shape(p))
  cfg = config.Model(decoder=decoder)

  def loss(params, batch, tokens, sampled):
    out, _ = logp.token_logp(
      graphdef, params, batch, tokens, sampled, temperature=1.0, model=cfg
    )
    return out.sum()

  jax.clear_caches()
  wall, cpu = time.perf_counter(), time.process_time()
  jax.jit(jax.value_and_grad(loss)).lower(
    params, batch, shape(p, g, c), shape(p, g, c, dtype=bool)
  ).compile()
  return time.process_time() - cpu, time.perf_counter() - wall


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--family", choices=_FAMILIES, default="gemma3")
  parser.add_argument("--rounds", type=int, default=3)
  args = parser.parse_args()
  depths = (4, 16, 64)
  _compile(args.family, 2)  # what is imported and set up once
  times = {layers: [] for layers in depths}
  for _ in range(args.rounds):
    for layers in depths:
      times[layers].append(_compile(args.family, layers))
  out = {"family": args.family}
  for i, clock in enumerate(("cpu_seconds", "wall_seconds")):
    medians = {y: statistics.median(t[i] for t in times[y]) for y in depths}
    out[clock] = {y: round(t, 2) for y, t in medians.items()}
    out[f"{clock}_64_over_4"] = round(medians[64] / medians[4], 2)
  print(json.dumps(out))


if __name__ == "__main__":
  main()
