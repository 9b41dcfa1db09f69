"""Training data and evaluation sets by name: files, passages, wording.

Files are the user's own; only names and choices stand here.
"""

from grounded_jax import config

_TRUST_SETS = ("asqa", "qampari", "eli5", "expertqa")


def trust_align(
  path: str = "data/asqa.jsonl,data/qampari.jsonl,data/eli5.jsonl",
  thinking: bool = True,
  tags: bool = True,
) -> config.Data:
  """The paper's prompts: five passages, as many records from every dataset.

  Args:
    path: Trust-Align records (design section 4), one file per dataset.
    thinking: the template's own thinking switch (Qwen3).
    tags: ask for a thought before the answer; False for instruct models.
  """
  return config.Data(
    train=config.Source(path=path, balance=True),
    passages=5,
    max_prompt_len=2048,  # five passages of 100 words are about 1,000 tokens
    style="trust",
    tags=tags,
    chat=True,
    thinking=thinking,
  )


def trust_evals(
  folder: str = "data/Trust-Score",
  limit: int = 0,
  headline: config.Verifier | None = None,
) -> tuple[config.Eval, ...]:
  """The Trust-Score benchmark: ASQA, QAMPARI, ELI5 and ExpertQA.

  Args:
    folder: with the files of `declare-lab/Trust-Data`, under their own names.
    limit: records of each; 0 = all.
    headline: judge of the headline scores, not the one used as reward.
  """
  return tuple(
    config.Eval(
      name=name,
      source=config.Source(
        path=f"{folder}/{name}_eval_top100_calibrated.json",
        task={"asqa": "short", "qampari": "list"}.get(name, "claims"),
        limit=limit,
      ),
      headline=headline or config.Verifier(threshold=0.75),
      max_new_tokens=2048,  # thinking included
    )
    for name in _TRUST_SETS
  )


def nq(path: str = "data/nq_train.jsonl") -> config.Data:
  """Natural Questions in the few words that a 135M model can follow."""
  return config.Data(
    train=config.Source(path=path, task="short"),
    passages=5,
    max_prompt_len=1280,
    style="brief",
    tags=True,
    chat=True,
  )


def nq_eval(path: str = "data/nq_dev.jsonl", limit: int = 100) -> config.Eval:
  """`limit` development questions, half of them answerable."""
  return config.Eval(
    name="nq_dev",
    source=config.Source(
      path=path, task="short", answerable="even", limit=limit
    ),
    # Stricter than the verifier that a reward uses by default.
    headline=config.Verifier(threshold=0.75),
    batch=10,
    max_new_tokens=128,
  )


def smoke(limit: int = 24) -> config.Data:
  """A few generated questions, short enough for a tokenizer of bytes."""
  return config.Data(
    train=config.Source(path="world:train", limit=limit),
    passages=3,
    max_prompt_len=512,
    style="tiny",
    chat=False,
  )


def smoke_eval(limit: int = 12) -> config.Eval:
  """A few generated test questions, judged by the world's fact oracle."""
  return config.Eval(
    name="test",
    source=config.Source(path="world:test", limit=limit),
    headline=config.Verifier(kind="oracle"),
    batch=limit,
    max_new_tokens=16,
    bootstrap=50,
  )
