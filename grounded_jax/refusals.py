"""Refusals by what they say: those that the published metric cannot see.

The metric's refusal is a fuzzy match with one sentence.  "I'm sorry, but I
couldn't find an answer in the passages" scores 79 of the 85 it needs, so it
counts as an answer.  `declines` reads the wording; it enters no score.
"""

import re

from grounded_jax import sentences, text

_NOT = r"(?:\s*not|n't|n’t)"
_CANNOT = (
  rf"(?:(?:can|could|did|do|was|were|am|are){_NOT}|can['’]t|cannot|failed"
  r"|(?:(?:am|was|are|were|['’]m|['’]re)\s+)?unable|['’](?:m|re)\s+not\s+able)"
)
_FIND = (
  r"(?:find|answer|determine|locate|tell|say|provide|give|identify|respond"
  r"|conclude|confirm|offer|help|know"
  r"|have\s+(?:\w+\s+){0,2}(?:information|answer|context|details|evidence))"
)
_SOURCES = (
  r"(?:passages?|documents?|search results?|results|context|texts?|sources?"
  r"|excerpts?|articles?|references?|snippets?|materials?|information)"
)
_GIVEN = (
  r"(?:provided|given|retrieved|supplied|available|above|listed|search"
  r"|following|cited|five|shown)"
)
_THE_SOURCES = (
  rf"(?:the|these|this|your)\s+(?:{_GIVEN}\s+)*{_SOURCES}(?:\s+{_GIVEN})?"
)
_HOLD = (
  r"(?:mention|contain|provide|include|state|specify|say|answer|give|address"
  r"|discuss|have|has|indicate|offer|cover|reveal|list|tell)\w*"
)
_THING = r"(?:it|this|that|the question|your question|this question|the answer)"
_KNOWLEDGE = r"(?:information|answers?|evidence|mention|details?|context)"

_DECLINES = re.compile(
  "|".join(
    (
      # "I could not find ...", "we are unable to answer".
      rf"(?:(?<![\"“‘])\bi|^\W*we)\s*(?:\w+ly\s+)?{_CANNOT}\b[^.!?]{{0,30}}?"
      rf"\b{_FIND}\b",
      # "Sorry, but ... not ...".
      r"^\W*(?:(?:i|we)\W*(?:am|are|m|re)?\s+)?(?:\w+ly\s+)?"
      r"(?:sorry|apologi[sz]e|apologies|regret)"
      r"(?:\s*,|\s+(?:but|that|i|we|the|there|this)\b)"
      rf"[^.!?]*?(?:{_NOT}|\bno|unable|cannot|can['’]t)\b",
      # "Unable to find", "Cannot be determined".
      r"^\W*(?:unfortunately\W+|sorry\W+)?(?:unable to|not able to|cannot"
      rf"|can['’]t|(?:can|could){_NOT})\s+(?:be\s+)?{_FIND}\w*\b",
      # "The passages do not mention", "None of the documents answer".
      rf"\b{_THE_SOURCES}\s+(?:alone\s+)?(?:(?:do|does|did){_NOT}"
      rf"\s+(?:\w+ly\s+|seem to\s+|appear to\s+)?{_HOLD}"
      rf"|(?:is|are){_NOT}\s+(?:sufficient|enough|relevant|related|about)"
      rf"|fails? to|lacks?|{_HOLD}\s+(?:no|nothing|insufficient))\b",
      rf"\b(?:none|neither) of {_THE_SOURCES}\b",
      rf"\bno (?:passages?|documents?|sources?|search results?)\s+{_HOLD}",
      # "There is no information about this in the passages".
      rf"\b(?:no|insufficient|not enough|not sufficient)\s+(?:\w+\s+)?"
      rf"{_KNOWLEDGE}\b[^.!?]*\b(?:in|from|within|by)\s+"
      rf"(?:any of\s+)?{_THE_SOURCES}",
      r"\bno\s+(?:\w+\s+)?(?:information|answer)\s+(?:is|was|could be|can be)?"
      r"\s*(?:provided|given|found)\b",
      rf"\bthere(?:\s+is|['’]s)\s+(?:no mention|no {_KNOWLEDGE} available)\b",
      r"\b(?:insufficient|not enough)\s+(?:information|context)\b",
      # "The question cannot be answered", "it is not mentioned in the text".
      rf"\b{_THING}\s+(?:cannot|can['’]t|(?:can|could){_NOT})\s+be\s+"
      r"(?:answered|determined|found|concluded|established|verified)\b",
      r"\bnot\s+(?:\w+ly\s+)?(?:mentioned|stated|provided|specified|found"
      r"|given|available|answered|discussed|addressed|contained)\s+"
      rf"(?:in|by|within)\s+(?:any of\s+)?{_THE_SOURCES}",
      # In a word.
      r"\b(?:unanswerable|not answerable)\b",
      r"^\W*(?:unknown|n/a|none|no (?:information|answer)|not (?:mentioned"
      r"|stated|specified|available|found))\W*$",
    )
  ),
  re.IGNORECASE,
)
_FIRST = 300  # characters: a refusal is said at once
_BUT = re.compile(r"\b(?:but|however|although|though|yet|while)\b", re.I)


def declines(output: str) -> bool:
  """Whether an output says, in any words, that it gives no answer.

  Its first sentence says so, and nothing after that cites a passage: "The
  passages do not mention the date, but it rained in May [1]." answers.
  """
  if not output.strip():
    return False
  first, *rest = sentences.rule(output)
  match = _DECLINES.search(first[:_FIRST])
  if not match or any(text.citations(sentence) for sentence in rest):
    return False
  after = first[match.end() :]
  turn = _BUT.search(after)
  return not (turn and text.citations(after[turn.end() :]))
