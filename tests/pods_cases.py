"""Runs of several local processes, each with two simulated devices.

python tests/pods_cases.py run ARGUMENTS      grounded_jax.main, with a reward
                                              that gives random weights a
                                              gradient
python tests/pods_cases.py updates OUT MESH COORDINATOR PROCESSES PROCESS
python tests/pods_cases.py moved FOLDER       a checkpoint from mesh to mesh
"""

import dataclasses
import json
import math
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

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


def seconds_after(process: subprocess.Popen, other: subprocess.Popen) -> float:
  """How long a process lives on once the other has ended."""
  other.wait(timeout=300)
  began = time.monotonic()
  process.wait(timeout=300)
  return time.monotonic() - began


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
    cut = config.PolicyMesh(
      **dict(zip(mesh.AXES, json.loads(sizes), strict=True))
    )
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


def moved(folder: str) -> None:
  """A checkpoint of eight devices is, on any mesh, the same bits."""
  import jax
  import mesh_cases
  import numpy as np

  from grounded_jax import checkpoint, config, mesh, model, optim

  decoder = mesh_cases.decoder(False)
  tx = optim.make(config.Optimizer(kind="muon"), 3)
  _, params = model.init(decoder, jax.random.key(0), "float32")
  axes = model.logical_axes(decoder)
  rng = np.random.default_rng(0)  # moments that are not zero

  def noisy(x):
    x = np.asarray(x)
    return rng.normal(size=x.shape).astype(x.dtype) if x.ndim else x

  before = jax.tree.map(noisy, jax.device_get(optim.init(tx, params)))
  for done, sizes in enumerate([(1, 8, 1), (2, 4, 1), (2, 2, 2), (1, 1, 1)]):
    devices = np.array(jax.devices()[: math.prod(sizes)]).reshape(sizes)
    here = jax.sharding.Mesh(devices, mesh.AXES)
    blank = jax.tree.map(jax.numpy.zeros_like, params)
    blank = jax.device_put(blank, mesh.shardings(here, axes, params))
    with checkpoint.open_manager(pathlib.Path(folder), "only", 9) as manager:
      at = checkpoint.begin(manager, tx, blank, with_reference=False)
      assert (at.step, at.cursor) == (done, 10 * done)
      state = at.state
      if not done:
        put = lambda x, to: jax.device_put(x, to.sharding)
        state = jax.tree.map(put, before, at.like)
      jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(state))
      leaves, likes = map(jax.tree.leaves, (state, at.like))
      for leaf, like in zip(leaves, likes, strict=True):
        assert leaf.sharding == like.sharding
      step = done + 1
      checkpoint.save(
        *(manager, state),
        step=step,
        total_steps=9,
        cursor=10 * step,
        config={},
      )


if __name__ == "__main__":
  if sys.argv[1] == "run":
    sys.exit(run(sys.argv[2:]))
  {"updates": updates, "moved": moved}[sys.argv[1]](*sys.argv[2:])
