"""Laws that the rewards keep for any completion, example and option."""

import dataclasses
import zlib

import hypothesis
import pytest
from hypothesis import strategies as st
from reward_cases import PARIS, REFUSAL, ROME, example, laid_out, reward

from configs import rewards as presets
from grounded_jax import config, rewards, text
from grounded_jax.records import TASKS, Doc, Example

# The same examples in every run; a shared machine may be slow at any of them.
law = hypothesis.settings(
  deadline=None, max_examples=150, derandomize=True, database=None
)

# Any character, halves of surrogate pairs too, and what rewards look for.
PIECES = st.one_of(
  st.sampled_from(
    [*text.TAGS, "[1]", "[2]", " [3]", "[1][5]", "[9]", "[", "]", "|", ".", ","]
    + [" ", "\n", "\x00", "\u200b", "\u202e", "［1］", "<THINK>", "Dr. "]
    + [PARIS, ROME, f"{PARIS} [1].", "Paris [1], Rome [2]", REFUSAL, "find"]
  ),
  st.text(st.characters(), max_size=8),
)
BODIES = st.lists(PIECES, max_size=12).map("".join)
WRITTEN = st.one_of(BODIES, st.builds(laid_out, BODIES, BODIES))
SPACE = st.text(
  st.sampled_from(" \n\t\r\x0b\x0c\x1f\x85\xa0\u2003\u2028\u3000")
)
# Records have one passage or more, and of each answer one alias or more.
NAMES = st.one_of(st.sampled_from(["Paris", PARIS, "the", ""]), st.text())


@st.composite
def records(draw) -> dict:
  """The fields of an example, as `made` takes them."""
  answers = draw(st.lists(st.lists(NAMES, min_size=1, max_size=3), max_size=4))
  golds = len(answers)
  passage = st.tuples(
    st.text(max_size=5),
    st.one_of(st.just(f"{PARIS}."), st.text(max_size=20)),
    st.lists(st.integers(0, 1), min_size=golds, max_size=golds),
  )
  return {
    "task": draw(st.sampled_from(TASKS)),
    "question": draw(st.text(min_size=1, max_size=10)),
    "passages": draw(st.lists(passage, min_size=1, max_size=6)),
    "answers": answers,
    "forced": draw(st.booleans()),
  }


def made(record: dict) -> Example:
  """The example; where `forced` it is answerable whatever its passages hold."""
  held = any(any(bits) for _, _, bits in record["passages"])
  return Example(
    id="",
    task=record["task"],
    question=record["question"],
    docs=tuple(
      Doc(title=title, text=shown, answers_found=tuple(bits))
      for title, shown, bits in record["passages"]
    ),
    answers=tuple(map(tuple, record["answers"])),
    answerable=held or record["forced"],
  )


PRESETS = st.builds(
  lambda preset, refusal: preset(refusal),
  st.sampled_from([presets.modern, presets.paper]),
  st.booleans(),
)
OPTIONS = st.builds(
  config.Rewards,
  tags=st.booleans(),
  refusal=st.booleans(),
  statements=st.sampled_from(["sum", "first", "mean", "list_f1"]),
  citation=st.sampled_from(["entail", "minimal"]),
  max_citations=st.integers(0, 4),
  penalty=st.sampled_from([0.0, 0.5, 2.0]),
  surplus=st.sampled_from([0.0, 0.1]),
  unsupported=st.sampled_from([0.0, 0.5]),
  process=st.sampled_from([0.0, 1.0]),
  unanswerable=st.sampled_from(["format", "ternary", "gated"]),
  overlong=st.integers(0, 99),
  # tf_text needs an extra, and its texts are no others.
  splitter=st.sampled_from(("punkt", "rule")),
)


class Coin:
  """Says yes or no of each pair, always the same, and keeps what was asked."""

  def __init__(self):
    self.calls = []

  def __call__(self, premises, hypotheses):
    self.calls.append(list(zip(premises, hypotheses, strict=True)))
    return [
      bool(zlib.crc32(repr(pair).encode()) & 1) for pair in self.calls[-1]
    ]


def one(cfg, record, written, tokens=10) -> rewards.Score:
  completion = rewards.completion(written, tokens=tokens, tags=cfg.tags)
  return rewards.score(made(record), completion, cfg, Coin(), max_tokens=512)


@law
@hypothesis.given(OPTIONS, records(), WRITTEN, st.integers(0, 512))
def test_any_completion_has_parts_that_sum_to_its_total(
  cfg, record, written, tokens
):
  got = one(cfg, record, written, tokens)
  assert tuple(got.parts) == rewards.PARTS
  assert got.total == sum(got.parts.values())


def bounds(cfg: config.Rewards, example: Example, statements: int):
  """The least and the most of a preset, as configs/rewards.py states them."""
  golds = sum(example.supported)
  choice = 0.5 if cfg.refusal else 0.0
  if cfg.statements == "sum":
    most = 2 + choice + statements if example.answerable else 2 + 2 * choice
    return 0.0, most
  return -1.0, 2 + choice + golds if example.answerable else 2 + 2 * choice


@law
@hypothesis.given(PRESETS, records(), WRITTEN, st.integers(0, 512))
def test_a_preset_pays_within_its_bounds(cfg, record, written, tokens):
  statements = len(text.punkt(written)) + written.count(",") + 1
  low, high = bounds(cfg, made(record), statements)
  got = one(cfg, record, written, tokens)
  assert low <= got.total <= high + 1e-9
  if got.parts["format"] and not got.parts["unanswerable"]:
    # No answer to the answerable is paid less than refusing it.
    assert got.total >= 2 + got.parts["overlong"] - 1e-9


@law
@hypothesis.given(OPTIONS, records(), WRITTEN, SPACE)
def test_white_space_at_the_end_changes_nothing(cfg, record, written, space):
  assert one(cfg, record, written) == one(cfg, record, written + space)


@law
@hypothesis.given(
  OPTIONS, st.lists(st.tuples(records(), WRITTEN), max_size=5), st.randoms()
)
def test_a_batch_scores_each_as_alone_in_any_order_and_asks_no_pair_twice(
  cfg, rows, random
):
  def batch(rows):
    coin = Coin()
    got = rewards.score_batch(
      [made(record) for record, _ in rows],
      [rewards.completion(w, tokens=10, tags=cfg.tags) for _, w in rows],
      cfg,
      coin,
      max_tokens=512,
    )
    assert len(coin.calls) <= 1
    for asked in coin.calls:
      assert asked and len(asked) == len(set(asked))
    return got

  got = batch(rows)
  assert got == [one(cfg, *row) for row in rows]
  order = list(range(len(rows)))
  random.shuffle(order)
  assert batch([rows[i] for i in order]) == [got[i] for i in order]


SAID = (f"{PARIS} [1].", f"{PARIS} [5].", f"{PARIS} [3].", f"{PARIS}.")
SAID += (f"{ROME} [2].", f"{ROME} [1][2].", "Nothing of use [3].", "It is so.")


@pytest.mark.parametrize("task", ["short", "claims"])
@law
@hypothesis.given(st.lists(st.sampled_from(SAID), min_size=1), st.data())
def test_modern_never_pays_for_a_repetition_or_an_uncited_sentence(
  task, said, data
):
  cfg = presets.modern(refusal=True)
  before = reward(cfg, " ".join(said), task=task).total
  again = [*said, data.draw(st.sampled_from(said))]
  assert reward(cfg, " ".join(again), task=task).total <= before + 1e-9
  uncited = [*said, data.draw(st.sampled_from(["So it is.", f"{ROME}."]))]
  assert reward(cfg, " ".join(uncited), task=task).total <= before + 1e-9
  # At most one point for each supported gold, whatever is said.
  assert before <= 2.5 + sum(example(task).supported)


def test_a_preset_reaches_its_bounds():
  overlong = dataclasses.replace(presets.modern(True), overlong=8)
  cut = rewards.completion("So", tokens=512)
  got = rewards.score(example(), cut, overlong, Coin(), max_tokens=512)
  assert got.total == -1.0
  for preset in (presets.modern, presets.paper):
    for refusal, golds, refused in ((True, 4.5, 3.0), (False, 4.0, 2.0)):
      said = f"{PARIS} [1]. {ROME} [2]."
      assert reward(preset(refusal), said).total == golds
      got = reward(preset(refusal), REFUSAL, answerable=False)
      assert got.total == refused
  assert reward(presets.paper(True), "", layout=False).total == 0.0
