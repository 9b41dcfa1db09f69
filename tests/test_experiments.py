"""Every experiment loads; the recipe's smoke runs learn, and stay the same."""

import dataclasses
import json
import logging
import pathlib
import re

import jax
import pytest
import rich.console
import tiny

from grounded_jax import checkpoint, config, log, main, train
from grounded_jax.records import UserError

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted((ROOT / "experiments").glob("*.py"))
GOLDEN = ROOT / "tests" / "golden" / "smoke.json"
# The arguments that an experiment's docstring offers.
VARIANTS = [
  ("quickstart", "1"),
  ("quickstart", "0:shuffled"),
  ("quickstart", "2:paper"),
  ("stage1", "paper"),
  ("stage1", "modern,smoke"),
  ("stage1", "paper,smoke"),
  ("stage2", "paper"),
  ("stage2", "smoke"),
  ("sft", "gold"),
  ("sft", "gold,smoke"),
  ("dpo", "smoke"),
  ("orders", "grpo_sft"),
  ("orders", "sft_dpo_grpo,paper,gold,smoke"),
]
# What CPUs of other kinds may differ by, after two updates.
TOLERANCE = 2e-3


def load(name: str, arg: str = "") -> config.Experiment:
  return main.load_experiment(f"{ROOT / 'experiments' / name}.py:{arg}")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_experiment_loads_and_survives_its_dictionary_form(path):
  made = load(path.stem)
  assert made.stages
  assert config.from_dict(config.Experiment, config.to_dict(made)) == made


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_command_line_keeps_the_order_of_stages_and_evals(path):
  made = main.parse(["main", f"--config={path}", "--config.seed=7"])[1]
  assert made == dataclasses.replace(load(path.stem), seed=7)


@pytest.mark.parametrize(("name", "arg"), VARIANTS)
def test_a_variant_loads_under_a_name_of_its_own(name, arg):
  made = load(name, arg)
  assert config.from_dict(config.Experiment, config.to_dict(made)) == made
  assert made.name != load(name).name


@pytest.mark.parametrize(
  "name", ["quickstart", "stage1", "stage2", "sft", "dpo", "orders"]
)
def test_an_unknown_variant_is_refused_by_name(name):
  with pytest.raises(UserError, match=f"{name} has no variant"):
    load(name, "0:nonsense" if name == "quickstart" else "nonsense")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_reward_headlines_its_own_evaluation(path):
  made = load(path.stem)
  judges = {stage.rewards.verifier for stage in made.stages}
  assert not judges & {item.headline for item in made.evals}


def test_the_stages_are_the_papers():
  first, second = load("stage1").stages[0], load("stage2").stages[0]
  assert (first.steps, first.limit, first.answerable) == (25, 300, "only")
  assert (second.steps, second.limit, second.answerable) == (250, 3000, "even")
  assert (first.rewards.refusal, second.rewards.refusal) == (False, True)
  assert second.init_from == f"runs/{load('stage1').name}"
  paper = load("stage2", "paper").stages[0]
  assert (paper.grpo.beta, paper.optimizer.lr) == (0.04, 1e-5)
  assert paper.init_from == f"runs/{load('stage1', 'paper').name}"
  for stage in (first, second, paper):
    assert (stage.grpo.prompts, stage.grpo.group) == (48, 8)


def test_distillation_is_trust_aligns_in_the_papers_orders():
  (sft,), (dpo,) = load("sft").stages, load("dpo").stages
  assert (sft.epochs, sft.sft.prompts, sft.sft.max_len) == (2, 72, 2048)
  assert (dpo.epochs, dpo.dpo.prompts, dpo.dpo.max_len) == (2, 64, 2048)
  assert (sft.optimizer.lr, dpo.optimizer.lr, dpo.dpo.beta) == (2e-5, 5e-7, 0.5)
  assert dpo.init_from == "runs/sft" and load("dpo").data.max_prompt_len == 1600
  orders = {
    name: [stage.name for stage in load("orders", name).stages]
    for name in ("sft_grpo", "grpo_sft", "sft_dpo_grpo")
  }
  assert orders == {
    "sft_grpo": ["sft", "stage1", "stage2"],
    "grpo_sft": ["stage1", "stage2", "sft"],
    "sft_dpo_grpo": ["sft", "dpo", "stage1", "stage2"],
  }
  assert not any(stage.init_from for stage in load("orders").stages)


@dataclasses.dataclass(frozen=True)
class Smoke:
  """One smoke run: where it is, and what was compiled for it."""

  experiment: config.Experiment
  workdir: pathlib.Path
  summary: dict
  compiled: list[str]  # the names of compiled functions, as often as compiled

  @property
  def rows(self) -> list[dict]:
    return log.read_metrics(self.workdir)


def smoke(name: str, workdir: pathlib.Path, init_from: str = "") -> Smoke:
  """The smoke run of a stage, with a reward that random weights can earn."""
  made = load(name, "smoke")
  if init_from:
    stage = dataclasses.replace(made.stages[0], init_from=init_from)
    made = dataclasses.replace(made, stages=(stage,))
  compiled = []
  handler = logging.Handler()
  handler.emit = lambda record: compiled.extend(
    re.findall(r"Finished XLA compilation of jit\((\w+)\)", record.getMessage())
  )
  logger = logging.getLogger("jax")
  logger.addHandler(handler)
  try:
    with jax.log_compiles():
      summary = train.run(
        made,
        workdir,
        score=tiny.varied_score,
        console=rich.console.Console(quiet=True),
      )
  finally:
    logger.removeHandler(handler)
  return Smoke(made, workdir, summary, compiled)


@pytest.fixture(scope="module")
def smokes(tmp_path_factory):
  """The smoke runs of stage 1 and, from where it ended, of stage 2."""
  folder = tmp_path_factory.mktemp("smoke")
  jax.clear_caches()
  first = smoke("stage1", folder / "first")
  jax.clear_caches()
  second = smoke("stage2", folder / "second", str(folder / "first"))
  return first, second


@pytest.mark.slow
def test_two_steps_move_the_parameters(smokes):
  for run in smokes:
    assert [row["step"] for row in run.rows] == [1, 2]
    assert all(row["grad_norm"] > 0 for row in run.rows)


@pytest.mark.slow
def test_sampler_and_learner_agree(smokes):
  for run in smokes:
    assert all(row["mismatch_logp_abs_max"] < 1e-4 for row in run.rows)


@pytest.mark.slow
def test_stage_two_starts_where_stage_one_ended(smokes):
  first, second = (run.summary["stages"][0] for run in smokes)
  model = lambda evaluation: evaluation["test"]["meta"]["hashes"]["model"]
  assert model(second["eval_before"]) == model(first["eval_after"])
  assert model(second["eval_after"]) != model(second["eval_before"])
  assert checkpoint.find(str(smokes[0].workdir)).name == "2"


@pytest.mark.slow
def test_no_step_compiles_what_an_earlier_one_has(smokes):
  """Training and evaluation sample in two shapes; all else has one."""
  for run in smokes:
    count = {name: run.compiled.count(name) for name in set(run.compiled)}
    assert count["update"] == 1, count
    assert count["sample"] == 2, count


def measured(runs) -> dict[str, list[dict[str, float]]]:
  """Loss, reward and gradient of each step, by stage."""
  names = ("loss", "reward", "grad_norm", "entropy")
  return {
    run.experiment.stages[0].name: [
      {name: row[name] for name in names} for row in run.rows
    ]
    for run in runs
  }


@pytest.mark.slow
def test_the_smoke_runs_reach_the_stored_numbers(smokes):
  """`python tests/test_experiments.py` writes golden/smoke.json anew."""
  golden = json.loads(GOLDEN.read_text("utf-8"))
  for stage, steps in measured(smokes).items():
    for step, (got, want) in enumerate(
      zip(steps, golden[stage], strict=True), start=1
    ):
      assert got == pytest.approx(want, rel=TOLERANCE, abs=TOLERANCE), (
        f"{stage} step {step}"
      )


if __name__ == "__main__":
  import tempfile

  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    one = smoke("stage1", folder / "first")
    two = smoke("stage2", folder / "second", str(folder / "first"))
    GOLDEN.write_text(json.dumps(measured((one, two)), indent=2) + "\n")
