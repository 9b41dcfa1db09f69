"""What the recipe's experiments share: their arguments, stages, smoke size."""

import dataclasses
from collections.abc import Sequence

from configs import data, models
from grounded_jax import config

PRESETS = ("modern", "paper")
# Stricter than the verifier that the reward uses.
HEADLINE = config.Verifier(threshold=0.75)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
  """What an experiment's argument asks for."""

  preset: str
  smoke: bool

  def run(self, name: str) -> str:
    """The name of an experiment's run in this variant."""
    preset = "" if self.preset == PRESETS[0] else self.preset
    parts = (name, preset, "smoke" if self.smoke else "")
    return "-".join(filter(None, parts))


def words_of(arg: str, name: str, known: Sequence[str]) -> set[str]:
  """The words of an argument like "gold,smoke".

  Args:
    arg: words with commas between them.
    name: of the experiment, for the message.
    known: words that it has.
  """
  words = set(filter(None, arg.split(",")))
  if words - set(known):
    raise config.UserError(
      f"{name} has no variant {arg!r}; its words, with commas between them,"
      f" are: {', '.join(known)}."
    )
  return words


def run(name: str, words: set[str]) -> str:
  """The name of the run that these words ask for."""
  return "-".join([name, *sorted(words)])


def variant(name: str, arg: str) -> Variant:
  """The variant that an argument like "paper,smoke" names."""
  words = set(filter(None, arg.split(",")))
  presets = words & set(PRESETS)
  if words - {*PRESETS, "smoke"} or len(presets) > 1:
    raise config.UserError(
      f"{name} has no variant {arg!r}; it has: modern or paper, and smoke, with"
      " a comma between them."
    )
  return Variant(preset=min(presets, default="modern"), smoke="smoke" in words)


def smoke(experiment: config.Experiment) -> config.Experiment:
  """The experiment as two steps of a tiny model on generated records."""
  return dataclasses.replace(
    experiment,
    model=models.tiny(),
    data=dataclasses.replace(data.smoke(), tags=experiment.data.tags),
    stages=tuple(_smoke_stage(stage) for stage in experiment.stages),
    evals=(data.smoke_eval(),),
  )


def _smoke_stage(stage: config.Stage) -> config.Stage:
  overlong = 4 if stage.rewards.overlong else 0
  # A demonstration is two sentences, of as many bytes.
  sizes = {"prompts": 4, "micro": 2, "pack": 0, "max_new_tokens": 256}
  return dataclasses.replace(
    stage,
    steps=2,
    epochs=0,
    limit=0,
    rewards=dataclasses.replace(stage.rewards, overlong=overlong),
    grpo=dataclasses.replace(
      stage.grpo,
      prompts=4,
      group=4,
      micro=2,
      max_new_tokens=16,
      truncated="keep",  # random weights seldom end a completion
    ),
    sft=dataclasses.replace(stage.sft, path="", **sizes),
    dpo=dataclasses.replace(stage.dpo, path="", **sizes),
    save_every=1,
    log_rollouts=1,
  )
