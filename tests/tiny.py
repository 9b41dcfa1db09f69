"""A run small enough for tests: generated records, bytes, one layer."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Sequence

from grounded_jax import config
from grounded_jax.records import Completion, Example, Score

PLACES = ("Ada", "Bex", "Cor", "Dun", "Eld", "Fen")
GRPO = config.GRPO(
  prompts=2, group=2, max_new_tokens=6, zero_advantage="keep", truncated="keep"
)


def records(count: int = 6) -> list[dict]:
  """Short questions; every third one is not answered by its passages."""
  out = []
  for i in range(count):
    place, answerable = PLACES[i % len(PLACES)], i % 3 != 2
    told = f"{place} sells salt." if answerable else "Nobody knows."
    out.append(
      {
        "id": f"{place}-{i}",
        "task": "short",
        "question": f"What sells {place}?",
        "answers": [["salt"]],
        "docs": [
          {
            "title": place,
            "text": told,
            "answers_found": [int(answerable)],
          },
          {"title": "Sea", "text": "It is wet.", "answers_found": [0]},
        ],
      }
    )
  return out


def write_records(path: pathlib.Path, count: int = 6) -> str:
  """Writes `records` as JSON lines and returns the path as text."""
  path.write_text("".join(json.dumps(r) + "\n" for r in records(count)))
  return str(path)


def stage(name: str, **changes) -> config.Stage:
  """Three steps with a checkpoint after the second."""
  base = config.Stage(
    name=name,
    steps=3,
    grpo=GRPO,
    optimizer=config.Optimizer(lr=1e-2, warmup=0.0),
    save_every=2,
    log_rollouts=1,
  )
  return dataclasses.replace(base, **changes)


def experiment(
  path: str, stages: Sequence[config.Stage], evals: bool = True
) -> config.Experiment:
  """The experiment of these stages on the records at `path`."""
  source = config.Source(path=path)
  decoder = config.Decoder(
    layers=1, embed=16, mlp=32, heads=2, kv_heads=1, head_dim=8, vocab=260
  )
  dev = config.Eval(
    name="dev", source=source, batch=4, max_new_tokens=6, bootstrap=20
  )
  return config.Experiment(
    name="tiny",
    model=config.Model(tokenizer="bytes", decoder=decoder),
    data=config.Data(train=source, max_prompt_len=256, style="tiny"),
    stages=tuple(stages),
    evals=(dev,) if evals else (),
  )


def varied_score(
  examples: Sequence[Example], completions: Sequence[Completion]
) -> list[Score]:
  """A reward that differs between completions, so that there is a gradient.

  With the real one random weights score 0 throughout.
  """
  out = []
  for example, completion in zip(examples, completions, strict=True):
    words = f"{example.id}/{completion.text}".encode()
    value = hashlib.sha256(words).digest()[0] / 255
    out.append(Score(total=value, parts={"luck": value}))
  return out
