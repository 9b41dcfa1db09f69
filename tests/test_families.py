"""Every family computes what transformers computes, gradients included."""

import functools
import shutil

import family_cases as families
import grouped_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from grounded_jax import config, logp, model, sampler, weights
from grounded_jax.records import UserError

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

G, C = 3, 5
EVERY = tuple(families.FAMILIES)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """The directory of a family's model, made once."""
  known = {}

  def make(name):
    if name not in known:
      path = tmp_path_factory.mktemp(name)
      known[name] = families.make(name, path)
    return known[name]

  return make


@pytest.fixture
def record(record_property):
  """Notes a measured difference in the test report (`--junit-xml`)."""
  return lambda what, value: record_property(what, f"{value:.1e}")


def prompts():
  """Longer than the windows, padded, of three lengths."""
  return cases.prompts((11, 6, 9), 12, families.VOCAB)


@pytest.mark.parametrize("name", EVERY)
def test_logits_and_gradients_equal_those_of_transformers(made, name, record):
  """Each prompt by itself there, padded here."""
  batch, reference = prompts(), families.theirs(made(name))
  decoder, graphdef, params = families.ours(made(name))
  valid = np.arange(12) < np.array(batch.length)[:, None]
  random = np.random.default_rng(5)
  factor = random.normal(size=(*valid.shape, families.VOCAB))
  factor = np.float32(factor * valid[..., None])

  def loss(params):
    hidden, _ = model.prefill(graphdef, params, batch.tokens, batch.length)
    out = model.logits(graphdef, params, hidden)
    return jnp.sum(out * factor), out

  with jax.disable_jit():  # no two families compile to the same
    grads, got = jax.grad(loss, has_aux=True)(params)
  want, their_loss = [], 0.0
  for i, n in enumerate(np.array(batch.length)):
    row = torch.tensor(np.array(batch.tokens[i : i + 1, :n]))
    out = reference(row).logits
    their_loss = their_loss + (out * torch.tensor(factor[i : i + 1, :n])).sum()
    want.append(out.detach().numpy()[0])
  want_grads = families.their_gradients(reference, decoder, their_loss)
  gaps = [np.abs(got[i, : len(w)] - w).max() for i, w in enumerate(want)]
  record("logits", max(gaps))
  record("gradients", cases.worst(grads, want_grads))
  assert max(np.abs(w).max() for w in want) > 1
  assert max(gaps) < 1e-4
  assert jax.tree.structure(grads) == jax.tree.structure(want_grads)
  assert all(leaf.any() for leaf in jax.tree.leaves(want_grads))
  assert cases.worst(grads, want_grads) < 1e-4


def their_logp(reference, batch, tokens):
  """[P G C]: every completion behind its own copy of the prompt, padded."""
  p, g, c = tokens.shape
  sequences = np.zeros((p * g, batch.tokens.shape[1] + c), np.int64)
  mask = np.zeros_like(sequences)
  start = np.repeat(np.array(batch.length), g)
  for i, n in enumerate(start):
    sequences[i, :n] = batch.tokens[i // g, :n]
    sequences[i, n : n + c] = tokens[i // g, i % g]
    mask[i, : n + c] = 1
  out = reference(torch.tensor(sequences), attention_mask=torch.tensor(mask))
  rows, columns = np.arange(p * g)[:, None], start[:, None] + np.arange(c)
  scores = torch.log_softmax(out.logits, -1)[rows, columns - 1]
  chosen = torch.tensor(sequences[rows, columns])[..., None]
  return scores.gather(-1, chosen).reshape(p, g, c)


@pytest.mark.parametrize("name", EVERY)
def test_groups_equal_transformers_on_every_sequence(made, name, record):
  batch, reference = prompts(), families.theirs(made(name))
  decoder, graphdef, params = families.ours(made(name))
  tokens, sampled = cases.completions(3, G, C, families.VOCAB)
  factor = np.random.default_rng(6).normal(size=sampled.shape)
  factor = np.float32(factor * sampled)
  cfg = cases.model(decoder)

  def loss(params):
    out, _ = logp.token_logp(
      graphdef, params, batch, tokens, sampled, temperature=1.0, model=cfg
    )
    return jnp.sum(out * factor), out

  grads, got = jax.jit(jax.grad(loss, has_aux=True))(params)
  want = their_logp(reference, batch, tokens)
  want_grads = families.their_gradients(
    reference, decoder, (want * torch.tensor(factor)).sum()
  )
  gap = np.abs(got - want.detach().numpy() * sampled).max()
  record("grouped logp", gap)
  record("grouped gradients", cases.worst(grads, want_grads))
  assert gap < 1e-4
  assert cases.worst(grads, want_grads) < 1e-4


@pytest.mark.parametrize("name", EVERY)
def test_the_samplers_logp_is_the_learners(made, name):
  batch = prompts()
  decoder, graphdef, params = families.ours(made(name))
  cfg = cases.model(decoder)
  with jax.disable_jit():
    rollout = sampler.sample(
      graphdef,
      params,
      batch,
      seed=0,
      stage=0,
      step=0,
      purpose=sampler.PURPOSE_TRAIN,
      group=G,
      max_new_tokens=C + 3,
      temperature=1.0,
      top_p=1.0,
      eos=(2,),
      model=cfg,
    )
    want, _ = logp.token_logp(
      graphdef,
      params,
      batch,
      rollout.tokens,
      rollout.sampled,
      temperature=1.0,
      model=cfg,
    )
  np.testing.assert_allclose(rollout.logp, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_a_family_written_by_us_is_read_by_transformers(made, name, tmp_path):
  decoder, _, params = families.ours(made(name))
  weights.save(tmp_path, decoder, params)
  assert weights.decoder(config.Model(path=str(tmp_path))) == decoder
  tokens = prompts().tokens[:, :6]
  np.testing.assert_array_equal(
    families.their_logits(families.theirs(tmp_path), tokens),
    families.their_logits(families.theirs(made(name)), tokens),
  )


@functools.cache
def known_logits(path):
  return families.their_logits(families.theirs(path), prompts().tokens)


def assert_both_change(made, name, tmp_path, changes, moves=True):
  path = tmp_path / "model"
  shutil.copytree(made(name), path)
  families.edit(path, changes)
  tokens = prompts().tokens
  length = jnp.full(3, tokens.shape[1])
  _, graphdef, params = families.ours(path)
  got = families.our_logits(graphdef, params, tokens, length)
  want = families.their_logits(families.theirs(path), tokens)
  before = known_logits(made(name))
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)
  assert (np.abs(want - before).max() > 1e-3) == moves


def test_a_tied_head_is_the_embedding_and_another_is_refused(made, tmp_path):
  path = tmp_path / "model"
  shutil.copytree(made("llama"), path)
  families.edit(path, {"tie_word_embeddings": True})
  with pytest.raises(UserError, match="lm_head.weight that is not the embed"):
    families.ours(path)
  file = path / "model.safetensors"
  tensors = safetensors.numpy.load_file(file)
  embed = tensors["model.embed_tokens.weight"]
  tokens, length = prompts().tokens, jnp.full(3, 12)
  for head in ({}, {"lm_head.weight": embed}):
    del tensors["lm_head.weight"]
    tensors |= head
    safetensors.numpy.save_file(tensors, file, {"format": "pt"})
    _, graphdef, params = families.ours(path)
    got = families.our_logits(graphdef, params, tokens, length)
    want = families.their_logits(families.theirs(path), tokens)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)
    tensors["lm_head.weight"] = embed
  assert np.abs(want - known_logits(made("llama"))).max() > 1e-3


SLIDES = ["sliding_attention", "full_attention"]
LINEAR = {"rope_type": "linear", "factor": 3.0}
LLAMA3 = {
  "rope_type": "llama3",
  "factor": 32.0,
  "low_freq_factor": 1.0,
  "high_freq_factor": 4.0,
  "original_max_position_embeddings": 16,
}


@pytest.mark.parametrize(
  "name, changes",
  [
    ("llama", {"rms_norm_eps": 0.3}),
    ("llama", {"rope_parameters.rope_theta": 90.0}),
    ("llama", {"rope_parameters.factor": 2.0}),
    ("llama", {"rope_parameters.low_freq_factor": 2.5}),
    ("llama", {"rope_parameters.high_freq_factor": 20.0}),
    ("llama", {"rope_parameters.original_max_position_embeddings": 9}),
    ("llama", {"rope_parameters.original_max_position_embeddings": None}),
    ("llama", {"rope_parameters": None}),
    ("llama", {"rope_parameters": None, "rope_theta": 90.0}),
    ("llama", {"rope_parameters": None, "rope_scaling": LLAMA3}),
    (
      "llama",
      {"rope_parameters": None, "rope_scaling": {"type": "linear"} | LINEAR},
    ),
    ("qwen2", {"rope_parameters.rope_theta": 90.0}),
    ("qwen2", {"rms_norm_eps": 0.3}),
    (
      "qwen2",
      {
        "use_sliding_window": True,
        "sliding_window": 3,
        "max_window_layers": 1,
        "layer_types": None,
      },
    ),
    (
      "qwen2",
      {
        "use_sliding_window": True,
        "sliding_window": 5,
        "layer_types": SLIDES * 2,
      },
    ),
    ("qwen3", {"rms_norm_eps": 0.3}),
    ("qwen3", {"rope_parameters.rope_theta": 90.0}),
    ("qwen3", {"rope_parameters": None, "rope_scaling": LINEAR}),
    ("mistral", {"sliding_window": 2}),
    ("mistral", {"sliding_window": "null"}),
    ("mistral", {"sliding_window": None}),
    ("mistral", {"rope_parameters.rope_theta": 90.0}),
    ("smollm3", {"no_rope_layers": [0, 1, 1, 0]}),
    ("smollm3", {"no_rope_layers": None, "no_rope_layer_interval": 2}),
    ("smollm3", {"rope_parameters.rope_theta": 90.0}),
    (
      "smollm3",
      {"use_sliding_window": True, "sliding_window": 3, "layer_types": None},
    ),
    ("gemma2", {"query_pre_attn_scalar": 2}),
    ("gemma2", {"attn_logit_softcapping": 0.5}),
    ("gemma2", {"attn_logit_softcapping": "null"}),
    ("gemma2", {"final_logit_softcapping": 1.0}),
    ("gemma2", {"final_logit_softcapping": "null"}),
    ("gemma2", {"final_logit_softcapping": None}),
    ("gemma2", {"sliding_window": 2}),
    ("gemma2", {"sliding_window": None}),
    ("gemma2", {"layer_types": SLIDES[::-1] * 2}),
    ("gemma2", {"rope_parameters.rope_theta": 90.0}),
    ("gemma2", {"rms_norm_eps": 0.3}),
    ("gemma3_text", {"query_pre_attn_scalar": 2}),
    ("gemma3_text", {"query_pre_attn_scalar": None}),
    ("gemma3_text", {"final_logit_softcapping": 1.0}),
    ("gemma3_text", {"sliding_window": 2}),
    ("gemma3_text", {"layer_types": SLIDES * 2}),
    ("gemma3_text", {"layer_types": None, "sliding_window_pattern": 2}),
    ("gemma3_text", {"layer_types": None, "sliding_window_pattern": None}),
    ("gemma3_text", {"rope_parameters.full_attention.rope_theta": 90.0}),
    ("gemma3_text", {"rope_parameters.full_attention.factor": 2.0}),
    ("gemma3_text", {"rope_parameters.sliding_attention.rope_theta": 90.0}),
    ("gemma3_text", {"rope_parameters": None}),
    ("gemma3_text", {"rope_parameters": None, "rope_theta": 90.0}),
    ("gemma3_text", {"rope_parameters": None, "rope_local_base_freq": 90.0}),
    ("gemma3_text", {"rope_parameters": None, "rope_scaling": LINEAR}),
  ],
)
def test_a_field_changes_our_logits_as_theirs(made, tmp_path, name, changes):
  assert_both_change(made, name, tmp_path, changes)


@pytest.mark.parametrize(
  "name, changes",
  [
    ("llama", {"head_dim": None}),
    ("llama", {"rms_norm_eps": None, "tie_word_embeddings": None}),
    ("gemma2", {"tie_word_embeddings": None, "layer_types": None}),
    (
      "smollm3",
      {
        "tie_word_embeddings": None,
        "no_rope_layers": None,
        "rope_parameters": None,
      },
    ),
    ("qwen2", {"use_sliding_window": None, "max_window_layers": None}),
  ],
)
def test_what_a_file_leaves_out_is_transformers_default(
  made, tmp_path, name, changes
):
  assert_both_change(made, name, tmp_path, changes, moves=False)


@pytest.mark.parametrize(
  "name, changes",
  [
    ("llama", {"num_key_value_heads": 1}),
    ("llama", {"num_key_value_heads": 4, "head_dim": 6}),
    ("qwen2", {"num_hidden_layers": 1, "intermediate_size": 20}),
    ("qwen3", {"num_attention_heads": 2, "head_dim": 20}),
    ("gemma3_text", {"hidden_size": 24, "num_hidden_layers": 7}),
    ("smollm3", {"num_hidden_layers": 5, "num_attention_heads": 8}),
    ("mistral", {"vocab_size": 71, "num_attention_heads": 8, "head_dim": 4}),
  ],
)
def test_sizes_are_read(tmp_path, name, changes):
  path = families.make(name, tmp_path, **changes)
  tokens = prompts().tokens
  _, graphdef, params = families.ours(path)
  got = families.our_logits(graphdef, params, tokens, jnp.full(3, 12))
  want = families.their_logits(families.theirs(path), tokens)
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)
