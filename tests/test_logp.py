"""Log-probabilities of a group equal those of its sequences one by one."""

import functools

import grouped_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grounded_jax import logp

TOLERANCE = {"float32": 1e-5, "float64": 1e-10}


def loss_of(logp_of, sampled):
  """A loss that weighs every sampled token differently, with its logp."""
  random = np.random.default_rng(5)
  weight = jnp.array(random.normal(size=sampled.shape)) * sampled

  def loss(params):
    values = logp_of(params)
    return jnp.sum(weight * values), values

  return jax.jit(jax.value_and_grad(loss, has_aux=True))


def ours(graphdef, batch, tokens, sampled, temperature, model):
  return lambda params: logp.token_logp(
    graphdef,
    params,
    batch,
    tokens,
    sampled,
    temperature=temperature,
    model=model,
  )[0]


@pytest.mark.parametrize(
  "name, dtype, temperature",
  [
    ("shared_kv", "float32", 0.7),
    ("plain", "float64", 1.0),
    ("shared_kv", "float64", 0.7),
    ("untied_qk_norm", "float64", 0.7),
    ("llama3", "float64", 0.7),
    ("qwen2", "float64", 0.7),
    ("gemma2", "float32", 0.7),
    ("gemma2", "float64", 0.7),
    ("gemma3", "float64", 0.7),
    ("mistral", "float64", 0.7),
    ("smollm3", "float64", 0.7),
  ],
)
def test_loss_logp_and_every_gradient_equal_the_plain_computation(
  name, dtype, temperature
):
  decoder, batch = cases.DECODERS[name], cases.prompts()
  tokens, sampled = cases.completions(3, 4, 6)
  with jax.enable_x64(dtype == "float64"):
    graphdef, params = cases.parameters(decoder, dtype)
    model = cases.model(decoder, dtype)
    group = ours(graphdef, batch, tokens, sampled, temperature, model)
    plain = lambda params: (
      sampled * cases.plain_logp(decoder, params, batch, tokens, temperature)
    )
    got = loss_of(group, sampled)(params)
    want = loss_of(plain, sampled)(params)
  assert jax.tree.leaves(got)[0].dtype == dtype
  assert cases.worst(got, want) <= TOLERANCE[dtype]


@functools.cache
def variant(chunk: int, remat: str, name: str = "shared_kv"):
  """(loss, logp), gradients of one way to compute the same."""
  decoder, batch = cases.DECODERS[name], cases.prompts()
  tokens, sampled = cases.completions(3, 4, 6)
  with jax.enable_x64(True):
    graphdef, params = cases.parameters(decoder, "float64")
    model = cases.model(decoder, "float64", logp_chunk=chunk, remat=remat)
    group = ours(graphdef, batch, tokens, sampled, 1.0, model)
    return jax.device_get(loss_of(group, sampled)(params))


@pytest.mark.parametrize(
  "chunk, remat",
  [
    (15, "none"),
    (512, "none"),
    (7, "dots"),
    (7, "full"),
    (7, "offload"),
  ],
)
def test_chunk_size_and_recomputation_change_nothing(chunk, remat):
  assert cases.worst(variant(chunk, remat), variant(7, "none")) < 1e-13


def test_recomputation_changes_nothing_where_layers_differ():
  got, want = variant(7, "full", "gemma3"), variant(7, "none", "gemma3")
  assert cases.worst(got, want) < 1e-13


def test_entropy_is_that_of_the_tempered_distribution_without_gradient():
  decoder, batch = cases.DECODERS["plain"], cases.prompts(lengths=(4,))
  tokens, _ = cases.completions(1, 2, 3)
  sampled = jnp.ones_like(tokens, bool)
  graphdef, params = cases.parameters(decoder)

  @jax.jit
  @jax.value_and_grad
  def entropy(params):
    return logp.token_logp(
      graphdef,
      params,
      batch,
      tokens,
      sampled,
      temperature=0.5,
      model=cases.model(decoder),
    )[1].sum()

  def plain(row):
    scores = cases.plain_logits(decoder, params, row)[3:-1]
    p = jax.nn.softmax(scores / 0.5, -1)
    return -jnp.sum(p * jnp.log(p))

  prompt = jnp.tile(batch.tokens[0, :4], (2, 1))
  rows = jnp.concatenate([prompt, tokens[0]], axis=1)
  want = jax.jit(jax.vmap(plain))(rows).sum()
  got, grads = entropy(params)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  assert all(not leaf.any() for leaf in jax.tree.leaves(grads))


def test_temperature_zero_is_read_as_one():
  decoder, batch = cases.DECODERS["plain"], cases.prompts()
  tokens, sampled = cases.completions(3, 2, 4)
  graphdef, params = cases.parameters(decoder)
  model = cases.model(decoder)
  zero, one = (
    jax.jit(ours(graphdef, batch, tokens, sampled, t, model))(params)
    for t in (0.0, 1.0)
  )
  np.testing.assert_array_equal(zero, one)


def test_tokens_that_were_not_sampled_are_zero():
  decoder, batch = cases.DECODERS["plain"], cases.prompts()
  tokens, sampled = cases.completions(3, 2, 4)
  graphdef, params = cases.parameters(decoder)
  scores = jax.jit(
    lambda p: logp.token_scores(
      graphdef,
      p,
      batch,
      tokens,
      sampled,
      temperature=1.0,
      model=cases.model(decoder),
    )
  )(params)
  for field in scores:
    assert not field[~sampled].any()
  assert (scores.logp[sampled] < 0).all()


def test_all_logits_are_never_in_memory_at_once():
  """Forward and backward of 8 chunks need less than the logits of all."""
  decoder = cases.config.Decoder(
    layers=1, embed=8, mlp=8, heads=1, kv_heads=1, head_dim=8, vocab=4096
  )
  batch = cases.prompts(lengths=(8, 8))
  tokens, sampled = cases.completions(2, 4, 32)
  graphdef, params = cases.parameters(decoder)
  model = cases.model(decoder, logp_chunk=32)
  group = ours(graphdef, batch, tokens, sampled, 1.0, model)
  loss = jax.jit(jax.grad(lambda p: group(p).sum()))
  memory = loss.lower(params).compile().memory_analysis()
  assert memory.temp_size_in_bytes < tokens.size * decoder.vocab * 4
