"""The shapes of published models, for planning without their files.

As their config.json files state them; a run reads those itself.
"""

from grounded_jax import config


def qwen3_4b() -> config.Decoder:
  """Qwen/Qwen3-4B."""
  return config.Decoder(
    layers=36,
    embed=2560,
    mlp=9728,
    heads=32,
    kv_heads=8,
    head_dim=128,
    vocab=151936,
    tied=True,
    qk_norm=True,
    rope_theta=1e6,
    norm_eps=1e-6,
  )


def qwen3_8b() -> config.Decoder:
  """Qwen/Qwen3-8B."""
  return config.Decoder(
    layers=36,
    embed=4096,
    mlp=12288,
    heads=32,
    kv_heads=8,
    head_dim=128,
    vocab=151936,
    tied=False,
    qk_norm=True,
    rope_theta=1e6,
    norm_eps=1e-6,
  )


def llama3_8b() -> config.Decoder:
  """Llama-3.1-8B, and DeepSeek-R1-Distill-Llama-8B."""
  return config.Decoder(
    layers=32,
    embed=4096,
    mlp=14336,
    heads=32,
    kv_heads=8,
    head_dim=128,
    vocab=128256,
    tied=False,
    rope_theta=5e5,
    norm_eps=1e-5,
    rope_scaling="llama3",
    rope_factor=8.0,
  )


def gemma2_9b() -> config.Decoder:
  """google/gemma-2-9b-it."""
  return config.Decoder(
    layers=42,
    embed=3584,
    mlp=14336,
    heads=16,
    kv_heads=8,
    head_dim=256,
    vocab=256000,
    tied=True,
    rope_theta=1e4,
    norm_eps=1e-6,
    activation="gelu",
    post_norms=True,
    plus_one=True,
    scaled_embed=True,
    query_scalar=256.0,
    attn_softcap=50.0,
    final_softcap=30.0,
    pattern="LG",
    window=4096,
  )
