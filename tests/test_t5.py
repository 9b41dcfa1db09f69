"""T5: its parameters, its buckets, masking, and parity with transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import t5_cases as cases

from grounded_jax import t5
from grounded_jax.records import UserError

NAMES = tuple(cases.SHAPES)


def logits(graphdef, params, tokens, length, answer, **options):
  @jax.jit
  def run(params, tokens, length, answer):
    encoded = t5.encode(graphdef, params, tokens, length, **options)
    return t5.decode(graphdef, params, encoded, length, answer)

  return np.asarray(run(params, tokens, length, answer))


@pytest.mark.parametrize("name", NAMES)
def test_the_tree_has_the_documented_shapes_and_a_name_per_axis(name):
  shape = cases.SHAPES[name]
  _, params, axes = t5.abstract(shape)
  d, f, v, b = shape.embed, shape.mlp, shape.vocab, shape.buckets
  n, h = shape.heads, shape.head_dim

  def stack(y, *attentions):
    qkv = {name: (y, d, n, h) for name in "qkv"}
    attention = qkv | {"o": (y, n, h, d), "norm": (y, d)}
    mlp = {"norm": (y, d), "up": (y, d, f), "down": (y, f, d)}
    mlp |= {"gate": (y, d, f)} if shape.gated else {}
    out = {name: attention for name in attentions}
    return out | {"mlp": mlp, "norm": (d,), "bias": (b, n)}

  want = {
    "embed": (v, d),
    "encoder": stack(shape.layers, "attention"),
    "decoder": stack(shape.decoder_layers, "attention", "cross"),
  }
  want |= {} if shape.tied else {"head": (d, v)}
  assert jax.tree.map(lambda leaf: leaf.shape, params) == want
  ranks = jax.tree.map(len, axes, is_leaf=lambda x: isinstance(x, tuple))
  assert ranks == jax.tree.map(lambda leaf: leaf.ndim, params)
  assert axes["decoder"]["cross"]["q"] == (
    *("layers", "embed"),
    *("heads", "head_dim"),
  )


def test_the_initialised_model_is_the_abstract_one_with_finite_logits():
  graphdef, params = t5.init(cases.GATED, jax.random.key(0))
  other, shapes, _ = t5.abstract(cases.GATED)
  assert graphdef == other and hash(graphdef) == hash(other)
  assert t5.shape_of(graphdef, params) == cases.GATED
  kind = lambda x: (x.shape, x.dtype)
  assert jax.tree.map(kind, params) == jax.tree.map(kind, shapes)
  tokens, length = cases.texts(cases.GATED)
  got = logits(graphdef, params, tokens, length, np.zeros((3, 1), np.int32))
  assert got.shape == (3, 1, cases.GATED.vocab)
  assert np.isfinite(got).all() and 0.1 < got.std() < 10


@pytest.mark.parametrize(
  ("size", "millions"),
  [("small", 77), ("base", 248), ("large", 783), ("xl", 2850), ("xxl", 11135)],
)
def test_the_published_sizes_have_the_published_counts(size, millions):
  """Parameters of T5 v1.1, in millions, as its releases count them."""
  _, params, _ = t5.abstract(t5.sized(size))
  count = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(params))
  assert count / 1e6 == pytest.approx(millions, abs=1)


def test_a_size_or_shape_that_cannot_be_is_refused_by_name():
  with pytest.raises(UserError, match="no size 'huge'; it has: small, base"):
    t5.sized("huge")
  for name, value in (("heads", 0), ("buckets", 3), ("max_distance", 9)):
    with pytest.raises(UserError, match=name):
      t5.Shape(**(vars(cases.GATED) | {name: value}))
  with pytest.raises(UserError, match="start=96 must be below vocab=96"):
    t5.Shape(**(vars(cases.GATED) | {"start": 96}))


def test_buckets_by_hand():
  """32 buckets up to 128: 8 exact ones a side, then 8, 12, 16, 23, ..."""
  shape = t5.sized("small")
  distance = np.array([0, -1, -7, -8, -11, -12, -16, -127, -128, -9999])
  both = t5.buckets(distance, shape, True)
  np.testing.assert_array_equal(both, [0, 1, 7, 8, 8, 9, 10, 15, 15, 15])
  ahead = t5.buckets(-distance, shape, True)
  np.testing.assert_array_equal(ahead[1:], both[1:] + 16)
  past = t5.buckets(np.array([5, 1, 0, -15, -16, -9999]), shape, False)
  np.testing.assert_array_equal(past, [0, 0, 0, 15, 16, 31])


def test_spread_biases_are_those_of_each_pair_of_positions():
  table = np.random.default_rng(0).standard_normal((32, 3)).astype("float32")
  shape, t = t5.sized("small"), 12
  bias = t5._bias(jnp.array(table), shape, t, True)
  query, key = np.mgrid[:t, :t]
  place = t5.buckets((key - query).ravel(), shape, True).reshape(t, t)
  want = table[place].transpose(2, 0, 1)
  for rows in (1, 3, 4, 12):
    parts = [t5._spread(bias, start, rows) for start in range(0, t, rows)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), want)


@pytest.mark.parametrize("name", ["gated", "tied"])
def test_queries_in_parts_equal_all_at_once(name, monkeypatch):
  shape = cases.SHAPES[name]
  graphdef, params = cases.parameters(shape)
  tokens, length = cases.texts(shape)
  answer = np.array([[0, 4, 9, 2]] * 3, np.int32)
  want = logits(graphdef, params, tokens, length, answer)
  monkeypatch.setattr(t5, "_SCORES", 3 * 12 * 4)
  got = logits(graphdef, params, tokens, length, answer)
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


def test_padding_and_neighbours_change_nothing():
  graphdef, params = cases.parameters(cases.GATED)
  tokens, length = cases.texts(cases.GATED)
  answer = np.zeros((3, 1), np.int32)
  want = logits(graphdef, params, tokens, length, answer)
  padded = jnp.where(jnp.arange(12) < length[:, None], tokens, 0)
  got = logits(graphdef, params, padded, length, answer)
  np.testing.assert_array_equal(got, want)
  alone = logits(graphdef, params, tokens[1:2, :3], length[1:2], answer[:1])
  np.testing.assert_allclose(alone[0], want[1], rtol=0, atol=1e-5)


def test_bfloat16_is_computed_in_and_logits_are_float32():
  graphdef, params = cases.parameters(cases.GATED, dtype="bfloat16")
  tokens, length = cases.texts(cases.GATED)
  answer = np.zeros((3, 1), np.int32)
  encoded = jax.eval_shape(
    lambda p: t5.encode(graphdef, p, tokens, length, "bfloat16"), params
  )
  assert encoded.dtype == jnp.bfloat16
  got = logits(
    graphdef, params, tokens, length, answer, compute_dtype="bfloat16"
  )
  assert got.dtype == np.float32
  wide = jax.tree.map(lambda x: x.astype("float32"), params)
  want = logits(graphdef, wide, tokens, length, answer)
  assert 0 < np.abs(got - want).max() < 0.05 * np.abs(want).max()


def test_the_program_does_not_grow_with_depth():
  def lines(layers: int) -> int:
    shape = t5.Shape(
      **(vars(cases.GATED) | {"layers": layers, "decoder_layers": layers})
    )
    graphdef, params, _ = t5.abstract(shape)
    tokens, length = cases.texts(shape)

    def run(params):
      encoded = t5.encode(graphdef, params, tokens, length)
      return t5.decode(graphdef, params, encoded, length, tokens[:, :1])

    return jax.jit(run).lower(params).as_text().count("\n")

  assert lines(12) == lines(2)


def reference(shape, params):
  """The same model in transformers, in float32."""
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  model = transformers.T5ForConditionalGeneration(
    transformers.T5Config(
      d_model=shape.embed,
      d_ff=shape.mlp,
      d_kv=shape.head_dim,
      num_heads=shape.heads,
      num_layers=shape.layers,
      num_decoder_layers=shape.decoder_layers,
      vocab_size=shape.vocab,
      relative_attention_num_buckets=shape.buckets,
      relative_attention_max_distance=shape.max_distance,
      layer_norm_epsilon=shape.norm_eps,
      feed_forward_proj="gated-gelu" if shape.gated else "relu",
      tie_word_embeddings=shape.tied,
      scale_decoder_outputs=shape.scaled,
      decoder_start_token_id=shape.start,
    )
  ).eval()
  state = {k: torch.tensor(v) for k, v in cases.tensors(shape, params).items()}
  if not shape.tied:  # transformers 5 ties every T5 when it makes one
    model.lm_head.weight = torch.nn.Parameter(state["lm_head.weight"])
  missing, unexpected = model.load_state_dict(state, strict=False)
  assert not unexpected
  assert set(missing) <= {
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
    "lm_head.weight",
  }
  return model


@pytest.mark.parity
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
  ("dtype", "most"), [("float32", 1e-4), ("float64", 1e-10)]
)
def test_logits_equal_those_of_transformers(name, dtype, most, monkeypatch):
  """In float64 too, with norms of that width in place of their float32."""
  torch = pytest.importorskip("torch")
  modeling = pytest.importorskip("transformers.models.t5.modeling_t5")

  def norm(self, x):
    scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
    return self.weight * x * scale

  if dtype == "float64":
    monkeypatch.setattr(modeling.T5LayerNorm, "forward", norm)
  shape = cases.SHAPES[name]
  graphdef, params = cases.parameters(shape)
  model = reference(shape, params).to(vars(torch)[dtype])
  tokens, length = cases.texts(shape, (70, 1, 33, 64), 70)
  within = np.asarray(length)[:, None]
  rng = np.random.default_rng(2)
  answer = rng.integers(0, shape.vocab, (4, 45)).astype(np.int32)
  answer[:, 0] = shape.start
  with torch.no_grad():
    want = model(
      input_ids=torch.tensor(np.asarray(tokens)),
      attention_mask=torch.tensor(np.arange(70) < within).long(),
      decoder_input_ids=torch.tensor(answer),
    ).logits.numpy()
  with jax.enable_x64(dtype == "float64"):
    params = jax.tree.map(lambda x: jnp.array(x, dtype), params)
    got = logits(graphdef, params, tokens, length, answer, compute_dtype=dtype)
  assert got.dtype == want.dtype == dtype
  assert np.abs(want).max() > 1
  np.testing.assert_allclose(got, want, rtol=0, atol=most)


@pytest.mark.parity
@pytest.mark.parametrize(
  ("count", "most"), [(32, 128), (33, 128), (13, 29), (4, 5), (64, 1000)]
)
def test_every_bucket_is_that_of_transformers(count, most):
  torch = pytest.importorskip("torch")
  modeling = pytest.importorskip("transformers.models.t5.modeling_t5")
  shape = t5.Shape(
    **(vars(cases.GATED) | {"buckets": count, "max_distance": most})
  )
  distance = np.arange(-3000, 3001)
  for both in (True, False):
    want = modeling.T5Attention._relative_position_bucket(
      torch.tensor(distance), both, count, most
    )
    np.testing.assert_array_equal(t5.buckets(distance, shape, both), want)
