"""The scripts that launch runs, with clouds and hosts that are made up."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

SCRIPTS = pathlib.Path(__file__).parents[1] / "scripts"


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
