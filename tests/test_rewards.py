import dataclasses

import pytest
from reward_cases import (
  PARIS,
  REFUSAL,
  ROME,
  Words,
  batch,
  example,
  laid_out,
  reward,
)

from configs import rewards as presets
from grounded_jax import config, rewards
from grounded_jax.records import UserError
from grounded_jax.rewards import algorithm, correctness

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
  gated = dataclasses.replace(GATED, refusal=False)
  assert reward(gated, REFUSAL).total == 2.0


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


def test_without_the_penalty_a_wrong_citation_costs_nothing():
  cfg = dataclasses.replace(PAPER, penalty=0.0)
  for answer in (f"{PARIS} [2].", f"{PARIS}.", f"{PARIS} [6]."):
    got = reward(cfg, answer)
    assert (got.parts["match"], got.parts["citation"]) == (0.5, 0.0)
  assert reward(cfg, f"{PARIS} [1]. {ROME} [1].").total == 2.5 + 1.0 + 0.5
  assert reward(cfg, f"{PARIS} [1].").total == 3.5


@pytest.mark.parametrize(
  ("answer", "surplus"),
  [
    (f"{PARIS} [1]. {ROME} [2].", 0.0),  # nothing beyond the golds
    (f"{PARIS} [1]. Nothing of use [3].", -0.1),  # true, but not asked
    (f"{PARIS} [1]. Nothing of use [4].", -0.5),
    (f"{PARIS} [1]. Nothing of use.", -0.5),
    (f"{PARIS} [1]. {PARIS} [1].", 0.0),  # the same statement
    (f"{PARIS} [1]. {PARIS} [5].", -0.1),  # another, true as well
    (f"{PARIS} [1]. No. None [3]. No.", -1.0),  # never more than was earned
    (f"{PARIS} [2]. Nothing of use [3].", 0.0),  # nothing earned
  ],
)
def test_the_surplus_is_what_statements_beyond_the_golds_cost(answer, surplus):
  got = reward(MODERN, answer)
  assert got.parts["surplus"] == pytest.approx(surplus)
  free = dataclasses.replace(MODERN, surplus=0.0, unsupported=0.0)
  assert got.total == pytest.approx(reward(free, answer).total + surplus)


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


@pytest.mark.parametrize(
  ("think", "answer", "answerable", "process"),
  [
    (f"It says: {PARIS}.", f"{PARIS} [1].", True, 0.3),
    ("So France it is.", f"{PARIS} [1].", True, 0.0),
    ("The documents do not answer this question.", REFUSAL, False, 0.3),
    ("The documents do not answer this question.", REFUSAL, True, 0.3),
    (f"It says: {PARIS}.", REFUSAL, True, 0.0),
    (f"{PARIS} and it is warm.", "It is warm [1].", False, 0.3),
  ],
)
def test_the_process_reward_asks_if_the_thought_entails_the_decision(
  think, answer, answerable, process
):
  cfg = dataclasses.replace(PAPER, process=0.3)
  kind = {"answerable": answerable, "layout": False}
  got = reward(cfg, laid_out(answer, think), **kind)
  assert got.parts["process"] == process
  without = reward(PAPER, laid_out(answer, think), **kind)
  assert got.total == pytest.approx(without.total + process)


def test_the_process_reward_needs_the_layout_and_a_thought():
  cfg = dataclasses.replace(PAPER, process=0.3)
  verifier = Words()
  for tags, written in (
    (True, laid_out(PARIS, PARIS) + laid_out(PARIS, PARIS)),
    (True, laid_out(PARIS, " ")),
    (False, REFUSAL),
  ):
    cfg = dataclasses.replace(cfg, tags=tags)
    completion = rewards.completion(written, tags=tags)
    got = rewards.score(example(), completion, cfg, verifier)
    assert got.parts["process"] == 0.0
  assert not verifier.calls


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
  thinking = dataclasses.replace(cfg, process=1.0)
  verifier = Words()
  rewards.score_batch(examples, completions, thinking, verifier)
  assert len(verifier.calls) == 1
  # The two equal answers decide the same; the refusal decides too.
  assert len(verifier.calls[0]) == len(set(verifier.calls[0])) == 6 + 3
  silent = Words()
  rewards.score_batch(examples[2:3], completions[2:3], cfg, silent)
  assert not silent.calls


def test_modern_pays_at_most_one_point_for_each_supported_gold():
  everything = " ".join(f"{PARIS} [1]. {ROME} [2]." for _ in range(20))
  assert reward(MODERN, everything).total == 2.5 + 2


def test_the_presets_pin_every_field_of_the_reward():
  pinned = {f.name for f in dataclasses.fields(config.Rewards)} - {"verifier"}
  source = presets.__loader__.get_source(presets.__name__)
  for name in pinned:
    assert source.count(f"    {name}=") == 2, name
