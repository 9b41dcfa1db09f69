"""The report: one file, nothing to fetch, what the run left and no more."""

import re

import pytest

from grounded_jax import log, report, trust_score


def result(trust: float) -> dict:
  scores = dict.fromkeys(trust_score.METRICS, 50.0) | {"trust": trust}
  return scores | {
    "tasks": {"short": dict(scores), "list": dict(scores)},
    "intervals": {name: [40.0, 60.5] for name in scores},
    "reward_verifier": dict(scores) | {"verifier": "lexical(0.6)"},
  }


@pytest.fixture
def workdir(tmp_path):
  """A run of two stages with one evaluation set and three outputs."""
  log.write_json(tmp_path / "config.json", {"name": "run", "seed": 3})
  log.write_jsonl(
    tmp_path / "metrics.jsonl",
    [
      {
        "stage": stage,
        "step": step,
        "reward": 0.1 * step,
        "reward/format": 0.5,
        "loss": 0.0,
        "entropy": None,
        "seconds": 1.0,
      }
      for stage in ("one", "two")
      for step in (1, 2, 3)
    ],
  )
  stages = [
    {
      "name": name,
      "steps": 3,
      "seconds": 3.0,
      "seconds_per_step": 1.0,
      "eval_before": {"dev": result(before)},
      "eval_after": {"dev": result(after)},
    }
    for name, before, after in (("one", 11.25, 22.25), ("two", 22.25, 33.25))
  ]
  log.write_json(
    tmp_path / "summary.json",
    {"name": "run", "seconds": 61.0, "stages": stages},
  )
  log.write_jsonl(
    tmp_path / "eval" / "dev-two-3.jsonl",
    [
      {
        "id": str(i),
        "task": "short",
        "question": f"Is {i} < 3 & so on?",
        "answerable": i != 1,
        "answers": [["yes", "aye"]],
        "docs": [
          {"title": "T", "text": "<script>x</script>", "answers_found": [1]}
        ],
        "output": "yes [1]",
        "raw_output": "<think>so</think><answer>yes [1]</answer>",
      }
      for i in range(3)
    ],
  )
  return tmp_path


def test_the_page_stands_alone(workdir):
  page = report.write(workdir).read_text("utf-8")
  assert not re.search(r"<(script|link|img|iframe)\b", page)
  assert not re.search(r"""(src|href)=["']https?:""", page)
  assert page.count("<svg") == 3  # reward, loss, seconds; entropy is empty


def test_everything_from_outside_is_escaped(workdir):
  page = report.write(workdir).read_text("utf-8")
  assert "Is 0 &lt; 3 &amp; so on?" in page
  assert "&lt;script&gt;x&lt;/script&gt;" in page
  assert "&lt;think&gt;so&lt;/think&gt;" in page


def test_an_evaluation_between_stages_stands_once(workdir):
  rows = report.table(log.read_json(workdir / "summary.json"))
  heads = [row["when"] for row in rows if row["when"]]
  assert heads == ["before one", "after one", "after two"]
  assert rows[0]["values"][0] == "11.2 [40.0, 60.5]"
  assert [row["task"] for row in rows[:5]] == [
    "",
    "short",
    "list",
    "judged by lexical(0.6)",
    "gap of the two",
  ]
  assert rows[4]["values"][:2] == ["0.0", "0.0"]


def test_the_gap_is_the_reward_verifier_minus_the_headline(workdir):
  summary = log.read_json(workdir / "summary.json")
  judged = summary["stages"][0]["eval_before"]["dev"]["reward_verifier"]
  judged |= {"f1_gc": 57.5, "f1_ac": None}
  gap = report.table(summary)[4]
  assert gap["values"][:4] == ["0.0", "–", "0.0", "7.5"]


def test_changed_passages_have_a_section_if_they_were_evaluated(workdir):
  assert "Changed passages" not in report.write(workdir).read_text("utf-8")
  spans = {name: [-2.0, -3.5, None] for name in trust_score.METRICS}
  spans["trust"] = [-12.0, -20.0, -4.0]
  change = {
    "change": "counterfactual",
    "records": 17,
    "follows_passage": 75.0,
    "follows_memory": 25.0,
    "intervals": {
      "follows_passage": [50.0, 90.0],
      "follows_memory": [10.0, 50.0],
    },
  }
  log.write_json(
    workdir / "eval" / "dev-counterfactual.json",
    result(40.0) | {"change": change, "difference": spans},
  )
  log.write_json(workdir / "eval" / "dev.json", result(52.0))
  log.write_json(workdir / "eval" / "dev-no_evidence.json", {"change": {}})
  (row,) = report.robustness(workdir)
  assert (row["set"], row["records"]) == ("dev-counterfactual", 17)
  assert row["values"][:2] == ["-12.0 [-20.0, -4.0]", "-2.0"]
  assert row["follows"] == ["75.0 [50.0, 90.0]", "25.0 [10.0, 50.0]"]
  assert "-12.0 [-20.0, -4.0]" in report.write(workdir).read_text("utf-8")


def test_a_missing_number_is_a_dash():
  assert report.cell({"trust": None}, "trust") == "–"
  assert report.cell({"trust": 1.0}, "trust") == "1.0"


def test_completions_are_spread_over_the_set(workdir):
  many = [{"id": i} for i in range(100)]
  log.write_jsonl(workdir / "eval" / "dev-two-3.jsonl", many)
  chosen = report.completions(workdir, log.read_json(workdir / "summary.json"))
  assert [row["id"] for row in chosen] == list(range(0, 100, 5))


def test_a_run_without_evaluations_has_a_report(workdir):
  summary = log.read_json(workdir / "summary.json")
  for stage in summary["stages"]:
    stage["eval_before"] = stage["eval_after"] = {}
  log.write_json(workdir / "summary.json", summary)
  assert "This run evaluates nothing." in report.write(workdir).read_text()
