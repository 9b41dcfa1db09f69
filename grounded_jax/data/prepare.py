"""Training records from a corpus and questions with gold answers.

The steps, each in a module beside this one: the corpus is cut (`corpus`),
searched (`retrieval`) and read (`evidence`); a question's passages are made
into answerable and unanswerable sets (`recombination`); questions are split
(`splits`); each answerable set gets the unanswerable one that leaves no cue
(`pairs`, by `shortcuts`); `prepared` writes and counts them.  The result
depends on the seed and on what the files hold, not on the order of their lines.
"""

import collections
import dataclasses
import math
import pathlib
import time
from collections.abc import Iterator, Sequence

from grounded_jax import log, text
from grounded_jax.data import corpus as corpus_lib
from grounded_jax.data import (
  evidence,
  retrieval,
  splits,
  support,
)
from grounded_jax.data import pairs as pairs_lib
from grounded_jax.data.evidence import Candidates, Question
from grounded_jax.data.pairs import Pair
from grounded_jax.records import UserError

PASSAGES = "passages.jsonl"  # the corpus as cut, beside the records
_SHARES = (
  "--splits must be three shares, of train, dev and test, like 80,10,10; that"
  " of train is not 0."
)
_COMMON = 10  # questions, or 1% of them, that may share an answer and be split
_TALK = 10  # seconds between two lines of progress


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """What is made of which files; the fields are flags of the command line."""

  corpus: tuple[str, ...]  # files of passages, or of records
  questions: tuple[str, ...]  # files of questions with answers, or of records
  held_out: tuple[str, ...] = ()  # such files of evaluations: kept apart
  task: str = ""  # of all questions; "" = their own
  record_passages: int = 5  # passages of a record
  passage_words: int = 100  # of a passage; 0 = texts are not cut
  retriever: str = "bm25"  # one of retrieval.RETRIEVERS
  dense_model: str = ""  # of the dense retriever
  retrieved: int = 100  # passages looked at for a question
  confusable: int = 50  # of those without an answer, so many are used
  recombinations: int = 10  # answerable records of a question, at most
  splits: tuple[float, ...] = (80.0, 10.0, 10.0)  # shares of splits.SPLITS
  plain: bool = False  # recombine as the paper does, whatever cues it leaves
  seed: int = 0

  def __post_init__(self):
    for name in ("corpus", "questions"):
      if not vars(self)[name]:
        raise UserError(f"--mode=prepare needs --{name}=FILE.")
    for name in ("record_passages", "retrieved", "recombinations"):
      if vars(self)[name] < 1:
        raise UserError(f"--{name}={vars(self)[name]} must be 1 or more.")
    if self.confusable < self.record_passages:
      raise UserError(
        f"--confusable={self.confusable} must be at least"
        f" --record_passages={self.record_passages}: an unanswerable record is"
        " made of such passages alone."
      )
    if not (
      math.isfinite(sum(self.splits))
      and len(self.splits) == 3
      and min(self.splits) >= 0 < self.splits[0]
    ):
      raise UserError(_SHARES)


def shares(written: str) -> tuple[float, ...]:
  """The shares of train, dev and test that a flag states."""
  try:
    return tuple(float(part) for part in written.split(","))
  except ValueError:
    raise UserError(_SHARES) from None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
  """What is to be written."""

  corpus: corpus_lib.Corpus
  read: dict[str, int]  # counts of the corpus
  questions: int  # read
  dropped: dict[str, int]  # why -> questions
  held_out: tuple[Question, ...]
  pairs: dict[str, list[Pair]]  # by split


def make(
  options: Options, folder: pathlib.Path, verifier: support.Verifier | None
) -> Prepared:
  """Makes the pairs of every split; the corpus as cut is written to `folder`.

  Args:
    options: what to make.
    folder: of the output, which exists.
    verifier: asked whether a passage holds an answer; None = words decide.

  Raises:
    UserError: an input is malformed, or nothing can be made of it.
  """
  read, held = (
    [
      question
      for _, question in evidence.questions(
        *(what, vars(options)[what], options.task, options.passage_words)
      )
    ]
    for what in ("questions", "held_out")
  )
  asked = evidence.distinct(read)
  dropped = collections.Counter()
  dropped["asked more than once"] = len(read) - len(asked)
  away = _near_held_out(asked, held)
  dropped["like a held-out question"] = len(away)
  asked = [question for question in asked if question.key not in away]
  corpus, counts = corpus_lib.build(
    options.corpus, folder / PASSAGES, options.passage_words
  )
  log.say(f"{len(corpus):,} passages, {len(asked):,} questions")
  guarded = guards(corpus, held)
  made = []
  for c in _candidates(options, asked, corpus, verifier):
    pairs = pairs_lib.recombined(
      c, options.record_passages, options.recombinations, options.seed
    )
    why = _why_not(options, c, pairs, guarded)
    dropped[why] += 1
    if not why:
      made.append(pairs)
  del dropped[""]
  dropped = {why: n for why, n in sorted(dropped.items()) if n}
  if not made:
    raise UserError(
      f"No record can be made of {len(read)} questions; dropped: {dropped}."
    )
  where = _split(options, made)
  by_split = {name: [] for name in splits.SPLITS}
  for name, pairs in zip(where, made, strict=True):
    by_split[name].extend(pairs)
  if not options.plain:
    by_split = {
      name: pairs_lib.matched(pairs, options.seed)
      for name, pairs in by_split.items()
    }
  return Prepared(
    corpus=corpus,
    read=counts,
    questions=len(read),
    dropped=dropped,
    held_out=tuple(held),
    pairs=by_split,
  )


def worded(question: Question) -> frozenset[str]:
  """The different words of a question's normal form."""
  return frozenset(text.normalize(question.example.question).split())


def _near_held_out(
  asked: Sequence[Question], held: Sequence[Question]
) -> set[str]:
  """The keys of questions that are nearly a held-out one."""
  every = [worded(question) for question in (*held, *asked)]
  near = {(a, b) for a, b in splits.near(every) if a < len(held) <= b}
  return {asked[b - len(held)].key for _, b in near}


def guards(
  corpus: corpus_lib.Corpus, held: Sequence[Question]
) -> frozenset[int]:
  """The passages that may hold an answer of a held-out question."""
  labels = (item for question in held for item in question.labels.items())
  found = (
    corpus.find(digest) for digest, bits in labels if evidence.may_hold(bits)
  )
  return frozenset(number for number in found if number is not None)


def _candidates(
  options: Options,
  asked: Sequence[Question],
  corpus: corpus_lib.Corpus,
  verifier: support.Verifier | None,
) -> Iterator[Candidates]:
  """The passages of each question."""
  retriever = retrieval.make(options.retriever, corpus, options.dense_model)
  rows = retriever.scores([question.example.question for question in asked])
  spoken = time.monotonic()
  for done, (question, scores) in enumerate(zip(asked, rows, strict=True)):
    if time.monotonic() - spoken > _TALK:
      spoken = time.monotonic()
      log.say(f"{done:,} of {len(asked):,} questions")
    found = retrieval.top(scores, options.retrieved, retriever.least)
    yield evidence.candidates(
      question, corpus, scores, found, options.confusable, verifier
    )


def _why_not(
  options: Options,
  c: Candidates,
  pairs: Sequence[Pair],
  guarded: frozenset[int],
) -> str:
  """Why nothing is made of a question; "" = something is."""
  if not c.held.valid:
    return "no passage found with an answer"
  if not pairs:
    return f"fewer than {options.record_passages} passages without an answer"
  if any(guarded & set(pair.golds) for pair in pairs):
    return "answered by a held-out question's gold passage"
  return ""


def golds(question: Question) -> set[str]:
  """The normal forms of a question's answers; of claims, of the claims."""
  every = (alias for gold in question.example.answers for alias in gold)
  return set(filter(None, map(text.normalize, every)))


def _split(options: Options, made: Sequence[Sequence[Pair]]) -> list[str]:
  """The split of each question.

  Those that share a gold passage, nearly the question, or an answer stay
  together; an answer like "yes", of many questions, joins none.
  """
  asked = [pairs[0].candidates.question for pairs in made]
  answers = [golds(question) for question in asked]
  counts = collections.Counter(answer for own in answers for answer in own)
  most = max(_COMMON, len(made) // 100)
  linked = [
    {f"passage {number}" for pair in pairs for number in pair.golds}
    | {f"answer {answer}" for answer in own if counts[answer] <= most}
    for pairs, own in zip(made, answers, strict=True)
  ]
  for one, other in splits.near([worded(question) for question in asked]):
    for end in (one, other):
      linked[end].add(f"near {one} {other}")
  keys = [question.key for question in asked]
  return splits.assign(
    splits.groups(linked), keys, options.splits, options.seed
  )
