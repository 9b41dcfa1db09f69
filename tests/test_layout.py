"""The sampler's layout: what it draws, and what moves while it does."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import layout_cases as cases
import pytest

from grounded_jax import config, layout, lora, mesh, model


@pytest.mark.parametrize("name", cases.HEADS)
def test_rollouts_on_a_mesh_are_those_of_one_device(name):
  """In float64; no weight moves between the tokens of a completion."""
  env = os.environ | {
    "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    "JAX_PLATFORMS": "cpu",
    "JAX_ENABLE_X64": "1",
    "PYTHONPATH": os.pathsep.join(sys.path),
  }
  out = subprocess.run(
    [sys.executable, cases.__file__, name],
    env=env,
    capture_output=True,
    text=True,
  )
  assert out.returncode == 0, out.stderr
  found = json.loads(out.stdout)
  assert found["same"]
  assert found["logp"] < 1e-10
  assert found["moved"] == {}
  if name != "data":
    assert found["sizes"] == [1, 1, 8]


def made(**options) -> tuple[config.Model, layout.Layout]:
  decoder = config.Decoder(layers=1, embed=8, mlp=8, heads=2, kv_heads=1)
  cfg = config.Model(decoder=decoder, **options)
  return cfg, layout.make(cfg, decoder, mesh.make(config.Mesh()), 0, None)


def test_a_sampler_that_needs_no_copy_reads_the_learners_arrays():
  assert not made()[1].copies
  assert made(compute_dtype="bfloat16")[1].copies
  assert made(lora=config.LoRA(rank=2))[1].copies


def test_the_copy_is_narrow_but_for_the_scales_of_norms():
  cfg, found = made(compute_dtype="bfloat16")
  _, params = model.init(cfg.decoder, jax.random.key(0))
  moved = found.move(params)
  assert moved["blocks"]["q"].dtype == jnp.bfloat16
  assert moved["blocks"]["attn_norm"].dtype == jnp.float32
  assert (
    moved["blocks"]["q"] == params["blocks"]["q"].astype("bfloat16")
  ).all()


def test_the_copy_has_adapters_added_to_their_matrices():
  cfg, found = made(lora=config.LoRA(rank=2, targets="q"))
  _, base = model.init(cfg.decoder, jax.random.key(0))
  adapter = lora.init(lora.abstract(cfg.lora, base), jax.random.key(1))
  adapter["q"]["b"] += 1.0
  whole = lora.attach(cfg.lora, base, adapter)
  moved = found.move(whole)["blocks"]["q"]
  want = lora.merged(whole)["blocks"]["q"]
  assert (moved == want).all()
  assert not (moved == base["blocks"]["q"]).all()
