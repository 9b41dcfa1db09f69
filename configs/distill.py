"""What comes before GRPO or after it: SFT and DPO, every value pinned.

Both are the published recipe of Trust-Align (arXiv:2409.11242), on which
arXiv:2506.15522 builds: full fine-tuning in bfloat16 arithmetic.  Only sizes
that belong to a machine (`micro`, `pack`) or to a data set (`path`,
`max_new_tokens`) should be replaced.  Trust-Align cuts what is longer than
2,048 tokens; here it is left out and counted.
"""

import dataclasses

from grounded_jax import config

EPOCHS = 2  # of either
# Trust-Align's rows, as its authors' scripts write them.
SFT_ROWS = "data/trust_align_sft.jsonl"
DPO_ROWS = "data/trust_align_dpo.jsonl"


def sft() -> config.SFT:
  """Returns the recipe's SFT: loss on completions alone, 2,048 tokens."""
  return config.SFT(
    prompts=72,
    group=1,
    micro=0,
    pack=0,
    max_new_tokens=1024,
    max_len=2048,
    path="",
    demonstrations="gold",
  )


def sft_optimizer() -> config.Optimizer:
  """Returns its rate and schedule with the Hugging Face defaults."""
  return _optimizer(2e-5)


def dpo() -> config.DPO:
  """Returns the recipe's DPO: prompts of 1,600 tokens, 2,048 in all."""
  return config.DPO(
    prompts=64,
    micro=0,
    pack=0,
    beta=0.5,
    max_new_tokens=1024,
    max_len=2048,
    path="",
  )


def dpo_optimizer() -> config.Optimizer:
  """Returns the rate; what is not stated is as in SFT."""
  return _optimizer(5e-7)


def _optimizer(lr: float) -> config.Optimizer:
  return config.Optimizer(
    kind="adamw",
    lr=lr,
    schedule="cosine",
    warmup=0.1,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    weight_decay=0.0,
    grad_clip=1.0,
  )


def sft_stage(path: str = SFT_ROWS) -> config.Stage:
  """Returns the stage `sft` of an 8B model.

  Args:
    path: conversations; "" = demonstrations made from the training records, as
      many of answerable questions as of others.
  """
  return config.Stage(
    name="sft",
    objective="sft",
    epochs=EPOCHS,
    answerable="any" if path else "even",
    sft=dataclasses.replace(sft(), micro=24, pack=2, path=path),
    optimizer=sft_optimizer(),
    save_every=50,
  )


def dpo_stage(path: str = DPO_ROWS) -> config.Stage:
  """Returns the stage `dpo` of an 8B model.

  Args:
    path: pairs; "" = those made from the training records, as in `sft_stage`.
  """
  return config.Stage(
    name="dpo",
    objective="dpo",
    epochs=EPOCHS,
    answerable="any" if path else "even",
    dpo=dataclasses.replace(dpo(), micro=16, pack=2, path=path),
    optimizer=dpo_optimizer(),
    save_every=50,
  )
