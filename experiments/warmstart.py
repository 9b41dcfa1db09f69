"""How the embedded warm-start policies were made: from nothing, on lessons.

    python -m grounded_jax.main --config=experiments/warmstart.py:SEED

Supervised stages in the embedded world (grounded_jax/lessons.py): copy passages
and look single facts up; read five passages, answer, cite and refuse rightly,
at a constant and at a falling rate; then the same reading with careless answers
(data/warmstart.py states the habits).  What the last stage ends with becomes
"warmstart:SEED" by

    python -c "from experiments import warmstart; warmstart.ship(SEED)"

Cost: 37 minutes on two CPU cores with a second such run beside it.  Result: 98%
of looked-up things and 93 to 100% of their passages are right on test names.
"""

import jax

from configs import embedded
from grounded_jax import checkpoint, config, files, weights
from grounded_jax import model as model_lib

DECODER = config.Decoder(
  layers=4,
  embed=128,
  mlp=320,
  heads=4,
  kv_heads=4,
  head_dim=64,
  rope_theta=100_000.0,
  vocab=723,
)


def get_config(arg: str = "") -> config.Experiment:
  seed = embedded.seed_of("warmstart", arg)
  return config.Experiment(
    name=f"warmstart-{seed}",
    seed=seed,
    model=config.Model(tokenizer="world", decoder=DECODER, logp_chunk=8192),
    data=embedded.data(seed),
    stages=(
      stage(
        "copy", 400, 24, 4e-3, "constant", passages=2, recitals=2, mixed=0.0
      ),
      stage("read", 650, 16, 3e-3, "constant", mixed=0.4),
      stage("settle", 250, 16, 3e-3, mixed=0.4),
      stage("careless", 100, 16, 1e-3, demonstrations="careless", mixed=0.4),
    ),
    evals=embedded.evals(seed),
  )


def stage(
  name: str,
  steps: int,
  prompts: int,
  lr: float,
  schedule: str = "linear",
  demonstrations: str = "clean",
  **lesson,
) -> config.Stage:
  return config.Stage(
    name=name,
    objective="sft",
    steps=steps,
    sft=config.SFT(
      prompts=prompts,
      group=4,
      max_new_tokens=48,
      demonstrations=demonstrations,
      **lesson,
    ),
    optimizer=config.Optimizer(
      kind="muon", lr=lr, schedule=schedule, warmup=0.03, b2=0.98
    ),
    save_every=100,
  )


def ship(seed: int, workdir: str = "") -> None:
  """Writes the finished run's policy where "warmstart:SEED" is looked for."""
  _, params = model_lib.init(DECODER, jax.random.key(0), "float32")
  origin = checkpoint.find(workdir or f"runs/warmstart-{seed}")
  params = checkpoint.restore_params(origin, checkpoint.abstract(params))
  weights.save(files.WARMSTART / str(seed), DECODER, params)
