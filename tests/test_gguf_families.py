"""GGUF files of every family, read as transformers' own loader reads them."""

import family_cases as families
import gguf
import grouped_cases as cases
import jax.numpy as jnp
import numpy as np
import pytest

from grounded_jax import config, weights
from grounded_jax.records import UserError
from grounded_jax.weights import table

_BASE = dict(layers=3, embed=64, mlp=96, heads=4, kv_heads=2, vocab=53)
_GEMMA = dict(
  activation="gelu",
  post_norms=True,
  plus_one=True,
  scaled_embed=True,
  window=4,
  head_dim=256,
)
DECODERS = {
  "llama": config.Decoder(**_BASE, head_dim=16, rope_theta=500.0),
  "qwen2": config.Decoder(**_BASE, head_dim=16, qkv_bias=True, tied=False),
  "qwen3": config.Decoder(**_BASE, head_dim=128, qk_norm=True),
  "gemma2": config.Decoder(
    **_BASE, **_GEMMA, pattern="LG", attn_softcap=50.0, final_softcap=30.0
  ),
  "gemma3": config.Decoder(
    **(_BASE | {"layers": 7}),
    **_GEMMA,
    pattern="LLLLLG",
    qk_norm=True,
    rope_theta=500.0,
    local_rope_theta=10_000.0,
  ),
}


def interleave(rows, heads):
  """(half, pair) of each head's rows to (pair, half), as llama.cpp does."""
  shaped = rows.reshape(heads, 2, -1, *rows.shape[1:])
  return shaped.swapaxes(1, 2).reshape(rows.shape)


def write(path, arch, decoder, params, kinds=("F32",), fields=(), extra=()):
  """A GGUF file of the tree; the matrices' kinds take turns."""
  writer = gguf.GGUFWriter(path, arch)
  writer.add_block_count(decoder.layers)
  writer.add_context_length(128)
  writer.add_embedding_length(decoder.embed)
  writer.add_feed_forward_length(decoder.mlp)
  writer.add_head_count(decoder.heads)
  writer.add_head_count_kv(decoder.kv_heads)
  writer.add_key_length(decoder.head_dim)
  writer.add_rope_dimension_count(decoder.head_dim)
  writer.add_rope_freq_base(decoder.rope_theta)
  writer.add_layer_norm_rms_eps(decoder.norm_eps)
  writer.add_vocab_size(decoder.vocab)
  if decoder.window:
    writer.add_sliding_window(decoder.window)
  for name, value in (
    ("attn_logit_softcapping", decoder.attn_softcap),
    ("final_logit_softcapping", decoder.final_softcap),
    *fields,
  ):
    if isinstance(value, str):
      writer.add_string(f"{arch}.{name}", value)
    elif value:
      writer.add_float32(f"{arch}.{name}", value)
  tensors = list(extra)
  for row in table.rows(decoder):
    leaf = params[row.path[0]]
    leaf = np.asarray(leaf[row.path[1]] if row.stacked else leaf)
    for i, (name, value) in enumerate(
      table.tensors(row, decoder, leaf).items()
    ):
      if arch == "llama" and "q_proj" in name:
        value = interleave(value, decoder.heads)
      if arch == "llama" and "k_proj" in name:
        value = interleave(value, decoder.kv_heads)
      if arch.startswith("gemma") and name.endswith("norm.weight"):
        value = value + 1
      tensors.append((row.gguf.format(i), value))
  for i, (name, value) in enumerate(tensors):
    kind = kinds[i % len(kinds)] if value.ndim > 1 else "F32"
    stored = gguf.GGMLQuantizationType[kind]
    writer.add_tensor(name, quantized(value, stored), raw_dtype=stored)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path


# Where the 16-bit scales of a block of 256 stand among its bytes.
_SCALES = {
  "Q2_K": (80, 82),
  "Q3_K": (108,),
  "Q4_K": (0, 2),
  "Q5_K": (0, 2),
  "Q6_K": (208,),
}


def quantized(value, kind):
  """The bytes of a tensor; of K-quants, which gguf only reads, random ones."""
  if kind.name not in _SCALES:
    return gguf.quants.quantize(value, kind)
  block, size = gguf.GGML_QUANT_SIZES[kind]
  random = np.random.default_rng(value.size)
  shape = (value.shape[0], value.shape[1] // block, size)
  data = random.integers(0, 256, shape, np.uint8)
  for at in _SCALES[kind.name]:
    scale = random.uniform(1e-4, 3e-4, shape[:2]).astype(np.float16)
    data[..., at : at + 2] = scale[..., None].view(np.uint8)
  return data.reshape(value.shape[0], -1)


def logits(path):
  tokens = cases.prompts((12, 12), 12, 53).tokens
  decoder, graphdef, params = families.ours(path)
  got = families.our_logits(graphdef, params, tokens, jnp.full(2, 12))
  return decoder, np.asarray(got), tokens


def theirs(path, tokens):
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  model = transformers.AutoModelForCausalLM.from_pretrained(
    path.parent,
    gguf_file=path.name,
    dtype=torch.float32,
    attn_implementation="eager",
  )
  return families.their_logits(model.eval(), tokens)


@pytest.mark.parity
@pytest.mark.parametrize("arch", DECODERS)
def test_a_file_of_every_architecture_is_read_as_by_transformers(
  tmp_path, arch
):
  decoder = DECODERS[arch]
  _, params = cases.parameters(decoder)
  path = write(tmp_path / "m.gguf", arch, decoder, params)
  read, got, tokens = logits(path)
  eps = float(np.float32(decoder.norm_eps))
  assert read == config.Decoder(**(vars(decoder) | {"norm_eps": eps}))
  assert np.abs(got).max() > 0.5
  np.testing.assert_allclose(got, theirs(path, tokens), rtol=0, atol=1e-4)


@pytest.mark.parity
def test_every_quantisation_is_read_as_by_transformers(tmp_path):
  decoder = config.Decoder(
    layers=2, embed=256, mlp=256, heads=4, kv_heads=4, head_dim=64, vocab=53
  )
  kinds = [k.name for k in weights.gguf_file._READABLE]
  _, params = cases.parameters(decoder)
  path = write(tmp_path / "m.gguf", "llama", decoder, params, kinds)
  stored = {t.tensor_type.name for t in gguf.GGUFReader(path).tensors}
  assert stored == set(kinds)
  _, got, tokens = logits(path)
  np.testing.assert_allclose(got, theirs(path, tokens), rtol=0, atol=1e-4)


def factors(decoder, *, low=1.0, high=4.0):
  """What llama.cpp's converter writes for Llama 3's scaling, by its cases."""
  out = []
  for i in range(decoder.head_dim // 2):
    speed = decoder.rope_theta ** (-2 * i / decoder.head_dim)
    wave = 2 * np.pi / speed
    if wave < 8192 / high:
      out.append(1.0)
    elif wave > 8192 / low:
      out.append(32.0)
    else:
      smooth = (8192 / wave - low) / (high - low)
      out.append(1 / ((1 - smooth) / 32.0 + smooth))
  return np.float32(out)


def test_llama_3_scaling_is_found_in_its_factors(tmp_path):
  decoder = config.Decoder(
    **_BASE,
    head_dim=64,
    rope_theta=500_000.0,
    rope_scaling="llama3",
    rope_factor=32.0,
    norm_eps=0.5,
  )
  _, params = cases.parameters(decoder)
  extra = [("rope_freqs.weight", factors(decoder))]
  path = write(tmp_path / "a.gguf", "llama", decoder, params, extra=extra)
  assert weights.decoder(config.Model(path=str(path))) == decoder
  extra = [("rope_freqs.weight", factors(decoder, high=3.0))]
  path = write(tmp_path / "b.gguf", "llama", decoder, params, extra=extra)
  with pytest.raises(UserError, match="rope_freqs.weight is not the scaling"):
    weights.decoder(config.Model(path=str(path)))


def test_what_llama_cpp_writes_of_gemma_3_is_read(tmp_path):
  """Linear scaling of its global layers, and the 27B model's scores."""
  decoder = config.Decoder(
    **(vars(DECODERS["gemma3"]) | {"layers": 62, "head_dim": 8, "mlp": 8})
  )
  _, params = cases.parameters(decoder)
  fields = [("rope.scaling.type", "linear"), ("rope.scaling.factor", 8.0)]
  path = write(tmp_path / "m.gguf", "gemma3", decoder, params, fields=fields)
  read = weights.decoder(config.Model(path=str(path)))
  assert (read.rope_scaling, read.rope_factor) == ("linear", 8.0)
  assert read.query_scalar == 64 / 4
  fields = [("rope.scaling.type", "yarn")]
  path = write(tmp_path / "y.gguf", "gemma3", decoder, params, fields=fields)
  with pytest.raises(UserError, match="rotary positions .yarn.: not supp"):
    weights.decoder(config.Model(path=str(path)))
