"""What one instruction of optimised HLO computes and moves.

Multiply-adds of dots and convolutions are counted as two operations each.  On
TPUs dots are written as convolutions, padded or dilated to line their axes up;
only the pairs of elements that meet count, as in XLA's own analysis.

Bytes are those of the memory that an array lies in.  A fusion reads its
operands once and writes its results; what it slices counts as the slice, and
what it updates in place as the update.
"""

import dataclasses
import functools
import math
import re

from grounded_jax import hlo_text

MAIN, HOST = 0, 5  # memory spaces: a device's own, and its host's

_FREE = frozenset(
  "after-all bitcast call conditional constant domain get-tuple-element"
  " opt-barrier parameter partition-id replica-id tuple while".split()
)
# Custom calls of TPUs that name memory and move nothing.
_FREE_CALLS = ("AllocateBuffer", "AssumeGatherIndicesInBound", "ConcatBitcast")
_SLICES = ("dynamic-slice", "gather", "slice")
_UPDATES = {"dynamic-update-slice": 1, "scatter": 2}  # operand of the update
# Operations of a fusion that only rename or reorder what they pass on.
_MOVES = frozenset("bitcast convert copy reshape transpose".split())
_ELEMENTWISE = frozenset(
  "abs add and atan2 cbrt ceil clamp compare cosine divide erf exponential"
  " exponential-minus-one floor is-finite log log-plus-one logistic maximum"
  " minimum multiply negate not or popcnt power remainder round-nearest-afz"
  " round-nearest-even rsqrt select shift-left shift-right-arithmetic"
  " shift-right-logical sign sine sqrt subtract tan tanh xor".split()
)
_DECLARED = re.compile(r'"cost_estimate":\{([^}]*)\}')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_ENTRY = re.compile(r'"(flops|bytes_accessed)":"?(\d+)')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
  """Of one run of an instruction."""

  flops: int = 0  # of dots and convolutions
  elementwise: int = 0  # operations of everything else, one an element
  main: int = 0  # bytes read and written in the device's main memory
  host: int = 0  # and in the host's

  def plus(self, other: "Work", times: int = 1) -> "Work":
    """Together with so many runs of another."""
    return Work(
      flops=self.flops + times * other.flops,
      elementwise=self.elementwise + times * other.elementwise,
      main=self.main + times * other.main,
      host=self.host + times * other.host,
    )


def work(
  module: hlo_text.Module,
  computation: hlo_text.Computation,
  instruction: hlo_text.Instruction,
) -> Work:
  """Returns the work of an instruction that stands outside fusions."""
  if instruction.opcode == "custom-call":
    declared = _DECLARED.search(instruction.attributes)
    if declared:
      counts = {name: int(x) for name, x in _ENTRY.findall(declared[1])}
      return Work(flops=counts["flops"], main=counts["bytes_accessed"])
  flops, elementwise = _operations(module, computation, instruction)
  moved = functools.partial(_moved, module, computation, instruction)
  return Work(
    flops=flops,
    elementwise=elementwise,
    main=moved(MAIN),
    host=moved(HOST),
  )


def _operations(module, computation, instruction) -> tuple[int, int]:
  """(of dots and convolutions, elementwise), inside fusions too."""
  called = instruction.attribute("calls")
  if called and instruction.opcode in ("fusion", "async-start"):
    inner = module.computations[called]
    counts = [
      _operations(module, inner, i) for i in inner.instructions.values()
    ]
    return tuple(sum(count) for count in zip(*counts, strict=True))
  if instruction.opcode == "dot":
    return _dot(computation, instruction), 0
  if instruction.opcode == "convolution":
    return _convolution(computation, instruction), 0
  if instruction.opcode in _ELEMENTWISE:
    return 0, instruction.shapes[0].size
  if instruction.opcode == "reduce":
    return 0, _operand(computation, instruction, 0).size
  if instruction.opcode == "reduce-window":
    window = _window(instruction)["size"]
    return 0, instruction.shapes[0].size * math.prod(window)
  return 0, 0


def _operand(computation, instruction, number: int) -> hlo_text.Shape:
  """The first array of an operand."""
  name = instruction.operands[number]
  return computation.instructions[name].shapes[0]


def _dot(computation, instruction) -> int:
  left = _operand(computation, instruction, 0)
  contracted = instruction.numbers("lhs_contracting_dims")
  inner = math.prod(left.dims[axis] for axis in contracted)
  return 2 * instruction.shapes[0].size * inner


def _window(instruction) -> dict[str, list[int]]:
  """Sizes, strides, dilations and low paddings of a window, by dimension."""
  found = re.search(r"window=\{([^}]*)\}", instruction.attributes)
  out = {}
  for field in found[1].split() if found else ():
    name, values = field.split("=")
    values = [value.split("_")[0] for value in values.split("x")]
    out[name] = [int(value) for value in values]
  return out


def _convolution(computation, instruction) -> int:
  """Twice the pairs whose input is neither padding nor a hole of dilation."""
  left, right = (_operand(computation, instruction, i) for i in (0, 1))
  labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
  inputs, kernel, outputs = labels.groups()
  out, window = instruction.shapes[0], _window(instruction)
  each = lambda name, i, other: window.get(name, [other] * (i + 1))[i]
  pairs = 1
  for i in range(len(inputs) - 2):
    axis = str(i)
    pairs *= _meetings(
      left.dims[inputs.index(axis)],
      right.dims[kernel.index(axis)],
      out.dims[outputs.index(axis)],
      stride=each("stride", i, 1),
      low=each("pad", i, 0),
      dilated=each("lhs_dilate", i, 1),
      spread=each("rhs_dilate", i, 1),
    )
  groups = int(instruction.word("batch_group_count") or 1)
  batch = left.dims[inputs.index("b")] // groups
  # The kernel's input features are those of one group.
  features = right.dims[kernel.index("i")] * right.dims[kernel.index("o")]
  return 2 * pairs * batch * features


def _meetings(
  size: int, kernel: int, out: int, *, stride, low, dilated, spread
) -> int:
  """How many (output, kernel) positions fall on an element of the input."""
  count = 0
  for k in range(kernel):
    places = (o * stride + k * spread - low for o in range(out))
    count += sum(
      place % dilated == 0 and 0 <= place // dilated < size for place in places
    )
  return count


def _bytes(shapes, space: int) -> int:
  return sum(shape.bytes for shape in shapes if shape.space == space)


def _moved(module, computation, instruction, space: int) -> int:
  """Bytes that an instruction reads and writes in a memory."""
  opcode = instruction.opcode
  if opcode in _FREE or opcode.endswith(("-done", "-update")):
    return 0
  if instruction.word("custom_call_target") in _FREE_CALLS:
    return 0
  if opcode == "fusion":
    return _fusion_bytes(module, computation, instruction, space)
  made, kind = results(computation, instruction), opcode.removesuffix("-start")
  names = dict.fromkeys(instruction.operands)  # each is read once
  first, *others = _arrays(computation, names) or [None]
  if kind in _SLICES:
    read = dataclasses.replace(made[0], space=first.space)
    return _bytes((read, *others, *made), space)
  if kind in _UPDATES:
    update = _operand(computation, instruction, _UPDATES[kind])
    written = dataclasses.replace(update, space=made[0].space)
    again = [written] * (kind == "scatter")  # it adds to what is there
    return _bytes((*others, written, *again), space)
  return _bytes((*([first] if names else ()), *others, *made), space)


def _arrays(computation, names) -> list[hlo_text.Shape]:
  """The arrays of the instructions of these names."""
  return [s for name in names for s in computation.instructions[name].shapes]


def results(computation, instruction) -> tuple[hlo_text.Shape, ...]:
  """The arrays that an instruction makes.

  An asynchronous start passes its operands on beside them, and marks.
  """
  shapes = instruction.shapes
  if instruction.opcode == "copy-start":
    return shapes[:1]
  if not instruction.opcode.endswith("-start"):
    return shapes
  passed = len(_arrays(computation, instruction.operands))
  if len(shapes) > passed:
    shapes = shapes[passed:]
  return tuple(shape for shape in shapes if shape.dims)


def _fusion_bytes(module, computation, instruction, space: int) -> int:
  inner = module.computations[instruction.attribute("calls")]
  total = 0
  for name, parameter in zip(
    instruction.operands, inner.parameters, strict=True
  ):
    for shape in computation.instructions[name].shapes:
      if shape.space == space:
        count = min(_read(module, inner, parameter), shape.size)
        total += math.ceil(count * shape.width)
  for i, shape in enumerate(instruction.shapes):
    if shape.space == space:
      count = min(_written(module, inner, *result(inner, i)), shape.size)
      total += math.ceil(count * shape.width)
  return total


def result(computation, number: int) -> tuple[hlo_text.Instruction, int]:
  """(instruction, which of its arrays) that a computation's result is."""
  root = computation.root
  if root.opcode != "tuple":
    return root, number
  return computation.instructions[root.operands[number]], 0


def cycles(instruction: hlo_text.Instruction) -> int | None:
  """The compiler's estimate of one run, where it notes one."""
  found = _CYCLES.search(instruction.attributes)
  return int(found[1]) if found else None


def spans_fusions(instruction: hlo_text.Instruction) -> bool:
  """Whether a collective is written into the fusions that it runs beside."""
  return "chain_id=" in instruction.attributes


def begins(computation, instruction) -> bool:
  """Whether a collective of a fusion is not the sequel of another's.

  TPUs write a collective that spans fusions into each that it runs beside; the
  one that AsyncCollectiveStart follows begins it.
  """
  if not spans_fusions(instruction):
    return True
  users = computation.users(instruction.name)
  targets = [user.word("custom_call_target") for user in users]
  return "AsyncCollectiveStart" in targets


def _sequel(computation, instruction) -> bool:
  """Whether an instruction goes on with, or ends, a collective begun before."""
  done = instruction.word("custom_call_target") == "AsyncCollectiveDone"
  return done or not begins(computation, instruction)


def _read(module, computation, name: str) -> int:
  """Elements of a fusion's parameter that it reads."""
  itself = computation.instructions[name]
  size = itself.shapes[0].size
  if name == computation.root.name:
    return size if itself.opcode in _MOVES else 0
  total = 0
  for user in computation.users(name):
    places = [i for i, x in enumerate(user.operands) if x == name]
    in_place = user.opcode in _UPDATES and places == [0]
    if in_place or _sequel(computation, user):
      continue
    if user.opcode == "tuple":
      total += 0 if itself.opcode == "parameter" else size
    elif user.opcode in _MOVES:
      total += _read(module, computation, user.name)
    elif user.opcode in _SLICES and places == [0]:
      total += user.shapes[0].size
    elif user.opcode == "fusion":
      inner = module.computations[user.attribute("calls")]
      total += sum(_read(module, inner, inner.parameters[i]) for i in places)
    else:
      return size
  return min(total, size)


def _written(module, computation, leaf, number: int) -> int:
  """Elements that a fusion writes of one of its results."""
  size = leaf.shapes[number].size
  if leaf.opcode == "parameter" or _sequel(computation, leaf):
    return 0
  if leaf.word("custom_call_target") == "AsyncCollectiveStart":
    return size if number == 1 else 0  # the others are passed on, or marks
  if leaf.opcode in _MOVES:
    source = computation.instructions[leaf.operands[0]]
    if source.opcode != "parameter":
      return min(_written(module, computation, source, 0), size)
  if leaf.opcode in _UPDATES:
    update = computation.instructions[leaf.operands[_UPDATES[leaf.opcode]]]
    return update.shapes[0].size
  if leaf.opcode == "get-tuple-element":
    source = computation.instructions[leaf.operands[0]]
    place = int(leaf.word("index"))
    return min(_written(module, computation, source, place), size)
  if leaf.opcode == "fusion":
    inner = module.computations[leaf.attribute("calls")]
    return _written(module, inner, *result(inner, number))
  return size
