"""Packed rows: where tokens go, and that nothing else changes."""

import dataclasses

import grouped_cases as cases
import grpo_cases
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from grounded_jax import config, grpo, lora, model, optim, packing, types

DESCENT = optax.sgd(1.0)  # the parameters' change is the gradient
P, L, G, C = 8, 12, 3, 6
W = L + G * (C - 1)


@pytest.fixture(autouse=True)
def short_rows(monkeypatch):
  """Rows of as many lengths as at full size."""
  monkeypatch.setattr(packing, "_MULTIPLE", 1)


def batch(dead=(2, 5), seed: int = 0, spread: float = 1.0) -> types.Batch:
  """Ragged groups, some completions and some whole groups without weight."""
  rng = np.random.default_rng(seed)
  count = rng.integers(1, max(round(spread * C), 1) + 1, (P, G))
  weight = (rng.random((P, G)) < 0.8).astype(np.float32)
  weight[:, 0] = 1
  weight[list(dead)] = 0
  draw = lambda *size: rng.integers(0, 37, size, np.int32)
  return types.Batch(
    prompts=types.PromptBatch(
      tokens=draw(P, L),
      length=rng.integers(1, round(spread * L) + 1, P).astype(np.int32),
      key=np.arange(P, dtype=np.int32),
    ),
    rollout=types.Rollout(
      tokens=draw(P, G, C),
      sampled=np.arange(C) < count[..., None],
      logp=-rng.exponential(1, (P, G, C)).astype(np.float32),
      finished=np.ones((P, G), bool),
    ),
    advantage=rng.normal(size=(P, G)).astype(np.float32),
    weight=weight,
    policy_step=np.array(0, np.int32),
  )


def cfg_of(pack: int, micro: int = 2, **options) -> config.GRPO:
  return grpo_cases.plain(
    prompts=P, group=G, micro=micro, pack=pack, max_new_tokens=C, **options
  )


def by_row(x: np.ndarray, rows: int, ways: int = 1) -> np.ndarray:
  """[R S ...] of slots as micro-batches take them, a row of each device."""
  cut = x.reshape(ways, -1, rows // ways, *x.shape[1:]).swapaxes(1, 2)
  return cut.reshape(rows, -1, *x.shape[1:])


def rows_of(packed: types.Batch) -> np.ndarray:
  """Tokens of each row that is not empty."""
  rows = packed.packing.cell.shape[0]
  cells = packed.weight.shape[0] // rows * W
  count = (packed.packing.cell < cells).sum(1)
  return count[count > 0]


def test_a_row_holds_prompts_and_completions_one_after_another():
  """Two prompts of 2 and 1 tokens, two completions each of 3, 1, 2 and 0."""
  made = types.Batch(
    prompts=types.PromptBatch(
      tokens=np.array([[5, 6, 0], [7, 0, 0]], np.int32),
      length=np.array([2, 1], np.int32),
      key=np.arange(2, dtype=np.int32),
    ),
    rollout=types.Rollout(
      tokens=np.arange(12, dtype=np.int32).reshape(2, 2, 3),
      sampled=np.arange(3) < np.array([[[3], [1]], [[2], [3]]]),
      logp=np.zeros((2, 2, 3), np.float32),
      finished=np.ones((2, 2), bool),
    ),
    advantage=np.ones((2, 2), np.float32),
    weight=np.array([[1, 1], [1, 0]], np.float32),
    policy_step=np.array(0, np.int32),
  )
  cfg = grpo_cases.plain(prompts=2, group=2, max_new_tokens=3, pack=1)
  got = packing.pack(cfg, made, 1)
  # A group's cells: 3 of the prompt, 2 of each completion; 14 are beyond.
  filled = [0, 1, 3, 4, 7, 10]
  assert got.packing.cell[0].tolist() == filled
  # Of [2 2 3]; 12 is beyond.
  assert got.packing.target[0].tolist() == [0, 1, 2, 3, 6, 7] + [12] * 6
  np.testing.assert_array_equal(got.weight, made.weight)
  np.testing.assert_array_equal(
    packing.sources(
      jax.tree.map(jnp.asarray, got.packing), jnp.array([2, 1]), 3, 2, 3
    )[0, :6],
    [1, 3, 4, 1, 7, 10],
  )


@pytest.mark.parametrize("ways", [1, 2])
@pytest.mark.parametrize("pack", [1, 2, 4])
@pytest.mark.parametrize("spread", [0.3, 1.0])
def test_every_token_that_counts_is_in_one_row(ways, pack, spread):
  made = batch(seed=pack, spread=spread)
  packed = packing.pack(cfg_of(pack), made, ways)
  each = 2 // ways
  rows = packed.packing.cell.shape[0]
  weight, key = (
    by_row(x, rows, ways) for x in (packed.weight, packed.prompts.key)
  )
  slots = weight.shape[1]
  assert rows == P // each and slots <= pack * each
  assert packed.packing.cell.shape[1] <= each * W
  sampled = made.rollout.sampled & (made.weight != 0)[..., None]
  live = sampled.any((1, 2))
  own = np.maximum(sampled.sum(-1) - 1, 0).sum()
  assert rows_of(packed).sum() == made.prompts.length[live].sum() + own
  found = []
  for row in range(rows):
    for target in packed.packing.target[row]:
      if target < slots * G * C:
        slot, g, c = np.unravel_index(target, (slots, G, C))
        found.append((key[row, slot], g, c))
  want = list(zip(*np.nonzero(sampled), strict=True))
  assert sorted(found) == want
  # On every device the empty rows are the last, and none has two more.
  full = (weight != 0).any((1, 2)).reshape(ways, -1)
  assert (np.diff(full.astype(int), axis=1) <= 0).all()
  assert np.ptp(full.sum(1)) <= 1


def test_short_groups_share_rows_and_long_ones_have_as_many_as_before():
  """A row has room for two full groups, and at most eight slots."""
  short = packing.pack(cfg_of(4), batch((), spread=0.15), 1)
  assert len(short.weight) == 4 * 8 and len(rows_of(short)) == 1
  full = batch(())
  full = dataclasses.replace(
    full,
    weight=np.ones((P, G), np.float32),
    prompts=dataclasses.replace(full.prompts, length=np.full(P, L, np.int32)),
    rollout=dataclasses.replace(full.rollout, sampled=np.ones((P, G, C), bool)),
  )
  packed = packing.pack(cfg_of(4), full, 1)
  assert len(packed.weight) == 4 * 2
  assert rows_of(packed).tolist() == [2 * W] * 4


def test_no_group_left_is_a_batch_of_empty_rows():
  made = batch()
  none = dataclasses.replace(made, weight=np.zeros((P, G), np.float32))
  packed = packing.pack(cfg_of(1), none, 1)
  assert len(rows_of(packed)) == 0 and not packed.weight.any()


def test_rows_have_few_lengths_and_the_longest_is_full():
  room = 5000
  lengths = {packing._length(n, room) for n in range(room + 1)}
  assert len(lengths) == 16 and max(lengths) == room
  for needed in (0, 1, 313, 314, 4999, 5000):
    assert packing._length(needed, room) >= needed


def update(decoder, dtype, cfg, made, rank: int = 0):
  """The parameters' change under plain descent, and the metrics."""
  graphdef, params = cases.parameters(decoder, dtype)
  base, options = None, {}
  if rank:
    options["lora"] = config.LoRA(rank=rank)
    _, shapes = model.abstract(decoder, dtype)
    shapes = lora.abstract(options["lora"], shapes)
    draw = np.random.default_rng(3)
    base, params = (
      params,
      jax.tree.map(
        lambda x: jnp.array(draw.normal(size=x.shape) / 4, x.dtype), shapes
      ),
    )
  if cfg.pack:
    made = packing.pack(cfg, made, 1)
  state = optim.init(DESCENT, jax.tree.map(jnp.copy, params))
  state, metrics = grpo.update(
    *(cfg, cases.model(decoder, dtype, **options), graphdef, DESCENT, state),
    jax.tree.map(jnp.asarray, made),
    base,
  )
  return jax.tree.map(jnp.subtract, state.params, params), metrics


@pytest.mark.parametrize(
  "decoder, dtype, rank",
  [
    # Windows, soft caps, shared keys; two tables of rotary positions.
    pytest.param("gemma2", "float64", 0, id="window-and-softcap"),
    pytest.param("gemma3", "float64", 0, id="two-rotary-tables"),
    pytest.param("shared_kv", "float32", 0, id="float32"),
    pytest.param("shared_kv", "float64", 2, id="lora"),
  ],
)
def test_the_packed_update_is_the_padded_one(decoder, dtype, rank):
  """Ragged, dropped completions and groups, several micro-batches."""
  with jax.enable_x64(dtype == "float64"):
    decoder, made = cases.DECODERS[decoder], batch()
    options = {"mismatch": "truncate", "aggregation": "sequence_mean"}
    want, padded = update(decoder, dtype, cfg_of(0, **options), made, rank)
    got, packed = update(decoder, dtype, cfg_of(2, **options), made, rank)
    bound = 1e-5 if dtype == "float32" else 1e-10
    assert cases.worst(got, want) < bound
    for name, value in padded.items():
      np.testing.assert_allclose(packed[name], value, rtol=bound, atol=bound)


def test_log_probabilities_are_those_of_padded_groups():
  """Of all that counts: the rest is 0."""
  decoder, made = cases.DECODERS["llama3"], batch()
  graphdef, params = cases.parameters(decoder, "float32")
  of = lambda cfg, b: grpo.rollout_logp(
    *(cfg, cases.model(decoder), graphdef, params, b.prompts, b.rollout),
    b.packing,
  )
  want = np.array(of(cfg_of(0), jax.tree.map(jnp.asarray, made)))
  want[made.weight == 0] = 0
  packed = packing.pack(cfg_of(2), made, 1)
  got = np.array(of(cfg_of(2), jax.tree.map(jnp.asarray, packed)))
  back = np.zeros_like(want)
  full = (packed.weight != 0).any(-1)
  back[packed.prompts.key[full]] = got[full]
  np.testing.assert_allclose(back, want, atol=1e-5)
  assert np.abs(want).max() > 1


def test_a_token_of_another_group_in_the_row_changes_nothing():
  """The law above can fail: in one stream, tokens would see each other."""
  decoder = cases.DECODERS["plain"]
  graphdef, params = cases.parameters(decoder, "float32")
  made = batch((), spread=0.15)
  packed = packing.pack(cfg_of(4), made, 1)
  cut = lambda x: jnp.asarray(by_row(x, 4)[0])
  prompts, tokens = jax.tree.map(cut, (packed.prompts, packed.rollout.tokens))
  row = jax.tree.map(lambda x: jnp.asarray(x[:1]), packed.packing)
  shift = lambda tokens: tokens.at[0].set((tokens[0] + 1) % 37)

  def hidden(prompts):
    return model.grouped_hidden(graphdef, params, prompts, tokens, packing=row)

  other = dataclasses.replace(prompts, tokens=shift(prompts.tokens))
  moved = np.abs(np.array(hidden(other) - hidden(prompts))).max(-1)[0]
  slot = np.array(row.target[0]) // (G * C)
  assert (moved[slot == 0] > 1e-3).all()
  assert (moved[(slot > 0) & (slot < 8)] == 0).all()


def test_neither_the_rows_nor_the_groups_in_them_compile_anew():
  """One program for a length of rows and a number of slots."""
  decoder, cfg = cases.DECODERS["plain"], cfg_of(1)
  before, shapes = grpo.update._cache_size(), set()
  for dead in ((), (1,), (0, 2, 3), (0, 1, 2, 3, 4, 6)):
    made = batch(dead)
    shapes.add(packing.pack(cfg, made, 1).packing.cell.shape)
    update(decoder, "float32", cfg, made)
  assert 1 <= grpo.update._cache_size() - before <= len(shapes) < 4
