"""The embedded world as data, and its judges."""

from grounded_jax import config


def seed_of(experiment: str, written: str) -> int:
  """The seed that an experiment's argument states; "" = 0."""
  if not (written or "0").isdecimal():
    raise config.UserError(
      f"{experiment}: {written!r} is no seed: give a number, like"
      f" experiments/{experiment}.py:1."
    )
  return int(written or 0)


def data(seed: int = 0, limit: int = 3000) -> config.Data:
  """Training questions of one world, prompted in its own few words."""
  return config.Data(
    train=config.Source(path="world:train", limit=limit, seed=seed),
    passages=5,
    max_prompt_len=120,
    style="tiny",
    chat=False,
  )


def evals(seed: int = 0, limit: int = 300) -> tuple[config.Eval, ...]:
  """`limit` test questions, a third of each task, half of them answerable;
  and as many that are all answerable.  Headline judge: the fact oracle."""
  common = {
    "headline": config.Verifier(kind="oracle"),
    "batch": 100,
    "max_new_tokens": 48,
    "splitter": "punkt",
  }
  source = config.Source(path="world:test", limit=limit, seed=seed)
  answerable = config.Source(
    path="world:test", limit=limit // 2, seed=seed, answerable="only"
  )
  return (
    config.Eval(name="test", source=source, **common),
    config.Eval(name="answerable", source=answerable, **common),
  )
