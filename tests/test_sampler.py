"""The sampler agrees with the learner, and draws what it says it draws."""

import functools

import grouped_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grounded_jax import logp, sampler

DECODER = cases.DECODERS["shared_kv"]
EOS = (5, 11, 17)
C = 9


@functools.cache
def parameters():
  return cases.parameters(DECODER)


def roll(batch=None, **changes):
  """A rollout of three prompts, four completions each, unless changed."""
  graphdef, params = parameters()
  options = {
    "seed": jnp.int32(0),
    "stage": jnp.int32(0),
    "step": jnp.int32(0),
    "purpose": jnp.int32(sampler.PURPOSE_TRAIN),
    "group": 4,
    "max_new_tokens": C,
    "temperature": 0.7,
    "top_p": 1.0,
    "eos": EOS,
    "model": cases.model(DECODER),
  }
  batch = cases.prompts() if batch is None else batch
  return sampler.sample(graphdef, params, batch, **(options | changes))


@jax.jit
def learner_logp(params, batch, rollout):
  """At temperature 0.7."""
  graphdef, _ = parameters()
  return logp.token_logp(
    graphdef,
    params,
    batch,
    rollout.tokens,
    rollout.sampled,
    temperature=0.7,
    model=cases.model(DECODER),
  )[0]


def same(a, b):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    if np.issubdtype(x.dtype, np.floating):
      np.testing.assert_allclose(x, y, rtol=0, atol=1e-5)
    else:
      np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("top_p", [1.0, 0.6])
def test_its_logp_is_the_learners(top_p):
  rollout = roll(top_p=top_p)
  assert len(set(np.array(rollout.sampled.sum(-1)).ravel())) > 2
  want = learner_logp(parameters()[1], cases.prompts(), rollout)
  np.testing.assert_allclose(rollout.logp, want, rtol=0, atol=1e-5)


def test_a_completion_ends_with_its_first_eos_or_at_the_limit():
  rollout = roll()
  is_eos = np.isin(np.array(rollout.tokens), EOS)
  sampled, finished = np.array(rollout.sampled), np.array(rollout.finished)
  assert finished.any() and not finished.all()
  for i, j in np.ndindex(finished.shape):
    length = sampled[i, j].sum()
    assert sampled[i, j, :length].all()
    assert is_eos[i, j, :length].sum() == finished[i, j]
    assert is_eos[i, j, length - 1] if finished[i, j] else length == C
    assert not rollout.logp[i, j, length:].any()


def test_eos_is_trained():
  """The gradient of the loss at each EOS alone is not zero."""
  rollout, batch = roll(), cases.prompts()
  is_eos = jnp.isin(rollout.tokens, jnp.array(EOS)) & rollout.sampled
  assert is_eos.any()
  at_eos = lambda p: jnp.sum(is_eos * learner_logp(p, batch, rollout))
  grads = jax.jit(jax.grad(at_eos))(parameters()[1])
  assert all(leaf.any() for leaf in jax.tree.leaves(grads))


def test_a_banned_eos_is_never_drawn_and_logp_is_still_the_learners():
  rollout = roll(ban_eos=True)
  assert rollout.sampled.all() and not rollout.finished.any()
  assert not np.isin(np.array(rollout.tokens), EOS).any()
  want = learner_logp(parameters()[1], cases.prompts(), rollout)
  np.testing.assert_allclose(rollout.logp, want, rtol=0, atol=1e-5)


def test_a_completion_does_not_depend_on_the_other_prompts():
  batch, whole = cases.prompts(), roll()
  alone = roll(cases.take(batch, [1]))
  same(alone, jax.tree.map(lambda x: x[1:2], whole))
  turned = roll(cases.take(batch, [2, 0, 1]))
  same(turned, jax.tree.map(lambda x: x[np.array([2, 0, 1])], whole))


def test_a_completion_does_not_depend_on_the_size_of_its_group():
  same(roll(group=2), jax.tree.map(lambda x: x[:, :2], roll()))


def test_a_completion_does_not_depend_on_the_padding_of_its_prompt():
  batch = cases.prompts()
  wider = cases.types.PromptBatch(
    tokens=jnp.pad(batch.tokens, ((0, 0), (0, 3)), constant_values=1),
    length=batch.length,
    key=batch.key,
  )
  same(roll(wider), roll())


def test_the_same_call_draws_the_same():
  same(roll(), roll())


@pytest.mark.parametrize("part", ["seed", "stage", "step", "purpose"])
def test_every_part_of_the_address_changes_the_draw(part):
  other = roll(**{part: jnp.int32(1)})
  assert (other.tokens[:, :, 0] != roll().tokens[:, :, 0]).any()


def test_members_of_a_group_differ():
  first = np.array(roll(group=16, max_new_tokens=2).tokens[:, :, 0])
  assert all(len(set(row)) > 2 for row in first)


def test_two_prompts_with_equal_text_draw_apart_by_their_keys():
  batch = cases.take(cases.prompts(), [0, 0])
  same_keys = roll(batch)
  np.testing.assert_array_equal(same_keys.tokens[0], same_keys.tokens[1])
  apart = cases.types.PromptBatch(
    tokens=batch.tokens, length=batch.length, key=jnp.array([1, 2])
  )
  rollout = roll(apart)
  assert (rollout.tokens[0] != rollout.tokens[1]).any()


def test_temperature_zero_takes_the_likeliest_token_of_the_plain_model():
  _, params = parameters()
  batch = cases.prompts(lengths=(5,))
  got = roll(batch, temperature=0.0, group=2, eos=()).tokens
  row = jnp.concatenate([batch.tokens[0, :5], got[0, 0]])
  plain = jax.jit(lambda row: cases.plain_logits(DECODER, params, row))
  likeliest = plain(row)[4:-1].argmax(-1)
  np.testing.assert_array_equal(got[0, 0], likeliest)
  np.testing.assert_array_equal(got[0, 0], got[0, 1])


def test_decoding_stops_when_every_completion_has_ended():
  """With every token an EOS one step is enough, whatever the limit."""
  rollout = roll(eos=tuple(range(37)), max_new_tokens=C)
  assert rollout.finished.all()
  assert (rollout.sampled.sum(-1) == 1).all()


def test_sampler_and_learner_multiply_by_the_same_norm_scales():
  """In bfloat16 rounding them first would be most of what sets them apart."""
  graphdef, params = parameters()
  batch, model = cases.prompts(), cases.model(DECODER, compute_dtype="bfloat16")
  rollout = roll(model=model, temperature=1.0)
  want = logp.token_logp(
    graphdef,
    params,
    batch,
    rollout.tokens,
    rollout.sampled,
    temperature=1.0,
    model=model,
  )[0]
  gap = np.abs(np.array(rollout.logp - want))[np.array(rollout.sampled)]
  assert gap.mean() < 2e-3


def test_a_bfloat16_sampler_stays_near_the_learner():
  model = cases.model(DECODER, sampler_dtype="bfloat16")
  rollout = roll(model=model)
  want = learner_logp(parameters()[1], cases.prompts(), rollout)
  gap = np.abs(np.array(rollout.logp - want))[np.array(rollout.sampled)]
  assert 0 < gap.mean() < 0.2
