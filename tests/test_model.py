"""The decoder: its parameters, its group forward, decoding, and HF parity."""

import functools

import grouped_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grounded_jax import config, kv_cache
from grounded_jax import model as model_lib

NAMES = tuple(cases.DECODERS)


@pytest.mark.parametrize("name", NAMES)
def test_the_tree_has_the_documented_shapes(name):
  decoder = cases.DECODERS[name]
  _, params = model_lib.abstract(decoder)
  y, d, f, v = decoder.layers, decoder.embed, decoder.mlp, decoder.vocab
  n, k, h = decoder.heads, decoder.kv_heads, decoder.head_dim
  blocks = {
    "attn_norm": (y, d),
    "q": (y, d, n, h),
    "k": (y, d, k, h),
    "v": (y, d, k, h),
    "o": (y, n, h, d),
    "mlp_norm": (y, d),
    "gate": (y, d, f),
    "up": (y, d, f),
    "down": (y, f, d),
  }
  if decoder.qk_norm:
    blocks |= {"q_norm": (y, h), "k_norm": (y, h)}
  if decoder.qkv_bias:
    blocks |= {"q_bias": (y, n, h), "k_bias": (y, k, h), "v_bias": (y, k, h)}
  if decoder.post_norms:
    blocks |= {"post_attn_norm": (y, d), "post_mlp_norm": (y, d)}
  want = {"embed": (v, d), "blocks": blocks, "norm": (d,)}
  if not decoder.tied:
    want |= {"head": (d, v)}
  assert jax.tree.map(lambda leaf: leaf.shape, params) == want


@pytest.mark.parametrize("name", NAMES)
def test_every_leaf_has_one_name_per_axis(name):
  decoder = cases.DECODERS[name]
  _, params = model_lib.abstract(decoder)
  axes = model_lib.logical_axes(decoder)
  is_names = lambda node: isinstance(node, tuple)
  ranks = jax.tree.map(len, axes, is_leaf=is_names)
  assert ranks == jax.tree.map(lambda leaf: leaf.ndim, params)
  assert axes["blocks"]["q"] == ("layers", "embed", "heads", "head_dim")


def test_the_abstract_model_is_that_of_the_initialised_one():
  decoder = cases.DECODERS["plain"]
  graphdef, params = model_lib.init(decoder, jax.random.key(0), "bfloat16")
  other, shapes = model_lib.abstract(decoder, "bfloat16")
  assert graphdef == other and hash(graphdef) == hash(other)
  assert model_lib.decoder_of(graphdef, params) == decoder
  assert jax.tree.map(lambda x: (x.shape, x.dtype), params) == jax.tree.map(
    lambda x: (x.shape, x.dtype), shapes
  )


@pytest.mark.parametrize("name", NAMES)
def test_prefill_equals_a_plain_transformer(name):
  decoder, batch = cases.DECODERS[name], cases.prompts()
  with jax.enable_x64(True):
    graphdef, params = cases.parameters(decoder, "float64")

    @jax.jit
    def ours(params):
      hidden, _ = model_lib.prefill(
        graphdef, params, batch.tokens, batch.length, "float64"
      )
      return model_lib.logits(graphdef, params, hidden)

    plain = functools.partial(cases.plain_logits, decoder, params)
    want = jax.jit(jax.vmap(plain))(batch.tokens)
    got = ours(params)
  for i, length in enumerate(np.array(batch.length)):
    np.testing.assert_allclose(
      got[i, :length], want[i, :length], rtol=0, atol=1e-11
    )


def decode_all(graphdef, params, batch, tokens):
  """[P G C-1 D]: hidden states by feeding one completion token at a time."""
  p, g, c = tokens.shape
  dtype = params["norm"].dtype.name
  _, prompt = model_lib.prefill(
    graphdef, params, batch.tokens, batch.length, dtype
  )
  cache = kv_cache.decode_cache(prompt, g, c - 1)

  def step(cache, index):
    hidden, cache = model_lib.decode_step(
      graphdef, params, cache, tokens[:, :, index], index
    )
    return cache, hidden

  _, hidden = jax.lax.scan(step, cache, jnp.arange(c - 1))
  return jnp.moveaxis(hidden, 0, 2)


@pytest.mark.parametrize("name", NAMES)
def test_cached_decoding_equals_the_grouped_forward(name):
  decoder, batch = cases.DECODERS[name], cases.prompts()
  tokens, _ = cases.completions(3, 4, 6)
  with jax.enable_x64(True):
    graphdef, params = cases.parameters(decoder, "float64")
    decode = jax.jit(lambda p: decode_all(graphdef, p, batch, tokens))
    forward = jax.jit(
      lambda p: model_lib.grouped_hidden(graphdef, p, batch, tokens, "float64")
    )
    got, want = decode(params), forward(params)
  np.testing.assert_allclose(got, want[:, :, 1:], rtol=0, atol=1e-11)


def test_padding_tokens_change_nothing():
  decoder, batch = cases.DECODERS["shared_kv"], cases.prompts()
  tokens, _ = cases.completions(3, 2, 4)
  graphdef, params = cases.parameters(decoder)
  forward = jax.jit(
    lambda t: model_lib.grouped_hidden(
      graphdef,
      params,
      cases.types.PromptBatch(tokens=t, length=batch.length, key=batch.key),
      tokens,
    )
  )
  index = jnp.arange(batch.tokens.shape[1])
  padded = jnp.where(index < batch.length[:, None], batch.tokens, 0)
  assert not (padded == batch.tokens).all()
  np.testing.assert_array_equal(forward(batch.tokens), forward(padded))


def test_compute_dtype_is_used_and_logits_stay_float32():
  decoder, batch = cases.DECODERS["plain"], cases.prompts()
  graphdef, params = cases.parameters(decoder)
  tokens, _ = cases.completions(3, 2, 3)
  hidden = jax.eval_shape(
    lambda p: model_lib.grouped_hidden(graphdef, p, batch, tokens, "bfloat16"),
    params,
  )
  scores = jax.eval_shape(
    lambda p, h: model_lib.logits(graphdef, p, h), params, hidden
  )
  assert hidden.dtype == jnp.bfloat16
  assert scores.dtype == jnp.float32


@pytest.mark.parametrize("name", ["plain", "gemma3"])
def test_every_product_has_the_precision_of_the_config(name):
  decoder, batch = cases.DECODERS[name], cases.prompts()
  tokens, _ = cases.completions(3, 2, 4)
  graphdef, params = model_lib.abstract(decoder)

  def products(precision: str) -> tuple[int, int]:
    """(all matrix products of the gradient, those of highest precision)."""

    def loss(params):
      hidden = model_lib.grouped_hidden(
        graphdef, params, batch, tokens, precision=precision
      )
      return model_lib.logits(graphdef, params, hidden, precision).sum()

    text = jax.jit(jax.grad(loss)).lower(params).as_text()
    lines = [line for line in text.splitlines() if "dot_general" in line]
    return len(lines), sum("HIGHEST" in line for line in lines)

  count, highest = products("highest")
  assert count == highest > 20
  assert products("default") == (count, 0)


@pytest.mark.parametrize(
  "family",
  [
    {},
    {"pattern": "LLG", "window": 3, "local_rope_theta": 5.0},
    {"pattern": "GGGg"},
  ],
)
def test_the_program_does_not_grow_with_depth(family):
  """The lowered gradient of 24 layers is as long as that of 4."""
  batch = cases.prompts()
  tokens, _ = cases.completions(3, 2, 4)

  def lines(layers: int) -> int:
    decoder = config.Decoder(
      layers=layers, embed=16, mlp=24, heads=2, kv_heads=1, vocab=37, **family
    )
    graphdef, params = model_lib.abstract(decoder)
    loss = lambda p: model_lib.grouped_hidden(
      graphdef, p, batch, tokens, remat="dots"
    ).sum()
    return jax.jit(jax.grad(loss)).lower(params).as_text().count("\n")

  assert lines(24) == lines(4)


@pytest.mark.parity
@pytest.mark.parametrize("tied, kv_heads", [(True, 4), (False, 2)])
def test_logits_equal_those_of_transformers_llama(tied, kv_heads):
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  torch.manual_seed(0)
  reference = transformers.LlamaForCausalLM(
    transformers.LlamaConfig(
      vocab_size=53,
      hidden_size=32,
      intermediate_size=48,
      num_hidden_layers=2,
      num_attention_heads=4,
      num_key_value_heads=kv_heads,
      head_dim=8,
      rms_norm_eps=1e-5,
      rope_theta=5000.0,
      tie_word_embeddings=tied,
      initializer_range=0.3,
    )
  ).eval()
  state = {k: v.numpy() for k, v in reference.state_dict().items()}
  decoder = config.Decoder(
    layers=2,
    embed=32,
    mlp=48,
    heads=4,
    kv_heads=kv_heads,
    head_dim=8,
    vocab=53,
    rope_theta=5000.0,
    tied=tied,
  )
  graphdef, _ = model_lib.abstract(decoder)
  params = from_llama(state, decoder)
  tokens = np.random.default_rng(0).integers(0, 53, (3, 11))
  with torch.no_grad():
    want = reference(torch.tensor(tokens)).logits.numpy()
  hidden, _ = model_lib.prefill(
    graphdef, params, jnp.array(tokens), jnp.array([11, 11, 11])
  )
  got = model_lib.logits(graphdef, params, hidden)
  assert np.abs(want).max() > 1
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)


def from_llama(state, decoder):
  """Our tree from the names and [out, in] matrices of transformers."""
  h, d = decoder.head_dim, decoder.embed

  def stack(name, change):
    layers = [
      change(state[f"model.layers.{y}.{name}.weight"])
      for y in range(decoder.layers)
    ]
    return jnp.array(np.stack(layers))

  heads = lambda w: w.T.reshape(d, -1, h)
  same, turned = lambda w: w, lambda w: w.T
  params = {
    "embed": jnp.array(state["model.embed_tokens.weight"]),
    "norm": jnp.array(state["model.norm.weight"]),
    "blocks": {
      "attn_norm": stack("input_layernorm", same),
      "q": stack("self_attn.q_proj", heads),
      "k": stack("self_attn.k_proj", heads),
      "v": stack("self_attn.v_proj", heads),
      "o": stack("self_attn.o_proj", lambda w: w.T.reshape(-1, h, d)),
      "mlp_norm": stack("post_attention_layernorm", same),
      "gate": stack("mlp.gate_proj", turned),
      "up": stack("mlp.up_proj", turned),
      "down": stack("mlp.down_proj", turned),
    },
  }
  if not decoder.tied:
    params["head"] = jnp.array(state["lm_head.weight"].T)
  return params
