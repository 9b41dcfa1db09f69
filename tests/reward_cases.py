"""An example with two supported golds, a verifier by words, and the honest
answers: what the tests of the rewards share."""

import pytest

from grounded_jax import rewards, text
from grounded_jax.records import Doc, Example

REFUSAL = (
  "I apologize, but I couldn't find an answer to your question in the search"
  " results."
)
PASSAGES = (
  "Paris is the capital of France.",
  "Rome is the capital of Italy.",
  "Nothing of use.",
  "Nothing more.",
  "Paris is the largest city and the capital of France.",
)
PARIS = "Paris is the capital of France"
ROME = "Rome is the capital of Italy"


class Words:
  """Entails when every word of the hypothesis is in the premise."""

  def __init__(self):
    self.calls = []

  def __call__(self, premises, hypotheses):
    self.calls.append(list(zip(premises, hypotheses, strict=True)))
    return [
      set(text.normalize(h).split()) <= set(text.normalize(p).split())
      for p, h in zip(premises, hypotheses, strict=True)
    ]


def example(task="short", answerable=True, question="Which cities?"):
  golds = {
    "short": (("Paris", "Lutetia"), ("Rome",), ("Oslo",)),
    "list": (("Paris", "Lutetia"), ("Rome",), ("Oslo",)),
    "claims": ((PARIS,), (ROME,), ("Oslo is cold",)),
  }[task]
  bits = ((1, 0, 0), (0, 1, 0), (0,) * 3, (0,) * 3, (1, 0, 0))
  return Example(
    id="0",
    task=task,
    question=question,
    docs=tuple(
      Doc(
        title="T",
        text=passage,
        answers_found=found if answerable else (0, 0, 0),
      )
      for passage, found in zip(PASSAGES, bits, strict=True)
    ),
    answers=golds,
    answerable=answerable,
  )


def laid_out(answer, think="so"):
  return f"<think>{think}</think><answer>{answer}</answer>"


def reward(cfg, answer, *, layout=True, **kind):
  written = laid_out(answer) if layout else answer
  completion = rewards.completion(written, tokens=10, tags=cfg.tags)
  got = rewards.score(example(**kind), completion, cfg, Words(), max_tokens=512)
  assert got.total == pytest.approx(sum(got.parts.values()))
  assert tuple(got.parts) == rewards.PARTS
  return got


def batch():
  answers = [f"{PARIS} [1][5].", f"{ROME} [2].", REFUSAL, f"{PARIS} [1][5]."]
  kinds = [example(), example("claims"), example(), example()]
  return kinds, [
    rewards.completion(f"<think>a</think><answer>{a}</answer>") for a in answers
  ]
