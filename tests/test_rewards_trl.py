"""The rewards as TRL takes them: called by hand, and by its trainer."""

import dataclasses

import pytest
from reward_cases import PARIS, REFUSAL, Words, batch

from configs import rewards as presets
from grounded_jax import rewards
from grounded_jax.records import UserError
from grounded_jax.rewards import trl as rewards_trl

PAPER = presets.paper(refusal=True)
MODERN = presets.modern(refusal=True)


@pytest.mark.parametrize("chat", [False, True])
def test_trl_functions_sum_to_the_same_reward(chat):
  examples, _ = batch()
  answers = [f"{PARIS} [1].", f"{PARIS} [1][2].", REFUSAL, ""]
  texts = [f"<think>a</think><answer>{a}</answer>" for a in answers]
  completions = [
    [{"role": "assistant", "content": written}] if chat else written
    for written in texts
  ]
  ids = [[1] * n for n in (100, 500, 3, 512)]
  columns = {
    "question": [e.question for e in examples],
    "docs": [[dataclasses.asdict(d) for d in e.docs] for e in examples],
    "answers": [[list(a) for a in e.answers] for e in examples],
    "task": [e.task for e in examples],
  }
  verifier = Words()
  functions = rewards_trl.reward_functions(MODERN, verifier, max_tokens=512)
  assert [f.__name__ for f in functions][0] == "reward_tag_count"
  got = [
    function(
      prompts=[""] * 4,
      completions=completions,
      completion_ids=ids,
      trainer_state=None,
      **columns,
    )
    for function in functions
  ]
  assert len(verifier.calls) == 1
  want = rewards.score_batch(
    examples,
    [
      rewards.completion(t, tokens=len(i))
      for t, i in zip(texts, ids, strict=True)
    ],
    MODERN,
    Words(),
    max_tokens=512,
  )
  totals = [sum(parts) for parts in zip(*got, strict=True)]
  assert totals == pytest.approx([score.total for score in want])


def test_trl_functions_name_a_missing_column():
  function = rewards_trl.reward_functions(PAPER, Words())[0]
  with pytest.raises(UserError, match="no column 'docs'"):
    function(prompts=[""], completions=["x"], question=["q"])


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({}, "Row 0 of the batch, doc 1 has no 'answers_found'"),
    ({"answers_found": None}, "doc 1 has no 'answers_found'"),
    ({"answers_found": [1, 0]}, "doc 1 has 2 answers_found for 1 answers"),
    ({"answers_found": [1]}, "Row 0 of the batch: the task is 'not stated'"),
  ],
)
def test_trl_functions_name_the_row_that_cannot_be_scored(changes, words):
  function = rewards_trl.reward_functions(PAPER, Words())[0]
  columns = {
    "question": ["q"],
    "answers": [[["a"]]],
    "docs": [[{"title": "t", "text": "x"} | changes]],
  }
  with pytest.raises(UserError, match=words):
    function(prompts=[""], completions=["x"], **columns)


def test_trl_functions_know_a_dataset_however_it_is_written():
  function = rewards_trl.reward_functions(PAPER, Words())[0]
  docs = [[{"title": "t", "text": "x", "answers_found": [1]}]]
  columns = {"question": ["q"], "answers": [[["a"]]], "docs": docs}
  got = function(prompts=[""], completions=["x"], dataset=["ASQA"], **columns)
  assert len(got) == 1
