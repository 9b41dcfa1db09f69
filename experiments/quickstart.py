"""The method end to end on a laptop: answer and cite, then refuse.

    python -m grounded_jax.main --config=experiments/quickstart.py

A tiny policy that was warm-started to read well, cite carelessly and seldom
refuse (experiments/warmstart.py) is evaluated, trained with GRPO on answerable
questions (stage 1), evaluated, trained on an even mix (stage 2), and evaluated.
Everything is embedded: nothing is downloaded.  The argument is a seed: it picks
the world, the warm start and the sampling; the warm starts of 0, 1 and 2 are
shipped.

Cost: about 6 minutes on two CPU cores.  Result, TRUST on 300 test questions
before, after stage 1 and after stage 2: 38.4, 46.4, 95.6 (seed 0); 39.7, 48.6,
96.2 (1); 41.2, 49.1, 98.5 (2).

Variants by argument: "SEED:shuffled" deals the rewards out at random within
each group, the control that must learn nothing; "SEED:paper" uses the paper's
preset instead of the modern one.
"""

import dataclasses

from configs import embedded, grpo, rewards
from grounded_jax import config

STEPS = (20, 70)
TOKENS = 48  # completion; the longest demonstration has 43


def get_config(arg: str = "") -> config.Experiment:
  seed, _, variant = arg.partition(":")
  seed = embedded.seed_of("quickstart", seed)
  if variant not in ("", "shuffled", "paper"):
    raise config.UserError(
      f"quickstart has no variant {variant!r}; it has: shuffled, paper."
    )
  stages = tuple(
    stage(name, steps, refusal, variant)
    for name, steps, refusal in zip(
      ("stage1", "stage2"), STEPS, (False, True), strict=True
    )
  )
  return config.Experiment(
    name="-".join(["quickstart", *filter(None, [arg.replace(":", "-")])]),
    seed=seed,
    model=config.Model(path=f"warmstart:{seed}", logp_chunk=8192),
    data=embedded.data(seed),
    stages=stages,
    evals=embedded.evals(seed),
  )


def stage(name: str, steps: int, refusal: bool, variant: str) -> config.Stage:
  preset = grpo.paper if variant == "paper" else grpo.modern
  optimizer = grpo.modern_optimizer()
  if variant == "paper":
    optimizer = grpo.paper_optimizer()
    reward = rewards.paper(refusal)
  else:
    reward = rewards.modern(refusal, overlong=8)
  return config.Stage(
    name=name,
    steps=steps,
    answerable="even" if refusal else "only",
    rewards=reward,
    grpo=dataclasses.replace(preset(), prompts=16, max_new_tokens=TOKENS),
    # A thousandth of a large model's parameters: a larger rate.
    optimizer=dataclasses.replace(optimizer, lr=3e-4, schedule="linear"),
    save_every=50,
    log_rollouts=10,
    shuffle_rewards=variant == "shuffled",
  )
