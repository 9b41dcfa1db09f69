"""Stage 1 of the paper's recipe: Qwen3-8B learns to answer and to cite.

    hf download Qwen/Qwen3-8B --local-dir models/Qwen3-8B
    python -m grounded_jax.main --config=experiments/stage1.py \
      --config.model.path=models/Qwen3-8B

GRPO on 300 answerable questions, as many from ASQA as from QAMPARI and ELI5,
4 epochs: 25 steps of 48 prompts with 8 completions each (arXiv:2506.15522,
section 4).  Thinking is on.  TRUST-SCORE on all four sets before and after.

Needs: the weights; training records as data/{asqa,qampari,eli5}.jsonl, or
elsewhere by --config.data.train.path=A,B,C; the benchmark's files in
data/Trust-Score (hf download declare-lab/Trust-Data --repo-type dataset
--local-dir data).  All of it is looked for before anything is allocated.

The argument: `modern` (the default) or `paper`, the preset of algorithm, reward
and optimiser; `smoke` for two steps of a tiny random model on generated
records, which shows that the parts fit and nothing else; both with a comma:

    python -m grounded_jax.main --config=experiments/stage1.py:paper,smoke

Cost at full size: not measured.  By arithmetic, float32 parameters, gradient
and two moments of 8.2 billion weights are 131 GB (the paper's preset adds 33
GB for its reference), and a device that holds one prompt of a micro-batch adds
about 10 GB of activations and 15 GB of caches: 16 devices of 40 GB or more.
Result: not measured.  It will not equal the paper's: reward and metric are
judged by the lexical verifier, and the paper's by an 11B entailment model.
"""

import dataclasses

from configs import data, grpo, models, recipe, rewards
from grounded_jax import config

NAME = "stage1"


def get_config(arg: str = "") -> config.Experiment:
  variant = recipe.variant(NAME, arg)
  if variant.preset == "paper":
    reward, optimizer = rewards.paper(refusal=False), grpo.paper_optimizer()
    algorithm = grpo.paper()
  else:
    reward = rewards.modern(refusal=False, overlong=1024)
    algorithm, optimizer = grpo.modern(), grpo.modern_optimizer()
  experiment = config.Experiment(
    name=variant.run(NAME),
    model=models.qwen3_8b(),
    data=data.trust_align(thinking=True),
    stages=(
      config.Stage(
        name=NAME,
        steps=25,  # 300 questions * 4 epochs / 48
        answerable="only",
        limit=300,
        rewards=reward,
        grpo=dataclasses.replace(algorithm, micro=16),
        optimizer=optimizer,
        save_every=5,
      ),
    ),
    evals=data.trust_evals(headline=recipe.HEADLINE),
  )
  return recipe.smoke(experiment) if variant.smoke else experiment
