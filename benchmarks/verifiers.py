"""How well and how fast the verifiers that need no model judge support.

    python -m benchmarks.verifiers --pairs=pairs.jsonl --records=dev.jsonl

`--pairs` holds labelled pairs, one JSON object a line with premise, hypothesis,
label (0 or 1) and source (SOURCE/LABEL); `--records` holds records in the
Trust-Score format.  For each verifier: accuracy, balanced accuracy and AUC per
source; how many sentences taken word for word from a record's passages it
accepts, and how many of them it rejects once a name, a value or a negation was
changed; pairs per second of a rollout's pairs; seconds to load.  JSON goes to
stdout, a table to stderr.
"""

import json
import pathlib
import random
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np
from absl import app, flags

from grounded_jax import config, text
from grounded_jax.data import sources
from grounded_jax.records import Example, UserError
from grounded_jax.verifiers import lexical, perturb

_PAIRS = flags.DEFINE_string("pairs", None, "JSON lines of labelled pairs.")
_RECORDS = flags.DEFINE_string("records", None, "Records with passages.")
_LIMIT = flags.DEFINE_integer("limit", 400, "Sentences taken from passages.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the sentences and their changes.")
_THRESHOLD = flags.DEFINE_float(
  "threshold", config.Verifier().threshold, "Accepted from this score on."
)

GROUP = 8  # completions of a prompt, in the pairs that are timed
STATEMENTS = 6  # of a completion


class Overlap:
  """The share of the hypothesis's words that the premise has: the floor."""

  name = "overlap"

  def score(self, premise: str, hypothesis: str) -> float:
    words = set(text.normalize(hypothesis).split())
    shown = set(text.normalize(premise).split())
    return len(words & shown) / max(1, len(words))


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
  """The chance that a supported pair scores above another; ties are half."""
  yes, no = scores[labels == 1][:, None], scores[labels == 0]
  return float((yes > no).mean() + (yes == no).mean() / 2)


def judged(verifier, rows: Sequence[dict], threshold: float) -> dict:
  """Accuracy, balanced accuracy and AUC for each source, and for all."""
  scores = np.array(
    [verifier.score(r["premise"], r["hypothesis"]) for r in rows]
  )
  labels = np.array([r["label"] for r in rows])
  named = np.array([r["source"].split("/")[0] for r in rows])
  out = {}
  for source in (*dict.fromkeys(named.tolist()), "all"):
    chosen = np.full(len(rows), True) if source == "all" else named == source
    said, label = scores[chosen] >= threshold, labels[chosen]
    rates = (said[label == 1].mean(), 1 - said[label == 0].mean())
    out[source] = {
      "pairs": int(chosen.sum()),
      "accuracy": float((said == label).mean()),
      "balanced": float(np.mean(rates)),
      "auc": auc(scores[chosen], label),
    }
  return out


def sentences(
  examples: Sequence[Example], limit: int, seed: int
) -> list[tuple[str, str]]:
  """Passages, each with a sentence of it, of 6 to 40 words."""
  pairs = [
    (doc.premise, sentence)
    for example in examples
    for doc in example.docs
    for sentence in text.rule(doc.text)
    if 6 <= len(sentence.split()) <= 40 and sentence[-1] in ".!?"
  ]
  return random.Random(seed).sample(pairs, min(limit, len(pairs)))


def perturbed(
  verifier, pairs: Sequence[tuple[str, str]], threshold: float, seed: int
) -> dict:
  """Word-for-word sentences accepted, changed ones rejected, by kind."""
  accepts = lambda pair: verifier.score(*pair) >= threshold
  out = {"verbatim": [accepts(pair) for pair in pairs]}
  for i, (premise, said) in enumerate(pairs):
    others = [pairs[(i + k) % len(pairs)][0] for k in (1, 2, 3)]
    for false in perturb.pairs(premise, said, seed, others):
      rejects = not accepts((false.premise, false.hypothesis))
      out.setdefault(false.kind, []).append(rejects)
  return {
    kind: {"count": len(right), "right": sum(right) / len(right)}
    for kind, right in out.items()
  }


def rollout(examples: Sequence[Example], seed: int) -> list[tuple[str, str]]:
  """The pairs that checking a rollout's citations asks for, no pair twice.

  Each statement is a passage's sentence with one word changed; it cites one to
  three passages, which are asked about together and without each in turn.
  """
  rng, pairs = random.Random(seed), {}
  for example in examples:
    docs = [doc.premise for doc in example.docs]
    told = [s for doc in example.docs for s in text.rule(doc.text)]
    for _ in range(GROUP * STATEMENTS):
      said = rng.choice(told).split()
      said[rng.randrange(len(said))] = f"word{rng.randrange(10**6)}"
      cited = rng.sample(docs, min(len(docs), rng.randint(1, 3)))
      shown = [cited] + [
        [doc for doc in cited if doc is not left]
        for left in cited
        if len(cited) > 1
      ]
      pairs |= {("\n".join(s), " ".join(said)): None for s in shown}
  return list(pairs)


def speed(verifier, pairs: Sequence[tuple[str, str]]) -> float:
  """New pairs per second of processor time, premises shared."""
  start = time.process_time()
  for pair in pairs:
    verifier.score(*pair)
  return len(pairs) / (time.process_time() - start)


def load_seconds() -> float:
  """Wall time of a fresh interpreter that imports the rule and asks it once."""
  code = (
    "import time; start = time.perf_counter();"
    "from grounded_jax.verifiers import lexical;"
    "lexical.Lexical(0.6)(['A b.'], ['A b.']);"
    "print(time.perf_counter() - start)"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  return float(done.stdout)


def labelled(path: str) -> list[dict]:
  """The labelled pairs of a file."""
  if not pathlib.Path(path).is_file():
    raise UserError(f"--pairs: there is no file {path!r}: give labelled pairs.")
  rows = []
  lines = pathlib.Path(path).read_text("utf-8").splitlines()
  for number, line in enumerate(lines, start=1):
    try:
      row = json.loads(line)
      rows.append(
        {k: row[k] for k in ("premise", "hypothesis", "label", "source")}
      )
    except (ValueError, KeyError, TypeError):
      raise UserError(
        f"{path} line {number} is no JSON object with premise, hypothesis,"
        " label and source."
      ) from None
  return rows


def measured() -> dict:
  """Every table, by verifier."""
  rows = labelled(_PAIRS.value) if _PAIRS.value else []
  examples: Sequence[Example] = ()
  if _RECORDS.value:
    examples, _ = sources.load(config.Source(path=_RECORDS.value), passages=5)
  if not rows and not examples:
    raise UserError("Nothing to measure: give --pairs=FILE, --records=FILE.")
  threshold, seed = _THRESHOLD.value, _SEED.value
  taken = sentences(examples, _LIMIT.value, seed)
  asked = rollout(examples[:48], seed)
  out = {}
  for verifier in (Overlap(), lexical.Lexical(threshold)):
    out[verifier.name] = {
      "sources": judged(verifier, rows, threshold) if rows else {},
      "perturbed": perturbed(verifier, taken, threshold, seed) if taken else {},
      "pairs_per_second": speed(verifier, asked) if asked else None,
    }
  out[f"lexical({threshold:g})"]["load_seconds"] = load_seconds()
  return out


def table(found: dict) -> str:
  """The measurements for people."""
  lines = []
  for name, parts in found.items():
    for source, row in parts["sources"].items():
      lines.append(
        f"{name:14} {source:14} {row['pairs']:5} pairs  accuracy"
        f" {row['accuracy']:.3f}  balanced {row['balanced']:.3f}"
        f"  AUC {row['auc']:.3f}"
      )
    for kind, row in parts["perturbed"].items():
      verdict = "accepted" if kind == "verbatim" else "rejected"
      lines.append(
        f"{name:14} {kind:14} {row['count']:5} pairs  {verdict}"
        f" {row['right']:.3f}"
      )
    if parts["pairs_per_second"]:
      lines.append(f"{name:14} {parts['pairs_per_second']:.0f} pairs/s")
    if "load_seconds" in parts:
      lines.append(f"{name:14} loads in {parts['load_seconds']:.2f} s")
  return "\n".join(lines)


def main(_) -> None:
  try:
    found = measured()
  except UserError as error:
    print(" ".join(str(error).split()), file=sys.stderr)
    sys.exit(2)
  print(json.dumps(found))
  print(table(found), file=sys.stderr)


if __name__ == "__main__":
  app.run(main)
