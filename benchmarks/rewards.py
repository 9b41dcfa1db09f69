"""How long a rollout's rewards take on one core, and what takes the time.

    taskset -c 0 python -m benchmarks.rewards
    taskset -c 0 python -m benchmarks.rewards --records=records.jsonl

48 questions with five passages, eight completions of about 300 tokens each (230
words, half of them in the think part).  The text is made from the seed, or its
passages and questions are those of the records; the completions quote the
passages, with words swapped here and there and with right, wrong, missing and
superfluous citations; one in ten refuses, one in sixteen breaks the layout.
The goal is below one second for all 384 with the lexical verifier.

Prints a JSON object with, for each preset: `first_s`, the processor seconds of
the first call; `cached_s`, of the same call again; `pairs`, what the verifier
was asked; `verifier_share`, of the first call's time; and `splitter_share`,
`refusal_share`: the time that sentences and refusals of as many other
completions take alone, over `first_s`.
"""

import dataclasses
import json
import random
import time
from collections.abc import Callable, Sequence

from absl import app, flags

from configs import rewards as presets
from grounded_jax import config, rewards, text, verifiers
from grounded_jax.data import sources
from grounded_jax.prompts import REFUSAL
from grounded_jax.records import Completion, Doc, Example

_RECORDS = flags.DEFINE_string("records", "", "Record files; '' = made text.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the text and the completions.")
_PROMPTS = flags.DEFINE_integer("prompts", 48, "Questions.")
_GROUP = flags.DEFINE_integer("group", 8, "Completions of each.")
_WORDS = flags.DEFINE_integer("words", 230, "Of a completion, about.")

_PARTS = (
  "ba ce di fo gu ka le mi no pu ra se ti vo wu tha ple stri ment".split()
)
_SMALL = "the of and in to was by for with on as at from that which".split()
_TASKS = ("short", "list", "claims")


def main(argv: Sequence[str]) -> None:
  del argv
  rng = random.Random(_SEED.value)
  out = {"completions": _PROMPTS.value * _GROUP.value}
  for name, preset in (("modern", presets.modern), ("paper", presets.paper)):
    cfg = preset(refusal=True)
    # Two rollouts without an answer in common: caches must not help.
    timed, alone = (rollout(rng, _examples(rng)) for _ in range(2))
    out[name] = measure(cfg, *timed)
    for part, spent in apart(cfg, *alone).items():
      out[name][f"{part}_share"] = round(spent / out[name]["first_s"], 3)
  print(json.dumps(out, indent=2))


def measure(
  cfg: config.Rewards,
  examples: Sequence[Example],
  completions: Sequence[Completion],
) -> dict[str, float]:
  """The seconds of the first and of a repeated call, and the verifier's."""
  verifier = Timed(verifiers.make(cfg.verifier))
  call = lambda: rewards.score_batch(
    examples, completions, cfg, verifier, max_tokens=512
  )
  first = seconds(call)
  share, pairs = verifier.seconds / first, verifier.pairs
  return {
    "first_s": round(first, 3),
    "cached_s": round(seconds(call), 3),
    "pairs": pairs,
    "verifier_share": round(share, 3),
  }


def apart(
  cfg: config.Rewards,
  examples: Sequence[Example],
  completions: Sequence[Completion],
) -> dict[str, float]:
  """The seconds of splitting and of refusals alone, on texts not yet seen."""
  answers = [
    completion.answer
    for example, completion in zip(examples, completions, strict=True)
    if example.task != "list"
  ]
  split = text.splitter(cfg.splitter)
  refusals = lambda: [
    text.refusal_similarity(cfg.refusal_flag, completion.answer)
    for completion in completions
  ]
  return {
    "splitter": seconds(lambda: [split(answer) for answer in answers]),
    "refusal": seconds(refusals),
  }


def seconds(call: Callable[[], object]) -> float:
  """The processor time of one call."""
  before = time.process_time()
  call()
  return time.process_time() - before


class Timed:
  """A verifier that counts its pairs and its seconds."""

  def __init__(self, verifier: verifiers.Verifier):
    self._verifier = verifier
    self.seconds = 0.0
    self.pairs = 0

  def __call__(
    self, premises: Sequence[str], hypotheses: Sequence[str]
  ) -> list[bool]:
    self.pairs += len(premises)
    said = []
    self.seconds += seconds(
      lambda: said.extend(self._verifier(premises, hypotheses))
    )
    return said


def rollout(
  rng: random.Random, examples: Sequence[Example]
) -> tuple[list[Example], list[Completion]]:
  """A group of completions for each example, and the example of each."""
  whole = [example for example in examples for _ in range(_GROUP.value)]
  written = [_completion(rng, example) for example in whole]
  return whole, [rewards.completion(text, tokens=300) for text in written]


def _completion(rng: random.Random, example: Example) -> str:
  sentences = [
    (sentence, k)
    for k, doc in enumerate(example.docs, start=1)
    for sentence in text.punkt(doc.text)
  ]
  think, answer = [], []
  while len(" ".join(think).split()) < _WORDS.value // 2:
    sentence, k = rng.choice(sentences)
    think.append(f"Document {k} says that {sentence}")
  while len(" ".join(answer).split()) < _WORDS.value // 2:
    sentence, k = rng.choice(sentences)
    answer.append(_statement(rng, example, sentence, k))
  joined = (", " if example.task == "list" else " ").join(answer)
  if rng.random() < 0.1:
    joined = REFUSAL
  end = "" if rng.random() < 1 / 16 else "</answer>"
  return f"<think>{' '.join(think)}</think><answer>{joined}{end}"


def _statement(
  rng: random.Random, example: Example, sentence: str, k: int
) -> str:
  """A sentence, or an item of a list, with one word changed and cited."""
  words = sentence.rstrip(".").split()
  if rng.random() < 0.3:
    words[rng.randrange(len(words))] = rng.choice(words)
  cited = rng.choice(([k], [k], [k], [], [1 + k % 5], [k, 1 + k % 5]))
  marks = "".join(f"[{i}]" for i in cited)
  if example.task != "list":
    return f"{' '.join(words)} {marks}."
  gold = rng.choice(rng.choice(example.answers))
  item = gold if rng.random() < 0.5 else " ".join(words[:3])
  return f"{item.replace(',', '')} {marks}"


def _examples(rng: random.Random) -> list[Example]:
  """Questions, all answerable: only they cost the verifier anything."""
  if not _RECORDS.value:
    return [_made(rng, i) for i in range(_PROMPTS.value)]
  source = config.Source(path=_RECORDS.value, answerable="only")
  pool, _ = sources.load(source, passages=5)
  return [
    dataclasses.replace(rng.choice(pool), id=str(i))
    for i in range(_PROMPTS.value)
  ]


def _made(rng: random.Random, index: int) -> Example:
  """Five passages of about a hundred made words with two golds."""
  task = _TASKS[index % 3]
  names = [_word(rng).capitalize() for _ in range(40)]
  passages = [[_sentence(rng, names) for _ in range(6)] for _ in range(5)]
  held = [(rng.randrange(5), rng.randrange(6)) for _ in range(2)]
  told = [passages[place][at] for place, at in held]
  golds = (
    told
    if task == "claims"
    else [
      next(word for word in sentence[1:] if word in names) for sentence in told
    ]
  )
  return Example(
    id=str(index),
    task=task,
    question=f"Which {_word(rng)} {_word(rng)} the {_word(rng)}?",
    docs=tuple(
      Doc(
        title=rng.choice(names),
        text=" ".join(_written(sentence) for sentence in sentences),
        answers_found=tuple(int(place == k) for place, _ in held),
      )
      for k, sentences in enumerate(passages)
    ),
    answers=tuple(
      (_written(gold),) if task == "claims" else (gold, f"Old {gold}")
      for gold in golds
    ),
    answerable=True,
  )


def _sentence(rng: random.Random, names: Sequence[str]) -> list[str]:
  """Words of a sentence: half small ones, some names, at times a year."""
  words = [rng.choice(names)]
  for _ in range(rng.randint(9, 22)):
    kind = rng.random()
    if kind < 0.45:
      words.append(rng.choice(_SMALL))
    elif kind < 0.6:
      words.append(rng.choice(names))
    elif kind < 0.65:
      words.append(str(rng.randint(1700, 2020)))
    else:
      words.append(_word(rng))
  return [*words, rng.choice(names)]


def _word(rng: random.Random) -> str:
  return "".join(rng.choices(_PARTS, k=rng.randint(2, 4)))


def _written(sentence: Sequence[str]) -> str:
  return f"{' '.join(sentence)}."


if __name__ == "__main__":
  app.run(main)
