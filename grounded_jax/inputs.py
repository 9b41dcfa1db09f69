"""All records that an experiment reads, loaded and checked before anything
is allocated."""

import dataclasses

from grounded_jax import checkpoint, config, files
from grounded_jax.data import sources
from grounded_jax.records import Example, UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
  """What the stages train on and what is evaluated."""

  stages: tuple[tuple[Example, ...], ...]  # of each stage
  evals: dict[str, tuple[Example, ...]]  # of each evaluation, by its name


def load(experiment: config.Experiment) -> Inputs:
  """The examples of every stage and evaluation.

  Raises:
    UserError: something that the experiment needs is not there, or not so.
  """
  if not experiment.stages and not experiment.evals:
    raise UserError(
      f"The experiment {experiment.name} has neither stages nor evals."
    )
  if experiment.model.path:
    files.find(experiment.model.path)
  for stage in experiment.stages:
    if stage.init_from:
      checkpoint.find(stage.init_from)
  return Inputs(
    stages=tuple(
      examples(experiment, stage_source(experiment, stage))
      for stage in experiment.stages
    ),
    evals={
      item.name: examples(experiment, item.source) for item in experiment.evals
    },
  )


def stage_source(
  experiment: config.Experiment, stage: config.Stage
) -> config.Source:
  """The training source with the stage's own choice of records."""
  source = experiment.data.train
  if stage.answerable != "any":
    source = dataclasses.replace(source, answerable=stage.answerable)
  if stage.limit:
    source = dataclasses.replace(source, limit=stage.limit)
  return source


def examples(
  experiment: config.Experiment, source: config.Source
) -> tuple[Example, ...]:
  """The examples of a source, with as many passages as prompts show."""
  found, _ = sources.load(source, experiment.data.passages)
  return found
