"""Keys and values in int8: how far they are off, and what they take."""

import grouped_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grounded_jax import kv_cache, sampler


def random(*shape):
  return jax.random.normal(jax.random.key(0), shape)


@pytest.mark.parametrize("axis", [-1, -2, 1])
def test_each_vector_is_off_by_at_most_half_a_level_of_its_largest(axis):
  x = random(3, 5, 7, 8) * jnp.exp(3 * random(3, 5, 7, 1))
  made = kv_cache.entries(x, axis, "int8")
  assert made.values.dtype == jnp.int8
  scale = jnp.expand_dims(made.scale, axis)
  largest = jnp.abs(x).max(axis, keepdims=True)
  error = jnp.abs(made.values * scale - x)
  assert (error <= largest / 254 * (1 + 1e-4)).all()
  np.testing.assert_allclose(scale * 127, largest, rtol=1e-6)
  assert (jnp.abs(made.values.astype(int)).max(axis) == 127).all()


def test_a_vector_of_zeros_stays_one():
  made = kv_cache.entries(jnp.zeros((2, 4)), -1, "int8")
  assert not made.values.any() and not made.scale.any()


def test_without_a_dtype_entries_are_the_arrays():
  x = random(2, 3)
  made = kv_cache.entries(x, -1)
  assert made.values is x and made.scale is None


@pytest.mark.parametrize(
  ("dtype", "least"), [("float32", 3.7), ("bfloat16", 1.8)]
)
def test_heads_of_64_take_about_a_quarter_or_half_of_the_bytes(dtype, least):
  """With float32 scales: H + 4 bytes a vector in place of 4 H or 2 H."""
  blank = jnp.zeros((2, 3, 16, 2, 64), dtype)
  cache = kv_cache.PromptCache(k=blank, v=blank, length=jnp.ones(3, jnp.int32))
  size = lambda kv_dtype: sum(
    x.nbytes
    for x in jax.tree.leaves(kv_cache.decode_cache(cache, 4, 8, kv_dtype))
  )
  assert least < size("") / size("int8") < 4


def roll(name: str, kv_dtype: str):
  decoder = cases.DECODERS[name]
  zero = jnp.int32(0)
  return jax.device_get(
    sampler.sample(
      *cases.parameters(decoder),
      cases.prompts(),
      seed=zero,
      stage=zero,
      step=zero,
      purpose=zero,
      group=4,
      max_new_tokens=6,
      temperature=1.0,
      top_p=1.0,
      eos=(),
      model=cases.model(decoder, kv_dtype=kv_dtype),
    )
  )


def agree(a, b) -> np.ndarray:
  """Which tokens have equal ones before them: their logp compares."""
  equal = np.cumprod(a.tokens == b.tokens, axis=-1).astype(bool)
  return equal & a.sampled & b.sampled


@pytest.mark.parametrize("name", ["shared_kv", "smollm3"])
def test_an_int8_cache_moves_log_probabilities_a_little(name):
  exact, small = roll(name, ""), roll(name, "int8")
  same = agree(exact, small)
  assert same.mean() > 0.5
  gap = np.abs(exact.logp - small.logp)[same]
  assert 0 < gap.max() < 0.1
