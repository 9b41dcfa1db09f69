"""Counterfactual passages: the answer is another entity of the same kind.

In title and text of every passage the aliases of a gold answer (whole words,
any case, longest first) become one new name, which is then the right answer.
A policy that reads gives it; one that recites what it knows gives an alias of
before.  What is new is a number for a number (a year for a year), a number
word for a number word, and for a name the gold answer of another record with
as many words, capital letters at the same ones, and if there is one, asked for
by the same word (who, where, ...).
"""

import dataclasses
import math
import random
import re
from collections.abc import Iterable, Mapping, Sequence

from grounded_jax import text
from grounded_jax.data import robustness
from grounded_jax.data.robustness import Variant
from grounded_jax.records import Example

_ASKING = ("who", "whom", "whose", "where", "when", "which", "what", "how")
_NUMBERS = (
  "two three four five six seven eight nine ten eleven twelve thirteen fourteen"
  " fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty"
  " seventy eighty ninety"
).split()
_DIGITS = re.compile(r"([0-9]+)(st|nd|rd|th)?")
_TRIES = 50  # numbers drawn before one is found that stands nowhere
_Z = 1.959964  # of a 95% interval

Shape = tuple[bool, ...]  # for each word: does it begin with a capital?


@dataclasses.dataclass(frozen=True, kw_only=True)
class Name:
  """A gold answer that may stand for another one."""

  name: str
  asking: str  # the question's asking word; "" = it has none
  shape: Shape


def names(examples: Iterable[Example]) -> tuple[Name, ...]:
  """The first alias of every short or listed gold answer that is a name."""
  found = {}
  for example in examples:
    for gold in example.answers if example.task != "claims" else ():
      name = gold[0]
      if not _DIGITS.search(name) and name.lower() not in _NUMBERS:
        key = name, _asking(example.question)
        found[key] = Name(name=name, asking=key[1], shape=_shape(name))
  return tuple(found.values())


def counterfactual(
  example: Example, others: Sequence[Name], *, seed: int
) -> Variant:
  """The example with the golds that its passages name swapped for others.

  Args:
    example: as it is shown, a short or list question.
    others: names to choose from; the example's own do not matter.
    seed: of the choice.
  """
  if example.task == "claims":
    return Variant(why="its answers are claims, not names")
  if not example.answerable:
    return Variant(why="no passage holds an answer")
  pattern, owners = _pattern(example)
  told = "\n".join(f"{doc.title}\n{doc.text}" for doc in example.docs)
  swapped = {owners[m.lastindex - 1] for m in pattern.finditer(told)}
  normal = {
    g: [
      form for alias in example.answers[g] for form in robustness.forms(alias)
    ]
    for g in swapped
  }
  held = lambda where: any(
    f" {form} " in where for g in swapped for form in normal[g]
  )
  if held(f" {' | '.join(robustness.forms(example.question))} "):
    return Variant(why="its question names an answer")
  rng = robustness.draws(seed, "counterfactual", example)
  new = _choose(example, sorted(swapped), others, rng)
  if new is None:
    return Variant(why="the other records have no like answer")
  swap = lambda part: pattern.sub(lambda m: new[owners[m.lastindex - 1]], part)
  docs = [
    dataclasses.replace(doc, title=swap(doc.title), text=swap(doc.text))
    for doc in example.docs
  ]
  for doc in docs:
    words = robustness.words(doc)
    if held(words):
      return Variant(why="a passage spells an answer in another way")
    for gold, bit in enumerate(doc.answers_found):
      if bit and not (
        gold in new and f" {text.normalize(new[gold])} " in words
      ):
        return Variant(why="a passage tells an answer in other words")
  answers = tuple(
    (new[g],) if g in new else gold for g, gold in enumerate(example.answers)
  )
  made = robustness.changed(example, "counterfactual", docs)
  return Variant(
    example=dataclasses.replace(made, answers=answers),
    original=tuple(
      gold if g in new else () for g, gold in enumerate(example.answers)
    ),
  )


def _pattern(example: Example) -> tuple[re.Pattern[str], list[int]]:
  """Finds any alias, one group each, and the gold that each group means."""
  found = {}
  for gold, aliases in enumerate(example.answers):
    for alias in aliases:
      if text.normalize(alias):
        found.setdefault(" ".join(alias.split()), gold)
  ordered = sorted(found, key=len, reverse=True)
  spaced = (r"\s+".join(map(re.escape, alias.split())) for alias in ordered)
  groups = (rf"((?<!\w){alias}(?!\w))" for alias in spaced)
  pattern = re.compile("|".join(groups) or r"(?!)", re.IGNORECASE)
  return pattern, [found[alias] for alias in ordered]


def _choose(
  example: Example,
  golds: Sequence[int],
  others: Sequence[Name],
  rng: random.Random,
) -> dict[int, str] | None:
  """A new name for each of the golds; None if one has none.

  It shares no run of letters with an alias or another new name, so that the
  metric, which looks for substrings, cannot take one for the other, and it
  stands neither in a passage nor in the question.
  """
  used = list(robustness.aliases(example))
  told = "".join(robustness.words(doc) for doc in example.docs)
  told += f" {text.normalize(example.question)} "
  new = {}
  for gold in golds:
    for name in _candidates(example, example.answers[gold][0], others, rng):
      normal = text.normalize(name)
      if not normal or f" {normal} " in told:
        continue
      if not any(normal in other or other in normal for other in used):
        new[gold] = name
        used.append(normal)
        break
    else:
      return None
  return new


def _candidates(
  example: Example, old: str, others: Sequence[Name], rng: random.Random
) -> Iterable[str]:
  if _DIGITS.search(old):
    for _ in range(_TRIES):
      yield _DIGITS.sub(lambda match: _number(*match.groups(), rng), old)
  elif old.lower() in _NUMBERS:
    for number in rng.sample(_NUMBERS, len(_NUMBERS)):
      yield number.capitalize() if old[0].isupper() else number
  else:
    shape, asking = _shape(old), _asking(example.question)
    like = [other for other in others if other.shape == shape]
    like = rng.sample(like, len(like))
    yield from (x.name for x in sorted(like, key=lambda x: x.asking != asking))


def _number(old: str, ordinal: str | None, rng: random.Random) -> str:
  """Another number of as many digits: a year near it, a day of a month."""
  size = len(old)
  low, high = 10 ** (size - 1), 10**size - 1
  if size == 4 and 1000 <= int(old) <= 2099:
    year = int(old)
    low, high = max(year - 40, 1000), min(year + 40, max(year, 2025))
  elif size == 2 and int(old) <= 31:
    high = 28
  new = rng.randint(low, high)
  if not ordinal:
    return str(new)
  ends = {1: "st", 2: "nd", 3: "rd"}
  return f"{new}{'th' if 10 < new % 100 < 14 else ends.get(new % 10, 'th')}"


def _shape(name: str) -> Shape:
  return tuple(word[0].isupper() for word in name.split())


def _asking(question: str) -> str:
  found = set(text.normalize(question).split())
  return next((word for word in _ASKING if word in found), "")


def follows(
  outputs: Sequence[str], variants: Sequence[Variant]
) -> dict[str, object]:
  """Whether outputs to counterfactual examples give the new or the old answer.

  `follows_passage` is the percentage that name a new answer, `follows_memory`
  of those that name one of before (whole words in normal form), both of all
  outputs: one that refuses does neither.  `intervals` are 95% (Wilson).
  """
  counts = {"follows_passage": 0, "follows_memory": 0}
  for output, variant in zip(outputs, variants, strict=True):
    said = f" {text.normalize(text.remove_citations(output))} "
    golds = zip(variant.example.answers, variant.original, strict=True)
    pairs = [(new, old) for new, old in golds if old]
    says = lambda name, said=said: f" {text.normalize(name)} " in said
    counts["follows_passage"] += any(says(a) for new, _ in pairs for a in new)
    counts["follows_memory"] += any(says(a) for _, old in pairs for a in old)
  return _shares(counts, len(outputs))


def _shares(counts: Mapping[str, int], n: int) -> dict[str, object]:
  """Each count as a percentage of n, and Wilson's 95% intervals."""
  shares, spans = {}, {}
  for name, count in counts.items():
    share = count / n
    middle = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = math.sqrt(share * (1 - share) / n + (_Z / (2 * n)) ** 2)
    half *= _Z / (1 + _Z**2 / n)
    shares[name] = 100 * share
    # Rounding may leave an end a little outside.
    spans[name] = [100 * max(middle - half, 0), 100 * min(middle + half, 1)]
  return {**shares, "intervals": spans}
