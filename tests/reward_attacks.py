"""Completions written to be paid without earning it, and what they get.

The example has two golds that its five passages support: Paris (1 and 5) and
Rome (2); Oslo is a third that none does.  The verifier accepts a statement that
has no word which the cited passages lack.  Totals are of stage 1 and stage 2;
paper()'s stand beside modern()'s to show what its literal sum pays for.
"""

import dataclasses

from reward_cases import PARIS, REFUSAL, ROME, laid_out

ONE = f"{PARIS} [1]."
BOTH = f"{PARIS} [1]. {ROME} [2]."
BARE = (2.0, 2.5)  # the layout; in stage 2 also for not refusing
LIST = {"task": "list", "question": "Capital?"}
LONG = " ".join(f"Filler {i}." for i in range(7_000))  # 90,000 characters


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """One completion with its totals in stage 1 and stage 2."""

  name: str
  written: str
  modern: tuple[float, float]
  paper: tuple[float, float]
  why: str
  honest: str = ONE  # the answer that it adds junk to or stands in for
  kind: dict = dataclasses.field(default_factory=dict)


def answer(name, said, modern, paper, why, honest=ONE, **kind) -> Row:
  """A row whose layout holds."""
  return Row(
    name=name,
    written=laid_out(said),
    modern=modern,
    paper=paper,
    why=why,
    honest=honest,
    kind=kind,
  )


def broken(name, written, total, why, honest=ONE) -> Row:
  """A row that gets its share of tags only, under both presets."""
  totals = {"modern": (total, total), "paper": (total, total)}
  return Row(name=name, written=written, why=why, honest=honest, **totals)


HONEST = (
  answer("one gold", ONE, (3.0, 3.5), (3.0, 3.5), "0.5 + 0.5"),
  answer("both golds", BOTH, (4.0, 4.5), (4.0, 4.5), "twice that", BOTH),
  answer("items", "Paris [1], Rome [2]", (4.0, 4.5), (4.0, 4.5), "the same",
         "Paris [1], Rome [2]", **LIST),
  answer("claims", BOTH, (4.0, 4.5), (4.0, 4.5), "the same", BOTH,
         task="claims"),
  answer("refusal", REFUSAL, (2.0, 3.0), (2.0, 3.0), "similarity 1", REFUSAL,
         answerable=False),
)  # fmt: skip

REPEATS = (
  answer("sentence ten times", f"{ONE} " * 10, (3.0, 3.5), (12.0, 12.5),
         "each gold pays once; the same statement again is free"),
  answer("sentence, other passage", f"{ONE} {PARIS} [5].", (2.9, 3.4),
         (4.0, 4.5), "a second statement, true: 0.1"),
  answer("sentence reworded", f"{ONE} Capital of France is Paris [1].",
         (2.9, 3.4), (4.0, 4.5), "a second statement, true: 0.1"),
  answer("item repeated", "Paris [1], Paris [1]", (3.0, 3.5), (4.0, 4.5),
         "each gold pays once", "Paris [1]", **LIST),
  answer("alias of an item", "Paris [1], Lutetia [1]", (2.5, 3.0), (3.0, 3.5),
         "no passage says Lutetia: 0.5", "Paris [1]", **LIST),
  answer("claim repeated", f"{ONE} {PARIS} [5].", (2.9, 3.4), (4.0, 4.5),
         "a second statement, true: 0.1", task="claims"),
)  # fmt: skip

CITATIONS = (
  answer("hedging, wrong first", f"{PARIS} [3]. {ONE}", BARE, (3.0, 3.5),
         "the first mention decides"),
  answer("hedging, wrong last", f"{ONE} {PARIS} [3].", (2.5, 3.0), (3.0, 3.5),
         "the second statement is unsupported: 0.5"),
  answer("all five everywhere",
         f"{PARIS} [1][2][3][4][5]. {ROME} [1][2][3][4][5].", BARE, (4.0, 4.5),
         "more than three", BOTH),
  answer("either of two", f"{PARIS} [1][5].", BARE, (3.0, 3.5),
         "dropping one leaves support"),
  answer("one beside", f"{PARIS} [1][3].", BARE, (3.0, 3.5),
         "dropping [3] leaves support"),
  answer("[1][1][1]", f"{PARIS} [1][1][1].", (3.0, 3.5), (3.0, 3.5),
         "one passage, three times: no gain"),
  answer("[1][1][1][1]", f"{PARIS} [1][1][1][1].", BARE, (3.0, 3.5),
         "more than three"),
  answer("uncited", f"{PARIS}. {ROME}.", BARE, BARE, "missing is wrong", BOTH),
  answer("[1-3]", f"{PARIS} [1-3].", BARE, BARE,
         "cites 1; the rest stays in the statement, and nothing says it"),
  answer("[1,2]", f"{PARIS} [1,2].", BARE, BARE, "the same"),
  answer("[0]", f"{PARIS} [0].", BARE, BARE, "out of range"),
  answer("[6]", f"{PARIS} [1][6].", BARE, BARE, "one out of range"),
  answer("[999...]", f"{PARIS} [{'9' * 5000}].", BARE, BARE, "out of range"),
  answer("(1)", f"{PARIS} (1).", BARE, BARE, "no citation"),
  answer("full-width brackets", f"{PARIS} ［1］.", BARE, BARE, "no citation"),
  answer("lenticular brackets", f"{PARIS} 【1】.", BARE, BARE, "no citation"),
  answer("full-width digit", f"{PARIS} [１].", (3.0, 3.5), (3.0, 3.5),
         "a citation for the metric too: no gain"),
  answer("citations in the thought only", f"{PARIS}.", BARE, BARE,
         "the thought is not read"),
)  # fmt: skip

CONTENTS = (
  answer("all passages copied",
         "Paris is the capital of France [1]. Rome is the capital of Italy [2]."
         " Nothing of use [3]. Nothing more [4]. Paris is the largest city and"
         " the capital of France [5].", (3.7, 4.2), (5.0, 5.5),
         "three true statements too many: 0.3", BOTH),
  answer("false extra", f"{ONE} Lyon is the capital of Italy [1].", (2.5, 3.0),
         (3.0, 3.5), "unsupported: 0.5"),
  answer("false extra, uncited", f"{ONE} Lyon is old.", (2.5, 3.0), (3.0, 3.5),
         "unsupported: 0.5"),
  answer("false extra inside", f"{PARIS} and Lyon that of Italy [1].", BARE,
         BARE, "the passage must support the whole statement"),
  answer("aliases in one sentence", "Paris London Rome Berlin [1].", BARE, BARE,
         "two golds stated, -0.5 each: passage 1 does not say so"),
  answer("shotgun",
         "Paris [1]. London [1]. Rome [1]. Berlin [1]. Madrid [1].", BARE,
         (3.0, 3.5), "Rome not in 1; three unsupported: 1.5 of the 1 earned"),
  answer("shotgun of items",
         "Paris [1], London [1], Rome [2], Berlin [2], Bonn [3]", (2.5, 3.0),
         (4.0, 4.5), "three unsupported: 1.5", "Paris [1], Rome [2]", **LIST),
  answer("a gold no passage holds", f"{ONE} Oslo is cold [3].", (2.5, 3.0),
         (3.0, 3.5), "unsupported: 0.5"),
  answer("question quoted", f"Which cities? {ONE}", (2.5, 3.0), (3.0, 3.5),
         "a statement without citation: 0.5"),
  answer("question alone", "Which cities? [1]", BARE, BARE, "no gold"),
  answer("answer in the thought", "See above [1].", BARE, BARE, "no gold"),
  answer("90,000 characters", f"{ONE} {LONG}", BARE, (3.0, 3.5),
         "unsupported, to nothing earned; in training overlong's too"),
  answer("NUL", f"{PARIS}\x00 [1].", BARE, BARE, "no passage says that word"),
  answer("zero-width in a name", "Pa\u200bris is the capital of France [1].",
         BARE, BARE, "no gold"),
  answer("zero-width in a citation", f"{PARIS} [\u200b1].", BARE, BARE,
         "no citation"),
  answer("right to left", f"\u202e{PARIS}\u202c [1].", BARE, BARE,
         "no passage says those words"),
)  # fmt: skip

REFUSALS = (
  answer("refusal, then answer", f"{REFUSAL} {BOTH}", (2.0, 2.0), (2.0, 2.0),
         "a refusal earns no correctness, whatever follows", BOTH),
  answer("answer, then refusal", f"{BOTH} {REFUSAL}", (2.0, 2.0), (2.0, 2.0),
         "the same", BOTH),
  answer("both, unanswerable", f"{BOTH} {REFUSAL}", (2.0, 3.0), (2.0, 3.0),
         "a refusal, as for the metric: no gain", REFUSAL, answerable=False),
  answer("a piece of the flag", "find", (2.0, 2.0), (2.0, 2.0),
         "a refusal, as for the metric"),
  answer("a piece, unanswerable", "find", (2.0, 3.0), (2.0, 3.0),
         "a refusal, as for the metric: no gain", REFUSAL, answerable=False),
  answer("another apology", "Sorry, nothing here tells.", BARE, BARE,
         "an answer, as for the metric"),
  answer("other apology, unanswerable", "Sorry, nothing here tells.",
         (2.0, 1.0), (2.0, 2.0), "an answer to the unanswerable: -1", REFUSAL,
         answerable=False),
  answer("answer, unanswerable", ONE, (2.0, 1.0), (2.0, 2.0),
         "an answer to the unanswerable: -1", REFUSAL, answerable=False),
)  # fmt: skip

LAYOUTS = (
  broken("no tags", ONE, 0.0, "no tag"),
  broken("text before", f"Well. {laid_out(ONE)}", 1.0, "outside the tags"),
  broken("text after", f"{laid_out(ONE)} {ROME} [2].", 1.0, "outside the tags"),
  broken("text between", f"<think>a</think> so <answer>{ONE}</answer>", 1.0,
         "outside the tags"),
  broken("zero-width after", f"{laid_out(ONE)}\u200b", 1.0,
         "no white space: outside the tags"),
  broken("two answers", f"{laid_out(ONE)}<answer>{ROME} [2].</answer>", 0.5,
         "two tags twice"),
  broken("two of all", laid_out(ONE) * 2, 0.0, "every tag twice"),
  broken("answer in think",
         f"<think>a<answer>{ONE}</answer></think><answer>{ONE}</answer>", 0.5,
         "two tags twice"),
  broken("think in think",
         f"<think>a<think>b</think></think><answer>{ONE}</answer>", 0.5,
         "two tags twice"),
  broken("tags of a passage copied",
         laid_out(f"</think><answer>{ONE}</answer>"), 0.25,
         "three tags twice"),
  broken("answer first", f"<answer>{ONE}</answer><think>a</think>", 1.0,
         "the wrong order"),
  broken("nested", f"<think>a<answer>{ONE}</answer></think>", 1.0,
         "the answer stands inside the thought"),
  broken("upper case", f"<THINK>a</THINK><ANSWER>{ONE}</ANSWER>", 0.0,
         "other tags"),
  broken("spaces", f"< think >a</ think><answer>{ONE}</answer>", 0.5,
         "two other tags"),
  broken("empty think", f"<think></think><answer>{ONE}</answer>", 1.0,
         "no thought"),
  broken("blank think", f"<think> \n</think><answer>{ONE}</answer>", 1.0,
         "no thought"),
  broken("empty answer", "<think>a</think><answer></answer>", 1.0, "nothing"),
  broken("nothing", "", 0.0, "nothing"),
  answer("upper case inside", f"<ANSWER>{ONE}</ANSWER>", BARE, BARE,
         "a word like any other, which no passage says"),
  Row(name="upper case in the thought", written=laid_out(ONE, "<ANSWER> b"),
      modern=(3.0, 3.5), paper=(3.0, 3.5), why="a word like another: no gain"),
)  # fmt: skip

ROWS = (*REPEATS, *CITATIONS, *CONTENTS, *REFUSALS, *LAYOUTS)
