"""Runs of several local processes, each with two simulated devices.

python tests/pods_cases.py run ARGUMENTS      grounded_jax.main, with a reward
                                              that gives random weights a
                                              gradient
python tests/pods_cases.py updates OUT MESH COORDINATOR PROCESSES PROCESS
"""

import dataclasses
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
DEVICES = 2  # of each process
STEPS = 6
RUN = (
  "--config=experiments/stage1.py:smoke",
  f"--config.stages.stage1.steps={STEPS}",
  "--config.stages.stage1.grpo.micro=0",
  "--config.stages.stage1.optimizer.lr=1e-3",
  "--config.model.decoder.kv_heads=4",
  "--config.evals.test.source.limit=6",
)
# A process of a run that signals itself: its number, the rollout, the signal.
SIGNALS = "PODS_SIGNALS"


def port() -> int:
  """A port that nothing listens on."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    return free.getsockname()[1]


def environment(cache: pathlib.Path, devices: int = DEVICES, **more: str):
  """That of a process; what is compiled is kept for the other runs."""
  return os.environ | {
    "JAX_PLATFORMS": "cpu",
    # Programs that run for a moment are not worth much compiling.
    "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"
    " --xla_backend_optimization_level=0",
    "JAX_COMPILATION_CACHE_DIR": str(cache),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
    **more,
  }


def start(command: list[str], env: dict[str, str]) -> subprocess.Popen:
  """One process, as a host starts it."""
  return subprocess.Popen(
    [str(ROOT / "scripts" / "run_host.sh"), sys.executable, __file__, *command],
    cwd=ROOT,
    env=env,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )


def pod(count: int, arguments: list[str], env: dict[str, str]):
  """The processes of a run, not yet ended."""
  where = f"--coordinator=localhost:{port()}"
  return [
    start(
      ["run", *arguments, where, f"--processes={count}", f"--process_id={i}"],
      env,
    )
    for i in range(count)
  ]


def ends(processes: list[subprocess.Popen]) -> list[tuple[int, str]]:
  """The exit code of each and what it told people."""
  said = [process.communicate(timeout=300)[1] for process in processes]
  return [(p.returncode, s) for p, s in zip(processes, said, strict=True)]


def run(arguments: list[str]) -> int:
  """The command line, paid by luck."""
  import jax
  import tiny

  from grounded_jax import main, train

  who, at, what = map(int, os.environ.get(SIGNALS, "-1,-1,-1").split(","))
  rollouts = []

  def score(examples, completions):
    rollouts.append(1)
    if jax.process_index() == who and len(rollouts) == at:
      os.kill(os.getpid(), signal.Signals(what))
    return tiny.varied_score(examples, completions)

  train.scorer = lambda stage, judge: score
  return main.main(arguments)


def updates(path: str, sizes: str, *pod: str) -> None:
  """Writes the parameters after three updates on one rollout."""
  import jax
  import mesh_cases
  import numpy as np

  from grounded_jax import (
    checkpoint,
    config,
    distributed,
    hosts,
    mesh,
    optim,
    tokenizer,
    train,
  )
  from grounded_jax import policy as policy_lib

  coordinator, processes, process = pod or ("", "1", "0")
  cfg = config.GRPO(prompts=16, group=2, truncated="keep", mismatch="ignore")
  tx = optim.make(config.Optimizer(lr=1e-2, warmup=0.0), 3)
  wide = "float64"
  decoder = dataclasses.replace(mesh_cases.decoder(True), vocab=264)
  model = config.Model(
    tokenizer="bytes",
    decoder=decoder,
    logp_chunk=8,
    param_dtype=wide,
    compute_dtype=wide,
  )
  joined = (coordinator, int(processes), int(process) if coordinator else None)
  with distributed.together(*joined):
    cut = config.Mesh(**dict(zip(mesh.AXES, json.loads(sizes), strict=True)))
    policy, params = policy_lib.load(
      config.Experiment(name="fixed", model=model, mesh=cut),
      tokenizer.Bytes(),
    )
    at = checkpoint.Start(
      state=optim.init(tx, params),
      like=checkpoint.describe(tx, params),
      reference=None,
    )
    state, batch = at.state, mesh_cases.rollout()
    for _ in range(3):
      state, _ = train.learn(policy, cfg, tx, state, batch, at)
    whole = jax.sharding.NamedSharding(
      policy.rows.mesh, jax.sharding.PartitionSpec()
    )
    leaves = jax.tree_util.tree_leaves_with_path(
      jax.device_put(state.params, whole)
    )
    if hosts.first():
      name = jax.tree_util.keystr
      np.savez(path, **{name(k): np.asarray(leaf) for k, leaf in leaves})


if __name__ == "__main__":
  if sys.argv[1] == "run":
    sys.exit(run(sys.argv[2:]))
  updates(*sys.argv[2:])
