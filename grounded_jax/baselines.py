"""What answering without understanding scores: the floor under every result.

    python -m grounded_jax.baselines --path=world:test --limit=300

Each baseline turns an example into an output by a rule. A trained policy that
is not well above all of them has learned a shortcut.
"""

import json
import re
import sys
from collections.abc import Callable

from absl import app, flags

from grounded_jax import config, scoring, text
from grounded_jax.data import sources
from grounded_jax.prompts import REFUSAL
from grounded_jax.records import Completion, Example

_PATH = flags.DEFINE_string("path", "world:test", "Records, as in a config.")
_LIMIT = flags.DEFINE_integer("limit", 300, "Records used.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the world.")
_VERIFIER = flags.DEFINE_string("verifier", "oracle", "oracle or lexical.")

_SPLIT = text.splitter("rule")
_NAME = re.compile(r"(?:[A-Z]\w+ ?)+")


def always_refuse(example: Example) -> str:
  """The refusal sentence, whatever is asked."""
  del example
  return REFUSAL


def copy_all(example: Example) -> str:
  """Every sentence (for lists: every name) of every passage, cited rightly."""
  said = [(s, k) for s, k in _sentences(example)]
  if example.task == "list":
    names = [(n.strip(), k) for s, k in said for n in _NAME.findall(s)]
    return ", ".join(f"{name} [{k}]" for name, k in names)
  return " ".join(_cited(s, f"[{k}]") for s, k in said)


def question_only(example: Example) -> str:
  """The question's own words as an answer, citing the first passage."""
  return f"{example.question.rstrip('?.')} [1]."


def always_answer(example: Example) -> str:
  """The sentence that shares most words with the question, never refusing."""
  return overlap(example, 0)


def cite_everything(example: Example) -> str:
  """The same sentence, citing every passage."""
  marks = "".join(f"[{k + 1}]" for k in range(len(example.docs)))
  return overlap(example, 0, marks)


def overlap(example: Example, least: int, marks: str = "") -> str:
  """The best sentence if it shares `least` words with the question."""
  asked = set(text.normalize(example.question).split())
  shared = lambda item: len(asked & set(text.normalize(item[0]).split()))
  best, k = max(_sentences(example), key=shared)
  if shared((best, k)) < least:
    return REFUSAL
  if example.task == "list":
    names = _NAME.findall(best)
    return f"{names[-1].strip() if names else best} {marks or f'[{k}]'}"
  return _cited(best, marks or f"[{k}]")


def overlap_at_least_1(example: Example) -> str:
  """`overlap` that refuses where no word is shared."""
  return overlap(example, 1)


def overlap_at_least_2(example: Example) -> str:
  """`overlap` that refuses below two shared words."""
  return overlap(example, 2)


def overlap_at_least_3(example: Example) -> str:
  """`overlap` that refuses below three shared words."""
  return overlap(example, 3)


BASELINES: tuple[Callable[[Example], str], ...] = (
  always_answer,
  always_refuse,
  copy_all,
  cite_everything,
  question_only,
  overlap_at_least_1,
  overlap_at_least_2,
  overlap_at_least_3,
)


def _sentences(example: Example) -> list[tuple[str, int]]:
  return [
    (sentence, k)
    for k, doc in enumerate(example.docs, start=1)
    for sentence in _SPLIT(doc.text)
  ]


def _cited(sentence: str, marks: str) -> str:
  return f"{sentence.rstrip('. ')} {marks}."


def scores(examples: tuple[Example, ...], verifier: config.Verifier) -> dict:
  """TRUST-SCORE of every baseline, by its name."""
  out = {}
  for answer in BASELINES:
    records = [
      scoring.record(e, Completion(text=answer(e), answer=answer(e)))
      for e in examples
    ]
    out[answer.__name__] = scoring.score(records, verifier, splitter="rule")
  return out


def main(_) -> None:
  source = config.Source(path=_PATH.value, limit=_LIMIT.value, seed=_SEED.value)
  examples, _ = sources.load(source, passages=5)
  found = scores(examples, config.Verifier(kind=_VERIFIER.value))
  print(json.dumps(found))
  for name, metrics in found.items():
    parts = "  ".join(
      f"{key} {metrics[key]:.1f}"
      for key in ("trust", "f1_ac", "f1_gr", "f1_gc")
    )
    print(f"{name:20} {parts}", file=sys.stderr)


if __name__ == "__main__":
  app.run(main)
