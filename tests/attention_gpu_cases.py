"""Programs lowered for CUDA on machines without a GPU, and what they call.

jax asks cuDNN for its version alone as it lowers; a version is put in its place
here, and the devices said to be GPUs.  Nothing is compiled.
"""

import contextlib
import functools
import json
import math
import re
import types
from collections.abc import Iterator
from unittest import mock

import attention_tpu_cases
import jax
import jax.numpy as jnp
import numpy as np
from jax._src.cudnn import fused_attention_stablehlo
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from grounded_jax import (
  attention,
  attention_gpu,
  checkpoint,
  config,
  grpo,
  mesh,
  model,
  optim,
  plan,
)

_CALL = re.compile(r"@__cudnn\$(\w+)\(.*: \((.*)\) -> ")
_BYTES = {"bf16": 2, "f32": 4, "i32": 4, "i1": 1, "ui8": 1}
_TENSOR = re.compile(rf"tensor<((?:\d+x)+)({'|'.join(_BYTES)})>")


@contextlib.contextmanager
def gpus(capability: tuple[int, int] = (9, 0)) -> Iterator[None]:
  """All devices are CUDA GPUs, as far as a lowered program knows."""
  cudnn = types.SimpleNamespace(cudnn_get_version=lambda: 91400)
  with (
    mock.patch.object(fused_attention_stablehlo, "cuda_versions", cudnn),
    mock.patch.object(mesh, "platform", lambda x: "gpu"),
    mock.patch.object(mesh, "cuda_capability", lambda platform: capability),
  ):
    yield


def text(traced) -> str:
  return traced.lower(lowering_platforms=("cuda",)).as_text()


def calls(lowered: str) -> list[tuple[str, list[list[int]]]]:
  """The name and the operands' shapes of each call of cuDNN."""
  shape = lambda dims: [int(size) for size in dims.split("x") if size]
  return [
    (name, [shape(dims) for dims, _ in _TENSOR.findall(operands)])
    for name, operands in _CALL.findall(lowered)
  ]


def largest(lowered: str) -> int:
  """Bytes of the largest array of a program."""
  return max(
    math.prod(int(size) for size in dims.split("x") if size) * _BYTES[dtype]
    for dims, dtype in _TENSOR.findall(lowered)
  )


def attended(q, k, v, length, d, shape, window=None, kernel="auto"):
  """The output of a row and the gradients of q, k and v."""
  call = lambda q, k, v: attention.grouped(
    q, k, v, length, *shape[:2], window=window, kernel=kernel
  )
  out, pullback = jax.vjp(call, q, k, v)
  return out, *pullback(d)


def lowered_row(shape, prompts: int, width: int, window=None) -> str:
  """Forward and backward of a row in bfloat16, on one GPU."""
  l, group, own, heads, kv_heads = shape
  make = lambda *size: jax.ShapeDtypeStruct(
    (prompts, l + group * own, *size), jnp.bfloat16
  )
  q, k = make(heads, width), make(kv_heads, width)
  length = jax.ShapeDtypeStruct((prompts,), jnp.int32)
  window = None if window is None else jnp.array(window)
  function = functools.partial(attended, shape=shape, window=window)
  with gpus():
    return text(jax.jit(function).trace(q, k, k, length, q))


@contextlib.contextmanager
def _by_xla() -> Iterator[None]:
  """The same calls, computed by the same function without cuDNN."""
  other = lambda function: (
    lambda *args, implementation, **rule: function(
      *args, implementation="xla", **rule
    )
  )
  forward, backward = attention_gpu.forward, attention_gpu.backward
  with (
    mock.patch.object(attention_gpu, "forward", other(forward)),
    mock.patch.object(attention_gpu, "backward", other(backward)),
  ):
    yield


def by_calls(shape, dtype: str = "float32", **rule):
  """`attention.grouped` with kernel=cudnn, without cuDNN, as one value."""
  function = functools.partial(attention.grouped, kernel="cudnn")
  with mock.patch.object(attention, "_chosen", lambda *_: "cudnn"), _by_xla():
    return attention_tpu_cases.value_and_grads(function, shape, dtype, **rule)


def lowered_update(devices: Mesh, remat: str = "none") -> str:
  """An update of a small model over a mesh."""
  decoder = config.Decoder(
    layers=2, embed=64, mlp=96, heads=4, kv_heads=2, head_dim=16, vocab=128
  )
  shape = plan.Shape(
    prompts=8,
    prompt_len=50,
    group=4,
    new_tokens=12,
    micro=0,
    chunks=1,
    extra_logp=0,
    supervised=False,
  )
  made = config.Model(decoder=decoder, compute_dtype="bfloat16", remat=remat)
  graphdef, params = model.abstract(decoder, made.param_dtype)
  layout = mesh.shardings(devices, model.logical_axes(decoder), params)
  tx = optim.make(config.Optimizer(), 1)
  state = checkpoint.describe(tx, mesh.described(params, layout))
  batch = plan.batch(shape, devices)
  with gpus():
    return text(
      grpo.update.trace(config.GRPO(), made, graphdef, tx, state, batch)
    )


def _on_a_mesh() -> dict:
  """What eight devices call, and how far from one's their numbers are."""
  devices = mesh.make(config.Mesh(data=2, fsdp=2, tensor=2))
  shape = (19, 3, 21, 4, 2)
  q, k, v, length, d = attention_tpu_cases.tensors(shape, prompts=4)
  function = functools.partial(attended, shape=shape)
  xla = jax.jit(functools.partial(function, kernel="xla"))
  want = xla(q, k, v, length, d)
  whole = NamedSharding(devices, PartitionSpec())
  with mock.patch.object(attention, "_chosen", lambda *_: "cudnn"), _by_xla():
    got = jax.jit(functools.partial(function, kernel="cudnn"))(
      *(jax.device_put(x, whole) for x in (q, k, v, length, d))
    )
  counts = np.array(d != 0)
  off = [np.abs(np.array(a) - b) for a, b in zip(got, want, strict=True)]
  off[0] *= counts
  return {
    "update": calls(lowered_update(devices)),
    "recomputed": calls(lowered_update(devices, "full")),
    "cut": list(got[0].sharding.spec)[:3],
    "worst": float(max(x.max() for x in off)),
  }


if __name__ == "__main__":  # what eight simulated devices make of it
  print(json.dumps(_on_a_mesh()))
