"""What rules score: the floor under every result, and honest ceilings.

    python -m grounded_jax.baselines --records=world:test --limit=300
    python -m grounded_jax.baselines --records=FILE --verifier=lexical \\
      --threshold=0.6

`BASELINES` answer without understanding: a trained policy that is not well
above all of them has learned a shortcut.  `HONEST` read the labels and answer
from them; a score is sound if they keep what they earn and copying does not.
"""

import dataclasses
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import app, flags

from grounded_jax import config, log, scoring, text, verifiers
from grounded_jax.data import sources
from grounded_jax.prompts import REFUSAL
from grounded_jax.records import Completion, Example, UserError

_RECORDS = flags.DEFINE_string(
  "records", "world:test", "Record files or a split of the world."
)
_LIMIT = flags.DEFINE_integer("limit", 300, "Records used; 0 = all.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the world and of the choice.")
_VERIFIER = flags.DEFINE_enum(
  "verifier", "oracle", (*config.VERIFIERS, "overlap"), "Who judges support."
)
_THRESHOLD = flags.DEFINE_float(
  "threshold", config.Verifier().threshold, "Of lexical and overlap."
)

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


def copy_first_passage(example: Example) -> str:
  """The same of the first passage alone."""
  first = dataclasses.replace(example, docs=example.docs[:1])
  return copy_all(first)


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
  copy_first_passage,
  cite_everything,
  question_only,
  overlap_at_least_1,
  overlap_at_least_2,
  overlap_at_least_3,
)


def gold_sentence(example: Example, marks: str = "") -> str:
  """For each supported gold the sentence that holds it, cited; or refuses.

  Of the first passage whose label says that it holds the gold: the sentence
  with most words of one of its wordings; for lists the gold itself.
  """
  found = {}
  for place, aliases in _supported(example):
    if example.task == "list":
      found[f"{aliases[0]} {marks or f'[{place + 1}]'}"] = None
      continue
    sentences = _SPLIT(example.docs[place].text)
    best = max(sentences, key=lambda said: _held(aliases, said))
    found[_cited(best, marks or f"[{place + 1}]")] = None
  if not found:
    return REFUSAL
  return (", " if example.task == "list" else " ").join(found)


def gold_short(example: Example) -> str:
  """Each supported gold in a few words, cited; or refuses."""
  if example.task == "list":
    return gold_sentence(example)
  lead = "It is " if example.task == "short" else ""
  said = [
    _cited(f"{lead}{aliases[0]}", f"[{place + 1}]")
    for place, aliases in _supported(example)
  ]
  return " ".join(said) or REFUSAL


def gold_cited_by_all(example: Example) -> str:
  """The sentences of `gold_sentence`, each citing every passage."""
  marks = "".join(f"[{k + 1}]" for k in range(len(example.docs)))
  return gold_sentence(example, marks)


HONEST: tuple[Callable[[Example], str], ...] = (
  gold_sentence,
  gold_short,
  gold_cited_by_all,
)


def _supported(example: Example) -> list[tuple[int, tuple[str, ...]]]:
  """(place of the first passage that holds it, wordings) of each gold."""
  held = [
    [k for k, doc in enumerate(example.docs) if doc.answers_found[i]]
    for i in range(len(example.answers))
  ]
  return [
    (places[0], aliases)
    for places, aliases in zip(held, example.answers, strict=True)
    if places
  ]


def _held(aliases: Sequence[str], sentence: str) -> float:
  """How much of one of the wordings a sentence holds, 0 to 2 (as it stands)."""
  normal = text.normalize(sentence)
  words = set(normal.split())
  shares = [0.0]
  for alias in map(text.normalize, aliases):
    wanted = set(alias.split())
    share = len(wanted & words) / max(len(wanted), 1)
    shares.append(share + (bool(alias) and f" {alias} " in f" {normal} "))
  return max(shares)


class Overlap:
  """A loose judge: so much of the hypothesis's words stand in the premise."""

  def __init__(self, threshold: float):
    self.name = f"overlap({threshold:g})"
    self._threshold = threshold

  def __call__(
    self, premises: Sequence[str], hypotheses: Sequence[str]
  ) -> list[bool]:
    """For each pair, whether the share of words reaches the threshold."""
    return [
      self._share(premise, hypothesis) >= self._threshold
      for premise, hypothesis in zip(premises, hypotheses, strict=True)
    ]

  def _share(self, premise: str, hypothesis: str) -> float:
    wanted = set(text.normalize(hypothesis).split())
    if not wanted:
      return 0.0
    return len(wanted & set(text.normalize(premise).split())) / len(wanted)


def _sentences(example: Example) -> list[tuple[str, int]]:
  return [
    (sentence, k)
    for k, doc in enumerate(example.docs, start=1)
    for sentence in _SPLIT(doc.text)
  ]


def _cited(sentence: str, marks: str) -> str:
  return f"{sentence.rstrip('. ')} {marks}."


def scores(
  examples: Sequence[Example],
  verifier: config.Verifier | verifiers.Verifier,
  policies: Sequence[Callable[[Example], str]] = BASELINES,
) -> dict[str, dict[str, Any]]:
  """TRUST-SCORE of every policy, by its name."""
  out = {}
  for answer in policies:
    records = [
      scoring.record(e, Completion(text=said, answer=said))
      for e in examples
      for said in (answer(e),)
    ]
    out[answer.__name__] = scoring.score(records, verifier, splitter="rule")
  return out


def _line(name: str, metrics: Mapping[str, Any]) -> str:
  parts = "  ".join(
    f"{key} {metrics[key]:5.1f}" for key in ("trust", "f1_ac", "f1_gr", "f1_gc")
  )
  concise = "  ".join(
    f"{key} {metrics['concise'][key]:5.1f}" for key in ("trust", "f1_ac")
  )
  return f"{name:20} {parts}  | concise: {concise}"


def _run() -> None:
  judge: config.Verifier | verifiers.Verifier = Overlap(_THRESHOLD.value)
  if _VERIFIER.value != "overlap":
    judge = config.Verifier(kind=_VERIFIER.value, threshold=_THRESHOLD.value)
  source = config.Source(
    path=_RECORDS.value, limit=_LIMIT.value, seed=_SEED.value
  )
  examples, _ = sources.load(source, passages=5)
  found = scores(examples, judge, BASELINES + HONEST)
  print(log.dumps(found))
  for name, metrics in found.items():
    print(_line(name, metrics), file=sys.stderr)


def main(_) -> int:
  """Scores every policy and returns the exit code."""
  try:
    _run()
  except UserError as error:
    print(" ".join(str(error).split()), file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  app.run(main)
