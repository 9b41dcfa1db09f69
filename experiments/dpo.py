"""Distillation by preferences: DPO of what experiments/sft.py ended with.

    python -m grounded_jax.main --config=experiments/dpo.py \
      --config.model.path=models/Qwen3-8B

2 epochs of 64 pairs a step at 5e-7, beta 0.5, prompts of 1,600 tokens at most,
2,048 with either answer (arXiv:2409.11242); longer pairs are left out.  The
reference is the policy that the stage starts from: the last checkpoint of
runs/sft (--config.stages.dpo.init_from=WORKDIR names another).  TRUST-SCORE on
all four sets before and after.

Needs: a finished sft.py, whose model.path it shares, and Trust-Align's pairs as
data/trust_align_dpo.jsonl (--config.stages.dpo.dpo.path names another file),
about 17,000 rows {"prompt", "chosen", "rejected"}, each a text or messages.

The argument is that of sft.py and picks the run to start from alike: `gold`
makes the pairs from annotated records, the chosen answer as in sft.py, the
rejected one with a wrong, missing or surplus citation, a refusal of what the
passages answer, or an answer to what they do not; `smoke` is two steps of a
tiny model, after that of sft.py:

    python -m grounded_jax.main --config=experiments/sft.py:smoke
    python -m grounded_jax.main --config=experiments/dpo.py:smoke

Cost at full size: not measured.  By arithmetic sft.py's 131 GB, and 33 GB for
the reference; 17,000 rows are 532 steps.  Result: not measured.
"""

import dataclasses

from configs import data, distill, models, recipe
from grounded_jax import config

NAME = "dpo"


def get_config(arg: str = "") -> config.Experiment:
  words = recipe.words_of(arg, NAME, ("gold", "smoke"))
  stage = dataclasses.replace(
    distill.dpo_stage("" if "gold" in words else distill.DPO_ROWS),
    init_from=f"runs/{recipe.run('sft', words)}",
  )
  prompts = data.trust_align(thinking=False, tags=False)
  experiment = config.Experiment(
    name=recipe.run(NAME, words),
    model=models.qwen3_8b(),
    data=dataclasses.replace(prompts, max_prompt_len=1600),
    stages=(stage,),
    evals=data.trust_evals(headline=recipe.HEADLINE),
  )
  return recipe.smoke(experiment) if "smoke" in words else experiment
