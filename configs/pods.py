"""Models on TPU slices: how each is cut, and how many prompts a step takes."""

import dataclasses

from configs import shapes
from grounded_jax import config


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slice:
  """A model on a slice of a pod."""

  decoder: config.Decoder
  path: str  # of the model on the hub
  topology: str  # for --mode=compile
  fsdp: int
  tensor: int = 1
  prompts: int = 48
  each: int = 1  # prompts of a device at once, in the update
  remat: str = "full"

  @property
  def mesh(self) -> config.PolicyMesh:
    """Its section."""
    return config.PolicyMesh(data=1, fsdp=self.fsdp, tensor=self.tensor)


_QWEN3_8B = {"decoder": shapes.qwen3_8b(), "path": "Qwen/Qwen3-8B"}
SLICES = {
  "qwen3-4b-v5e-16": Slice(
    decoder=shapes.qwen3_4b(),
    path="Qwen/Qwen3-4B",
    topology="v5e:4x4",
    fsdp=16,
  ),
  "qwen3-8b-v5e-64": Slice(**_QWEN3_8B, topology="v5e:8x8", fsdp=16, tensor=4),
  "qwen3-8b-v5e-256": Slice(
    **_QWEN3_8B, topology="v5e:16x16", fsdp=64, tensor=4, prompts=256
  ),
  "qwen3-8b-v5p-8": Slice(**_QWEN3_8B, topology="v5p:2x2x1", fsdp=4, each=3),
  "qwen3-8b-v6e-16": Slice(**_QWEN3_8B, topology="v6e:4x4", fsdp=16),
  "llama3.1-8b-v5p-64": Slice(
    decoder=shapes.llama3_8b(),
    path="meta-llama/Llama-3.1-8B-Instruct",
    topology="v5p:4x4x2",
    fsdp=16,
    tensor=2,
    each=3,
    remat="dots",
  ),
  "r1-llama-8b-v6e-64": Slice(
    decoder=shapes.llama3_8b(),
    path="deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
    topology="v6e:8x8",
    fsdp=16,
    tensor=4,
    remat="dots",
  ),
  "gemma2-9b-v5e-64": Slice(
    decoder=shapes.gemma2_9b(),
    path="google/gemma-2-9b-it",
    topology="v5e:8x8",
    fsdp=16,
    tensor=4,
  ),
}
