"""Thought and answer: entailed or not, agreeing on refusing or not."""

import math

import pytest

from grounded_jax import consistency
from grounded_jax.data import demonstrations, world

REFUSAL = "I apologize, but I couldn't find an answer"


class Words:
  """Entails what has no word of its own; remembers what it was asked."""

  def __init__(self):
    self.asked = []

  def __call__(self, premises, hypotheses):
    self.asked += list(zip(premises, hypotheses, strict=True))
    words = lambda s: set(s.replace(".", "").replace(",", "").split())
    return [
      words(h) <= words(p) for p, h in zip(premises, hypotheses, strict=True)
    ]


def measure(*outputs, task="short", question="Who?"):
  """(measured, what the verifier was asked) of (think, answer) pairs."""
  judge = Words()
  records = [
    {
      "task": task,
      "question": question,
      "raw_output": f"<think>{think}</think><answer>{answer}</answer>",
    }
    for think, answer in outputs
  ]
  rows = [{"is_refusal": answer == REFUSAL} for _, answer in outputs]
  return consistency.measure(records, rows, judge), judge.asked


def test_align_is_the_share_of_answers_that_the_thought_entails():
  """Two of three answers are entailed; the refusal is not asked about."""
  got, asked = measure(
    ("Document [1] says Ada sells salt [1].", "Ada sells salt [1]."),
    ("Ada sells salt and wool [2].", "Ada sells wool [2]. salt [1]."),
    ("Ada sells salt [1].", "Ada sells gold [1]."),
    ("None says it.", REFUSAL),
  )
  assert got["think_entails_answer"] == pytest.approx(200 / 3)
  assert len(asked) == 3
  assert asked[0] == ("Document says Ada sells salt.", "Ada sells salt.")


def test_every_item_of_a_list_is_asked_with_its_question():
  got, asked = measure(
    ("Who? Ada, Bex [1].", "Ada [1], Bex [2]."),
    ("Who? Ada [1].", "Ada [1], Bex [2]."),
    task="list",
  )
  assert got["think_entails_answer"] == 50.0
  assert [h for _, h in asked] == ["Who? Ada", "Who? Bex"] * 2


def test_decisions_agree_when_nothing_found_means_refusing():
  """Told four times, twice consistently; the last thought does not tell."""
  got, _ = measure(
    ("Document [2] says salt.", "Salt [2]."),
    ("Document [2] says salt.", REFUSAL),
    ("None of the documents answers it.", REFUSAL),
    ("The documents do not say.", "Salt [1]."),
    ("Document [1] is about salt, but nothing is said.", "Salt [1]."),
  )
  assert got["decision_consistency"] == 50.0
  assert got["decision_told"] == 80.0


@pytest.mark.parametrize(
  ("think", "found"),
  [
    ("Salt [3].", True),
    ("Document 3 says salt.", True),
    ("passages [1] and [2] agree", True),
    ("No passage mentions it.", False),
    ("The search results don't contain the answer.", False),
    ("It is not stated.", False),
    (" Veldale celebrates none.", False),
    ("None fits, see [1].", None),
    ("Let me think about salt.", None),
    ("He was born in 1990.", None),
  ],
)
def test_what_a_thought_tells(think, found):
  assert consistency.found_something(think) is found


def test_the_thoughts_of_demonstrations_tell_their_decision():
  for example in world.examples(0, "train", 30):
    for output in demonstrations.make(example, 3, tags=True, refusal=REFUSAL):
      think = output.split("</think>")[0].removeprefix("<think>")
      assert consistency.found_something(think) is example.answerable


def test_outputs_without_a_thought_are_not_measured():
  broken = [{"task": "short", "question": "?", "raw_output": "Salt [1]."}]
  without = [{"task": "short", "question": "?"}]
  for records in (broken, without, []):
    rows = [{"is_refusal": False}] * len(records)
    got = consistency.measure(records, rows, Words())
    assert all(math.isnan(value) for value in got.values())
