"""Optimised HLO as text, read into computations, instructions and shapes.

The text is what `jax.stages.Compiled.as_text` returns.  No package that reads
it is public; only what `hlo` counts is read.
"""

import dataclasses
import math
import re

_BITS = {"pred": 8, "token": 0, "s2": 2, "u2": 2, "s4": 4, "u4": 4, "c64": 64}
_ARRAY = re.compile(r"([a-z][a-z0-9]*)\[([\d,<= ]*)\](?:\{([^}]*)\})?")
_SPACE = re.compile(r"S\((\d+)\)")
_NAME = re.compile(r"%([\w.\-]+)")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%([\w.\-]+) = ")
_COMPUTATION = re.compile(r"(ENTRY )?%([\w.\-]+) .*\{$")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_SOURCE = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
  """An array of an instruction's result."""

  dtype: str
  dims: tuple[int, ...]
  space: int  # of the memory: 0 is the device's main one

  @property
  def size(self) -> int:
    """Elements."""
    return math.prod(self.dims)

  @property
  def width(self) -> float:
    """Bytes of an element."""
    if self.dtype in _BITS:
      return _BITS[self.dtype] / 8
    return int(re.match(r"[a-z]+(\d+)", self.dtype)[1]) / 8

  @property
  def bytes(self) -> int:
    """Bytes without the padding of a tiled layout."""
    return math.ceil(self.size * self.width)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Instruction:
  """One line of a computation."""

  name: str
  opcode: str
  shapes: tuple[Shape, ...]  # the arrays of its result, a tuple's in order
  operands: tuple[str, ...]
  literal: str  # what stands in the parentheses
  attributes: str

  def attribute(self, name: str) -> str:
    """The computation that an attribute names, or ""."""
    found = re.search(rf"\b{name}=%([\w.\-]+)", self.attributes)
    return found[1] if found else ""

  def numbers(self, name: str) -> tuple[int, ...]:
    """The integers of an attribute like `dimensions={0,1}`."""
    found = re.search(rf"\b{name}=\{{([\d,]*)\}}", self.attributes)
    return tuple(int(x) for x in found[1].split(",") if x) if found else ()

  def word(self, name: str) -> str:
    """An attribute that is one word or number, or ""."""
    found = re.search(rf"\b{name}=\"?([\w.\-]+)", self.attributes)
    return found[1] if found else ""

  @property
  def source(self) -> str:
    """The traced operation that it comes from."""
    found = _SOURCE.search(self.attributes)
    return found[1].replace("\\'", "'") if found else ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Computation:
  """Instructions by name, in their order, of which one is the result."""

  name: str
  instructions: dict[str, Instruction]
  root: Instruction
  parameters: tuple[str, ...]  # names, by number

  def users(self, name: str) -> list[Instruction]:
    """The instructions that take an instruction's result."""
    return [i for i in self.instructions.values() if name in i.operands]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Module:
  """A compiled program."""

  computations: dict[str, Computation]
  entry: Computation


def parse(text: str) -> Module:
  """Returns the module that a compiled program's text describes.

  Raises:
    ValueError: it names no entry computation.
  """
  computations, entry = {}, ""
  name, lines = "", []
  for line in text.splitlines():
    header = _COMPUTATION.match(line)
    if header and "->" in line:
      name, lines = header[2], []
      entry = name if header[1] else entry
    elif line.startswith("}") and name:
      computations[name] = _computation(name, lines)
      name = ""
    elif name:
      lines.append(line)
  if not entry:
    raise ValueError("no ENTRY computation in this text")
  return Module(computations=computations, entry=computations[entry])


def _computation(name: str, lines: list[str]) -> Computation:
  instructions, root, parameters = {}, None, {}
  for line in lines:
    start = _INSTRUCTION.match(line)
    if not start:
      continue
    instruction = _instruction(start[2], line[start.end() :])
    instructions[instruction.name] = instruction
    root = instruction if start[1] or root is None else root
    if instruction.opcode == "parameter":
      parameters[int(instruction.literal)] = instruction.name
  return Computation(
    name=name,
    instructions=instructions,
    root=root,
    parameters=tuple(parameters[i] for i in sorted(parameters)),
  )


def _closing(text: str) -> int:
  """Index of the parenthesis that closes the first one."""
  depth = 0
  for found in re.finditer(r"[()]", text):
    depth += 1 if found[0] == "(" else -1
    if not depth:
      return found.start()
  raise ValueError(f"unclosed parenthesis: {text[:80]}")


def _instruction(name: str, text: str) -> Instruction:
  """From what follows `%name = `: result, opcode(operands), attributes."""
  if text.startswith("("):
    end = _closing(text) + 1
  else:
    end = text.index(" ")
  result, rest = text[:end], text[end:].lstrip()
  opened = rest.index("(")
  closed = opened + _closing(rest[opened:])
  literal = rest[opened + 1 : closed]
  return Instruction(
    name=name,
    opcode=rest[:opened],
    shapes=tuple(_shape(*found) for found in _ARRAY.findall(result)),
    operands=tuple(_NAME.findall(literal)),
    literal=literal,
    attributes=rest[closed + 1 :],
  )


def _shape(dtype: str, dims: str, layout: str) -> Shape:
  space = _SPACE.search(layout)
  sizes = dims.replace("<=", "").replace(" ", "").split(",")
  return Shape(
    dtype=dtype,
    dims=tuple(int(size) for size in sizes if size),
    space=int(space[1]) if space else 0,
  )


def trips(
  module: Module, computation: Computation, loop: Instruction
) -> int | None:
  """Returns how often a while loop of a computation runs; None if unknown.

  The compiler notes it, or it follows from a counter's start, step and bound.
  """
  noted = _TRIPS.search(loop.attributes)
  if noted:
    return int(noted[1])
  condition, body = (
    module.computations[loop.attribute(name)] for name in ("condition", "body")
  )
  test = condition.root
  if test.opcode != "compare" or test.word("direction") != "LT":
    return None
  counter, bound = (_plain(condition, name) for name in test.operands)
  if counter.opcode != "get-tuple-element":
    return None
  start = computation.instructions[loop.operands[0]]
  index = int(counter.word("index"))
  if start.opcode != "tuple" or body.root.opcode != "tuple":
    return None
  step = _plain(body, body.root.operands[index])
  if step.opcode != "add":
    return None
  sides = [_plain(body, name) for name in step.operands]
  carried = [side for side in sides if side.opcode == "get-tuple-element"]
  ends = [bound, _plain(computation, start.operands[index])]
  ends += [side for side in sides if side.opcode != "get-tuple-element"]
  if len(ends) != 3 or any(end.opcode != "constant" for end in ends):
    return None
  if int(carried[0].word("index")) != index:
    return None
  stop, first, by = (int(end.literal) for end in ends)
  return max(-(-(stop - first) // by), 0)


def _plain(computation, name: str) -> Instruction:
  """The instruction whose value this is, behind copies and bitcasts."""
  instruction = computation.instructions[name]
  while instruction.opcode in ("bitcast", "copy"):
    instruction = computation.instructions[instruction.operands[0]]
  return instruction
