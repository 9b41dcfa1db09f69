"""The rules that a trained policy is compared with."""

import pytest

from grounded_jax import baselines, config
from grounded_jax.data import world
from grounded_jax.records import Doc, Example

EXAMPLE = Example(
  id="x",
  task="short",
  question="What brews Velton?",
  docs=(
    Doc(title="A", text="Velham mines Ore.", answers_found=(0,)),
    Doc(title="B", text="Velton brews Ale. It rains.", answers_found=(1,)),
  ),
  answers=(("Ale",),),
  answerable=True,
)


def test_overlap_takes_the_sentence_that_shares_most_words():
  assert baselines.overlap(EXAMPLE, 2) == "Velton brews Ale [2]."
  assert baselines.overlap(EXAMPLE, 3) == baselines.REFUSAL


def test_citing_everything_marks_every_passage():
  assert baselines.cite_everything(EXAMPLE) == "Velton brews Ale [1][2]."


def test_copying_states_every_sentence_with_its_passage():
  said = "Velham mines Ore [1]. Velton brews Ale [2]. It rains [2]."
  assert baselines.copy_all(EXAMPLE) == said


def test_refusing_and_answering_always_halve_the_refusal_score():
  found = baselines.scores(
    tuple(world.examples(0, "test", 60)), config.Verifier(kind="oracle")
  )
  for name in ("always_refuse", "always_answer", "copy_all"):
    assert found[name]["f1_gr"] == pytest.approx(100 / 3)
  assert found["always_refuse"]["f1_ac"] == 0


def test_no_rule_comes_near_what_reading_the_passages_scores():
  found = baselines.scores(
    tuple(world.examples(0, "test", 120)), config.Verifier(kind="oracle")
  )
  assert max(metrics["trust"] for metrics in found.values()) < 60
