"""A run of several processes is that of one, and ends and resumes as one."""

import json
import signal

import numpy as np
import pods_cases as cases
import pytest

from grounded_jax import checkpoint, log, main

pytestmark = pytest.mark.slow
WIDE = {"JAX_ENABLE_X64": "1"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def alone(tmp_path_factory, cache):
  """The workdir of a run of one process with one device."""
  workdir = tmp_path_factory.mktemp("alone")
  env = cases.environment(cache, devices=1)
  (end,) = cases.ends(
    [cases.start(["run", *cases.RUN, f"--workdir={workdir}"], env)]
  )
  assert end[0] == 0, end[1]
  return workdir


@pytest.fixture(scope="module")
def updated(tmp_path_factory, cache):
  """The parameters after three updates by one process with one device."""
  path = tmp_path_factory.mktemp("updated") / "one.npz"
  one = cases.start(
    ["updates", str(path), "[1, 1, 1]"],
    cases.environment(cache, devices=1, **WIDE),
  )
  ((code, said),) = cases.ends([one])
  assert code == 0, said
  return np.load(path)


def pod(workdir, cache, *arguments, signals=""):
  """A run of two processes, in their order."""
  env = cases.environment(cache, **{cases.SIGNALS: signals or "-1,-1,-1"})
  command = [*cases.RUN, f"--workdir={workdir}", *arguments]
  return cases.pod(2, command, env)


def assert_same_run(workdir, other):
  """The same prompts, completions, rewards, metrics and scores."""
  for folder in ("rollouts", "eval"):
    names = sorted(path.name for path in (other / folder).iterdir())
    assert names == sorted(path.name for path in (workdir / folder).iterdir())
  for path in sorted((other / "rollouts").iterdir()):
    assert log.read_jsonl(workdir / "rollouts" / path.name) == log.read_jsonl(
      path
    )
  ours, theirs = log.read_metrics(workdir), log.read_metrics(other)
  assert [row["step"] for row in ours] == list(range(1, cases.STEPS + 1))
  assert all(row["grad_norm"] > 0 for row in theirs)
  for row, wanted in zip(ours, theirs, strict=True):
    assert row.keys() == wanted.keys()
    for name, value in wanted.items():
      if name.startswith(("reward", "eval/", "grad_norm", "completion")):
        assert row[name] == pytest.approx(value, rel=1e-3, abs=1e-6), name
  for path in sorted((other / "eval").glob("*.json")):
    ours, theirs = (
      log.read_json(workdir / "eval" / path.name),
      log.read_json(path),
    )
    assert ours["trust"] == theirs["trust"]
    assert ours["meta"]["hashes"]["data"] == theirs["meta"]["hashes"]["data"]


@pytest.mark.parametrize(
  ("processes", "sizes"),
  [
    pytest.param(2, [1, 1, 4], id="whose-layers-are-cut-across-two"),
    pytest.param(4, [2, 2, 2], id="whose-prompts-are-cut-across-four"),
  ],
)
def test_three_updates_are_those_of_one_process(
  tmp_path, cache, updated, processes, sizes
):
  """On fixed rollouts."""
  where = f"localhost:{cases.port()}"
  many = [
    cases.start(
      [
        *("updates", str(tmp_path / "many.npz"), json.dumps(sizes)),
        *(where, str(processes), str(i)),
      ],
      cases.environment(cache, **WIDE),
    )
    for i in range(processes)
  ]
  for code, said in cases.ends(many):
    assert code == 0, said
  found = np.load(tmp_path / "many.npz")
  assert found.files == updated.files
  for name, want in updated.items():
    np.testing.assert_allclose(found[name], want, rtol=0, atol=1e-5)


def test_a_lost_process_ends_the_others_and_the_restart_resumes(
  tmp_path, cache, alone
):
  processes = pod(tmp_path, cache, signals=f"1,3,{int(signal.SIGKILL)}")
  assert cases.seconds_after(*processes) < 60
  ends = cases.ends(processes)
  assert [code for code, _ in ends] == [main.RESTART, 128 + signal.SIGKILL]
  assert "Another process of this run was lost" in ends[0][1]
  # That of step 2 may have been under way: then it does not count.
  assert checkpoint.steps(tmp_path, "stage1")[-1] in (1, 2)
  for code, said in cases.ends(pod(tmp_path, cache)):
    assert code == 0, said
  assert_same_run(tmp_path, alone)


def test_sigterm_to_one_process_saves_the_step_of_all(tmp_path, cache, alone):
  """The rest is done by one process, on another mesh."""
  processes = pod(
    tmp_path,
    cache,
    *("--config.mesh.fsdp=1", "--config.mesh.tensor=4"),
    "--config.stages.stage1.save_every=100",
    signals=f"1,2,{int(signal.SIGTERM)}",
  )
  ends = cases.ends(processes)
  assert [code for code, _ in ends] == [main.RESTART] * 2, ends
  (saved,) = checkpoint.steps(tmp_path, "stage1")
  assert 2 <= saved < cases.STEPS
  for _, said in ends:
    assert f"stage1 is saved after step {saved}" in said
  env = cases.environment(cache, devices=1)
  rest = cases.start(["run", *cases.RUN, f"--workdir={tmp_path}"], env)
  ((code, said),) = cases.ends([rest])
  assert code == 0, said
  assert_same_run(tmp_path, alone)


def test_sigterm_to_a_process_alone_is_a_checkpoint(tmp_path, cache, alone):
  signals = {cases.SIGNALS: f"0,2,{int(signal.SIGTERM)}"}
  env = cases.environment(cache, devices=1, **signals)
  command = ["run", *cases.RUN, f"--workdir={tmp_path}"]
  ((code, said),) = cases.ends([cases.start(command, env)])
  assert (code, checkpoint.steps(tmp_path, "stage1")[-1]) == (main.RESTART, 2)
  assert "stage1 is saved after step 2" in said


def test_a_checkpoint_holds_the_same_bits_on_every_mesh(tmp_path, cache):
  """From eight devices to eight otherwise, and to one; the optimiser's too."""
  env = cases.environment(cache, devices=8)
  ((code, said),) = cases.ends([cases.start(["moved", str(tmp_path)], env)])
  assert code == 0, said
  assert checkpoint.steps(tmp_path, "only") == [1, 2, 3, 4]


def test_no_prompt_of_an_epoch_is_drawn_twice_or_left_out(alone):
  """What pods draw is what `alone` draws, on other numbers of processes."""
  steps = [log.read_jsonl(path) for path in (alone / "rollouts").iterdir()]
  drawn = [dict.fromkeys(row["id"] for row in rows) for rows in steps]
  assert [len(names) for names in drawn] == [4] * cases.STEPS
  # 23 prompts an epoch, 24 draws.
  assert len({name for names in drawn for name in names}) == 23
