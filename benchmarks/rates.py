"""This machine's float32 rates, as JAX reaches them on all of its cores.

A rate is the best of several repetitions: what the machine can do, not what it
does on average.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from grounded_jax import config

REPEAT = 7


@dataclasses.dataclass(frozen=True, kw_only=True)
class Product:
  """A product of a step, with its two gradients."""

  name: str
  rows: int  # tokens
  inner: int
  cols: int
  times: int = 1  # in the step

  @property
  def operations(self) -> int:
    """Floating-point operations of all three."""
    return 3 * 2 * self.rows * self.inner * self.cols


def best_seconds(call: Callable, *args: Any, repeat: int = REPEAT) -> float:
  """The least seconds of a call, after one that compiles."""
  jax.block_until_ready(call(*args))
  seconds = []
  for _ in range(repeat):
    start = time.perf_counter()
    jax.block_until_ready(call(*args))
    seconds.append(time.perf_counter() - start)
  return min(seconds)


def _random(*shape: int) -> jax.Array:
  return jax.random.normal(jax.random.key(0), shape, jnp.float32)


def square(size: int, repeat: int = REPEAT) -> float:
  """Operations per second of a product of two square matrices."""
  a, b = _random(size, size), _random(size, size)
  return 2 * size**3 / best_seconds(jax.jit(jnp.matmul), a, b, repeat=repeat)


def products(
  decoder: config.Decoder, tokens: int, predicted: int, chunk: int
) -> list[Product]:
  """The products of the update's matrices.

  Args:
    decoder: whose matrices.
    tokens: of a micro-batch.
    predicted: tokens whose logits are computed.
    chunk: of these at once.
  """
  d, f, y = decoder.embed, decoder.mlp, decoder.layers
  heads = decoder.heads * decoder.head_dim
  kv_heads = decoder.kv_heads * decoder.head_dim
  chunk = min(chunk, predicted)
  layer = (
    ("q", d, heads, 1),
    ("k, v", d, kv_heads, 2),
    ("o", heads, d, 1),
    ("gate, up", d, f, 2),
    ("down", f, d, 1),
  )
  return [
    Product(name=name, rows=tokens, inner=a, cols=b, times=n * y)
    for name, a, b, n in layer
  ] + [
    Product(
      name="head",
      rows=chunk,
      inner=d,
      cols=decoder.vocab,
      times=-(-predicted // chunk),
    )
  ]


def product_seconds(product: Product, repeat: int = REPEAT) -> float:
  """Seconds of a product and of its gradients, each timed alone."""
  x = _random(product.rows, product.inner)
  w = _random(product.inner, product.cols)
  dy = _random(product.rows, product.cols)
  calls = (
    (lambda x, w: x @ w, x, w),
    (lambda dy, w: dy @ w.T, dy, w),
    (lambda x, dy: x.T @ dy, x, dy),
  )
  return sum(best_seconds(jax.jit(f), *a, repeat=repeat) for f, *a in calls)


def own_rate(parts: Sequence[Product], repeat: int = REPEAT) -> float:
  """Operations per second of all products of a step, each at its own rate."""
  seconds = sum(p.times * product_seconds(p, repeat) for p in parts)
  return sum(p.times * p.operations for p in parts) / seconds


def read(size: int, repeat: int = REPEAT) -> float:
  """Bytes per second of reading an array of so many bytes, the best way."""
  x = _random(max(size // 4 // 4096, 1), 4096)
  v = _random(4096)
  ways = (
    (jax.jit(jnp.sum), x),
    (jax.jit(lambda x: x.sum(-1)), x),
    (jax.jit(jnp.matmul), x, v),
  )
  return x.nbytes / min(best_seconds(f, *a, repeat=repeat) for f, *a in ways)


def copy(size: int, repeat: int = REPEAT) -> float:
  """Bytes per second, read and written, of copying so many bytes."""
  x = _random(max(size // 4 // 4096, 1), 4096)
  # Into memory that is there: a new array's pages would be made first.
  call = jax.jit(lambda x, out: x + 1, donate_argnums=1, keep_unused=True)
  out = call(x, jnp.zeros_like(x))
  seconds = []
  for _ in range(repeat):
    start = time.perf_counter()
    out = jax.block_until_ready(call(x, out))
    seconds.append(time.perf_counter() - start)
  return 2 * x.nbytes / min(seconds)
