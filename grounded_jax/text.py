"""How answers are read: normal form, citations, refusals, sentences, layout.

Rewards and metric share these functions and nothing else of each other, so
that a refusal or a citation is the same thing in both.
"""

import dataclasses
import functools
import re
import string

import Levenshtein

from grounded_jax.sentences import Splitter, punkt, rule, splitter, tf_text

__all__ = (
  "TAGS",
  "Layout",
  "Splitter",
  "citations",
  "is_refusal",
  "list_items",
  "normalize",
  "punkt",
  "refusal_similarity",
  "remove_citations",
  "rule",
  "split_layout",
  "splitter",
  "tf_text",
)

TAGS = ("<think>", "</think>", "<answer>", "</answer>")

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_SPACED_CITATION = re.compile(r" \[\d+")
_CITATION = re.compile(r"\[(\d+)")
_MANY_DIGITS = 4000  # Python refuses to read longer numbers; none is in range
_LAYOUT = re.compile(
  r"\s*<think>(.*?)</think>\s*<answer>(.*?)</answer>\s*", re.DOTALL
)
_TAG = re.compile("|".join(TAGS))


def normalize(text: str) -> str:
  """The text in lower case, without ASCII punctuation, articles, extra space.

  In this order: punctuation goes before articles, so "over-the-counter" keeps
  its "the" (paper.md section 5).
  """
  text = text.lower().translate(_PUNCTUATION)
  return " ".join(_ARTICLE.sub(" ", text).split())


def remove_citations(text: str) -> str:
  """The text as the published metric strips it of citations.

  "[12" goes with one space before it, then " |" and every "]": "[1984]" is
  lost from an answer too, and "[1, 2]" leaves ", 2" behind.
  """
  text = _CITATION.sub("", _SPACED_CITATION.sub("", text))
  return text.replace(" |", "").replace("]", "")


def citations(text: str) -> list[int]:
  """The cited passages, counted from 0, in order: the numbers after each "[".

  "[1, 2]" cites 0 only, "[0]" is -1, and full-width digits count, as in the
  published metric; who uses the list decides what is in range.
  """
  return [
    int(number) - 1 if len(number) < _MANY_DIGITS else _MANY_DIGITS
    for number in _CITATION.findall(text)
  ]


def list_items(output: str) -> list[str]:
  """The comma-separated items of a list answer, each stripped; "" is one item.

  Final white space, then full stops, then commas are dropped first.
  """
  output = output.rstrip().rstrip(".").rstrip(",")
  return [item.strip() for item in output.split(",")]


@functools.lru_cache(maxsize=4096)
def _partial_ratio(first: str, second: str) -> int:
  """The best match of the shorter text with a window of the longer, 0..100.

  A window starts where one of the matching blocks aligns the two, and its
  similarity is 1 - indel distance / total length; above 0.995 counts as 1.
  """
  if first == second:
    return 100
  short, long = sorted((first, second), key=len)  # stable: ties keep order
  if not short:
    return 0
  edits = Levenshtein.opcodes(short, long)
  best = 0.0
  for i, j, _ in Levenshtein.matching_blocks(edits, short, long):
    start = max(j - i, 0)
    ratio = Levenshtein.ratio(short, long[start : start + len(short)])
    if ratio > 0.995:
      return 100
    best = max(best, ratio)
  return round(100 * best)


def refusal_similarity(flag: str, text: str) -> int:
  """How much of the refusal `flag` stands in `text`: 0 to 100, rounded.

  The published evaluator's partial ratio of the normal forms.  Any piece of
  the flag scores 100 ("Polo", "find"), and a refusal deep inside a long text
  can be missed (paper.md section 5).
  """
  if not flag or not text:
    return 0
  normal = normalize(text)
  return _partial_ratio(normalize(flag), normal) if normal else 0


def is_refusal(flag: str, text: str, threshold: int = 85) -> bool:
  """Whether the text refuses: its similarity is strictly above `threshold`."""
  return refusal_similarity(flag, text) > threshold


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
  """A completion taken apart by its tags."""

  think: str  # "" when the layout does not hold
  answer: str  # the answer part; the text minus its tags when it does not hold
  holds: bool  # <think>...</think><answer>...</answer> and nothing else
  tag_count: float  # share of the four tags that occur exactly once


def split_layout(text: str) -> Layout:
  """The think and answer parts of a whole completion, and whether it is so.

  White space around the tags is optional; each tag occurs exactly once; an
  empty think or answer fails (design section 5).
  """
  tag_count = sum(text.count(tag) == 1 for tag in TAGS) / len(TAGS)
  match = _LAYOUT.fullmatch(text) if tag_count == 1 else None
  think, answer = (
    (part.strip() for part in match.groups()) if match else ("",) * 2
  )
  if think and answer:
    return Layout(think=think, answer=answer, holds=True, tag_count=1.0)
  return Layout(
    think="",
    answer=_TAG.sub("", text).strip(),
    holds=False,
    tag_count=tag_count,
  )
