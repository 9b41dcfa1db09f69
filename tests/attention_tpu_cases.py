"""Rows of prompts and completions, and what attention makes of them.

A shape is (prompt tokens, completions, tokens of one, query heads, key heads)
and what is added for its test.
"""

import functools
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from grounded_jax import attention, config, mesh

HEAD = 6
# As above, then the size of a head and the prompts.
QWEN3_8B = (2048, 8, 512, 32, 8, 128, 4)
GEMMA2 = (300, 8, 300, 16, 8, 256, 4)
SMALL = (130, 3, 40, 4, 2, 64, 4)


def tensors(shape, prompts: int = 3, dtype: str = "float32"):
  """(q, k, v, lengths, d out): no gradient where no token counts."""
  l, group, own, heads, kv_heads, *_ = shape
  random = np.random.default_rng(0)
  t = l + group * own
  q, k, v, d = (
    random.normal(size=(prompts, t, n, HEAD))
    for n in (heads, kv_heads, kv_heads, heads)
  )
  length = np.array([l, 1, l // 2, l - 1])[np.arange(prompts) % 4]
  index = np.arange(t)
  counts = (index < length[:, None]) | (index >= l)
  d = d * counts[:, :, None, None]
  q, k, v, d = (jnp.array(x, dtype) for x in (q, k, v, d))
  return q, k, v, jnp.array(length, jnp.int32), d


def value_and_grads(function, shape, dtype: str = "float32", **rule):
  """The output where tokens count, and the gradients of q, k and v."""
  q, k, v, length, d = tensors(shape, dtype=dtype)
  if "window" in rule:
    rule = rule | {"window": jnp.array(rule["window"])}
  call = lambda q, k, v: function(q, k, v, length, *shape[:2], **rule)

  def all_of(q, k, v):
    out, pullback = jax.vjp(call, q, k, v)
    return out * (d != 0), *pullback(d)

  return jax.device_get(jax.jit(all_of)(q, k, v))


def compiled(devices, shape, dtype: str = "bfloat16", window=None, **rule):
  """Forward and backward, compiled for a mesh that need not be here."""
  l, group, own, heads, kv_heads, width, prompts = shape
  t = l + group * own
  cut = PartitionSpec(mesh.RULES["batch"], None, "tensor")

  def make(*size, cut, dtype=dtype):
    where = NamedSharding(devices, cut)
    return jax.ShapeDtypeStruct(size, dtype, sharding=where)

  q = make(prompts, t, heads, width, cut=cut)
  k = make(prompts, t, kv_heads, width, cut=cut)
  length = make(prompts, cut=PartitionSpec(*cut[:1]), dtype="int32")
  window = None if window is None else jnp.array(window)

  def all_of(q, k, v, length, d):
    call = lambda q, k, v: attention.grouped(
      q, k, v, length, l, group, window=window, **rule
    )
    out, pullback = jax.vjp(call, q, k, v)
    return out, *pullback(d)

  return jax.jit(all_of).lower(q, k, k, length, q).compile()


def flops(shape) -> int:
  """Of nine matrix products over the scores that are not hidden."""
  l, group, own, heads, _, width, prompts = shape
  seen = l * (l + 1) // 2 + group * (own * l + own * (own + 1) // 2)
  return 2 * 9 * prompts * heads * width * seen


def on_eight_devices(script: str) -> dict:
  """What a script prints where the CPU counts as eight devices."""
  env = os.environ | {
    "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": os.pathsep.join(sys.path),
  }
  out = subprocess.run(
    [sys.executable, script], env=env, capture_output=True, text=True
  )
  assert out.returncode == 0, out.stderr
  return json.loads(out.stdout)


def _on_a_mesh() -> dict:
  """The largest differences of eight devices to one, and their output's cut."""
  devices = mesh.make(config.Mesh(data=2, fsdp=2, tensor=2))
  worst = {}
  # The second has fewer prompts than devices and an odd number of key heads.
  for name, shape, prompts in (
    ("cut", (19, 3, 21, 4, 2), 4),
    ("whole", (19, 3, 21, 3, 1), 3),
  ):
    q, k, v, length, d = tensors(shape, prompts)

    def all_of(kernel, q, k, v, length, d, shape=shape):
      call = lambda q, k, v: attention.grouped(
        q, k, v, length, *shape[:2], kernel=kernel
      )
      out, pullback = jax.vjp(call, q, k, v)
      return out, *pullback(d)

    want = jax.jit(functools.partial(all_of, "xla"))(q, k, v, length, d)
    whole = NamedSharding(devices, PartitionSpec())
    place = lambda x, whole=whole: jax.device_put(x, whole)
    got = jax.jit(functools.partial(all_of, "pallas"))(
      *map(place, (q, k, v, length, d))
    )
    counts = np.array(d != 0)
    off = [
      np.abs(np.array(a) - b).max()
      for a, b in zip(got[1:], want[1:], strict=True)
    ]
    off.append(np.abs((np.array(got[0]) - want[0]) * counts).max())
    worst[name + " inputs"] = float(max(off))
    if name == "cut":
      worst["cut"] = list(got[0].sharding.spec)[:3]
  return worst


if __name__ == "__main__":  # what eight simulated devices make of it
  print(json.dumps(_on_a_mesh()))
