"""What a compiled program computes and moves, loops multiplied out.

XLA's `cost_analysis` counts a loop's body once; here every instruction counts
as often as the loops around it run.  The number of runs is what the compiler
notes, or follows from the loop's condition; where it depends on data it is
unknown, and the loop counts once unless the caller says otherwise.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from grounded_jax import hlo_cost, hlo_text

COLLECTIVES = (
  "all-gather",
  "all-reduce",
  "all-to-all",
  "collective-permute",
  "reduce-scatter",
)
# What passes an array on whole, cut, gathered or in another order.
_PASSES = frozenset(
  "all-gather bitcast collective-permute convert copy dynamic-slice opt-barrier"
  " reshape slice transpose".split()
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loop:
  """A while loop."""

  name: str
  source: str  # the traced operation
  around: tuple[str, ...]  # names of the loops it stands in, outermost first
  trips: int | None  # runs of its body; None = unknown, counted once
  runs: int  # of its body in the whole program


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
  """One communication between devices."""

  kind: str
  bytes: int  # of one device: what it gives or what it gets, the larger
  argument: str  # of the program, whose content is moved; "" = of none
  asynchronous: bool  # it is begun, and other work done until it is waited for


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
  """One instruction outside fusions."""

  name: str
  opcode: str
  source: str
  loops: tuple[str, ...]  # around it, outermost first
  times: int  # that it runs
  work: hlo_cost.Work  # of one run
  cycles: (
    int | None
  )  # of one run, as the compiler estimates; None = it does not
  collectives: tuple[Collective, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
  """What a compiled program does on one device."""

  costs: tuple[Cost, ...]
  loops: tuple[Loop, ...]

  def total(self) -> hlo_cost.Work:
    """The work of all instructions, each as often as it runs."""
    total = hlo_cost.Work()
    for cost in self.costs:
      total = total.plus(cost.work, cost.times)
    return total

  def collectives(self) -> Iterator[tuple[Cost, Collective]]:
    """Each communication, with the instruction that it is part of."""
    for cost in self.costs:
      for collective in cost.collectives:
        yield cost, collective

  def inside(self, name: str) -> "Program":
    """One run of a loop's body."""
    (runs,) = (loop.runs for loop in self.loops if loop.name == name)
    return Program(
      costs=tuple(
        dataclasses.replace(cost, times=cost.times // runs)
        for cost in self.costs
        if name in cost.loops
      ),
      loops=tuple(
        dataclasses.replace(loop, runs=loop.runs // runs)
        for loop in self.loops
        if name in loop.around
      ),
    )

  def table(self) -> dict[str, Any]:
    """The totals, and the collectives of each kind, for reports."""
    kinds = {}
    for cost, collective in self.collectives():
      each = kinds.setdefault(collective.kind, {"count": 0, "bytes": 0})
      each["count"] += cost.times
      each["bytes"] += cost.times * collective.bytes
    return dataclasses.asdict(self.total()) | {
      "collectives": kinds,
      "loops_of_unknown_length": [
        loop.name for loop in self.loops if loop.trips is None
      ],
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Frame:
  """A computation that runs, and from where."""

  computation: hlo_text.Computation
  caller: hlo_text.Instruction | None = None
  parent: "_Frame | None" = None
  loops: tuple[str, ...] = ()
  times: int = 1


def analyse(text: str, trips: Mapping[str, int] | None = None) -> Program:
  """Returns what a compiled program does.

  Args:
    text: of the optimised module, from `compiled.as_text()`.
    trips: runs of the loops of these names, in place of what the text tells.
  """
  module = hlo_text.parse(text)
  costs, loops = [], []
  frames = [_Frame(computation=module.entry)]
  while frames:
    frame = frames.pop()
    for instruction in frame.computation.instructions.values():
      costs.append(_cost(module, frame, instruction))
      if instruction.opcode == "while":
        loop = _loop(module, frame, instruction, trips or {})
        loops.append(loop)
        body = module.computations[instruction.attribute("body")]
        frames.append(
          _Frame(
            computation=body,
            caller=instruction,
            parent=frame,
            loops=(*frame.loops, loop.name),
            times=loop.runs,
          )
        )
      for called in _called(module, instruction):
        inner = dataclasses.replace(
          frame, computation=called, caller=instruction, parent=frame
        )
        frames.append(inner)
  return Program(costs=tuple(costs), loops=tuple(loops))


def _called(module, instruction) -> list[hlo_text.Computation]:
  """What a call runs, and every branch of a conditional."""
  if instruction.opcode == "call":
    return [module.computations[instruction.attribute("to_apply")]]
  if instruction.opcode != "conditional":
    return []
  listed = re.search(r"branch_computations=\{([^}]*)\}", instruction.attributes)
  names = re.findall(r"%([\w.\-]+)", listed[1]) if listed else ()
  names = names or [
    instruction.attribute(f"{which}_computation") for which in ("true", "false")
  ]
  return [module.computations[name] for name in names]


def _cost(module, frame: _Frame, instruction) -> Cost:
  return Cost(
    name=instruction.name,
    opcode=instruction.opcode,
    source=instruction.source,
    loops=frame.loops,
    times=frame.times,
    work=hlo_cost.work(module, frame.computation, instruction),
    cycles=hlo_cost.cycles(instruction),
    collectives=tuple(_collectives(module, frame, instruction)),
  )


def _collectives(module, frame: _Frame, instruction) -> Iterator[Collective]:
  """The communications of an instruction or begun in its fusion."""
  if instruction.attribute("calls"):
    inner = dataclasses.replace(
      frame,
      computation=module.computations[instruction.attribute("calls")],
      caller=instruction,
      parent=frame,
    )
    for each in inner.computation.instructions.values():
      yield from _collectives(module, inner, each)
    return
  computation = frame.computation
  kind = instruction.opcode.removesuffix("-start")
  if kind not in COLLECTIVES or not hlo_cost.begins(computation, instruction):
    return
  given = [
    shape
    for name in instruction.operands
    for shape in computation.instructions[name].shapes
  ]
  got = hlo_cost.results(computation, instruction)
  yield Collective(
    kind=kind,
    bytes=max(sum(shape.bytes for shape in side) for side in (given, got)),
    argument=_argument(module, frame, instruction.operands[0], None),
    asynchronous=instruction.opcode != kind
    or hlo_cost.spans_fusions(instruction),
  )


def _argument(module, frame: _Frame, name: str, index: int | None) -> str:
  """Which argument of the program an array is, or a part of; "" for none.

  Args:
    module: the program.
    frame: where the array is.
    name: the instruction that makes it.
    index: which element, if that is a tuple.
  """
  instruction = frame.computation.instructions[name]
  opcode = re.sub("-(start|done)$", "", instruction.opcode)
  first = instruction.operands[0] if instruction.operands else ""
  if opcode == "get-tuple-element":
    index = int(instruction.word("index"))
    return _argument(module, frame, first, index)
  if opcode == "tuple":
    return _argument(module, frame, instruction.operands[index], None)
  if opcode in _PASSES:
    return _argument(module, frame, first, None)
  if opcode == "while":
    return _argument(module, frame, first, index)
  if opcode == "fusion":
    inner = module.computations[instruction.attribute("calls")]
    frame = dataclasses.replace(
      frame, computation=inner, caller=instruction, parent=frame
    )
    return _argument(module, frame, inner.root.name, index)
  if opcode != "parameter":
    return ""
  if frame.parent is None:
    return instruction.source or instruction.name
  operand = frame.caller.operands[int(instruction.literal)]
  return _argument(module, frame.parent, operand, index)


def _loop(module, frame: _Frame, instruction, trips) -> Loop:
  known = trips.get(instruction.name)
  if known is None:
    known = hlo_text.trips(module, frame.computation, instruction)
  return Loop(
    name=instruction.name,
    source=instruction.source,
    around=frame.loops,
    trips=known,
    runs=frame.times * (1 if known is None else known),
  )
