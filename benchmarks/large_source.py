"""Memory and time of training on a source of so many records.

    python -m benchmarks.large_source --records=1000000 --batches=50

Writes JSON lines of five passages to a temporary file, loads them as a stage
does (half of them answerable, the choice `even`), and takes batches of 16
prompts.  Prints the seconds of each part, their CPU seconds, and the process's
peak memory before and after; `file_bytes` is the file's size.
"""

import argparse
import json
import pathlib
import random
import resource
import tempfile
import time

from grounded_jax import config, pipeline, tokenizer
from grounded_jax.data import sources

_WORDS = 60  # of a passage
_PROMPTS = 16  # of a batch


def write(path: pathlib.Path, records: int) -> None:
  """Writes so many records; every third is answerable."""
  rng = random.Random(0)
  vocabulary = [f"word{i:04d}" for i in range(5000)]
  passages = [" ".join(rng.choices(vocabulary, k=_WORDS)) for _ in range(2000)]
  with path.open("w") as file:
    for number in range(records):
      docs = [
        {
          "title": f"Title {number} {i}",
          "text": rng.choice(passages),
          "answers_found": [int(number % 3 == 0 and i == 0)],
        }
        for i in range(5)
      ]
      row = {"id": f"r{number}", "dataset": "nq", "docs": docs}
      row |= {"question": f"What is {number}?", "answers": [[f"a{number}"]]}
      file.write(json.dumps(row) + "\n")


def peak() -> int:
  """The most memory that this process has had, in MB."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--records", type=int, default=100_000)
  parser.add_argument("--batches", type=int, default=50)
  parser.add_argument("--in_memory", type=int, default=20_000)
  parser.add_argument("--workers", type=int, default=0)
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "records.jsonl"
    write(path, args.records)
    out = {"records": args.records, "file_bytes": path.stat().st_size}
    out["peak_mb_before"] = peak()
    source = config.Source(
      path=str(path), answerable="even", in_memory=args.in_memory
    )
    data = config.Data(
      train=source, max_prompt_len=4096, chat=False, workers=args.workers
    )
    wall, cpu = time.perf_counter(), time.process_time()
    examples, _ = sources.load(source, data.passages)
    prompts = pipeline.Prompts(
      examples, tokenizer.Bytes(), data, 0, 0, answerable="even"
    )
    out["load_seconds"] = round(time.perf_counter() - wall, 2)
    out["load_cpu_seconds"] = round(time.process_time() - cpu, 2)
    out["peak_mb_loaded"] = peak()
    wall = time.perf_counter()
    for batch in range(args.batches):
      prompts.take(batch * _PROMPTS, _PROMPTS)
    seconds = time.perf_counter() - wall
    out["ms_a_batch"] = round(1000 * seconds / max(args.batches, 1), 2)
    out["peak_mb"] = peak()
  print(json.dumps(out))


if __name__ == "__main__":
  main()
