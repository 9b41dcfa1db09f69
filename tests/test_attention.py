"""The two-part attention equals one masked softmax, gradients included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grounded_jax import attention, attention_decode, kv_cache

L, G = 9, 4
LENGTH = jnp.array([9, 1, 5])


def tensors(own: int, heads: int, kv_heads: int):
  """(q, k, v, d out, which queries count) for three prompts."""
  random = np.random.default_rng(0)
  t = L + G * own
  q, k, v, d = (
    jnp.array(random.normal(size=(3, t, n, 6)))
    for n in (heads, kv_heads, kv_heads, heads)
  )
  index = jnp.arange(t)
  counts = (index < LENGTH[:, None]) | (index >= L)
  return q, k, v, d * counts[:, :, None, None]


def value_and_grads(function, own, heads, kv_heads, **rule):
  q, k, v, d = tensors(own, heads, kv_heads)
  loss = lambda q, k, v: jnp.sum(function(q, k, v, LENGTH, L, G, **rule) * d)
  return jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(q, k, v)


@pytest.mark.parametrize(
  "rule",
  [
    {},
    {"window": 3},
    {"window": 7, "softcap": 0.7, "scale": 0.3},
    {"window": 2**30, "softcap": 2.0},
  ],
)
@pytest.mark.parametrize(
  "own, heads, kv_heads, prompt_queries, own_queries",
  [
    (5, 4, 2, 256, 128),  # one block of each part
    (5, 4, 4, 4, 10),  # three prompt blocks; two members a block
    (7, 4, 1, 9, 3),  # a completion cut into blocks that do not divide it
    (0, 4, 2, 4, 128),  # prompts alone
  ],
)
def test_output_and_gradients_equal_the_dense_softmax(
  monkeypatch, own, heads, kv_heads, prompt_queries, own_queries, rule
):
  monkeypatch.setattr(attention, "_PROMPT_QUERIES", prompt_queries)
  monkeypatch.setattr(attention, "_OWN_QUERIES", own_queries)
  with jax.enable_x64(True):
    if "window" in rule:
      rule = rule | {"window": jnp.array(rule["window"])}
    want = value_and_grads(attention.dense, own, heads, kv_heads, **rule)
    got = value_and_grads(attention.grouped, own, heads, kv_heads, **rule)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


def test_a_completion_sees_its_prompt_and_itself_only():
  """d out / d value is non-zero exactly where the query may look."""
  own = 2
  with jax.enable_x64(True):
    q, k, v, _ = tensors(own, 2, 2)
    # The second token of member 1 of prompt 2, whose length is 5.
    query = L + 1 * own + 1
    seen = jax.grad(
      lambda v: attention.grouped(q, k, v, LENGTH, L, G)[2, query].sum()
    )(v)
  looked = np.flatnonzero(np.abs(np.array(seen[2])).sum((1, 2)))
  assert looked.tolist() == [0, 1, 2, 3, 4, L + own, L + own + 1]
  assert np.abs(np.array(seen[:2])).sum() == 0


def test_a_window_counts_positions_back_from_the_prompts_length():
  """Token 1 of a completion after 5 tokens is at 6: with 4 it sees 3..6."""
  own = 2
  with jax.enable_x64(True):
    q, k, v, _ = tensors(own, 2, 2)
    query = L + 1 * own + 1
    seen = jax.grad(
      lambda v: attention.grouped(q, k, v, LENGTH, L, G, window=jnp.array(4))[
        2, query
      ].sum()
    )(v)
  looked = np.flatnonzero(np.abs(np.array(seen[2])).sum((1, 2)))
  assert looked.tolist() == [3, 4, L + own, L + own + 1]


def test_no_scores_outlive_their_block():
  """Everything kept for the backward pass is smaller than the scores."""
  own, heads, kv_heads = 5, 4, 2
  q, k, v, _ = (x.astype(jnp.float32) for x in tensors(own, heads, kv_heads))
  _, pullback = jax.vjp(
    lambda q, k, v: attention.grouped(q, k, v, LENGTH, L, G), q, k, v
  )
  kept = max(x.size for x in jax.tree.leaves(pullback))
  assert kept <= q.size
  assert kept < 3 * heads * G * own * (L + own)


def test_one_block_never_holds_more_members_than_its_queries_allow():
  assert attention._own_blocks(8, 39) == (2, 1)
  assert attention._own_blocks(6, 39) == (3, 1)
  assert attention._own_blocks(8, 300) == (1, 3)
  assert attention._own_blocks(8, 128) == (1, 1)


def test_long_prompts_are_cut_into_a_bounded_number_of_blocks():
  blocks = attention._prompt_blocks(10_000)
  assert len(blocks) == 8
  assert blocks[0] == (0, 1250) and blocks[-1][1] == 10_000
  assert attention._prompt_blocks(300) == [(0, 256), (256, 300)]


@pytest.mark.parametrize("window", [None, 2, 4])
def test_decoding_one_token_equals_its_row_of_the_whole(window):
  own, heads, kv_heads = 3, 4, 2
  with jax.enable_x64(True):
    q, k, v, _ = tensors(own, heads, kv_heads)
    rule = {"softcap": 0.7, "scale": 0.3, "window": jnp.array(window or 0)}
    rule = rule if window else {}
    whole = attention.dense(q, k, v, LENGTH, L, G, **rule)
    cut = lambda x: x[:, L:].reshape(3, G, own, *x.shape[2:])
    heads_first = lambda x: cut(x).transpose(0, 3, 1, 2, 4)
    entries = lambda x: kv_cache.Entries(values=x)
    got = attention_decode.decode(
      cut(q)[:, :, 2],
      (
        entries(k[:, :L].transpose(0, 2, 3, 1)),
        entries(v[:, :L].transpose(0, 2, 1, 3)),
        LENGTH,
      ),
      (
        entries(heads_first(k)),
        entries(heads_first(v)),
        jnp.array(2),
        jnp.array(2),
      ),
      (cut(k)[:, :, 2], cut(v)[:, :, 2]),
      **rule,
    )
  np.testing.assert_allclose(got, cut(whole)[:, :, 2], rtol=0, atol=1e-12)
