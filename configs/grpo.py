"""The two algorithm presets and their optimisers, every value pinned.

`paper()` is what arXiv:2506.15522 states and, where it is silent, what TRL did
at that date (v0.18).  `modern()` is the recipe of 2025-26.  Only sizes that
belong to a machine (`micro`) or to a model (`max_new_tokens`) should be
replaced: `dataclasses.replace(grpo.modern(), micro=6)`.
"""

from grounded_jax import config


def paper() -> config.GRPO:
  """Returns the paper's GRPO: KL to the reference, std-scaled advantages."""
  return config.GRPO(
    prompts=48,  # 384 completions a step / 8
    group=8,
    micro=0,
    iterations=1,
    max_new_tokens=4096,  # not stated; nothing should be cut
    off_policy_steps=0,
    temperature=1.0,
    beta=0.04,
    kl="k3",
    aggregation="token_mean",  # TRL's "bnpo" over the global batch
    ratio="token",
    surrogate="clip",
    clip_low=0.2,
    clip_high=0.2,
    dual_clip=0.0,
    delta=0.0,
    cispo_cap=5.0,  # not used
    baseline="mean",
    scale="group",
    combine="sum",
    zero_advantage="keep",
    refill_rounds=0,
    truncated="keep",
    mismatch="ignore",
    mismatch_cap=2.0,  # not used
  )


def paper_optimizer() -> config.Optimizer:
  """Returns the paper's rate and schedule with the Hugging Face defaults."""
  return config.Optimizer(
    kind="adamw",
    lr=1e-5,
    schedule="cosine",
    warmup=0.1,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    weight_decay=0.0,
    grad_clip=1.0,
  )


def modern() -> config.GRPO:
  """Returns DAPO's clip-higher and token mean, without std or reference."""
  return config.GRPO(
    prompts=48,
    group=8,
    micro=0,
    iterations=1,
    max_new_tokens=4096,
    off_policy_steps=0,
    temperature=1.0,
    beta=0.0,
    kl="k3",  # not used
    aggregation="token_mean",
    ratio="token",
    surrogate="clip",
    clip_low=0.2,
    clip_high=0.28,
    dual_clip=3.0,
    delta=0.0,
    cispo_cap=5.0,  # not used
    baseline="mean",
    scale="none",
    combine="sum",
    zero_advantage="refill",
    refill_rounds=2,
    truncated="drop",
    mismatch="truncate",
    mismatch_cap=2.0,
  )


def modern_optimizer() -> config.Optimizer:
  """Returns AdamW at 1e-6 after a short warm-up, for full fine-tuning."""
  return config.Optimizer(
    kind="adamw",
    lr=1e-6,
    schedule="constant",
    warmup=0.05,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    weight_decay=0.0,
    grad_clip=1.0,
  )
