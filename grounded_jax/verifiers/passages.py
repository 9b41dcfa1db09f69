"""Premises and hypotheses as the rule reads them, once each.

A premise is one or more passages, each perhaps behind a "Title:" line, whose
words count as context of every sentence of its passage.
"""

import dataclasses
import functools
import re
from collections.abc import Iterable, Sequence

from grounded_jax import text
from grounded_jax.verifiers import lexicon, words
from grounded_jax.verifiers.words import Word

_PASSAGE = re.compile(r"\n(?=Title: )")
_LONG = 50_000  # characters read of a passage
_ENDLESS = 5_000  # characters of a hypothesis that says nothing checkable
_OFTEN = 16  # places of a word that are kept for alignment
_QUESTION = re.compile(
  r"\s*(?:(?=[^?]{0,600}\b(?:who|whom|whose|what|which|where|when|why|how)\b)"
  r"[^?]{1,600}\?"
  r"|(?:describe|enumerate|explain|find|give|identify|list|name|tell)"
  r"\b[^.?!:]{1,600}[.?:])(?:\s+|$)",
  re.IGNORECASE,
)
_ASKING = frozenset(
  "describe enumerate explain find give identify list name tell".split()
)
_DATE = re.compile(r"\b\d{4}-(0[1-9]|1[0-2])-\d\d")

# How much a word of each kind counts in a share of words.
WEIGHTS = {"word": 2, "name": 3, "number": 3}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Sentence:
  """One sentence, of a passage or of a hypothesis."""

  words: tuple[Word, ...]
  plain: frozenset[str]  # keys of content that stand undenied in it
  denied: frozenset[str]  # keys of content that stand denied in it

  @property
  def content(self) -> frozenset[str]:
    return self.plain | self.denied


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Passage:
  """One passage with its title."""

  title: frozenset[str]  # keys of content
  exact: frozenset[str]  # every word in lower case, and initials of names
  starts: dict[str, tuple[str, ...]]  # the same by their first letters
  sentences: tuple[Sentence, ...]  # the title first, if there is one
  places: dict[str, tuple[int, ...]]  # which sentences hold a key of content
  stream: tuple[Word, ...]  # the words of all sentences
  bounds: tuple[
    tuple[int, int], ...
  ]  # of each, where its sentence starts, ends
  spots: dict[str, tuple[int, ...]]  # where in the stream a key of content is


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Statement:
  """One sentence of a hypothesis, or its question, ready to be counted."""

  sentence: Sentence
  bits: dict[str, int]  # key of each content word -> its bit
  needed: tuple[tuple[Word, int], ...]  # what the premise must have; its bit
  kinds: tuple[tuple[int, int], ...]  # (bits of a kind, what each weighs)
  total: int  # weight of all bits

  def share(self, mask: int) -> float:
    """The share of the words, by weight, whose bits the mask has."""
    weight = 0
    for bits, each in self.kinds:
      weight += (mask & bits).bit_count() * each
    return weight / self.total


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hypothesis:
  """What is to be supported: a question, if one stands first, and the rest."""

  question: Statement | None
  statements: tuple[Statement, ...]


def passages(premise: str) -> list[Passage]:
  """The passages of a premise, in order."""
  return [_passage(part) for part in _PASSAGE.split(premise)]


# Passages recur in every completion of a group, joined in many ways.
@functools.lru_cache(maxsize=5_000)
def _passage(part: str) -> Passage:
  part = part[:_LONG]
  lines = part.split("\n")
  sentences = []
  title = frozenset()
  if lines[0].startswith("Title: "):
    sentences.append(_sentence(words.read(lines.pop(0)[len("Title: ") :])))
    title = sentences[0].content
  for line in lines:
    sentences += [_sentence(words.read(said)) for said in text.rule(line)]
  every = tuple(word for sentence in sentences for word in sentence.words)
  exact = {word.exact for word in every} | _initials(every)
  exact |= {lexicon.MONTHS[int(month) - 1] for month in _DATE.findall(part)}
  starts: dict[str, tuple[str, ...]] = {}
  for word in sorted(exact):
    start = word[: words.START]
    starts[start] = (*starts.get(start, ()), word)
  return Passage(
    title=title,
    exact=frozenset(exact),
    starts=starts,
    sentences=tuple(sentences),
    places=_where(sentence.content for sentence in sentences),
    stream=every,
    bounds=_bounds([len(sentence.words) for sentence in sentences]),
    spots={
      key: found[:_OFTEN]
      for key, found in _where(
        (word.key,) if word.kind != "stop" else () for word in every
      ).items()
    },
  )


def _bounds(sizes: Iterable[int]) -> tuple[tuple[int, int], ...]:
  out, start = [], 0
  for size in sizes:
    out += [(start, start + size)] * size
    start += size
  return tuple(out)


def _where(parts: Iterable[Iterable[str]]) -> dict[str, tuple[int, ...]]:
  """For each key the numbers of the parts that hold it."""
  out: dict[str, list[int]] = {}
  for i, part in enumerate(parts):
    for key in part:
      out.setdefault(key, []).append(i)
  return {key: tuple(found) for key, found in out.items()}


def _sentence(read: tuple[Word, ...]) -> Sentence:
  return Sentence(
    words=read,
    plain=frozenset(w.key for w in read if not w.denied and w.kind != "stop"),
    denied=frozenset(w.key for w in read if w.denied),
  )


def _initials(read: Iterable[Word]) -> set[str]:
  """Initials of names in a row: "Freedom of Information" -> "foi"."""
  out, run = set(), ""
  for word in read:
    if word.kind == "name" or (word.capital and word.kind == "word"):
      run += word.exact[0]
      out |= {run[-2:], run[-3:], run[-4:]}
    elif word.exact not in ("of", "for", "and", "on"):
      run = ""
  return {initials for initials in out if len(initials) > 1}


@functools.lru_cache(maxsize=20_000)
def hypothesis(written: str) -> Hypothesis:
  """The hypothesis taken apart; statements without content are left out.

  What stands behind a question is its answer: all its words are needed, as
  are those of a question alone.
  """
  if len(written) > _ENDLESS:
    return Hypothesis(question=None, statements=())
  asked = _QUESTION.match(written)
  question = _statement(words.read(asked.group()), ()) if asked else None
  if question and question.total and asked.end() < len(written):
    read = [words.read(written[asked.end() :], opens=False)]
  else:
    question = None
    read = [words.read(sentence) for sentence in text.rule(written)]
  said = [
    _statement(each, range(len(each)) if asked else _valued(each))
    for each in read
  ]
  return Hypothesis(
    question=question,
    statements=tuple(statement for statement in said if statement.total),
  )


def _statement(read: tuple[Word, ...], valued: Iterable[int]) -> Statement:
  bits: dict[str, int] = {}
  kinds = dict.fromkeys(WEIGHTS, 0)
  for word in read:
    asking = word.first and word.exact in _ASKING
    if word.kind != "stop" and word.key not in bits and not asking:
      bits[word.key] = 1 << len(bits)
      kinds[word.kind] |= bits[word.key]
  needed = {read[i].exact: read[i] for i in valued if read[i].key in bits}
  return Statement(
    sentence=_sentence(read),
    bits=bits,
    needed=tuple((word, 1 << i) for i, word in enumerate(needed.values())),
    kinds=tuple((kinds[kind], WEIGHTS[kind]) for kind in WEIGHTS),
    total=sum(m.bit_count() * WEIGHTS[kind] for kind, m in kinds.items()),
  )


def _valued(read: Sequence[Word]) -> list[int]:
  """Where names and numbers stand."""
  return [
    i
    for i, word in enumerate(read)
    if word.kind in ("name", "number") or _opening_name(read, i)
  ]


def _opening_name(read: Sequence[Word], place: int) -> bool:
  """Whether a sentence's first word is a name, or names what it speaks of.

  "Paris Hilton ...", "Paris is ..."; a plural, an adverb or a participle says
  little when the premise has another word.
  """
  word = read[place]
  if not (word.first and word.capital) or word.kind != "word" or not read[1:]:
    return False
  after = read[place + 1]
  if after.kind == "name" or after.exact in ("is", "was", "has"):
    return True
  plain = word.exact.endswith(("s", "ly", "ed", "ing"))
  return after.kind == "word" and not plain
