import json
import pathlib

import pytest

from grounded_jax import text

GOLDENS = pathlib.Path(__file__).parents[2] / "shared" / "goldens"
FLAG = "I apologize, but I couldn't find an answer"


def test_punctuation_goes_before_articles():
  assert text.normalize("The  Over-the-Counter, a U.S.A.!") == (
    "overthecounter usa"
  )


def test_removing_citations_takes_the_number_the_bar_and_every_bracket():
  assert text.remove_citations("New [1] York [2][3] |x]y [4, 5].") == (
    "New Yorkxy, 5."
  )


@pytest.mark.parametrize(
  ("sentence", "cited"),
  [
    ("It rained [1][2].", [0, 1]),
    ("It rained [1, 2].", [0]),
    ("It rained [1-3].", [0]),
    ("It rained [0].", [-1]),
    ("It rained [01", [0]),
    ("It rained [２].", [1]),
    ("It rained (1) 【1】.", []),
  ],
)
def test_citations_are_the_numbers_after_an_opening_bracket(sentence, cited):
  assert text.citations(sentence) == cited


def test_a_number_too_long_to_read_is_a_citation_out_of_range():
  assert text.citations("[" + "9" * 5000 + "]")[0] > 1000


@pytest.mark.parametrize(
  ("output", "score"),
  [
    (FLAG + " to your question in the search results.", 100),
    ("I'm sorry, but I couldn't find an answer", 79),
    ("I could not find an answer to your question.", 57),
    ("My apologies, I couldn't find an answer", 85),  # not above 85
    ("Polo", 100),
    ("Polo [1]", 67),
    ("", 0),
    ("The", 0),
  ],
)
def test_refusal_similarity_of_known_wordings(output, score):
  assert text.refusal_similarity(FLAG, output) == score
  assert text.is_refusal(FLAG, output) == (score > 85)


def test_refusal_similarity_equals_the_published_evaluator():
  path = GOLDENS / "refusal_vectors.json"
  if not path.is_file():
    pytest.skip("needs ../shared/goldens")
  golden = json.loads(path.read_text())
  got = [
    text.refusal_similarity(golden["refusal_flag"], vector["text"])
    for vector in golden["vectors"]
  ]
  assert len(got) == 73
  assert got == [vector["score"] for vector in golden["vectors"]]


@pytest.mark.parametrize(
  ("written", "holds", "tag_count"),
  [
    ("<think>a</think><answer>b</answer>", True, 1.0),
    ("\n<think>\na\n</think>\n\n<answer>\nb\n</answer>\n", True, 1.0),
    ("<think> </think><answer>b</answer>", False, 1.0),
    ("<think>a</think><answer>\n</answer>", False, 1.0),
    ("so <think>a</think><answer>b</answer>", False, 1.0),
    ("<think>a</think><answer>b</answer> bye", False, 1.0),
    ("<think>a</think> so <answer>b</answer>", False, 1.0),
    ("<answer>b</answer><think>a</think>", False, 1.0),
    ("<think><answer>a</think>b</answer>", False, 1.0),
    ("<think>a</think><answer>b</answer><answer>c</answer>", False, 0.5),
    ("<think><think>a</think><answer>b</answer>", False, 0.75),
    ("<THINK>a</THINK><answer>b", False, 0.25),
    ("b", False, 0.0),
  ],
)
def test_the_layout_holds_only_as_a_whole(written, holds, tag_count):
  layout = text.split_layout(written)
  assert (layout.holds, layout.tag_count) == (holds, tag_count)


def test_a_malformed_completion_is_its_text_minus_tags():
  assert text.split_layout("<think>a</think> b <answer>").answer == "a b"
  layout = text.split_layout("<think>a </think><answer> b [1] </answer>")
  assert (layout.think, layout.answer) == ("a", "b [1]")


@pytest.mark.parametrize(
  "written", ["." * 50_000, "A. B " * 10_000, "[1]" * 20_000, "<think>" * 9000]
)
def test_hostile_texts_are_read_in_linear_time(written):
  text.split_layout(written)
  text.remove_citations(written)
  text.refusal_similarity(FLAG, written)
