"""The only place that words an instruction.

The layout follows the zero-shot prompt of Trust-Align (paper.md section 1):
instruction, question, then the passages numbered from 1, as one user turn; the
wording is ours.  A passage's `answers_found` is for rewards and metric alone.

Styles: `trust` asks for everything the paper's prompt asks for, `brief` says it
in the few words that a small model can follow, `tiny` is the embedded world's.
"""

from collections.abc import Callable, Sequence

from grounded_jax import config
from grounded_jax.records import Doc, Example

REFUSAL = (
  "I apologize, but I couldn't find an answer to your question in the search"
  " results."
)

Messages = list[dict[str, str]]

_TRUST_TASK = {
  "short": (
    "Answer the question below accurately, engagingly and to the point, using"
    " nothing but the numbered search results that follow it; some of them may"
    " be irrelevant."
  ),
  "list": (
    "Answer the question below with a list of correct answers separated by"
    " commas, using nothing but the numbered search results that follow it;"
    " some of them may be irrelevant. Where the results hold more than five"
    " answers, give at least five."
  ),
}
_TRUST_TASK["claims"] = _TRUST_TASK["short"]

_TRUST_CITE = {
  "short": (
    "Write in a neutral, journalistic tone. Every factual sentence ends with"
    " the numbers of the documents that support it, each in its own brackets,"
    " as in [1][2][3]: at least one document and at most three, and no more"
    " than are needed to support the sentence."
  ),
  "list": (
    "After each answer cite exactly one document that supports it, its number"
    " in brackets, as in: first answer [1], second answer [3]."
  ),
}
_TRUST_CITE["claims"] = _TRUST_CITE["short"]

_TRUST_REFUSE = (
  "If no document holds an answer, reply with this sentence alone and explain"
  f' nothing: "{REFUSAL}"'
)

_TRUST_TAGS = (
  "First reason about what each document says: put all of this reasoning"
  " between <think> and </think>. Then put the final answer, and only that,"
  " between <answer> and </answer>. Use each of the four tags exactly once and"
  " write nothing outside them."
)

_BRIEF_TASK = {
  "short": (
    "Answer the question in one sentence, from the documents only, and end the"
    " sentence with the number of the document that says so, like [2]."
  ),
  "list": (
    "List every answer that the documents give, separated by commas, each with"
    " the number of its document, like: answer [2], answer [4]."
  ),
  "claims": (
    "Answer the question in a few sentences, from the documents only, and end"
    " each sentence with the number of the document that says so, like [2]."
  ),
}
_BRIEF_REFUSE = f"If no document holds the answer, write: {REFUSAL}"
_BRIEF_TAGS = (
  "Write <think>which document says what</think><answer>your answer</answer>."
)


def messages(data: config.Data, example: Example) -> Messages:
  """The conversation that asks `example` in the style of `data`: one turn."""
  content = _STYLES[data.style](data, example)
  return [{"role": "user", "content": content}]


def render(
  data: config.Data,
  example: Example,
  chat: Callable[[Messages, bool], str],
) -> str:
  """The prompt as text: through `chat` (a tokenizer's) if `data.chat`."""
  turns = messages(data, example)
  if data.chat:
    return chat(turns, data.thinking)
  return turns[0]["content"]


def document(number: int, doc: Doc) -> str:
  """One passage as a prompt shows it."""
  return f"Document [{number}](Title: {doc.title}): {doc.text}"


def _documents(docs: Sequence[Doc]) -> str:
  return "\n".join(document(i, doc) for i, doc in enumerate(docs, start=1))


def _asked(
  instruction: Sequence[str], data: config.Data, example: Example
) -> str:
  """Instruction, question and passages; without tags the answer's cue."""
  end = "" if data.tags else "\nAnswer:"
  return (
    f"{' '.join(instruction)}\n\nQuestion: {example.question}\n\n"
    f"{_documents(example.docs)}{end}"
  )


def _trust(data: config.Data, example: Example) -> str:
  instruction = [
    _TRUST_TASK[example.task],
    _TRUST_CITE[example.task],
    _TRUST_REFUSE,
  ]
  if data.tags:
    instruction.append(_TRUST_TAGS)
  return _asked(instruction, data, example)


def _brief(data: config.Data, example: Example) -> str:
  instruction = [_BRIEF_TASK[example.task], _BRIEF_REFUSE]
  if data.tags:
    instruction.append(_BRIEF_TAGS)
  return _asked(instruction, data, example)


def _tiny(data: config.Data, example: Example) -> str:
  """The task in one word: all that a policy of one world needs."""
  del data
  return f"{example.task}\nQuestion: {example.question}\n" + "".join(
    f"{document(i, doc)}\n" for i, doc in enumerate(example.docs, start=1)
  )


_STYLES = {"trust": _trust, "brief": _brief, "tiny": _tiny}
