"""Seconds of compiled programs on chips that are not here."""

import pytest

from grounded_jax import chips, estimate, hlo

CHIP = chips.Chip(
  name="x",
  flops=1000.0,
  memory=1,
  bandwidth=100.0,
  per_cycle=10,
  link=50.0,
)  # 100 cycles a second
HEAD = "HloModule m\nENTRY %main (p: f32[25]) -> f32[25] {\n"
PARAMETER = "  %p = f32[25]{0} parameter(0)\n"


def of(*lines: str) -> estimate.Estimate:
  text = HEAD + PARAMETER + "".join(f"  {line}\n" for line in lines) + "}"
  return estimate.seconds(hlo.analyse(text), CHIP)


def test_noted_cycles_are_seconds_by_the_clock():
  noted = 'backend_config={"estimated_cycles":"250"}'
  assert of(f"ROOT %a = f32[25]{{0}} negate(%p), {noted}").compute == 2.5


def test_an_instruction_without_note_takes_its_bytes():
  found = of("ROOT %a = f32[25]{0} negate(%p)")
  assert found.compute == 200 / 100.0  # 100 bytes read, 100 written


def test_a_sum_over_devices_passes_twice_and_is_waited_for():
  found = of("ROOT %a = f32[25]{0} all-reduce(%p), to_apply=%sum")
  assert (found.waiting, found.beside) == (2 * 100 / 50.0, 0)


def test_a_begun_gathering_may_hide_behind_other_work():
  noted = 'backend_config={"estimated_cycles":"300"}'
  found = of(
    "%s = (f32[25]{0}, f32[50]{0}) all-gather-start(%p), dimensions={0}",
    f"%n = f32[25]{{0}} negate(%p), {noted}",
    "ROOT %d = f32[50]{0} all-gather-done(%s)",
  )
  assert found.beside == 200 / 50.0
  assert found.least == found.waiting + 4.0  # the longer of 3 and 4
  assert found.most == found.waiting + found.compute + 4.0


def test_matrix_units_and_clocks_agree_with_the_peaks():
  """Clocks of about 1.05, 1.5 and 1.75 GHz."""
  for chip in chips.CHIPS.values():
    assert 0.9e9 < chip.clock < 1.8e9


def test_a_device_that_nobody_knows_has_the_memory_that_it_says():
  class Device:
    device_kind = "cpu"

    def memory_stats(self):
      return {"bytes_limit": 7}

  assert chips.memory(Device()) == 7
  assert chips.find(Device()) is None


def test_a_large_product_takes_about_the_cycles_of_the_matrix_units(
  monkeypatch,
):
  """The compiler expects 65 to 100% of the peak, by chip."""
  pytest.importorskip("libtpu", reason="needs the extra [tpu]")
  for name, value in (
    ("TPU_SKIP_MDS_QUERY", "1"),
    ("TPU_ACCELERATOR_TYPE", "v5litepod-4"),
    ("TPU_WORKER_HOSTNAMES", "localhost"),
  ):
    monkeypatch.setenv(name, value)
  import jax
  import jax.numpy as jnp

  from grounded_jax import aot, config

  n = 8192
  for topology in ("v5e:2x2", "v5p:2x2x1", "v6e:2x2"):
    devices = aot.mesh(topology, config.Mesh())
    one = jax.sharding.SingleDeviceSharding(devices.devices.flat[0])
    x = jax.ShapeDtypeStruct((n, n), jnp.bfloat16, sharding=one)
    program = aot.compile(jax.jit(jnp.matmul).lower(x, x))
    chip = chips.find(devices.devices.flat[0])
    found = estimate.seconds(program.counts, chip).compute
    assert 0.65 < 2 * n**3 / chip.flops / found <= 1
