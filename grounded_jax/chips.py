"""What accelerators can do, by the name that the runtime gives them.

Peaks of matrix products in bfloat16, memory and its bandwidth, of one chip, as
their makers' data sheets state them (cloud.google.com/tpu/docs, 2026).
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


_CHIPS = {
  "TPU v4": Chip(name="v4", flops=275e12, memory=32 << 30, bandwidth=1.228e12),
  "TPU v5 lite": Chip(
    name="v5e", flops=197e12, memory=16 << 30, bandwidth=0.819e12
  ),
  "TPU v5": Chip(name="v5p", flops=459e12, memory=95 << 30, bandwidth=2.765e12),
  "TPU v6 lite": Chip(
    name="v6e", flops=918e12, memory=32 << 30, bandwidth=1.64e12
  ),
}


def find(device: Any) -> Chip | None:
  """The chip of a device, or of one that is only described."""
  return _CHIPS.get(device.device_kind)


def memory(device: Any) -> int | None:
  """Bytes that a device has for arrays; None where nothing says."""
  chip = find(device)
  if chip is not None:
    return chip.memory
  return (device.memory_stats() or {}).get("bytes_limit")
