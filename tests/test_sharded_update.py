"""An update on eight simulated devices is that on one, in float64."""

import json
import os
import subprocess
import sys

import mesh_cases as cases
import pytest


@pytest.mark.parametrize("name", cases.MESHES)
def test_the_update_on_a_mesh_is_that_of_one_device(name):
  """Tied at once, and untied with a soft cap in micro-batches."""
  env = os.environ | {
    "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    "JAX_PLATFORMS": "cpu",
    "JAX_ENABLE_X64": "1",
    "PYTHONPATH": os.pathsep.join(sys.path),
  }
  out = subprocess.run(
    [sys.executable, cases.__file__, name],
    env=env,
    capture_output=True,
    text=True,
  )
  assert out.returncode == 0, out.stderr
  for gradient, loss in json.loads(out.stdout):
    assert gradient < 1e-10
    assert loss < 1e-10
