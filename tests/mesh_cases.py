"""Updates on meshes of eight simulated devices, and on one of them."""

import json
import sys

import grpo_cases
import jax
import jax.numpy as jnp
import numpy as np
import optax

from grounded_jax import (
  config,
  dpo,
  grpo,
  mesh,
  model,
  optim,
  packing,
  types,
)

MESHES = {
  "data": (8, 1, 1),
  "fsdp": (1, 8, 1),
  "tensor": (1, 1, 8),
  "all": (2, 2, 2),
}
DESCENT = optax.sgd(1.0)  # the parameters' change is the gradient


def decoder(tied: bool, softcap: float = 0.0) -> config.Decoder:
  """Whose every cut axis eight devices divide."""
  return config.Decoder(
    layers=2,
    embed=32,
    mlp=64,
    heads=8,
    kv_heads=8,
    head_dim=4,
    vocab=64,
    tied=tied,
    final_softcap=softcap,
  )


def rollout(p: int = 16, l: int = 12, g: int = 2, c: int = 6) -> types.Batch:
  """Random completions; half of the groups are left out of the loss."""
  rng = np.random.default_rng(0)
  length = rng.integers(1, c + 1, (p, g, 1))
  live = (np.arange(p) % 8 < 4).astype(np.float32)
  return types.Batch(
    prompts=types.PromptBatch(
      tokens=rng.integers(0, 64, (p, l)).astype(np.int32),
      length=rng.integers(1, l + 1, p).astype(np.int32),
      key=np.arange(p, dtype=np.int32),
    ),
    rollout=types.Rollout(
      tokens=rng.integers(0, 64, (p, g, c)).astype(np.int32),
      sampled=np.arange(c) < length,
      logp=np.zeros((p, g, c), np.float32),
      finished=np.ones((p, g), bool),
    ),
    advantage=rng.normal(size=(p, g)).astype(np.float32),
    weight=np.tile(live[:, None], (1, g)),
    policy_step=np.int32(0),
  )


def pairs(batch: types.Batch) -> types.SFTBatch:
  """The completions of a rollout as chosen and rejected ones."""
  return types.SFTBatch(
    prompts=batch.prompts,
    tokens=batch.tokens,
    weight=(batch.rollout.sampled * batch.weight[..., None]).astype(np.float32),
  )


def change(
  cut: config.Decoder, devices, micro: int, pack: int = 0, preferred=False
):
  """(the parameters' change, loss) of one update on a mesh; None = no mesh.

  Micro-batches compute their layers again.
  """
  sizes = {"prompts": 16, "micro": micro, "pack": pack}
  cfg = config.DPO(**sizes) if preferred else grpo_cases.plain(**sizes)
  wide = "float64"
  made = config.Model(
    decoder=cut,
    logp_chunk=8,
    param_dtype=wide,
    compute_dtype=wide,
    remat="full" if micro else "none",
  )
  graphdef, params = model.init(cut, jax.random.key(0), wide)
  params = jax.tree.map(lambda x: 2 * x, params)
  batch, before = rollout(), jax.device_get(params)
  batch = pairs(batch) if preferred else batch
  if pack:
    batch = packing.pack(cfg, batch, mesh.ways(devices, "batch"))
  if devices is not None:
    axes = model.logical_axes(cut)
    params = jax.device_put(params, mesh.shardings(devices, axes, params))
    rows = mesh.rows(devices)
    place = lambda x: jax.device_put(x, rows) if x.ndim else jnp.asarray(x)
    batch = jax.tree.map(place, batch)
  state = optim.init(DESCENT, params)
  common = (cfg, made, graphdef)
  if preferred:  # over a reference to which all completions are alike
    ref_logp = jnp.full_like(batch.weight[..., 0], -20.0)
    state, metrics = dpo.update(*common, DESCENT, state, batch, ref_logp)
  else:
    state, metrics = grpo.update(*common, DESCENT, state, batch)
  after = jax.device_get(state.params)
  moved = jax.tree.map(np.subtract, after, before)
  return moved, float(metrics["loss"])


def worst(
  cut: config.Decoder,
  sizes: tuple[int, int, int],
  micro: int,
  pack: int = 0,
  preferred: bool = False,
):
  """Largest difference to one device, over the leaf's largest change.

  On one device the batch is padded.
  """
  devices = mesh.make(
    config.Mesh(data=sizes[0], fsdp=sizes[1], tensor=sizes[2])
  )
  want, loss = change(cut, None, micro, 0, preferred)
  got, sharded_loss = change(cut, devices, micro, pack, preferred)
  off = jax.tree.map(
    lambda a, b: float(np.abs(a - b).max() / np.abs(a).max()), want, got
  )
  return max(jax.tree.leaves(off)), abs(loss - sharded_loss)


if __name__ == "__main__":  # python tests/mesh_cases.py MESH [packed]
  sizes = MESHES[sys.argv[1]]
  cases = [(decoder(True), sizes, 0), (decoder(False, 5.0), sizes, 8)]
  if sys.argv[2:]:
    packing._MULTIPLE = 4  # rows shorter than they may be
    cut = decoder(False, 5.0)
    cases = [(cut, sizes, 8, 2), (cut, sizes, 8, 2, True)]
  print(json.dumps([worst(*case) for case in cases]))
