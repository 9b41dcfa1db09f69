"""Slots and refill draw what one batch draws, in fewer steps."""

import dataclasses
import functools

import grouped_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grounded_jax import draw, refill, sampler, slots, types

EOS = (5, 11, 17)
G, C, L = 5, 19, 8
LENGTHS = (7, 3, 5, 2, 8, 1, 6, 4, 3)


@functools.cache
def prompts() -> types.PromptBatch:
  return jax.device_get(cases.prompts(lengths=LENGTHS, width=L))


def static(decoder, batch=None, limit=None, step=0, **changes):
  """All prompts in one batch, on the host."""
  graphdef, params = cases.parameters(decoder)
  model = cases.model(decoder, **changes)
  zero = jnp.int32(0)
  rollout = sampler.sample(
    *(graphdef, params, prompts() if batch is None else batch),
    seed=zero,
    stage=zero,
    step=jnp.int32(step),
    purpose=zero,
    group=G,
    max_new_tokens=C,
    temperature=0.7,
    top_p=1.0,
    top_k=30,
    eos=EOS,
    limit=limit,
    model=model,
  )
  return jax.device_get(rollout)


def options(decoder, slots_=3, block=4, admit=2, **changes) -> slots.Options:
  graphdef, _ = cases.parameters(decoder)
  return slots.Options(
    graphdef=graphdef,
    model=cases.model(decoder, **changes),
    rule=draw.Rule(temperature=0.7, top_k=30),
    eos=EOS,
    group=G,
    max_new_tokens=C,
    slots=slots_,
    prompt_len=L,
    block=block,
    admit=admit,
  )


def stream(made: slots.Options, batch=None, step=0, **how):
  _, params = cases.parameters(made.model.decoder)
  return refill.sample(
    *(made, params, prompts() if batch is None else batch),
    seed=0,
    stage=0,
    step=step,
    purpose=0,
    **how,
  )


def same(got: types.Rollout, want: types.Rollout, tolerance=1e-5):
  for name in ("tokens", "sampled", "finished"):
    np.testing.assert_array_equal(vars(got)[name], vars(want)[name])
  np.testing.assert_allclose(got.logp, want.logp, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
  ("name", "how"),
  [
    ("shared_kv", {}),
    ("shared_kv", {"slots_": 12, "block": 16, "admit": 5}),  # all at once
    ("smollm3", {"slots_": 2, "block": 5}),  # windows smaller than the ring
  ],
)
def test_slots_draw_what_one_batch_draws(name, how):
  decoder = cases.DECODERS[name]
  want = static(decoder)
  ends = want.sampled.sum(-1)
  assert len(set(ends.ravel().tolist())) > 5 and not want.finished.all()
  got, work = stream(options(decoder, **how))
  same(got, want)
  assert work.steps > 0


def test_in_float64_the_difference_is_rounding_alone():
  """Products over other numbers of rows add up in another order."""
  decoder = cases.DECODERS["shared_kv"]
  batch = prompts()
  with jax.enable_x64(True):
    graphdef, params = cases.parameters(decoder, "float64")
    model = cases.model(decoder, "float64")
    made = dataclasses.replace(options(decoder), graphdef=graphdef, model=model)
    address = {"seed": 0, "stage": 0, "step": 0, "purpose": 0}
    got, _ = refill.sample(made, params, batch, **address)
    want = sampler.sample(
      *(graphdef, params, batch),
      **{name: jnp.int32(value) for name, value in address.items()},
      group=G,
      max_new_tokens=C,
      temperature=0.7,
      top_p=1.0,
      top_k=30,
      eos=EOS,
      model=model,
    )
  assert got.logp.dtype == np.float64
  same(got, jax.device_get(want), 1e-13)


def test_groups_move_to_narrower_parts_and_slots_are_given_on():
  """9 prompts in 3 slots: fewer rows than three batches of 3."""
  decoder = cases.DECODERS["shared_kv"]
  made = options(decoder)
  assert made.widths == (5, 2, 1)
  want = static(decoder)
  longest = want.sampled.sum(-1).max(1)
  batches = sum(int(longest[i : i + 3].max()) - 1 for i in (0, 3, 6))
  got, work = stream(made)
  same(got, want)
  assert work.steps < batches
  # Whole slots only at first: in the end only narrow parts are computed.
  assert work.rows < work.steps * made.slots * sum(made.widths)


def test_each_completion_may_have_a_limit_of_its_own():
  decoder = cases.DECODERS["shared_kv"]
  limit = np.random.default_rng(2).integers(1, C + 1, (len(LENGTHS), G))
  limit = limit.astype(np.int32)
  want = static(decoder, limit=limit)
  lengths = want.sampled.sum(-1)
  assert (lengths <= limit).all() and (lengths == limit).sum() > 10
  np.testing.assert_array_equal(want.finished | (lengths == limit), True)
  got, _ = stream(options(decoder), limit=limit)
  same(got, want)


def test_a_text_that_ends_a_completion_frees_its_row():
  """As if the batch had been cut afterwards, in no more steps."""
  decoder = cases.DECODERS["shared_kv"]
  ends = lambda ids: next(
    (i + 1 for i, x in enumerate(ids) if x % 7 == 3), None
  )
  want = static(decoder)
  for row in np.ndindex(want.finished.shape):
    ids = want.tokens[row][want.sampled[row]].tolist()
    if (end := ends(ids)) is not None:
      for name in ("tokens", "sampled", "logp", "finished"):
        x = np.array(vars(want)[name])
        x[row] = (
          True
          if name == "finished"
          else np.where(np.arange(C) < end, x[row], 0)
        )
        vars(want)[name] = x
  made = options(decoder)
  got, work = stream(made, stopped=ends)
  same(got, want)
  assert work.steps < stream(made)[1].steps


def test_nothing_is_compiled_after_the_first_call():
  decoder = cases.DECODERS["shared_kv"]
  made = options(decoder)
  stream(made)
  compiled = []
  listener = lambda name, *_, **__: compiled.append(name)
  jax.monitoring.register_event_duration_secs_listener(listener)
  try:
    for step, rows in enumerate(([0, 1], [4, 3, 2, 1, 0, 5], [8])):
      batch = jax.tree.map(lambda x, rows=rows: x[rows], prompts())
      got, _ = stream(made, batch, step=step + 1)
      assert got.finished.shape == (len(rows), G)
  finally:
    jax.monitoring.unregister_event_duration_listener(listener)
  assert not [name for name in compiled if "backend_compile" in name]


def test_what_a_prompt_draws_depends_on_no_other():
  made = options(cases.DECODERS["shared_kv"])
  whole, _ = stream(made)
  turned = [6, 2, 8, 0]
  some, _ = stream(made, jax.tree.map(lambda x: x[turned], prompts()))
  for name in ("tokens", "sampled", "finished"):
    np.testing.assert_array_equal(vars(some)[name], vars(whole)[name][turned])


def test_slots_of_int8_draw_what_one_int8_batch_draws():
  decoder = cases.DECODERS["shared_kv"]
  want = static(decoder, kv_dtype="int8")
  got, _ = stream(options(decoder, kv_dtype="int8"))
  same(got, want)
