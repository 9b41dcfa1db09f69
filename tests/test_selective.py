"""Risk against coverage, by hand."""

import numpy as np
import pytest

from grounded_jax import evaluate, selective, tokenizer, trust_score


def row(correctness=0.0, answerable=True, refused=False, task="short"):
  """A row as `trust_score.per_record` gives it; citations all right."""
  return {
    "task": task,
    "question": "?",
    "answerable": answerable,
    "correctness": correctness,
    "parametric": 0.0,
    "brevity": 1.0,
    "is_refusal": refused,
    "is_refusal_no_citations": refused,
    "citation_recall": 100.0,
    "citation_precision": 100.0,
  }


FOUR = [row(50.0), row(100.0), row(80.0, refused=True), row(90.0, False)]
SURE = [-0.5, -0.1, -0.01, -0.2]


def measure(sure, rows, **options):
  ids = [str(i) for i in range(len(rows))]
  return selective.risk_coverage(sure, rows, ids, **options)


def test_risk_and_area_of_four_answers():
  """By confidence the credits are 100, 0 (unanswerable), 50, 0 (refused).

  Risks 0, 50, 50, 62.5, mean 40.625; in the best order (100, 50, 0, 0) 0, 25,
  50, 62.5, mean 34.375; in a random one 62.5 throughout.
  """
  got = measure(SURE, FOUR)
  assert got["curve"] == [[25, 0], [50, 50], [75, 50], [100, 62.5]]
  assert got["aurc"] == 40.625
  assert got["aurc_best"] == 34.375
  assert got["aurc_chance"] == 62.5


def test_a_refusal_comes_last_however_sure_it_is():
  for sure in (-9.0, 0.0):
    got = measure([-0.5, -0.1, sure, -0.2], FOUR)
    assert got["aurc"] == 40.625


def test_the_order_of_ties_does_not_matter():
  """Two answers alike in confidence, one right: risk 50 and 50."""
  for rows in ([row(100.0), row(0.0)], [row(0.0), row(100.0)]):
    assert measure([-0.3, -0.3], rows)["curve"] == [[50, 50], [100, 50]]


def test_only_the_order_of_confidence_matters():
  rng = np.random.default_rng(0)
  rows = [row(float(c)) for c in rng.choice([0, 50, 100], 200)]
  sure = -rng.random(200)
  first = measure(sure.tolist(), rows)
  again = measure((2 * sure - 7).tolist(), rows)
  assert first["curve"] == again["curve"]
  assert first["aurc_best"] <= first["aurc"] <= 100
  assert len(first["curve"]) == 50
  assert first["curve"][-1][1] == pytest.approx(first["aurc_chance"])


def many(n=400):
  """Half unanswerable; the answers to those are less sure, with an overlap."""
  rng = np.random.default_rng(1)
  rows = [row(100.0 * (i % 2), bool(i % 2)) for i in range(n)]
  sure = [float(rng.normal(-0.2 if i % 2 else -1.0, 0.1)) for i in range(n)]
  return sure, rows


def test_a_threshold_that_separates_is_found_and_holds_on_the_other_half():
  """Without it F1_GR is 33.3 and P_AC 50; with it nearly all is right."""
  got = measure(*many(), bootstrap=50)["threshold"]
  assert -0.9 < got["confidence"] < -0.3
  assert got["trust"] > 98 and got["answered_ratio"] == pytest.approx(50, abs=5)
  # All answered: (66.7 + 33.3 + 100) / 3 if the half were even.
  assert got["trust_without"] == pytest.approx(66.7, abs=3)
  gain, low, high = got["difference"]
  assert gain == pytest.approx(got["trust"] - got["trust_without"])
  assert low <= gain <= high and low > 0
  assert got["records"] == 200


def test_no_threshold_where_refusing_never_helps():
  rows = [row(100.0) for _ in range(20)]
  got = measure([-i / 10 for i in range(20)], rows)["threshold"]
  assert got["confidence"] is None
  assert got["trust"] == got["trust_without"]


def test_too_few_records_have_no_threshold():
  assert measure([-0.1, -0.2, -0.3], FOUR[:3])["threshold"] is None


def test_halves_are_disjoint_and_hold_every_task():
  rows = [row(task=task) for task in ("short", "list", "claims") * 10]
  ids = [f"id{i}" for i in range(30)]
  dev, test = selective._halves(rows, ids)
  assert sorted(dev + test) == list(range(30))
  for half in (dev, test):
    tasks = [rows[i]["task"] for i in half]
    assert {t: tasks.count(t) for t in tasks} == {
      "short": 5,
      "list": 5,
      "claims": 5,
    }


def test_refusing_below_the_mark_scores_as_a_refusing_policy_would():
  """The rows are those of outputs that say the refusal sentence."""
  flag = trust_score.REFUSAL_FLAG
  answers = ["Salt [1].", "Wool [1]."]
  record = lambda output, bit: {
    "task": "short",
    "question": "?",
    "answers": [["salt"]],
    "docs": [{"title": "t", "text": "Salt.", "answers_found": [bit]}],
    "output": output,
  }
  score = lambda outputs: trust_score.per_record(
    [record(o, bit) for o, bit in zip(outputs, (1, 0), strict=True)],
    verifier=lambda p, h: [True] * len(p),
    splitter=lambda s: [s],
  )
  rows = selective.refusing(
    score(answers), np.array([-0.1, -0.9]), -0.5, (0, 1)
  )
  wanted = score([answers[0], flag])
  assert trust_score.by_task(rows) == trust_score.by_task(wanted)


@pytest.mark.parametrize(
  ("said", "wanted"),
  [
    ("<think>so</think><answer>ab", -2.0),  # of "a" and "b"
    ("ab", -2.0),  # no tag
    ("<answer>", -0.125),  # nothing after it: of all eight
  ],
)
def test_confidence_is_the_mean_over_the_answers_tokens(said, wanted):
  """Bytes are tokens; "a" has -1, "b" -3, the tag's first byte -1."""
  logp = np.zeros(len(said), np.float32)
  logp[said.rfind("<answer>") if "<answer>" in said else 0] = -1.0
  if said.endswith("ab"):
    logp[-2:] = -1.0, -3.0
  decode = tokenizer.Bytes().decode
  ids = tokenizer.Bytes().encode(said)
  assert evaluate.confidence(ids, logp, decode) == wanted
