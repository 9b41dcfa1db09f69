"""A verifier by words: fast, deterministic, nothing to load.

It accepts a hypothesis when every number and name of it stands in the premise,
enough of its content words do, close together, and both deny or both affirm.
It reads words, not meaning: it is the default, not a judge to publish with.
"""

import dataclasses
import functools
import re
from collections.abc import Sequence

_WORD = re.compile(r"[^\W_]+(?:[.,]\d+)*(?:['’][^\W_]+)?")
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_SUFFIX = re.compile(r"(?<=...)(?:ies|ied|ing|ed|es|s|ly|y|e)$")

_STOP = frozenset(
  "a an and are as at be been being but by can could did do does for from had"
  " has have he her hers him his how i if in into is it its may might of on or"
  " our she should so some such than that the their them then there these they"
  " this those to too was we were what when where which while who whom whose"
  " why will with would you your also about after all any because between both"
  " during each over under until up very s t title".split()
)
_NEGATION = frozenset(
  "not no never none nobody nothing neither nor without cannot hardly"
  " n't".split()
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Sentence:
  words: frozenset[str]  # content words, stemmed
  denies: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Premise:
  words: frozenset[str]  # content words, stemmed
  exact: frozenset[str]  # every word, in lower case
  sentences: tuple[_Sentence, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Hypothesis:
  words: frozenset[str]
  needed: frozenset[str]  # numbers and names, in lower case
  denies: bool


class Lexical:
  """Accepts where `score` reaches `threshold`."""

  def __init__(self, threshold: float):
    self.threshold = threshold
    self.name = f"lexical({threshold:g})"
    self._premise = functools.lru_cache(maxsize=20_000)(_read_premise)
    self._hypothesis = functools.lru_cache(maxsize=20_000)(_read_hypothesis)

  def __call__(
    self, premises: Sequence[str], hypotheses: Sequence[str]
  ) -> list[bool]:
    """For each pair, whether the premise's words carry the hypothesis."""
    return [
      self.score(premise, hypothesis) >= self.threshold
      for premise, hypothesis in zip(premises, hypotheses, strict=True)
    ]

  def score(self, premise: str, hypothesis: str) -> float:
    """How far the premise's words carry the hypothesis, 0 to 1.

    0 when a number or name is missing or one denies what the other affirms;
    else the mean of two shares of the hypothesis's content words: found
    anywhere, and found in the best two sentences in a row.
    """
    said = self._hypothesis(hypothesis)
    shown = self._premise(premise)
    if not said.words or not said.needed <= shown.exact:
      return 0.0
    found = len(said.words & shown.words) / len(said.words)
    near, denies = _nearest(said.words, shown.sentences)
    if denies != said.denies:
      return 0.0
    return (found + near) / 2


def _nearest(
  words: frozenset[str], sentences: tuple[_Sentence, ...]
) -> tuple[float, bool]:
  """The best share of words in two sentences in a row, and if they deny.

  The sentence with more of the words says whether the two deny.
  """
  counts = [len(words & sentence.words) for sentence in sentences]
  best, denies = 0, False
  for i, sentence in enumerate(sentences):
    after = sentences[i + 1 : i + 2]
    union = sentence.words.union(*(s.words for s in after))
    count = len(words & union)
    if count > best:
      best = count
      denies = max(range(i, i + 1 + len(after)), key=lambda k: counts[k])
      denies = sentences[denies].denies
  return best / len(words), denies


def _tokens(passage: str) -> list[str]:
  """The words as written; "didn't" gives "didn" and "n't"."""
  out = []
  for token in _WORD.findall(passage):
    if token.lower().replace("’", "'").endswith("n't"):
      out += [token[:-3], "n't"]
    else:
      out.append(re.split("['’]", token)[0])
  return out


def _stem(word: str) -> str:
  return _SUFFIX.sub("", word)


def _content(tokens: Sequence[str]) -> frozenset[str]:
  lower = (token.lower() for token in tokens)
  return frozenset(
    _stem(_number(word))
    for word in lower
    if word not in _STOP and word not in _NEGATION
  )


def _number(word: str) -> str:
  """A number without its thousands separators; other words unchanged."""
  return word.replace(",", "") if word[:1].isdigit() else word


def _denies(tokens: Sequence[str]) -> bool:
  return any(token.lower() in _NEGATION for token in tokens)


def _read_premise(premise: str) -> _Premise:
  lines = [_read_line(line) for line in premise.split("\n")]
  return _Premise(
    words=frozenset().union(*(line.words for line in lines)),
    exact=frozenset().union(*(line.exact for line in lines)),
    sentences=tuple(s for line in lines for s in line.sentences),
  )


# Passages recur in every completion of a group, joined in many ways.
@functools.lru_cache(maxsize=50_000)
def _read_line(line: str) -> _Premise:
  sentences = [_tokens(sentence) for sentence in _SENTENCE.split(line)]
  read = tuple(
    _Sentence(words=_content(tokens), denies=_denies(tokens))
    for tokens in sentences
    if tokens
  )
  return _Premise(
    words=frozenset().union(*(sentence.words for sentence in read)),
    exact=frozenset(
      _number(token.lower()) for tokens in sentences for token in tokens
    ),
    sentences=read,
  )


def _read_hypothesis(hypothesis: str) -> _Hypothesis:
  tokens, needed = [], set()
  for sentence in _SENTENCE.split(hypothesis):
    words = _tokens(sentence)
    for place, word in enumerate(words):
      named = place > 0 and word[:1].isupper() and word.lower() not in _STOP
      if named or word[:1].isdigit():
        needed.add(_number(word.lower()))
    tokens += words
  return _Hypothesis(
    words=_content(tokens), needed=frozenset(needed), denies=_denies(tokens)
  )
