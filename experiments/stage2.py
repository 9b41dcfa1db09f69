"""Stage 2 of the paper's recipe: the policy of stage 1 learns to refuse.

    python -m grounded_jax.main --config=experiments/stage2.py \
      --config.model.path=models/Qwen3-8B

GRPO on 3,000 questions, as many from ASQA as from QAMPARI and ELI5, half of
them answerable, 4 epochs: 250 steps of 48 prompts with 8 completions each
(arXiv:2506.15522, section 4).  It starts from the last checkpoint of
runs/stage1 (--config.stages.stage2.init_from=WORKDIR names another) with a
fresh optimiser and schedule.  TRUST-SCORE on all four sets before and after.

Needs: a finished stage 1, whose model.path it shares (shape and tokenizer),
and the data that experiments/stage1.py names.  All of it is looked for before
anything is allocated.

The argument is that of stage1.py and picks the run to start from alike:
`modern` (the default), `paper`, `smoke`, or two with a comma.  A smoke run
starts from the smoke run of stage 1 of the same preset, so that one first:

    python -m grounded_jax.main --config=experiments/stage1.py:smoke
    python -m grounded_jax.main --config=experiments/stage2.py:smoke

Cost at full size: not measured; ten times the steps of stage 1, on the same
devices.  Result: not measured, and not comparable with the paper's tables as
long as the lexical verifier judges (see stage1.py).
"""

import dataclasses

from configs import data, grpo, models, recipe, rewards
from grounded_jax import config

NAME = "stage2"


def get_config(arg: str = "") -> config.Experiment:
  variant = recipe.variant(NAME, arg)
  if variant.preset == "paper":
    reward, optimizer = rewards.paper(refusal=True), grpo.paper_optimizer()
    algorithm = grpo.paper()
  else:
    reward = rewards.modern(refusal=True, overlong=1024)
    algorithm, optimizer = grpo.modern(), grpo.modern_optimizer()
  experiment = config.Experiment(
    name=variant.run(NAME),
    model=models.qwen3_8b(),
    data=data.trust_align(thinking=True),
    stages=(
      config.Stage(
        name=NAME,
        steps=250,  # 3,000 questions * 4 epochs / 48
        answerable="even",
        limit=3000,
        init_from=f"runs/{variant.run('stage1')}",
        rewards=reward,
        grpo=dataclasses.replace(algorithm, micro=16),
        optimizer=optimizer,
        save_every=25,
      ),
    ),
    evals=data.trust_evals(headline=recipe.HEADLINE),
  )
  return recipe.smoke(experiment) if variant.smoke else experiment
