"""Seconds that a compiled program would take on a chip that is not here.

The compiler notes the cycles that it expects of most instructions; a kernel
takes the longer of its declared operations and bytes, and what else has no note
that of its bytes.  A collective's bytes pass over one axis of the torus.

An estimate, never a measurement.
"""

import dataclasses

from grounded_jax import chips, hlo

# Passes of a collective's bytes over the links: a reduction that ends on every
# device is a scattered one and a gathering; a permutation goes one way.
_PASSES = {"all-reduce": 2, "collective-permute": 2}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
  """Seconds of one device."""

  compute: float
  waiting: float  # collectives that nothing else runs beside
  beside: float  # collectives that other work may hide

  @property
  def least(self) -> float:
    """With all hidden that other work can hide."""
    return self.waiting + max(self.compute, self.beside)

  @property
  def most(self) -> float:
    """With nothing hidden."""
    return self.waiting + self.compute + self.beside

  def table(self) -> dict[str, float]:
    """The estimate as a result to print."""
    return dataclasses.asdict(self) | {"least": self.least, "most": self.most}


def seconds(program: hlo.Program, chip: chips.Chip) -> Estimate:
  """Returns what a program takes, its loops multiplied out."""
  compute = sum(cost.times * _alone(cost, chip) for cost in program.costs)
  moved = {True: 0.0, False: 0.0}
  for cost, each in program.collectives():
    passes = _PASSES.get(each.kind, 1)
    moved[each.asynchronous] += cost.times * passes * each.bytes / chip.link
  return Estimate(compute=compute, waiting=moved[False], beside=moved[True])


def _alone(cost: hlo.Cost, chip: chips.Chip) -> float:
  """Seconds of an instruction without what it sends."""
  if cost.cycles is not None:
    return cost.cycles / chip.clock
  if cost.collectives:
    return 0.0
  work = cost.work
  return max(work.flops / chip.flops, work.main / chip.bandwidth)
