import json
import math
import pathlib
import sys

import numpy as np
import pytest

from grounded_jax import text, trust_score
from grounded_jax.records import UserError

GOLDENS = pathlib.Path(__file__).parents[2] / "shared" / "goldens"
TASKS = {
  "asqa": "short",
  "qampari": "list",
  "eli5": "claims",
  "expertqa": "claims",
}
ORIGINAL = {  # our names, the published evaluator's
  "trust": ("trust_score",),
  "f1_ac": ("calib_str_em_f1", "calib_qampari_em_f1", "calib_claims_nli_f1"),
  "p_ac": (
    "calib_answered_str_em",
    "calib_answered_qampari_f1_top5",
    "calib_answered_claims_nli",
  ),
  "r_ac": (
    "calib_answerable_str_em",
    "calib_answerable_qampari_f1_top5",
    "calib_answerable_claims_nli",
  ),
  "f1_gr": ("macro_f1",),
  "refusal_f1": ("refuse_f1",),
  "refusal_precision": ("refuse_prec",),
  "refusal_recall": ("refuse_rec",),
  "answer_f1": ("answerable_f1",),
  "answer_precision": ("answerable_prec",),
  "answer_recall": ("answerable_rec",),
  "f1_gc": ("answered_citation_f1",),
  "citation_precision": ("answered_citation_prec",),
  "citation_recall": ("answered_citation_rec",),
  "answered_ratio": ("answered_ratio",),
}
REFUSAL = "I apologize, but I couldn't find an answer."


class Words:
  """Entails when every word of the hypothesis is in the premise."""

  name = "words"

  def __init__(self):
    self.calls = []

  def __call__(self, premises, hypotheses):
    self.calls.append(list(zip(premises, hypotheses, strict=True)))
    return [
      set(text.normalize(h).split()) <= set(text.normalize(p).split())
      for p, h in zip(premises, hypotheses, strict=True)
    ]


def record(output, answers, *bits, task="short", question="Which city?"):
  texts = ["Paris is big.", "Rome is old.", "Oslo is cold."]
  docs = [
    {"title": "T", "text": passage, "answers_found": found}
    for passage, found in zip(texts, bits, strict=False)
  ]
  return {
    "question": question,
    "answers": answers,
    "docs": docs,
    "output": output,
    "task": task,
  }


def four(times=1):
  rows = [
    record("Paris is big [1].", [["Paris"]], [1], [0]),
    record("Paris is big [2].", [["Paris"], ["Rome"]], [1, 0], [0, 1]),
    record(REFUSAL, [["Oslo"]], [0], [0]),
    record("Rome is big [1].", [["Oslo"]], [0], [0]),
  ] * times
  return [row | {"question": f"Which {i}?"} for i, row in enumerate(rows)]


def score(records, task="short", **options):
  return trust_score.evaluate(
    records, task=task, verifier=Words(), splitter=text.rule, **options
  )


def test_four_records_by_hand():
  got = score(four())
  want = {
    "p_ac": 100 * (1 + 0.5 + 0) / 3,
    "r_ac": 100 * (1 + 0.5) / 2,
    "f1_ac": 60,
    "refusal_precision": 100,
    "refusal_recall": 50,
    "refusal_f1": 200 / 3,
    "answer_precision": 200 / 3,
    "answer_recall": 100,
    "answer_f1": 80,
    "f1_gr": (200 / 3 + 80) / 2,
    "citation_recall": 100 / 3,
    "citation_precision": 100 / 3,
    "f1_gc": 100 / 3,
    "answered_ratio": 75,
    "trust": (60 + 220 / 3 + 100 / 3) / 3,
  }
  assert got == pytest.approx(want, abs=1e-9)
  assert tuple(got) == trust_score.METRICS


@pytest.mark.parametrize(
  ("output", "recall", "precision"),
  [
    ("Paris is big [1]. Rome is old.", 50, 100),  # the second cites nothing
    ("Paris is big [1][9].", 0, 0),  # out of range voids the sentence
    ("Paris is big [1][2].", 100, 50),  # the second is not needed
    ("Paris is big [1][1].", 100, 100),  # each entails alone
    ("Paris is big. Rome is old.", 0, 0),
    ("Paris is big [2][2][2][1].", 0, 0),  # only the first three count
    ("Oslo is cold [0].", 100, 100),  # 0 is the last document
  ],
)
def test_citations_by_hand(output, recall, precision):
  one = record(output, [["Paris"], ["Rome"]], [1, 0], [0, 1], [0, 0])
  got = score([one])
  assert got["citation_recall"] == pytest.approx(recall)
  assert got["citation_precision"] == pytest.approx(precision)


def test_a_needless_citation_is_forgiven_where_it_shares_a_supported_gold():
  apart = record("Paris is big [1][2].", [["Paris"]], [1], [0])
  shared = record("Paris is big [1][2].", [["Paris"]], [1], [1])
  assert score([apart])["citation_precision"] == 50
  assert score([shared])["citation_precision"] == 100


ONE = [["Paris"], ["Rome"], ["Oslo"]]
BITS = ([1, 0, 0], [0, 1, 0], [0, 0, 1])


@pytest.mark.parametrize(
  ("output", "cited", "recall", "precision"),  # of docs 1 to 3
  [
    ("[1]", 1, 100, 100),  # only a citation: an empty hypothesis, entailed here
    ("[1][2]", 1, 100, 100),  # each entails it alone
    ("", 0, 0, 0),  # no sentence: left out of the means, which are 0 then
    (" \n ", 0, 0, 0),
    ("Paris is big [4].", 1, 0, 0),  # out of range
    ("Paris is big [1][2][3][4].", 1, 0, 0),  # also after the third
    ("Rome is old [1][2][3][2].", 1, 100, 100 / 3),  # the first three only
    ("Oslo is cold [1][2][1][3].", 1, 0, 0),
    ("Paris is big [1, Rome].", 1, 0, 0),  # ", Rome" stays in the statement
    ("Paris is big [1, is].", 1, 100, 100),
    ("Paris is big [01].", 1, 100, 100),
    ("Paris is big [１].", 1, 100, 100),  # full-width digit
    ("Paris is big [１0].", 1, 0, 0),  # ten
    ("Paris is big [1", 1, 100, 100),
    ("Paris is big [²].", 1, 0, 0),  # a superscript is no digit
    ("Paris is big [-1].", 1, 0, 0),
    ("Paris is big [ 1].", 1, 0, 0),
    ("Paris is big [1] [1].", 1, 100, 100),
    ("Paris is big [3][0].", 1, 0, 0),  # the last document twice
    ("Oslo is cold [3][0].", 1, 100, 100),  # each of the two entails
    ("Oslo is cold [1][0].", 1, 100, 50),
    ("Rome is old [2]. Paris [9]. Oslo.", 3, 100 / 3, 100),  # void: not counted
    ("Rome is old [2]. Paris is big [2].", 2, 50, 50),
  ],
)
def test_citations_of_one_output_by_hand(output, cited, recall, precision):
  row = rows([record(output, ONE, *BITS)])[0]
  assert len(row["sentences"]) == cited
  if cited:
    assert row["citation_recall"] == pytest.approx(recall)
    assert row["citation_precision"] == pytest.approx(precision)
  else:
    assert row["citation_recall"] is row["citation_precision"] is None
  got = score([record(output, ONE, *BITS)])
  assert got["citation_recall"] == pytest.approx(recall)
  assert got["citation_precision"] == pytest.approx(precision)
  assert got["answered_ratio"] == 100


def test_a_repeated_citation_forgives_itself_if_it_supports_a_gold():
  # Passage 1 does not hold the sentence; passage 2 alone does.
  repeated = "Rome is old [1][1][2]."
  gold = record(repeated, [["Paris"], ["Rome"]], [1, 0], [0, 1])
  assert score([gold])["citation_precision"] == 100
  none = record(repeated, [["Paris"], ["Rome"]], [0, 0], [0, 1])
  assert score([none])["citation_precision"] == pytest.approx(100 / 3)


def test_two_passages_that_entail_only_together_are_both_needed():
  both = record("Paris Rome is [1][2].", [["X"]], [0], [0])
  got = score([both])
  assert (got["citation_recall"], got["citation_precision"]) == (100, 100)


@pytest.mark.parametrize(
  ("output", "answers", "found"),
  [
    ("Paris", [["The"]], [True]),  # normalises to nothing: always found
    ("", [["The", "Paris"]], [True]),
    ("", [["Paris"]], [False]),
    ("PARIS!", [["paris", "paris"]], [True]),  # a repeated alias pays once
    ("Parisian life", [["Paris"]], [True]),  # any substring
    ("He left in [1984].", [["1984"]], [False]),  # removed as a citation
    ("He left in 1984 [1].", [["1,984"]], [True]),
    ("Pa[1]ris", [["Paris"]], [True]),  # removing joins what it parted
    ("Pa [1] ris", [["Paris"]], [False]),
    ("U.S.A.", [["USA"]], [True]),
    ("the end", [["an end"]], [True]),
    ("a-ha", [["aha"]], [True]),
    ("ÉCOLE", [["école"]], [True]),
    ("ecole", [["école"]], [False]),
    ("“Paris”", [["Paris"]], [True]),
    ("New\n York", [["new york"]], [True]),
    ("Rome", [["Paris", "Rome"], ["Oslo"]], [True, False]),
  ],
)
def test_short_answers_are_found_by_hand(output, answers, found):
  bits = [1] * len(answers)
  row = rows([record(output, answers, bits)])[0]
  assert row["found"] == found
  assert row["correctness"] == pytest.approx(100 * sum(found) / len(found))


@pytest.mark.parametrize(
  ("output", "credit"),  # golds: Paris or Lutetia, Rome; Oslo unsupported
  [
    ("Paris, Rome", 100),
    ("Paris [1], Rome [2].", 100),
    (" paris ,, ROME,. ", 100),  # empty items and final marks do not count
    ("Paris, Rome., ", 100),  # the stop goes with normal form
    ("Paris, Lutetia, Rome", 100),  # both wordings are right items
    ("Paris, Paris", 2 * 1 * 0.5 / 1.5 * 100),
    ("Paris", 2 * 1 * 0.5 / 1.5 * 100),
    ("Paris, Rome, Oslo", 2 * (2 / 3) * 1 / (5 / 3) * 100),
    ("Paris is big, Rome", 2 * 0.5 * 0.5 / 1 * 100),  # equality, no substring
    ("Paris; Rome", 0),
    ("", 0),
    (",,,", 0),
    ("The, Paris, Rome", 100),  # "The" normalises to nothing
  ],
)
def test_lists_are_credited_by_hand(output, credit):
  golds = [["Paris", "Lutetia"], ["Rome"], ["Oslo"]]
  one = record(output, golds, [1, 0, 0], [0, 1, 0], task="list")
  row = rows([one])[0]
  assert row["correctness"] == pytest.approx(credit)


def test_five_right_items_of_seven_golds_are_full_recall():
  golds = [[f"g{i}"] for i in range(7)]
  said = ", ".join(f"g{i}" for i in range(5))
  assert score([record(said, golds, [1] * 7)], "list")["p_ac"] == 100
  four = ", ".join(f"g{i}" for i in range(4))
  want = 100 * 2 * 0.8 / 1.8
  got = score([record(four, golds, [1] * 7)], "list")["p_ac"]
  assert got == pytest.approx(want)


def test_list_items_are_checked_behind_the_question():
  one = record("Paris [1],, Rome [2].", ONE, *BITS, task="list", question="Is?")
  row = rows([one])[0]
  assert row["sentences"] == ["Is? Paris [1]", "Is? ", "Is? Rome [2]"]
  empty = rows([record("", ONE, *BITS, task="list", question="Is?")])[0]
  assert empty["sentences"] == ["Is? "]
  assert empty["citation_recall"] == 0 and empty["citation_precision"] == 0


@pytest.mark.parametrize("task", ["short", "list", "claims"])
def test_all_refused_all_answered_and_no_gold(task):
  zero = lambda output: record(output, [["Oslo is cold."]], [0], task=task)
  gold = lambda output: record(output, [["Paris is big."]], [1], task=task)
  refused = score([zero(REFUSAL), gold(REFUSAL)], task)
  assert refused["answered_ratio"] == 0
  assert (refused["refusal_precision"], refused["refusal_recall"]) == (50, 100)
  assert (refused["f1_ac"], refused["f1_gc"], refused["answer_f1"]) == (0, 0, 0)
  assert refused["trust"] == pytest.approx((0 + 100 / 3 + 0) / 3)
  answered = score([zero("Paris is big [1]."), gold("Paris is big [1].")], task)
  assert answered["answered_ratio"] == 100
  assert (answered["refusal_f1"], answered["answer_precision"]) == (0, 50)
  assert (answered["p_ac"], answered["r_ac"]) == (50, 100)
  none = score([zero("Paris is big [1].")], task)
  assert (none["p_ac"], none["r_ac"], none["answer_recall"]) == (0, 0, 0)
  assert all(math.isfinite(x) for x in (*refused.values(), *none.values()))


@pytest.mark.parametrize("task", ["short", "list", "claims"])
def test_a_question_without_golds_is_unanswerable(task):
  got = score([record("Paris is big [1].", [], [], task=task)], task)
  assert (got["f1_ac"], got["answer_precision"]) == (0, 0)
  assert got["refusal_recall"] == 0 and got["answered_ratio"] == 100


def test_a_refusal_seen_only_without_citations_is_answered_and_scores_0():
  golds = [["polo"]]
  polo = record("Polo [1]", golds, [1])
  row = rows([polo])[0]
  assert (row["refusal_score"], row["refusal_score_no_citations"]) == (67, 100)
  assert row["found"] == [True] and row["correctness"] == 0
  got = score([polo])
  assert (got["answered_ratio"], got["answer_f1"], got["f1_ac"]) == (
    100,
    100,
    0,
  )


def test_a_claim_is_read_in_its_first_wording_from_the_whole_output():
  claims = [["Paris is big", "never read"], ["never said", "Rome is old"]]
  one = record("Rome is old. [1] Paris is big [2].", claims, [1, 1])
  row = rows([{**one, "task": "claims"}])[0]
  assert row["found"] == [True, False] and row["correctness"] == 50


def test_the_options_of_the_refusal_decide():
  no = record("No answer here", [["Oslo"]], [0])
  assert score([no])["answered_ratio"] == 100
  assert score([no], refusal_flag="no answer here!")["answered_ratio"] == 0
  near = record("My apologies, I couldn't find an answer", [["Oslo"]], [0])
  assert rows([near])[0]["refusal_score"] == 85
  assert score([near])["answered_ratio"] == 100  # strictly above 85
  assert score([near], refusal_threshold=84)["answered_ratio"] == 0


@pytest.mark.parametrize(
  ("at_most", "recall", "precision"),
  [(1, 0, 0), (2, 100, 50), (3, 100, 100 / 3)],
)
def test_so_many_citations_of_a_sentence_count(at_most, recall, precision):
  one = record("Rome is old [1][2][3].", ONE, *BITS)
  got = score([one], at_most_citations=at_most)
  assert got["citation_recall"] == recall
  assert got["citation_precision"] == pytest.approx(precision)


def test_the_answered_ratio_has_two_decimals():
  rest = [record("Paris is big [1].", [["Paris"]], [1])] * 2
  assert (
    score([record(REFUSAL, [["Oslo"]], [0]), *rest])["answered_ratio"] == 66.67
  )


def test_means_are_over_records_and_not_over_sentences():
  one = record("Paris is big [1]. Paris is big [1]. Rome [1].", ONE, *BITS)
  two = record("Rome is old.", ONE, *BITS)
  got = score([one, two])
  assert got["citation_recall"] == pytest.approx((200 / 3 + 0) / 2)
  assert got["citation_precision"] == pytest.approx((200 / 3 + 0) / 2)


def test_list_recall_counts_five_golds_and_precision_every_item():
  golds = [["Paris", "Lutetia"], ["Rome"], ["Oslo"]]
  one = record("Lutetia [1], rome [2], X.", golds, [1, 1, 0], [0, 1, 0])
  # precision 2/3, recall 2/2 of the supported golds
  assert score([one], "list")["p_ac"] == pytest.approx(80)


def test_claims_leave_what_refuses_without_citations_out_of_the_answered():
  polo = record("Polo [1]", [["Paris is big."]], [1], [0])
  right = record("Paris is big [1].", [["Paris is big."]], [1], [0])
  assert score([polo, right], "claims")["p_ac"] == 100
  assert score([polo, right], "claims")["answered_ratio"] == 100
  short = [{**polo, "answers": [["Polo"]]}, right]
  assert score(short)["p_ac"] == 50


def test_nothing_answered_is_zero_and_not_an_error():
  got = score([record(REFUSAL, [["Oslo"]], [0], [0])])
  assert (got["p_ac"], got["f1_gc"], got["refusal_f1"]) == (0, 0, 100)


@pytest.mark.parametrize(
  ("records", "words"),
  [
    ([], "no records"),
    ([record("x", [["y"]])], "no docs"),
    ([record("x", [["y"]], [0, 1])], "2 answers_found for 1 answers"),
    ([record("x", [["y"]], None)], "Record 1, doc 1 has no 'answers_found'"),
    ([record(None, [["y"]], [0])], "Record 1 has no 'output'"),
  ],
)
def test_what_has_no_score_is_refused(records, words):
  with pytest.raises(UserError, match=words):
    score(records)


def test_the_verifier_is_asked_in_three_rounds_and_never_twice_in_one():
  verifier = Words()
  one = record("Paris is big [1][2].", [["Paris"]], [1], [0])
  trust_score.evaluate(
    [one] * 5, task="short", verifier=verifier, splitter=text.rule
  )
  assert [len(call) for call in verifier.calls] == [1, 2, 1]


def test_mixed_tasks_are_scored_apart_and_averaged():
  records = four() + [record("Paris [1]", [["Paris"]], [1], task="list")]
  got = trust_score.evaluate_mixed(
    records, verifier=Words(), splitter=text.rule
  )
  assert set(got) == {"short", "list", "macro"}
  assert got["short"] == pytest.approx(score(four()))
  mean = (got["short"]["trust"] + got["list"]["trust"]) / 2
  assert got["macro"]["trust"] == pytest.approx(mean)


def rows(records):
  return trust_score.per_record(records, verifier=Words(), splitter=text.rule)


def test_intervals_hold_the_score_and_shrink_with_more_records():
  few, many = (trust_score.intervals(rows(four(k))) for k in (5, 80))
  point = score(four())
  for name in trust_score.METRICS:
    assert few[name][0] <= point[name] + 1e-9
    assert point[name] <= few[name][1] + 1e-9
  widths = [high - low for low, high in (few["trust"], many["trust"])]
  assert widths[1] < widths[0] / 3  # sqrt(16) = 4
  assert trust_score.intervals(rows(four(5))) == few


def test_an_interval_equals_resampling_the_records_one_by_one():
  records = four()
  rng = np.random.default_rng(0)
  draws = [rng.integers(4, size=4) for _ in range(50)]
  trusts = [score([records[i] for i in draw])["trust"] for draw in draws]
  want = np.percentile(trusts, (2.5, 97.5))
  got = trust_score.intervals(rows(records), n=50, seed=0)["trust"]
  np.testing.assert_allclose(got, want, rtol=1e-9)


def test_a_paired_difference_with_itself_is_exactly_zero():
  same = trust_score.difference(rows(four()), rows(four()), n=20)
  assert set(same.values()) == {(0.0, 0.0, 0.0)}
  better = [dict(r) for r in four()]
  better[3]["output"] = REFUSAL
  got = trust_score.difference(rows(better), rows(four()), n=200)
  assert got["refusal_recall"] == pytest.approx((50, 0, 100))


def test_a_paired_difference_needs_the_same_questions():
  with pytest.raises(UserError, match="4 and 3 records"):
    trust_score.difference(rows(four()), rows(four()[:3]))


def goldens():
  return sorted(GOLDENS.glob("*_*.json")) or [None]


@pytest.mark.parametrize("path", goldens(), ids=str)
def test_equal_to_the_published_evaluator(path):
  if path is None:
    pytest.skip("needs ../shared/goldens")
  golden = json.loads(path.read_text())
  if "expected" not in golden:
    pytest.skip("not a data set")
  sys.path.insert(0, str(GOLDENS))
  from splitter_and_verifier import recorded_splitter, simple_split, verify

  def verifier(premises, hypotheses):
    return [
      bool(verify(p, h)) for p, h in zip(premises, hypotheses, strict=True)
    ]

  other = golden.get("simple_splitter", golden)
  for splitter, reference in (
    (recorded_splitter(golden), golden),
    (text.punkt, golden),
    (simple_split, other),
  ):
    options = {
      "task": TASKS[golden["task"]],
      "verifier": verifier,
      "splitter": splitter,
    }
    got = trust_score.evaluate(golden["records"], **options)
    want = _expected(reference["expected"])
    assert got == pytest.approx(want, abs=1e-9, nan_ok=True)
    per_record = trust_score.per_record(golden["records"], **options)
    for row, want in zip(per_record, reference["per_record"], strict=True):
      _check_row(row, want)


def _expected(expected):
  """The original's numbers by our names; null there is NaN."""
  found = {
    name: next(expected[theirs] for theirs in names if theirs in expected)
    for name, names in ORIGINAL.items()
  }
  return {name: math.nan if x is None else x for name, x in found.items()}


def _check_row(row, want):
  for name in set(row) & set(want):
    assert row[name] == pytest.approx(want[name], abs=1e-9), name
  if "claims_entailed" in want:
    assert row["found"] == want["claims_entailed"]
  credits = {
    "em": lambda x: x["calib"],
    "em5": lambda x: x["calib"]["qampari_f1_top5"],
    "cm": lambda x: x["calib_answered_claims_nli"],
  }
  for kind, credit in credits.items():
    if kind in want:
      assert row["correctness"] == pytest.approx(credit(want[kind]))
