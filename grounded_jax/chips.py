"""What accelerators can do, by the name that the runtime gives them.

Peaks of matrix products in bfloat16, memory and its bandwidth, of one chip, as
their makers' data sheets state them (cloud.google.com/tpu/docs, 2026); what its
matrix units do in a cycle follows from their size (128 or 256 squared), and a
link's rate from jax-ml.github.io/scaling-book.
"""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
  """One device."""

  name: str
  flops: float  # operations a second, bfloat16
  memory: int  # bytes
  bandwidth: float  # bytes a second, of that memory
  # Operations of its matrix units in a cycle, from which its clock follows.
  per_cycle: int
  # Bytes a second that it gets over one axis of the torus, both ways together.
  link: float

  @property
  def clock(self) -> float:
    """Cycles a second."""
    return self.flops / self.per_cycle


CHIPS = {
  "TPU v4": Chip(
    name="v4",
    flops=275e12,
    memory=32 << 30,
    bandwidth=1.228e12,
    per_cycle=8 * 2 * 128**2,
    link=90e9,
  ),
  "TPU v5 lite": Chip(
    name="v5e",
    flops=197e12,
    memory=16 << 30,
    bandwidth=0.819e12,
    per_cycle=4 * 2 * 128**2,
    link=90e9,
  ),
  "TPU v5": Chip(
    name="v5p",
    flops=459e12,
    memory=95 << 30,
    bandwidth=2.765e12,
    per_cycle=8 * 2 * 128**2,
    link=180e9,
  ),
  "TPU v6 lite": Chip(
    name="v6e",
    flops=918e12,
    memory=32 << 30,
    bandwidth=1.64e12,
    per_cycle=4 * 2 * 256**2,
    link=180e9,
  ),
}


def find(device: Any) -> Chip | None:
  """The chip of a device, or of one that is only described."""
  return CHIPS.get(device.device_kind)


def memory(device: Any) -> int | None:
  """Bytes that a device has for arrays; None where nothing says."""
  chip = find(device)
  if chip is not None:
    return chip.memory
  return (device.memory_stats() or {}).get("bytes_limit")
