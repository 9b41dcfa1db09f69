import dataclasses

import pytest

from configs import rewards as presets
from grounded_jax import config, rewards, text
from grounded_jax.records import Doc, Example, UserError
from grounded_jax.rewards import algorithm, correctness
from grounded_jax.rewards import trl as rewards_trl

REFUSAL = (
  "I apologize, but I couldn't find an answer to your question in the search"
  " results."
)
PASSAGES = (
  "Paris is the capital of France.",
  "Rome is the capital of Italy.",
  "Nothing of use.",
  "Nothing more.",
  "Paris is the largest city and the capital of France.",
)
PARIS = "Paris is the capital of France"
ROME = "Rome is the capital of Italy"


class Words:
  """Entails when every word of the hypothesis is in the premise."""

  def __init__(self):
    self.calls = []

  def __call__(self, premises, hypotheses):
    self.calls.append(list(zip(premises, hypotheses, strict=True)))
    return [
      set(text.normalize(h).split()) <= set(text.normalize(p).split())
      for p, h in zip(premises, hypotheses, strict=True)
    ]


def example(task="short", answerable=True, question="Which cities?"):
  golds = {
    "short": (("Paris", "Lutetia"), ("Rome",), ("Oslo",)),
    "list": (("Paris", "Lutetia"), ("Rome",), ("Oslo",)),
    "claims": ((PARIS,), (ROME,), ("Oslo is cold",)),
  }[task]
  bits = ((1, 0, 0), (0, 1, 0), (0,) * 3, (0,) * 3, (1, 0, 0))
  return Example(
    id="0",
    task=task,
    question=question,
    docs=tuple(
      Doc(
        title="T",
        text=passage,
        answers_found=found if answerable else (0, 0, 0),
      )
      for passage, found in zip(PASSAGES, bits, strict=True)
    ),
    answers=golds,
    answerable=answerable,
  )


def reward(cfg, answer, *, layout=True, **kind):
  written = f"<think>so</think><answer>{answer}</answer>" if layout else answer
  completion = rewards.completion(written, tokens=10, tags=cfg.tags)
  got = rewards.score(example(**kind), completion, cfg, Words(), max_tokens=512)
  assert got.total == pytest.approx(sum(got.parts.values()))
  assert tuple(got.parts) == rewards.PARTS
  return got


PAPER = presets.paper(refusal=True)
MODERN = presets.modern(refusal=True)
GATED = dataclasses.replace(MODERN, unanswerable="gated")


@pytest.mark.parametrize(
  ("answer", "answerable", "paper", "modern", "gated"),
  [
    # Algorithm 1, branch by branch.
    (f"{PARIS} [1].", True, 3.5, 3.5, 3.5),
    (f"{PARIS} [1]. {ROME} [2].", True, 4.5, 4.5, 4.5),
    ("It is unknown [1].", True, 2.5, 2.5, 2.5),
    (REFUSAL, True, 2.0, 2.0, 1.0),
    (REFUSAL, False, 3.0, 3.0, 3.0),
    (f"{PARIS} [1].", False, 2.0, 1.0, 1.0),
    # Citations: wrong, missing and out of range are all incorrect.
    (f"{PARIS} [2].", True, 2.5, 2.5, 2.5),
    (f"{PARIS}.", True, 2.5, 2.5, 2.5),
    (f"{PARIS} [1][6].", True, 2.5, 2.5, 2.5),
    (f"{PARIS} [0].", True, 2.5, 2.5, 2.5),
    # A gold that no passage supports earns nothing.
    ("Oslo is cold [3].", True, 2.5, 2.5, 2.5),
  ],
)
def test_algorithm_1(answer, answerable, paper, modern, gated):
  for cfg, want in ((PAPER, paper), (MODERN, modern), (GATED, gated)):
    got = reward(cfg, answer, answerable=answerable)
    assert got.total == pytest.approx(want)


@pytest.mark.parametrize(
  ("answer", "paper", "modern"),
  [
    (f"{PARIS} [1]. " * 10, 2.5 + 10, 3.5),  # repetition
    (f"{PARIS} [1][2][3][4][5].", 3.5, 2.5),  # citing all five
    (f"{PARIS} [1][5].", 3.5, 2.5),  # either would do
    (f"{PARIS} [1][1].", 3.5, 3.5),  # one passage, twice
    (f"{PARIS} [3]. {PARIS} [1].", 3.5, 2.5),  # hedging: the first decides
    (f"{PARIS} [1]. {PARIS} [3].", 3.5, 3.0),  # a further false statement
    (f"{PARIS}. {ROME}.", 2.5, 2.5),  # uncited
    (f"{REFUSAL} {PARIS} [1].", 2.0, 2.0),  # refusal, then answer
    (f"{PARIS} [1]. {REFUSAL}", 2.0, 2.0),  # answer, then refusal
    (f"{PARIS} (1).", 2.5, 2.5),  # look-alike brackets
    (f"{PARIS} [1-3].", 2.5, 2.5),  # cites 1; "-3" stays in the hypothesis
    (f"{PARIS} [1, 2].", 2.5, 2.5),  # cites 1; ", 2" stays too
    (" ".join(f"{p[:-1]} [{i}]." for i, p in enumerate(PASSAGES, 1)),
     5.5, 4.2),  # everything copied: three statements too many
  ],
)  # fmt: skip
def test_adversarial_answers(answer, paper, modern):
  assert reward(PAPER, answer).total == pytest.approx(paper)
  assert reward(MODERN, answer).total == pytest.approx(modern)


@pytest.mark.parametrize(
  ("written", "want"),
  [
    (f"{PARIS} [1].", 0.0),
    (f"<answer>{PARIS} [1].</answer>", 0.5),
    (f"<think></think><answer>{PARIS} [1].</answer>", 1.0),
    ("<think>a</think><answer> </answer>", 1.0),
    (f"x<think>a</think><answer>{PARIS} [1].</answer>", 1.0),
    (f"<think>a</think><answer>{PARIS} [1].</answer> And so on.", 1.0),
    ("<think>a</think><answer>a</answer><answer>b</answer>", 0.5),
    ("<think>a<answer>b</answer></think><answer>c</answer>", 0.5),
    (f"<think>a</think><answer>{REFUSAL}</answer></answer>", 0.75),
    ("", 0.0),
  ],
)
def test_without_the_layout_only_the_tag_count_is_paid(written, want):
  for cfg in (PAPER, MODERN):
    for answerable in (True, False):
      got = reward(cfg, written, layout=False, answerable=answerable)
      assert got.total == got.parts["tag_count"] == want


def test_stage_1_is_the_same_without_the_refusal_terms():
  for cfg in (presets.paper(refusal=False), presets.modern(refusal=False)):
    assert reward(cfg, f"{PARIS} [1].").total == 3.0
    assert reward(cfg, REFUSAL).total == 2.0
    assert reward(cfg, f"{REFUSAL} {PARIS} [1].").total == 2.0
    assert reward(cfg, REFUSAL, answerable=False).total == 2.0
    assert reward(cfg, f"{PARIS} [1].", answerable=False).total == 2.0


def test_the_refusal_pays_its_similarity_strictly_above_the_threshold():
  near = "I apologize, but I couldn't find any answer to your question"  # 89
  assert reward(PAPER, near, answerable=False).parts["refusal"] == 0.89
  at = "My apologies, I couldn't find an answer"  # 85: an answer
  assert reward(PAPER, at, answerable=False).total == 2.0
  assert reward(PAPER, at).parts["refusal"] == 0.5


def test_without_tags_the_gate_passes_and_tag_and_format_are_constants():
  cfg = dataclasses.replace(MODERN, tags=False)
  got = reward(cfg, f"{PARIS} [1].", layout=False)
  assert (got.parts["tag_count"], got.parts["format"]) == (1, 1)
  assert got.total == 3.5
  assert reward(cfg, REFUSAL, layout=False, answerable=False).total == 3.0


@pytest.mark.parametrize(
  ("statements", "match", "citation"),
  [("sum", 1.5, 0.5), ("mean", 0.375, 0.125), ("first", 1.0, 1.0)],
)
def test_how_statements_add_up(statements, match, citation):
  cfg = dataclasses.replace(PAPER, statements=statements)
  answer = f"{PARIS} [1]. {ROME} [2]. {PARIS} [3]. Nothing of use [3]."
  got = reward(cfg, answer)
  assert got.parts["match"] == pytest.approx(match)
  assert got.parts["citation"] == pytest.approx(citation)


def test_one_statement_with_two_golds_pays_both_in_first_and_once_in_sum():
  answer = "Paris is the capital of France and Rome of Italy [1][2]."
  assert reward(PAPER, answer).parts["match"] == 0.5
  assert reward(MODERN, answer).parts["match"] == 1.0


@pytest.mark.parametrize(
  ("answer", "paper", "modern"),
  [
    ("Paris [1], Rome [2].", 4.5, 4.5),
    ("LUTETIA [1]", 2.5, 2.5),  # an alias, but the passage says Paris
    ("Paris [1], Paris [1]", 4.5, 3.5),
    ("Paris city [1], Rome", 2.5, 2.5),  # no equal item; Rome uncited
    ("Paris and Rome [1]", 2.5, 2.5),
  ],
)
def test_list_items_match_by_equality_and_are_checked_behind_the_question(
  answer, paper, modern
):
  kind = {"task": "list", "question": "Capital?"}
  assert reward(PAPER, answer, **kind).total == pytest.approx(paper)
  assert reward(MODERN, answer, **kind).total == pytest.approx(modern)
  verifier = Words()
  rewards.score(
    example(**kind),
    rewards.completion("<think>a</think><answer>Paris [1]</answer>"),
    PAPER,
    verifier,
  )
  premise = "Title: T\nParis is the capital of France."
  assert verifier.calls == [[(premise, "Capital? Paris")]]


def test_list_f1_by_hand():
  cfg = dataclasses.replace(PAPER, statements="list_f1")
  kind = {"task": "list", "question": "Capital?"}
  # Distinct items 3, right 2; golds 2, both named: P 2/3, R 1, F1 0.8.
  got = reward(cfg, "Paris [1], Paris [3], Rome [3], Bonn [1]", **kind)
  assert got.parts["match"] == pytest.approx(0.5 * 0.8)
  assert got.parts["citation"] == pytest.approx(0.0)  # one right, one wrong
  assert reward(cfg, "Bonn [1]", **kind).total == 2.5
  judged = [
    correctness.Judged(said=f"x{i}", golds=(i,), cited_right=True)
    for i in range(5)
  ]
  assert correctness.list_f1(judged, 7) == (0.5, 0.5)  # five are enough


@pytest.mark.parametrize(
  ("answer", "want"),
  [
    (f"{PARIS}, they say [1].", 2.5),  # the claim, but no passage says so
    (f"{PARIS} [1].", 3.5),
    (f"{PARIS} [1]. {ROME} [2].", 4.5),
    ("Oslo is cold [3].", 2.5),  # a claim that no passage supports
    ("Paris is a city [5].", 2.5),  # true, but no gold claim
  ],
)
def test_a_claim_is_a_statement_that_entails_a_supported_gold(answer, want):
  assert reward(MODERN, answer, task="claims").total == pytest.approx(want)
  assert reward(PAPER, answer, task="claims").total == pytest.approx(want)


def test_the_overlong_penalty_counts_tokens_and_ends_at_the_limit():
  got = [algorithm.overlong(20, tokens, 100) for tokens in (79, 80, 90, 100)]
  assert got == [0, 0, -0.5, -1]
  completion = rewards.completion("x" * 10_000, tokens=5)
  cfg = dataclasses.replace(PAPER, overlong=20)
  got = rewards.score(example(), completion, cfg, Words(), max_tokens=100)
  assert got.parts["overlong"] == 0
  cut = dataclasses.replace(completion, tokens=100)
  assert (
    rewards.score(example(), cut, cfg, Words(), max_tokens=100).parts[
      "overlong"
    ]
    == -1.0
  )
  with pytest.raises(UserError, match="rewards.overlong=20 needs"):
    rewards.score(example(), completion, cfg, Words())


def test_a_prefilled_think_tag_is_added_back():
  written = f"so</think><answer>{PARIS} [1].</answer>"
  completion = rewards.completion(written, prefill="<think>")
  assert (completion.think, completion.answer) == ("so", f"{PARIS} [1].")
  got = rewards.score(example(), completion, PAPER, Words())
  assert got.total == 3.5


def batch():
  answers = [f"{PARIS} [1][5].", f"{ROME} [2].", REFUSAL, f"{PARIS} [1][5]."]
  kinds = [example(), example("claims"), example(), example()]
  return kinds, [
    rewards.completion(f"<think>a</think><answer>{a}</answer>") for a in answers
  ]


def test_a_batch_asks_the_verifier_once_without_repeats():
  cfg = dataclasses.replace(MODERN, overlong=0)
  examples, completions = batch()
  verifier = Words()
  got = rewards.score_batch(examples, completions, cfg, verifier)
  assert len(verifier.calls) == 1
  # Minimality: the pair of passages and each alone; the claims, the citation.
  assert len(verifier.calls[0]) == len(set(verifier.calls[0])) == 3 + 2 + 1
  assert [score.total for score in got] == [
    rewards.score(e, c, cfg, Words()).total
    for e, c in zip(examples, completions, strict=True)
  ]
  silent = Words()
  rewards.score_batch(examples[2:3], completions[2:3], cfg, silent)
  assert not silent.calls


@pytest.mark.parametrize("statements", ["sum", "first", "mean", "list_f1"])
@pytest.mark.parametrize("task", ["short", "list", "claims"])
def test_any_text_has_a_score_that_ignores_trailing_space(statements, task):
  cfg = dataclasses.replace(MODERN, statements=statements)
  for body in (
    "",
    "\x00\x07[",
    "[" + "9" * 5000 + "]",
    "[1]" * 500,
    ",,,.",
    "A. " * 300,
    "𝔓aris [１]. \u202e[2]",
    PARIS + "! [1]?",
  ):
    for written in (body, f"<think>{body}</think><answer>{body}</answer>"):
      scores = [
        reward(cfg, written + end, layout=False, task=task, answerable=a)
        for a in (True, False)
        for end in ("", " \n")
      ]
      assert scores[0] == scores[1]
      assert scores[2] == scores[3]
      assert all(0 <= score.total <= 2.5 + 2 for score in scores)


def test_modern_pays_at_most_one_point_for_each_supported_gold():
  everything = " ".join(f"{PARIS} [1]. {ROME} [2]." for _ in range(20))
  assert reward(MODERN, everything).total == 2.5 + 2


def test_the_presets_pin_every_field_of_the_reward():
  pinned = {f.name for f in dataclasses.fields(config.Rewards)} - {"verifier"}
  source = presets.__loader__.get_source(presets.__name__)
  for name in pinned:
    assert source.count(f"    {name}=") == 2, name


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
