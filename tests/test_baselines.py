"""The rules that a trained policy is compared with."""

import dataclasses
import json
import subprocess
import sys

import pytest

from grounded_jax import baselines, config, log, scoring
from grounded_jax.data import world
from grounded_jax.records import Completion, Doc, Example

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


def test_the_first_passage_alone_is_copied():
  assert baselines.copy_first_passage(EXAMPLE) == "Velham mines Ore [1]."


def test_honest_policies_say_the_supported_golds_and_refuse_else():
  assert baselines.gold_sentence(EXAMPLE) == "Velton brews Ale [2]."
  assert baselines.gold_short(EXAMPLE) == "It is Ale [2]."
  assert baselines.gold_cited_by_all(EXAMPLE) == "Velton brews Ale [1][2]."
  listed = dataclasses.replace(EXAMPLE, task="list")
  assert baselines.gold_short(listed) == "Ale [2]"
  bare = tuple(dataclasses.replace(d, answers_found=(0,)) for d in EXAMPLE.docs)
  without = dataclasses.replace(EXAMPLE, docs=bare, answerable=False)
  for policy in baselines.HONEST:
    assert policy(without) == baselines.REFUSAL


def test_a_loose_judge_counts_words():
  judge = baselines.Overlap(0.5)
  assert judge.name == "overlap(0.5)"
  assert judge(["Ada sold salt"] * 3, ["salt Ada", "salt Bo", "x y z Ada"]) == [
    True,
    True,
    False,
  ]
  assert judge(["Ada"], ["The"]) == [False]


def many():
  """Twenty questions, half of them answerable, passages of ten sentences."""
  out = []
  for i in range(20):
    filler = [f"Fact{i} {k} is told here at some length." for k in range(9)]
    held = [f"Town{i} brews Ale{i}.", *filler]
    docs = tuple(
      Doc(
        title=f"T{k}",
        text=" ".join(held if k == 2 and i % 2 else filler),
        answers_found=(int(k == 2 and i % 2),),
      )
      for k in range(5)
    )
    out.append(
      dataclasses.replace(
        EXAMPLE,
        id=str(i),
        question=f"What brews Town{i}?",
        docs=docs,
        answers=((f"Ale{i}",),),
        answerable=bool(i % 2),
      )
    )
  return tuple(out)


def test_concise_scores_keep_honest_answers_and_leave_copies_nothing():
  found = baselines.scores(
    many(), baselines.Overlap(0.5), baselines.BASELINES + baselines.HONEST
  )
  copy, honest = found["copy_all"], found["gold_sentence"]
  assert copy["f1_gc"] == 100 and copy["trust"] > 60  # the published formula
  assert copy["concise"]["trust"] < 30
  assert honest["trust"] == 100 and honest["concise"]["trust"] == 100
  short = found["gold_short"]
  assert short["concise"]["trust"] == short["trust"]
  assert found["gold_cited_by_all"]["trust"] < honest["trust"]


@pytest.mark.parametrize("name", [p.__name__ for p in baselines.BASELINES])
def test_no_rule_gains_by_the_concise_score(name):
  found = baselines.scores(many(), baselines.Overlap(0.5))[name]
  for key in ("trust", "f1_ac", "f1_gc"):
    assert found["concise"][key] <= found[key] + 1e-9


def test_the_command_scores_every_policy_of_a_record_file(tmp_path):
  path = tmp_path / "records.jsonl"
  rows = [
    scoring.record(example, Completion(text="", answer=""))
    for example in many()[:4]
  ]
  log.write_jsonl(path, rows)
  command = [sys.executable, "-m", "grounded_jax.baselines"]
  options = [f"--records={path}", "--verifier=lexical", "--threshold=0.6"]
  done = subprocess.run(command + options, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  got = json.loads(done.stdout)
  assert got["gold_sentence"]["trust"] == 100
  assert got["copy_all"]["meta"]["verifier"] == "lexical(0.6)"
  assert "gold_cited_by_all" in done.stderr
  options = [f"--records={tmp_path / 'none.jsonl'}"]
  done = subprocess.run(command + options, capture_output=True, text=True)
  assert done.returncode == 2 and "does not exist" in done.stderr


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
  assert found["copy_all"]["concise"]["trust"] < 30
