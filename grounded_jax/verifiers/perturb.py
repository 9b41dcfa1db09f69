"""False statements made from true ones: what a verifier must reject.

A sentence that its premise supports is changed in one place: a name becomes
another name, a number another number, an affirmation a denial or the reverse.
Everything is drawn from a seed; the changes read no verifier's code, so that
they test one from outside.
"""

import dataclasses
import random
import re
from collections.abc import Iterator, Sequence

KINDS = ("entity", "entity_inside", "value", "negation")

# Words in a row that begin with a capital; "of", "the", "de" may join them.
_NAME = re.compile(
  r"\b[A-Z][\w’'-]*\w(?: (?:(?:of|the|de|van|von) ){0,2}[A-Z][\w’'-]*\w)*"
)
_NUMBER = re.compile(r"(?<![\w.,-])\d[\d,]*(?:\.\d+)?(?![\w-])")
_MONTHS = (
  "January February March April May June July August September October November"
  " December"
).split()
_NUMBER_WORDS = (
  "two three four five six seven eight nine ten eleven twelve twenty thirty"
  " forty fifty hundred"
).split()
_ORDINALS = "second third fourth fifth sixth seventh eighth ninth tenth".split()
_SCALES = "thousand million billion".split()
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
_SERIES = (_MONTHS, _NUMBER_WORDS, _ORDINALS, _SCALES, _DAYS)
_AUXILIARY = re.compile(
  r"\b(is|was|are|were|has|have|had|will|would|can|could|should|may|might|must"
  r"|does|did|do)\b(?! (?:not|never|no|only|just)\b)(?!n[’']t)"
)
_PAST = re.compile(r"(?<=[a-z0-9] )([a-z]{3,}ed)\b(?! by\b)")
_DENIAL = (
  (re.compile(r"\b(do|does|did) not (?=[a-z])|\b(do|does|did)n[’']t "), ""),
  (re.compile(r"\bcannot\b|\bcan[’']t\b"), "can"),
  (re.compile(r"\bwon[’']t\b"), "will"),
  (
    re.compile(r"\b(is|was|are|were|has|have|had|would|could|should)n[’']t\b"),
    r"\1",
  ),
  (re.compile(r"\b(?:not (?!only|just|until|least)|never |no longer )"), ""),
)
_OPENERS = frozenset(
  "A About After All Although An And As At Because Before Both But By Can Did"
  " Do Does Despite During Each For From He Her His How However If In It Its"
  " Many More Most No Not Of On One Once Only Or Our She Since So Some Such"
  " That The Their Then There These They This Those Through To Under Until Upon"
  " We What When Where Which While Who With You I I'm I’m".split()
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
  """A premise and a sentence that it does not support."""

  premise: str
  hypothesis: str
  kind: str  # one of KINDS


def pairs(
  premise: str, supported: str, seed: int | str, others: Sequence[str] = ()
) -> list[Pair]:
  """One false sentence of each kind that the supported one can be made into.

  Args:
    premise: what supports it.
    supported: one sentence.
    seed: of every choice, with the sentence itself.
    others: other premises, whose names replace; without any there is no pair
      of kind "entity".
  """
  rng = random.Random(f"{seed}/{supported}")
  made = {
    "entity": swap_name(supported, _names_of(others), premise, rng),
    "entity_inside": swap_name(supported, _names_of([premise]), "", rng),
    "value": swap_value(supported, rng),
    "negation": negate(supported, rng),
  }
  return [
    Pair(premise=premise, hypothesis=false, kind=kind)
    for kind, false in made.items()
    if false is not None
  ]


def names(text: str) -> Iterator[re.Match]:
  """The names of a text.

  A run of capitals is a name unless it is one word at a sentence's start that
  stands nowhere else with a capital, or a month or day.
  """
  for match in _NAME.finditer(text):
    name = match.group()
    before = text[max(0, match.start() - 8) : match.start()].rstrip(" \"'“(")
    opens = not before or before[-1] in ".!?:\n"
    lone = " " not in name
    if name.split()[0] in _OPENERS or name in _MONTHS or name in _DAYS:
      continue
    if len(name) < 4 and not name.isupper():  # "Mr", "St"
      continue
    elsewhere = re.search(rf"(?<=[a-z,] ){re.escape(name)}\b", text)
    if not (opens and lone and not elsewhere):
      yield match


def _names_of(texts: Sequence[str]) -> list[str]:
  return list(dict.fromkeys(m.group() for t in texts for m in names(t)))


def swap_name(
  sentence: str, pool: Sequence[str], avoid: str, rng: random.Random
) -> str | None:
  """One name replaced by one of the pool with as many words.

  No word of the new name begins like a word of the sentence or of `avoid`, so
  that "Japanese" never stands for "Japan".
  """
  taken = _starts(f"{sentence} {avoid}")
  found = list(names(sentence))
  rng.shuffle(found)
  for match in found:
    count = len(match.group().split())
    fit = [
      name
      for name in pool
      if len(name.split()) == count and not taken & _starts(name)
    ]
    if fit:
      return _put(sentence, match, rng.choice(fit))
  return None


def _starts(text: str) -> set[str]:
  return {word[:4] for word in re.findall(r"\w+", text.lower())}


def _put(sentence: str, match: re.Match, new: str) -> str:
  return sentence[: match.start()] + new + sentence[match.end() :]


def swap_value(sentence: str, rng: random.Random) -> str | None:
  """One number, number word, month or day replaced by another of its kind."""
  found = [(match, None) for match in _NUMBER.finditer(sentence)]
  for series in _SERIES:
    words = re.compile(rf"\b(?:{'|'.join(series)})\b")
    found += [(match, series) for match in words.finditer(sentence)]
  # "May" at a sentence's start is no month.
  found = [f for f in found if f[0].group() != "May" or f[0].start() > 0]
  if not found:
    return None
  match, series = rng.choice(found)
  old = match.group()
  if series:
    new = rng.choice([word for word in series if word != old])
  else:
    new = _other_number(old, rng)
  return _put(sentence, match, new)


def _other_number(old: str, rng: random.Random) -> str:
  """A number of the same length and punctuation that differs in value."""
  places = [i for i, c in enumerate(old) if c.isdigit()]
  # The first digit of a year stays: 1998 -> 1956.
  free = places[2:] if len(old) == len(places) == 4 else places
  while True:
    digits = list(old)
    for i in rng.sample(free, rng.randint(1, len(free))):
      digits[i] = rng.choice("123456789")
    new = "".join(digits)
    if new != old:
      return new


def negate(sentence: str, rng: random.Random) -> str | None:
  """The sentence denied, or affirmed where it denies; None if neither works.

  A denial is removed where there is just one; else "not", "n't" or "never"
  follows the first auxiliary, or "never" precedes a past tense.
  """
  denials = [
    (match, put)
    for pattern, put in _DENIAL
    for match in pattern.finditer(sentence)
  ]
  if len(denials) == 1:
    match, put = denials[0]
    return _put(sentence, match, match.expand(put))
  if denials:
    return None
  match = _AUXILIARY.search(sentence)
  if match:
    verb = match.group()
    options = [f"{verb} not", f"{verb} never"]
    if verb not in ("may", "might", "can", "will", "must"):
      options.append(f"{verb}n't")
    return _put(sentence, match, rng.choice(options))
  match = _PAST.search(sentence)
  return _put(sentence, match, f"never {match.group()}") if match else None
