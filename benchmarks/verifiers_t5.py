"""Pairs per second of T5 verifiers with random weights, by size.

  python benchmarks/verifiers_t5.py --sizes=small,base --pairs=64

Prints one JSON object a size: pairs per second of wall and of CPU time after a
first call, that call's seconds (it compiles), the shapes compiled, and the
largest memory of the process so far.  Random weights take the time of real
ones; a small SentencePiece model stands for T5's own, and texts have words for
about `--tokens` pieces.
"""

import argparse
import io
import json
import pathlib
import resource
import tempfile
import time

import jax
import numpy as np
import sentencepiece

from grounded_jax import config, t5, weights
from grounded_jax.verifiers import t5 as verifier_lib

WORDS = "the a cat sat on mat in a city where rivers run through towers".split()


def write_tokenizer(path: pathlib.Path) -> None:
  """A SentencePiece model of these words, laid out as T5's."""
  stream, rng = io.BytesIO(), np.random.default_rng(0)
  lines = [" ".join(rng.choice(WORDS, 12)) for _ in range(300)]
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(lines + ["1", "0"] * 200),
    model_writer=stream,
    vocab_size=90,
    user_defined_symbols=["\u25811", "\u25810"],
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    hard_vocab_limit=False,
    minloglevel=2,
  )
  (path / "spiece.model").write_bytes(stream.getvalue())


def texts(verifier: verifier_lib.T5, count: int, tokens: int):
  """Premises and hypotheses of together about so many pieces."""
  rng = np.random.default_rng(0)
  words = [" ".join(rng.choice(WORDS, tokens)) for _ in range(2 * count)]
  pieces = sum(map(len, verifier.pieces(words))) / len(words)
  cut = lambda text, share: " ".join(
    text.split()[: int(share * tokens * tokens / pieces)]
  )
  # Around the mean length, as passages are; a hypothesis is a sentence.
  spread = rng.uniform(0.7, 1.1, count)
  return (
    [
      cut(text, 0.85 * s) for text, s in zip(words[:count], spread, strict=True)
    ],
    [cut(text, 0.1) for text in words[count:]],
  )


def measure(size: str, count: int, tokens: int, batch_tokens: int) -> dict:
  """One size: what it takes to judge so many pairs."""
  shape = t5.sized(size)
  with tempfile.TemporaryDirectory() as name:
    path = pathlib.Path(name)
    _, params = t5.init(shape, jax.random.key(0))
    weights.save_t5(path, shape, params)
    del params
    write_tokenizer(path)
    start = time.perf_counter()
    verifier = verifier_lib.T5(
      config.Verifier(kind="t5", path=name, batch_tokens=batch_tokens)
    )
    loaded = time.perf_counter() - start
    premises, hypotheses = texts(verifier, count, tokens)
    asked = map(verifier_lib.text, premises, hypotheses)
    mean = np.mean([len(ids) for ids in verifier.pieces(list(asked))])
    start = time.perf_counter()
    verifier(premises, hypotheses)
    first = time.perf_counter() - start
    start, cpu = time.perf_counter(), time.process_time()
    verifier(premises, hypotheses)
    wall, used = time.perf_counter() - start, time.process_time() - cpu
  return {
    "size": size,
    "device": jax.devices()[0].device_kind,
    "dtype": verifier.dtype,
    "pairs": count,
    "mean_tokens": mean,
    "load_seconds": loaded,
    "first_call_seconds": first,
    "pairs_per_second": count / wall,
    "pairs_per_cpu_second": count / used,
    "shapes": sorted(verifier.shapes),
    "peak_rss_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
  }


def main() -> None:
  """Reads the flags and prints a line a size."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--sizes", default="small,base")
  parser.add_argument("--pairs", type=int, default=64)
  parser.add_argument("--tokens", type=int, default=256)
  parser.add_argument("--batch_tokens", type=int, default=8192)
  flags = parser.parse_args()
  for size in flags.sizes.split(","):
    result = measure(size, flags.pairs, flags.tokens, flags.batch_tokens)
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
  main()
