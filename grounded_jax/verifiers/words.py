"""Words as the rule compares them: what each stands for and how it counts.

A word's key is what it is compared by: the value of a number ("1,000", "two"
and "1.5 million" are numbers) or the stem of a word.  Everything here is a
rule of a few lines; nothing is learned.
"""

import dataclasses
import functools
import os.path
import re
import unicodedata
from collections.abc import Iterator, Sequence

from grounded_jax.verifiers import lexicon

_WORD = re.compile(
  r"(?:[A-Za-z]\.){2,}"  # U.S.
  r"|\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?(?:(?:st|nd|rd|th|s)\b)?"
  r"|[^\W\d_]+(?:['’][^\W\d_]+)*"
  r"|%"
)
_YES = re.compile(r"^\W*(?:No|Yes), ")
_STATES = re.compile(r"\bUnited (S)tates(?: of America)?|\bUnited (K)ingdom")
_SUFFIX = re.compile(
  r"(?<=....)(?:ations?|ments?|ness|ers?|ors?)$"
  r"|(?<=...)(?:ings?|ies|ied|ed|es|ly|s|y|e)$"
)
_DOUBLED = re.compile(r"([bdfgklmnprstz])\1$")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Word:
  """One word of a text."""

  key: str  # what it is compared by
  exact: str  # in lower case, without accents; the value of a number
  kind: str  # "stop", "word", "name" or "number"
  denied: bool = False  # a negation before it concerns it
  capital: bool = False  # begins with a capital
  first: bool = False  # opens its sentence, so that its capital says little


def stem(word: str) -> str:
  """A word without its endings: "announcement", "announced" -> "announc"."""
  word = lexicon.IRREGULAR.get(word, word)
  for _ in range(2):
    word = _SUFFIX.sub("", word)
  return _DOUBLED.sub(r"\1", word)


@functools.cache
def opposites() -> dict[str, frozenset[str]]:
  """For each key that has any, the keys of its opposites."""
  key = lambda word: _word(word, False, False).key
  return {
    key(word): frozenset(map(key, others))
    for word, others in lexicon.OPPOSITES.items()
  }


# Endings that make an adjective of a name, or a plural.
_ENDINGS = frozenset(("", "a", "an", "ian", "n", "ese", "ish", "i", "s", "y"))
START = 4  # letters that two forms of a name share at least


def same_name(one: str, other: str) -> bool:
  """Whether two names are forms of one, as "canada" and "canadian" are."""
  same = len(os.path.commonprefix((one, other)))
  return same >= START and {one[same:], other[same:]} <= _ENDINGS


def read(sentence: str, opens: bool = True) -> tuple[Word, ...]:
  """The words of a sentence; articles and negations are left out.

  A negation marks what follows as denied, to the first word of content that is
  no adverb.  "%" reads "percent"; a possessive 's is lost.

  Args:
    sentence: the text.
    opens: its first word may owe its capital to its place.
  """
  out: list[Word] = []
  denies = False
  raw = list(_split(_YES.sub("", sentence)))
  for place, (exact, capital) in enumerate(raw):
    if exact in lexicon.ARTICLES:
      continue
    if exact in lexicon.NEGATION and (not capital or exact in lexicon.PLAIN_NO):
      after = raw[place + 1][0] if place + 1 < len(raw) else ""
      # "No. 1" denies nothing; "not unable" neither.
      counted = exact == "no" and after[:1].isdecimal()
      denies = not (denies or counted or after in lexicon.AFFIRMED)
      continue
    if denies and exact in lexicon.PASSED:  # "no longer"
      continue
    word = _word(exact, capital, opens and place == 0)
    if denies and word.kind != "stop":
      word = dataclasses.replace(word, denied=True)
      denies = exact.endswith("ly")
    out.append(word)
  return tuple(_merge(out))


def _split(sentence: str) -> Iterator[tuple[str, bool]]:
  """Each word in lower case, and whether it had a capital."""
  if not sentence.isascii():
    sentence = unicodedata.normalize("NFKD", sentence)
    sentence = "".join(c for c in sentence if not unicodedata.combining(c))
  sentence = _STATES.sub(r"U.\1\2.", sentence)
  for found in _WORD.findall(sentence):
    lower = found.lower().replace("’", "'")
    capital = found[0].isupper()
    if lower == "%":
      yield "percent", False
    elif lower.endswith("n't"):
      verb = lower[:-3]
      if verb:
        yield lexicon.SHORTENED.get(verb, verb), capital
      yield "n't", False
    elif found[0].isdecimal():
      yield lower, False
    else:
      lower = lower.replace(".", "")
      yield lower.removesuffix("'s").split("'")[-1] or lower, capital


# Texts use few words: each is looked up once.
@functools.lru_cache(maxsize=100_000)
def _word(exact: str, capital: bool, first: bool) -> Word:
  key, kind = stem(exact), "word"
  if exact[0].isdecimal():
    key = exact = number(exact)
    kind = "number"
  elif exact in lexicon.NUMBERS and (first or not capital):
    kind = "word" if exact in lexicon.LOOSE else "number"
    key = exact = str(lexicon.NUMBERS[exact])
  elif exact in lexicon.MONTH and capital and not (first and exact == "may"):
    key = exact = lexicon.MONTH[exact]
    kind = "name"
  elif exact in lexicon.STOP and not (exact == "us" and capital):
    key, kind = exact, "stop"
  elif capital and not first:
    kind = "name"
  return Word(key=key, exact=exact, kind=kind, capital=capital, first=first)


def number(digits: str) -> str:
  """A number in one form: "1,000" -> "1000", "2.50" -> "2.5", "3rd" -> "3"."""
  digits = digits.replace(",", "").rstrip("tndrh")
  if "." in digits:
    digits = digits.rstrip("0").rstrip(".")
  return digits.lstrip("0") or "0"


def _merge(words: Sequence[Word]) -> Iterator[Word]:
  """Joins "twenty two" to 22 and "1.5 million" to 1500000."""
  held: Word | None = None
  for word in words:
    joined = held and _joined(held, word)
    if joined:
      held = dataclasses.replace(held, key=joined, exact=joined, kind="number")
      continue
    if held:
      yield held
    held = word
  if held:
    yield held


def _joined(held: Word, word: Word) -> str | None:
  if not held.exact[-1].isdecimal():  # no number, or "1990s"
    return None
  if word.exact in lexicon.SCALES:
    value = float(held.exact) * lexicon.SCALES[word.exact]
    return number(f"{value:.3f}") if value < 10**18 else None
  tens, ones = held.exact, word.exact
  small = word.kind in ("number", "word") and ones in "123456789"
  if small and tens in ("20", "30", "40", "50", "60", "70", "80", "90"):
    return str(int(tens) + int(ones))
  return None
