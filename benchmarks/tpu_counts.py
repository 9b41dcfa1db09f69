"""Operations of the update and bytes of a decoding step, over their minimum.

    JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 python -m benchmarks.tpu_counts \
      --topology=v5e:4x4 --remat=full

Qwen3-8B's shape, bfloat16 computation, compiled for a TPU topology that need
not be there (extra [tpu]).  The update takes the learner's layout: float32
parameters over fsdp.  The sampler takes bfloat16 parameters over `tensor`
devices, the prompts over the rest.  All numbers are of one device, counted in
the compiled program with every loop multiplied out: the compiler's numbers,
not measurements.

The minimum of the update, in operations of products of matrices: every layer
once for the L tokens of a prompt and the C - 1 of each completion that predict
another, attention over exactly the keys that each token sees, the output head
for all G * C predictions; twice that again for the backward pass.  Beside it
stands the same with what an update in blocks computes again: the scores of
attention (five products in the backward pass where a kept softmax needs four)
and the logits.

The minimum of a decoding step, in bytes: the weights of all layers and the
output head once, the caches of the prompts once, and those of the completions
once, either as allocated or half full (the mean over all steps).
"""

import argparse
import json

from configs import shapes
from grounded_jax import aot, config, counts, plan

QWEN3_8B = shapes.qwen3_8b()


def _work(shape: plan.Shape, prompts: int) -> counts.Work:
  """So many prompts of the shape."""
  return counts.Work(
    prompts=prompts,
    prompt_len=shape.prompt_len,
    group=shape.group,
    new_tokens=shape.new_tokens,
  )


def minimum(
  decoder: config.Decoder, shape: plan.Shape, remat: str
) -> dict[str, int]:
  """Operations of a prompt's update: least, in blocks, and with remat."""
  forward = counts.grouped(decoder, _work(shape, 1))
  least = counts.update(forward)
  again = lambda remat: least + counts.recomputed(forward, remat)
  adds = {
    "least": least,
    "in blocks": again("none"),
    "in blocks, remat": again(remat),
  }
  return {name: 2 * count for name, count in adds.items()}


def decode_bytes(
  decoder: config.Decoder, shape: plan.Shape, tensor: int, prompts: int
) -> dict[str, int]:
  """Bytes that one device reads at least for one token of each completion."""
  work = _work(shape, prompts)
  empty, full = (
    counts.decode_bytes(decoder, work, own) * 2 / counts.BYTES / tensor
    for own in (0, shape.new_tokens - 1)
  )  # in bfloat16
  return {
    "own caches as allocated": int(full),
    "own caches half full": int((empty + full) / 2),
  }


def update(args: argparse.Namespace, shape: plan.Shape) -> dict:
  """The update's counts over its minimum."""
  model = config.Model(
    decoder=QWEN3_8B,
    compute_dtype="bfloat16",
    param_dtype=args.param_dtype,
    remat=args.remat,
  )
  devices = aot.mesh(args.topology, config.Mesh())
  stage = config.Stage(
    name="update", grpo=config.GRPO(prompts=shape.prompts, micro=args.micro)
  )
  target = aot.target(model, QWEN3_8B, devices)
  found = aot.compile(aot.lower_update(target, stage, shape))
  least = minimum(QWEN3_8B, shape, args.remat)
  share = shape.prompts / devices.size
  flops = found.counts.total().flops
  return found.table() | {
    "over_minimum": {
      name: round(flops / (share * count), 4) for name, count in least.items()
    }
  }


def decode(args: argparse.Namespace, shape: plan.Shape) -> dict:
  """The decoding step's counts over its minimum."""
  model = config.Model(
    decoder=QWEN3_8B, compute_dtype="bfloat16", param_dtype="bfloat16"
  )
  layout = config.Mesh(data=-1, fsdp=1, tensor=args.tensor)
  devices = aot.mesh(args.topology, layout)
  target = aot.target(model, QWEN3_8B, devices)
  found = aot.compile(aot.lower_sampler(target, shape))
  step = found.decode_step()
  gathered = aot.moved(step)
  assert not gathered, f"parameters move while decoding: {gathered}"
  prompts = shape.prompts // devices.shape["data"]
  least = decode_bytes(QWEN3_8B, shape, args.tensor, prompts)
  return found.table() | {
    "decode_step": step.table(),
    "over_minimum": {
      name: round(step.total().main / count, 4) for name, count in least.items()
    },
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--topology", default="v5e:4x4")
  parser.add_argument("--prompts", type=int, default=16)
  parser.add_argument("--micro", type=int, default=0)
  parser.add_argument("--prompt_len", type=int, default=2048)
  parser.add_argument("--group", type=int, default=8)
  parser.add_argument("--new_tokens", type=int, default=512)
  parser.add_argument("--remat", default="full")
  parser.add_argument("--param_dtype", default="float32")
  parser.add_argument("--tensor", type=int, default=4, help="of the sampler")
  parser.add_argument("--only", choices=("update", "decode"))
  args = parser.parse_args()
  shape = plan.Shape(
    prompts=args.prompts,
    prompt_len=args.prompt_len,
    group=args.group,
    new_tokens=args.new_tokens,
    micro=args.micro,
    chunks=1,
    extra_logp=0,
    supervised=False,
  )
  programs = {"update": update, "decode": decode}
  wanted = [args.only] if args.only else programs
  print(json.dumps({n: programs[n](args, shape) for n in wanted}, indent=2))


if __name__ == "__main__":
  main()
