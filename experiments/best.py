"""Self-distillation on a laptop: learn from the best of eight own answers.

    python -m grounded_jax.main --config=experiments/best.py

The embedded policy of quickstart.py samples eight answers to each of 16
questions a step, half of them answerable, and learns by cross-entropy from the
one of highest reward, where it solves its question (best of n, RAFT).  Nothing
is downloaded.  The argument is a seed, as in quickstart.py; "SEED:smoke" is two
steps of four questions, which shows that the parts fit and nothing else.

Cost and result: not measured.
"""

import dataclasses

from configs import embedded
from experiments import quickstart
from grounded_jax import config

STEPS = 70


def get_config(arg: str = "") -> config.Experiment:
  seed, _, variant = arg.partition(":")
  seed = embedded.seed_of("best", seed)
  if variant not in ("", "smoke"):
    raise config.UserError(f"best has no variant {variant!r}; it has: smoke.")
  smoke = variant == "smoke"
  limit = 6 if smoke else 300
  stage = dataclasses.replace(
    quickstart.stage("best", 2 if smoke else STEPS, True, ""),
    objective="sft",
    answerable_share="0.5",
    sft=config.SFT(
      demonstrations="best",
      prompts=4 if smoke else 16,
      max_new_tokens=quickstart.TOKENS,
    ),
  )
  return config.Experiment(
    name="-".join(["best", *filter(None, [arg.replace(":", "-")])]),
    seed=seed,
    model=config.Model(path=f"warmstart:{seed}", logp_chunk=8192),
    data=embedded.data(seed),
    stages=(stage,),
    evals=embedded.evals(seed, limit),
  )
