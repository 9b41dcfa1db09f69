"""Distillation by demonstrations: SFT of Qwen3-8B with Trust-Align's recipe.

    hf download Qwen/Qwen3-8B --local-dir models/Qwen3-8B
    python -m grounded_jax.main --config=experiments/sft.py \
      --config.model.path=models/Qwen3-8B

2 epochs of 72 conversations a step at 2e-5, cosine with a warm-up of 0.1,
prompt and answer together at most 2,048 tokens, loss on the answer alone
(arXiv:2409.11242).  As in arXiv:2506.15522 the model answers without thinking
first, and no tags are asked for.  TRUST-SCORE on all four sets before and
after.

Needs: the weights; Trust-Align's conversations as data/trust_align_sft.jsonl
(--config.stages.sft.sft.path names another file), about 10,000 rows
{"messages": [{"role": "user", ...}, {"role": "assistant", ...}]}; the
benchmark's files, as stage1.py says.

The argument: `gold` makes the demonstrations from annotated records instead,
those that stage1.py reads, as many of answerable questions as of others;
`smoke` is two steps of a tiny random model on generated records, which shows
that the parts fit and nothing else; both with a comma:

    python -m grounded_jax.main --config=experiments/sft.py:smoke

Cost at full size: not measured.  By arithmetic, float32 parameters, gradient
and two moments of 8.2 billion weights are 131 GB over the devices; 10,000 rows
are 278 steps.  Result: not measured.
"""

from configs import data, distill, models, recipe
from grounded_jax import config

NAME = "sft"


def get_config(arg: str = "") -> config.Experiment:
  words = recipe.words_of(arg, NAME, ("gold", "smoke"))
  experiment = config.Experiment(
    name=recipe.run(NAME, words),
    model=models.qwen3_8b(),
    data=data.trust_align(thinking=False, tags=False),
    stages=(distill.sft_stage("" if "gold" in words else distill.SFT_ROWS),),
    evals=data.trust_evals(headline=recipe.HEADLINE),
  )
  return recipe.smoke(experiment) if "smoke" in words else experiment
