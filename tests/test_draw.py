"""Tokens are drawn as `draw` says: from what, and with which probability."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grounded_jax import draw

V = 50
RULES = {
  "top-k": {"top_k": 7},
  "top-p": {"top_p": 0.6},
  "min-p": {"min_p": 0.2},
  "all": {"top_k": 12, "top_p": 0.8, "min_p": 0.1},
  "mild": {"top_k": 40, "top_p": 0.99, "min_p": 1e-3},
  "one token": {"min_p": 1.0},
}


def rule(**options) -> draw.Rule:
  return draw.Rule(**({"temperature": 1.0} | options))


def scores(seed: int = 0, shape=(20, 5, V)):
  return jax.random.normal(jax.random.key(seed), shape) * 3


def keys(shape=(20, 5)):
  return jax.random.split(jax.random.key(9), shape)


def warped(logits: np.ndarray, options: dict) -> np.ndarray:
  """Which tokens transformers' warpers keep, in the order of `generate`."""
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  generation = transformers.generation
  out = torch.tensor(logits.reshape(-1, V))
  for name, make in (
    ("temperature", generation.TemperatureLogitsWarper),
    ("top_k", generation.TopKLogitsWarper),
    ("top_p", generation.TopPLogitsWarper),
    ("min_p", generation.MinPLogitsWarper),
  ):
    if name in options:
      out = make(options[name])(None, out)
  return torch.isfinite(out).numpy().reshape(logits.shape)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_what_is_kept_is_what_transformers_keeps(name, temperature):
  logits = np.array(scores())
  want = warped(logits, {"temperature": temperature} | RULES[name])
  got = draw.kept(jnp.array(logits / temperature), rule(**RULES[name]))
  np.testing.assert_array_equal(got, want)
  assert 1 <= want.sum(-1).min() and want.sum(-1).max() < V


@pytest.mark.parametrize("name", RULES)
def test_only_kept_tokens_are_drawn_and_logp_is_that_of_all(name):
  logits, cut = scores(), rule(temperature=0.7, **RULES[name])
  kept = np.array(draw.kept(logits / 0.7, cut))
  whole = np.array(jax.nn.log_softmax(logits / 0.7))
  for index in range(20):
    token, logp = draw.token(logits, keys(), index, cut)
    picked = np.array(token)[..., None]
    assert np.take_along_axis(kept, picked, -1).all()
    want = np.take_along_axis(whole, picked, -1)[..., 0]
    np.testing.assert_allclose(logp, want, rtol=0, atol=1e-5)


def test_the_likeliest_one_of_one_is_greedy():
  logits = scores()
  want = draw.token(logits, keys(), 0, rule(temperature=0.0))
  for options in ({"top_k": 1}, {"min_p": 1.0}, {"top_p": 1e-6}):
    token, _ = draw.token(logits, keys(), 0, rule(**options))
    np.testing.assert_array_equal(token, want[0])
  np.testing.assert_array_equal(want[0], np.array(logits).argmax(-1))


def test_all_tokens_of_all_change_nothing():
  logits = scores()
  want = draw.token(logits, keys(), 3, rule())
  assert (want[0] != np.array(logits).argmax(-1)).any()
  for options in ({"top_k": V}, {"top_k": V + 9}, {"min_p": 1e-30}):
    got = draw.token(logits, keys(), 3, rule(**options))
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_array_equal(got[1], want[1])


@pytest.mark.parametrize("options", [{}, {"top_k": 5}, {"temperature": 0.0}])
def test_what_is_banned_is_never_drawn(options):
  """The likeliest of each row among it; the rest is drawn as without it."""
  logits = scores(shape=(20, 5, 8))
  banned = (1, 4, 6)
  free = [i for i in range(8) if i not in banned]
  for index in range(50):
    token, logp = draw.token(
      logits, keys(), index, rule(banned=banned, **options)
    )
    assert not np.isin(np.array(token), banned).any()
  whole = jax.nn.log_softmax(logits / (options.get("temperature") or 1.0))
  want = np.take_along_axis(np.array(whole), np.array(token)[..., None], -1)
  np.testing.assert_allclose(logp, want[..., 0], rtol=0, atol=1e-5)
  if "top_k" in options:
    assert set(np.array(token).ravel()) <= set(free)


def test_bans_come_before_the_truncation():
  """The likeliest two are banned: top-2 are then the next two."""
  logits = jnp.log(jnp.array([[[0.4, 0.3, 0.2, 0.06, 0.04]]]))
  logits = jnp.broadcast_to(logits, (20, 5, 5))
  token, _ = draw.token(logits, keys(), 0, rule(top_k=2, banned=(0, 1)))
  assert set(np.array(token).ravel()) == {2, 3}


def test_each_prompt_may_be_at_a_token_of_its_own():
  logits, at = scores(), 3 * jnp.arange(20)[:, None]
  got = draw.token(logits, keys(), at, rule())
  for p in range(20):
    want = draw.token(logits[p : p + 1], keys()[p : p + 1], 3 * p, rule())
    np.testing.assert_array_equal(got[0][p], want[0][0])


def test_nucleus_keeps_the_fewest_likeliest_tokens_that_reach_its_mass():
  p = jnp.array([[[0.5, 0.25, 0.15, 0.1], [0.1, 0.15, 0.25, 0.5]]])
  kept = lambda mass: draw.kept(jnp.log(p), rule(top_p=mass))[0].tolist()
  two = [[True, True, False, False], [False, False, True, True]]
  assert kept(0.75 - 1e-3) == two
  assert kept(0.5 + 1e-3) == two
  assert kept(0.5 - 1e-3) == [[True, False, False, False], [False] * 3 + [True]]


def test_draws_follow_the_probabilities():
  """10,000 draws of 7 tokens: each count within 5 standard deviations."""
  p = np.array([0.4, 0.0, 0.3, 0.2, 0.05, 0.04, 0.01])
  scores = jnp.broadcast_to(jnp.log(p), (100, 100, 7))
  uniform = jax.random.uniform(jax.random.key(0), (100, 100))
  tokens = np.array(draw.categorical(scores, uniform)).ravel()
  counts = np.bincount(tokens, minlength=7)
  assert (np.abs(counts - 1e4 * p) <= 5 * np.sqrt(1e4 * p * (1 - p))).all()


def test_a_draw_is_where_the_cumulative_probability_passes_the_number():
  p = np.array([0.0, 0.25, 0.25, 0.0, 0.5, 0.0])
  u = jnp.array([[0.0, 0.2499, 0.2501, 0.4999, 0.5001, 1 - 2**-24]])
  scores = jnp.broadcast_to(jnp.log(p), (1, 6, 6))
  got = draw.categorical(scores, u)[0].tolist()
  assert got == [1, 1, 2, 2, 4, 4]


def test_no_rounding_draws_a_token_of_no_weight():
  """Marks at the very edge of a block, whose first token is banned."""
  scores = np.zeros((1, 1, 100), np.float32)
  scores[..., ::10] = -1e30
  edges = np.arange(1, 10) / 10
  marks = np.concatenate([edges + i * 2e-8 for i in range(-50, 50)])
  for u in marks.astype(np.float32):
    token = draw.categorical(jnp.array(scores), jnp.full((1, 1), u))
    assert int(token[0, 0]) % 10
