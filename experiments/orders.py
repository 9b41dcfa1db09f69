"""Distillation and GRPO in the paper's orders, each as one run.

    hf download Qwen/Qwen3-8B --local-dir models/Qwen3-8B
    python -m grounded_jax.main --config=experiments/orders.py:sft_dpo_grpo \
      --config.model.path=models/Qwen3-8B

The argument names the order: `sft_grpo` (the default), `grpo_sft` or
`sft_dpo_grpo` (arXiv:2506.15522, Table 1).  sft and dpo are the stages of
sft.py and dpo.py, grpo the two of stage1.py and stage2.py; each starts where
the one before ended, with a fresh optimiser and schedule.  The model answers
without thinking first, so no tags are asked for or paid.  TRUST-SCORE on all
four sets before the first stage and after each.

Needs: what sft.py, dpo.py and stage1.py need.

More words of the argument, with commas: `modern` (the default) or `paper`, the
preset of GRPO; `gold`, as in sft.py; `smoke` for two steps a stage of a tiny
random model on generated records:

    python -m grounded_jax.main --config=experiments/orders.py:grpo_sft,smoke

Cost at full size: not measured; 131 GB of parameters, gradient and moments, and
33 GB more for a stage with a reference (dpo, and grpo by the preset `paper`).
Result: not measured.
"""

import dataclasses

from configs import data, distill, models, recipe
from experiments import stage1, stage2
from grounded_jax import config

NAME = "orders"
ORDERS = ("sft_grpo", "grpo_sft", "sft_dpo_grpo")


def get_config(arg: str = "") -> config.Experiment:
  words = recipe.words_of(
    arg, NAME, (*ORDERS, *recipe.PRESETS, "gold", "smoke")
  )
  order = next((name for name in ORDERS if name in words), ORDERS[0])
  words -= {*ORDERS, recipe.PRESETS[0]}
  experiment = config.Experiment(
    name=recipe.run(f"{NAME}-{order}", words),
    model=models.qwen3_8b(),
    data=data.trust_align(thinking=False, tags=False),
    stages=tuple(
      stage for name in order.split("_") for stage in stages(name, words)
    ),
    evals=data.trust_evals(headline=recipe.HEADLINE),
  )
  return recipe.smoke(experiment) if "smoke" in words else experiment


def stages(name: str, words: set[str]) -> tuple[config.Stage, ...]:
  """The stages of one part of an order."""
  if name == "sft":
    return (distill.sft_stage("" if "gold" in words else distill.SFT_ROWS),)
  if name == "dpo":
    return (distill.dpo_stage("" if "gold" in words else distill.DPO_ROWS),)
  preset = "paper" if "paper" in words else "modern"
  return tuple(
    dataclasses.replace(
      stage,
      init_from="",
      rewards=dataclasses.replace(stage.rewards, tags=False),
    )
    for made in (stage1.get_config(preset), stage2.get_config(preset))
    for stage in made.stages
  )
