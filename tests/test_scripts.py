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


def test_follow_shows_the_log_of_the_first_host(cloud):
  (cloud.checkout / "run.log").write_text("step 1\n")
  (cloud.checkout / "run.pid").write_text(DEAD)
  (cloud.checkout / "run.code").write_text("0\n")
  cloud.answers(tail=[ON_HOST], codes=[ON_HOST])
  done = cloud.pod("follow")
  assert done.returncode == 0, done.stderr
  assert done.stdout == "step 1\n"


def test_a_run_that_was_ended_goes_on(cloud):
  program(
    cloud.checkout / "bin" / "python",
    """#!/bin/sh
echo "$JAX_COMPILATION_CACHE_DIR $*"
if [ ! -f saved ]; then touch saved; exit 75; fi
""",
  )
  (cloud.checkout / ".venv" / "bin").mkdir(parents=True)
  activate = cloud.checkout / ".venv" / "bin" / "activate"
  activate.write_text('PATH="$PWD/bin:$PATH"\n')
  (cloud.checkout / "scripts").symlink_to(SCRIPTS)
  cloud.answers(start=[ON_HOST], tail=[ON_HOST], codes=[ON_HOST])
  done = cloud.pod("start,follow", run=("--config.note=two words",))
  assert done.returncode == 0, done.stderr
  says = "gs://b/d/compiled -u -m grounded_jax.main --config.note=two words"
  assert done.stdout == f"{says} --workdir=gs://b/d/pod\n" * 2
  assert "The hosts say: 1 75\n" in done.stderr


@pytest.mark.parametrize("outage", [[OFFLINE] * 3, ["echo REPAIRING"] * 3, []])
def test_an_outage_leaves_the_slice_and_the_run_as_they_are(cloud, outage):
  cloud.answers(
    codes=["exit 255"] * 4 + ["echo 0"], state=[*outage, "echo READY"]
  )
  done = cloud.pod("follow", "--restarts=1")
  assert done.returncode == 0, done.stderr
  assert not {"create", "delete", "start"} & set(cloud.asked())


@pytest.mark.parametrize(
  "gone", [MISSING, "echo PREEMPTED", "echo TERMINATED", "echo SUSPENDED"]
)
def test_a_slice_that_was_taken_away_is_made_anew(cloud, gone):
  cloud.answers(
    codes=["exit 255", "echo 0"], state=[gone], queued=["exit 1", "echo ACTIVE"]
  )
  done = cloud.pod("follow")
  assert done.returncode == 0, done.stderr
  made = [a for a in cloud.asked() if a not in ("codes", "tail", "state")]
  remade = "delete create queued queued scp tar install start"
  assert made == remade.split()


def test_an_install_that_fails_is_tried_again(cloud):
  cloud.answers(
    codes=["exit 255", "exit 1", "echo 0"],
    state=["echo PREEMPTED", "echo READY"],
    install=["exit 1", "true"],
  )
  done = cloud.pod("follow")
  assert done.returncode == 0, done.stderr
  assert cloud.asked().count("create") == 1
  assert cloud.asked().count("install") == 2
  assert cloud.asked().count("start") == 1


@pytest.mark.parametrize(
  "then, starts",
  [
    (["printf '75\\nrunning\\n'"], 2),  # one waits for the other
    (["echo running"], 1),  # only the answer was lost
    (["exit 255", "echo running"], 1),
  ],
)
def test_a_start_that_fails_is_tried_again(cloud, then, starts):
  cloud.answers(codes=["echo 75", *then, "echo 0"], start=["exit 1", "true"])
  done = cloud.pod("follow")
  assert done.returncode == 0, done.stderr
  assert cloud.asked().count("start") == starts


@pytest.mark.parametrize(
  "codes", ["echo running", "printf '0\\nrunning\\n'", "echo 0; exit 255"]
)
def test_a_healthy_run_is_not_started_again(cloud, codes):
  cloud.answers(codes=[codes] * 5 + ["echo 0"])
  done = cloud.pod("follow", "--restarts=1")
  assert done.returncode == 0, done.stderr
  assert not {"create", "start"} & set(cloud.asked())


@pytest.mark.parametrize("code", ["75", "gone"])
def test_hosts_that_ended_start_again(cloud, code):
  cloud.answers(codes=[f"printf '75\\n{code}\\n'", "echo 0"])
  done = cloud.pod("follow")
  assert done.returncode == 0, done.stderr
  assert cloud.asked().count("start") == 1
  assert "create" not in cloud.asked()


def test_a_host_that_hangs_holds_the_others_up_for_a_while(cloud):
  cloud.answers(codes=["printf '75\\nrunning\\n'"] * 11 + ["echo 0"])
  done = cloud.pod("follow")
  assert done.returncode == 0, done.stderr
  assert cloud.asked().count("start") == 1
  assert cloud.asked().count("codes") == 12


@pytest.mark.parametrize(
  "files, says",
  [
    ({"run.pid": DEAD, "run.code": "75\n"}, "1 75"),
    ({"run.pid": DEAD}, "1 gone"),
    ({}, "1 gone"),
  ],
)
def test_what_a_host_says(cloud, files, says):
  for name, text in files.items():
    (cloud.checkout / name).write_text(text)
  cloud.answers(codes=[ON_HOST])
  done = cloud.pod("follow", "--restarts=0")
  assert f"The hosts say: {says}\n" in done.stderr


def test_a_host_that_runs_says_so(cloud):
  with subprocess.Popen(["sleep", "60"], start_new_session=True) as process:
    (cloud.checkout / "run.pid").write_text(str(process.pid))
    cloud.answers(codes=[ON_HOST, "echo 0"])
    done = cloud.pod("follow")
    process.kill()
  assert "The hosts say: 1 running\n" in done.stderr


def test_giving_up_says_that_the_slice_exists(cloud):
  cloud.answers(codes=["echo 75"])
  done = cloud.pod("follow", "--restarts=2", "--zone=z")
  assert done.returncode == 2
  assert cloud.asked().count("start") == 2
  assert "did not end within 3 starts" in done.stderr
  assert "still exists" in done.stderr
  assert (
    "gcloud compute tpus queued-resources delete pod --zone=z --force --quiet"
    in done.stderr
  )


def test_a_failure_of_the_program_is_not_mended(cloud):
  cloud.answers(codes=["printf '1\\n75\\n'"])
  done = cloud.pod("follow")
  assert done.returncode == 2
  assert "The run failed" in done.stderr
  assert "start" not in cloud.asked()


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
