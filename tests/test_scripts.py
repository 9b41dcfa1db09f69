"""The scripts that launch runs, with clouds and hosts that are made up."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

SCRIPTS = pathlib.Path(__file__).parents[1] / "scripts"
# Notes what it is asked, and answers with the next line of the file of that
# name, a command; the last line answers from then on.
GCLOUD = r"""#!/usr/bin/env bash
case "$*" in
  *queued-resources\ create*) what=create ;;
  *queued-resources\ describe*) what=queued ;;
  *queued-resources\ delete*) what=delete ;;
  *tpu-vm\ describe*) what=state ;;
  *tpu-vm\ scp*) what=scp ;;
  *run_host.sh*) what=start ;;
  *tail*) what=tail ;;
  *constraints.txt*) what=install ;;
  *tar*) what=tar ;;
  *) what=codes ;;
esac
echo "$what" >>"$FAKE/asked"
for command; do :; done
command="${command#--command=}"
[ -f "$FAKE/$what" ] || exit 0
answer=$(head -n 1 "$FAKE/$what")
if [ "$(wc -l <"$FAKE/$what")" -gt 1 ]; then sed -i 1d "$FAKE/$what"; fi
cd "$HOME"
eval "$answer"
"""
MISSING = (
  "echo \"ERROR: NOT_FOUND: Resource 'projects/p/locations/z/nodes/pod' was"
  ' not found." >&2; exit 1'
)
OFFLINE = "echo 'ERROR: Unable to reach the server.' >&2; exit 1"
ON_HOST = 'bash -c "$command"'
DEAD = "99999999"  # no process has this number


def program(path: pathlib.Path, text: str) -> None:
  path.parent.mkdir(exist_ok=True)
  path.write_text(text)
  path.chmod(0o755)


class Cloud:
  """A gcloud, with a host whose home is a folder."""

  def __init__(self, root: pathlib.Path):
    self.root, self.home = root, root / "home"
    self.checkout = self.home / "grounded_jax"
    self.checkout.mkdir(parents=True)
    program(root / "bin" / "gcloud", GCLOUD)
    for name in ("sleep", "git"):
      program(root / "bin" / name, "#!/bin/sh\n")
    self.answers(create=["true"], queued=["echo ACTIVE"], state=["echo READY"])

  def answers(self, **lines: list[str]) -> None:
    for what, commands in lines.items():
      (self.root / what).write_text("".join(c + "\n" for c in commands))

  def asked(self) -> list[str]:
    asked = self.root / "asked"
    return asked.read_text().split() if asked.exists() else []

  def pod(
    self, steps: str, *options: str, run: tuple[str, ...] = ("--config=c.py",)
  ) -> subprocess.CompletedProcess:
    command = [SCRIPTS / "tpu_pod.sh", "pod", "--bucket=gs://b/d"]
    return subprocess.run(
      [*command, f"--steps={steps}", *options, "--", *run],
      env=os.environ
      | {
        "PATH": f"{self.root / 'bin'}:{os.environ['PATH']}",
        "FAKE": str(self.root),
        "HOME": str(self.home),
      },
      capture_output=True,
      text=True,
      timeout=30,
    )


@pytest.fixture
def cloud(tmp_path):
  return Cloud(tmp_path)


def test_dry_run_prints_every_command_and_runs_none(cloud):
  steps = "create,install,start,follow,delete"
  done = cloud.pod(steps, "--dry-run", "--spot", "--zone=z", "--project=p")
  assert done.returncode == 0, done.stderr
  assert not cloud.asked()
  for words in (
    "queued-resources create pod --project=p --zone=z",
    "queued-resources describe",
    "git archive",
    "tpu-vm scp",
    "constraints.txt",
    "run_host.sh",
    "tail",
    "run.code",
    "queued-resources delete",
  ):
    assert words in done.stderr.replace("\\", ""), words


def test_create_outlasts_a_describe_that_fails(cloud):
  cloud.answers(queued=["exit 1", "echo PROVISIONING", "echo ACTIVE"])
  done = cloud.pod("create")
  assert done.returncode == 0, done.stderr
  assert cloud.asked() == ["create", "queued", "queued", "queued"]


@pytest.mark.parametrize("state", ["FAILED", "SUSPENDED"])
def test_create_ends_where_no_slice_comes(cloud, state):
  cloud.answers(queued=[f"echo {state}"])
  done = cloud.pod("create")
  assert done.returncode
  assert f"pod is {state}" in done.stderr


def test_bucket_may_end_with_a_slash(cloud):
  done = cloud.pod("start,copy", "--bucket=gs://b/", "--dry-run")
  assert "gs://b/pod" in done.stderr
  assert "gs://b/compiled" in done.stderr
  assert "gs://b//" not in done.stderr


@pytest.mark.parametrize(
  "words", [["--workdir=x"], ["--workdir", "x"], ["-workdir=x"]]
)
def test_workdir_is_refused(cloud, words):
  done = cloud.pod("start", run=("--config=c.py", *words))
  assert done.returncode == 2
  assert "--workdir" in done.stderr and "--bucket" in done.stderr
  assert not cloud.asked()


def test_install_needs_no_python_of_the_host(cloud):
  uv = '#!/bin/sh\necho "$@" >>"$FAKE/uv"\n'
  program(
    cloud.root / "bin" / "curl",
    f"""#!/bin/sh
cat <<'END'
mkdir -p "$UV_UNMANAGED_INSTALL"
cat >"$UV_UNMANAGED_INSTALL/uv" <<'UV'
{uv}UV
chmod +x "$UV_UNMANAGED_INSTALL/uv"
END
""",
  )
  program(cloud.root / "bin" / "python3", "#!/bin/sh\nexit 1\n")
  cloud.answers(install=[ON_HOST])
  done = cloud.pod("install")
  assert done.returncode == 0, done.stderr
  venv, packages = (cloud.root / "uv").read_text().splitlines()
  assert venv.startswith("venv") and ">=3.11" in venv
  assert packages.endswith("-c constraints.txt -e .[tpu,gcs]")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("slow", ["0", "0.5"])
def test_a_signal_lets_the_run_save(tmp_path, number, slow):
  child = f"""
import signal, sys, time
def save(*_):
  time.sleep({slow})
  sys.exit(75)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep(20)
"""
  process = subprocess.Popen(
    [SCRIPTS / "run_host.sh", sys.executable, "-c", child],
    stdout=subprocess.PIPE,
    env=os.environ | {"CODE_FILE": str(tmp_path / "code")},
    # A shell cannot trap what was ignored before it.
    preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
  )
  assert process.stdout.readline() == b"ready\n"
  process.send_signal(number)
  assert process.wait(timeout=10) == 75
  assert (tmp_path / "code").read_text() == "75\n"


def test_xpk_restarts_what_asks_for_it():
  manifest = (SCRIPTS / "jobset.yaml").read_text()
  command = manifest.split("xpk workload create")[1].split("#\n")[0]
  assert "--restart-on-exit-codes=75" in command
