"""Stage 2 of the paper's recipe on a TPU slice, or compiled for one.

    python -m grounded_jax.main --config=experiments/pod.py:qwen3-8b-v5e-64 \\
      --mode=compile --topology=v5e:8x8

The argument names a model and a slice (configs/pods.py lists them), for
prompts of 2,048 and completions of 1,024 tokens, 48 prompts x 8 a step (256 on
256 chips).  To compile it needs no weights; to train it,
--config.model.path=NAME_OR_DIRECTORY, and what experiments/stage2.py needs.

Cost and fit: docs/tpu.md, by the compiler's estimate.  Not measured.
"""

import dataclasses

from configs import pods
from experiments import stage2
from grounded_jax import config


def get_config(arg: str = "qwen3-8b-v5e-64") -> config.Experiment:
  name = arg or "qwen3-8b-v5e-64"
  if name not in pods.SLICES:
    raise config.UserError(
      f"pod has no slice {name!r}; it has: {', '.join(pods.SLICES)}."
    )
  made, base = pods.SLICES[name], stage2.get_config()
  (stage,) = base.stages
  algorithm = dataclasses.replace(
    stage.grpo,
    prompts=made.prompts,
    micro=made.fsdp * made.each,
    max_new_tokens=1024,
  )
  reward = dataclasses.replace(stage.rewards, overlong=512)
  return dataclasses.replace(
    base,
    name=f"pod-{name}".replace(".", "-"),
    model=dataclasses.replace(
      base.model, path="", decoder=made.decoder, remat=made.remat
    ),
    mesh=made.mesh,
    data=dataclasses.replace(base.data, max_prompt_len=2048),
    stages=(dataclasses.replace(stage, grpo=algorithm, rewards=reward),),
  )
