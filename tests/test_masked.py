import jax
import jax.numpy as jnp
import numpy as np

from grounded_jax import masked


def test_mean_counts_only_the_mask():
  x = jnp.array([[1.0, 2.0, 30.0], [4.0, 50.0, 60.0]])
  mask = jnp.array([[True, True, False], [True, False, False]])
  assert masked.mean(x, mask) == (1 + 2 + 4) / 3  # 2.75 if by rows
  np.testing.assert_allclose(masked.mean(x, mask, axis=-1), [1.5, 4.0])


def test_weights_count_in_sum_and_denominator():
  x = jnp.array([1.0, 5.0])
  weight = jnp.array([3.0, 1.0])
  assert masked.sum(x, weight) == 8.0
  assert masked.mean(x, weight) == 2.0


def test_mask_broadcasts_before_it_is_counted():
  x = jnp.ones((2, 3))
  assert masked.mean(x, jnp.array([[True], [False]])) == 1.0
  assert masked.sum(x, jnp.array([[True], [False]])) == 3.0


def test_nothing_masked_leaks_into_value_or_gradient():
  mask = jnp.array([True, False])
  f = lambda x: masked.mean(jnp.log(x), mask)
  value, gradient = jax.value_and_grad(f)(jnp.array([1.0, 2.0]))
  assert value == 0.0
  np.testing.assert_array_equal(gradient, [1.0, 0.0])
  assert masked.sum(jnp.array([1.0, jnp.nan]), mask) == 1.0


def test_empty_mask_has_mean_zero_and_gradient_zero():
  f = lambda x: masked.mean(x, jnp.zeros(2, bool))
  value, gradient = jax.value_and_grad(f)(jnp.array([1.0, 2.0]))
  assert value == 0.0
  np.testing.assert_array_equal(gradient, [0.0, 0.0])
