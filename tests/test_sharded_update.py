"""An update on eight simulated devices is that on one, in float64."""

import json
import os
import subprocess
import sys

import mesh_cases as cases
import pytest


def differences(*args: str) -> list[tuple[float, float]]:
  """What the cases print."""
  env = os.environ | {
    "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    "JAX_PLATFORMS": "cpu",
    "JAX_ENABLE_X64": "1",
    "PYTHONPATH": os.pathsep.join(sys.path),
  }
  out = subprocess.run(
    [sys.executable, cases.__file__, *args],
    env=env,
    capture_output=True,
    text=True,
  )
  assert out.returncode == 0, out.stderr
  return json.loads(out.stdout)


@pytest.mark.parametrize("name", cases.MESHES)
def test_the_update_on_a_mesh_is_that_of_one_device(name):
  """Tied at once, and untied with a soft cap in micro-batches."""
  for gradient, loss in differences(name):
    assert gradient < 1e-10
    assert loss < 1e-10


def test_the_packed_update_on_a_mesh_is_the_padded_one_of_one_device():
  """Of rollouts, and of preferences."""
  found = differences("all", "packed")
  assert len(found) == 2
  for gradient, loss in found:
    assert gradient < 1e-10
    assert loss < 1e-10
