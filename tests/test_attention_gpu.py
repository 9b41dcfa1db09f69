"""The calls made of cuDNN equal the dense softmax, and lower for CUDA.

Without a GPU they are computed by the same public function on XLA.
"""

import types

import attention_gpu_cases as cases
import attention_tpu_cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grounded_jax import attention, config, mesh, policy, tokenizer
from grounded_jax.records import UserError

# prompt tokens, completions, tokens of one, query heads, key heads
SEVERAL = (19, 6, 21, 4, 2)  # five completions fit a turn: three divide six
ONE = (9, 3, 130, 4, 4)
WHOLE = (16, 2, 8, 3, 1)  # nothing to pad
ALONE = (21, 0, 0, 4, 2)


@pytest.mark.parametrize(
  "shape, rule",
  [
    (SEVERAL, {}),
    (SEVERAL, {"window": 7, "scale": 0.3}),
    (SEVERAL, {"window": 2**30}),
    (ONE, {}),
    (ONE, {"window": 20}),
    (WHOLE, {"window": 1}),
    (ALONE, {}),
    (ALONE, {"window": 9}),
  ],
)
def test_output_and_gradients_equal_the_dense_softmax(shape, rule):
  want = attention_tpu_cases.value_and_grads(attention.dense, shape, **rule)
  got = cases.by_calls(shape, **rule)
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def test_bfloat16_is_as_near_to_float32_as_xlas_own():
  shape = (40, 8, 24, 4, 2)
  dense = attention_tpu_cases.value_and_grads(attention.dense, shape)
  own = attention_tpu_cases.value_and_grads(
    attention.grouped, shape, dtype="bfloat16"
  )
  off = lambda got: np.array(
    [np.abs(np.float32(a) - b).max() for a, b in zip(got, dense, strict=True)]
  )
  assert all(off(cases.by_calls(shape, dtype="bfloat16")) < 1.5 * off(own))


def test_each_device_of_a_mesh_calls_for_its_prompts_and_heads():
  found = attention_tpu_cases.on_eight_devices(cases.__file__)
  assert found["cut"] == [["data", "fsdp"], None, "tensor"]
  assert found["worst"] < 1e-5
  # 8 prompts of 50 tokens, 4 query and 2 key heads, 4 completions of 11.
  prompt, turn = [2, 56, 2, 16], [2, 4 * 16, 2, 16]
  keys, buffer = [2, 56, 1, 16], [2, 56 + 4 * 16, 1, 16]
  both = [
    ("fmhaSoftmax", [prompt, keys, keys]),
    ("fmhaScaleBiasSoftmax", [turn, buffer, buffer, [2, 1, 64, 120]]),
  ]
  for update, forward in (("update", 2), ("recomputed", 3)):
    calls = [(name, shapes) for name, shapes in found[update]]
    assert [calls.count(call) for call in both] == [forward, forward]
    backward = [c for c in calls if c[0].endswith("Backward")]
    assert [(name, shapes[:3]) for name, shapes in backward] == [
      (name + "Backward", shapes[:3]) for name, shapes in both
    ]
    assert len(calls) == 2 * forward + 2


def test_nothing_is_larger_than_the_row_of_queries():
  prompts, heads, kv_heads, width = 1, 32, 8, 128  # Qwen3-8B's
  lowered = cases.lowered_row((2048, 8, 512, heads, kv_heads), prompts, width)
  assert cases.largest(lowered) == (2048 + 8 * 512) * heads * width * 2
  # What the docstring states, in bytes.
  (turn,) = (
    shapes
    for name, shapes in cases.calls(lowered)
    if name == "fmhaScaleBiasSoftmaxBackward"
  )
  size = lambda shape: 2 * np.prod(shape)
  assert size(turn[1]) + size(turn[2]) == 10_485_760
  assert turn[5] == [1, 1, 512, 2560] and size(turn[5]) == 2_621_440


def test_a_window_is_a_mask_of_prompts_too():
  shape = (50, 2, 12, 4, 2)
  calls = cases.calls(cases.lowered_row(shape, 3, 16, window=7))
  assert {name for name, _ in calls} == {
    "fmhaScaleBiasSoftmax",
    "fmhaScaleBiasSoftmaxBackward",
  }
  assert [1, 1, 56, 56] in calls[0][1]


@pytest.mark.parametrize(
  "changes, want",
  [
    ({}, "cudnn"),
    ({"dtype": "float32"}, "xla"),
    ({"softcap": 50.0}, "xla"),
    ({"head_dim": 100}, "xla"),
    ({"head_dim": 256}, "cudnn"),
    ({"head_dim": 256, "capability": (8, 9)}, "xla"),
    ({"capability": (8, 0)}, "cudnn"),
    ({"capability": (7, 5)}, "xla"),
    ({"capability": None}, "xla"),  # such as a CPU, or another maker's GPU
    ({"platform": "tpu", "capability": None}, "pallas"),
  ],
)
def test_auto_is_cudnn_where_it_can(monkeypatch, changes, want):
  options = {
    "platform": "gpu",
    "dtype": "bfloat16",
    "head_dim": 128,
    "softcap": 0.0,
    "capability": (9, 0),
  } | changes
  capability = options.pop("capability")
  monkeypatch.setattr(mesh, "cuda_capability", lambda platform: capability)
  assert attention.chosen("auto", **options) == want
  assert attention.chosen("xla", **options) == "xla"
  if want == "cudnn":
    assert attention.chosen("cudnn", **options) == "cudnn"
  else:
    with pytest.raises(UserError, match="^model.attention=cudnn: it .*=auto"):
      attention.chosen("cudnn", **options)


@pytest.mark.parametrize(
  "version, capability, want",
  [
    ("PJRT C API\ncuda 13000", "8.9", (8, 9)),
    ("PJRT C API\ncuda 13000", "12.0", (12, 0)),
    ("PJRT C API\nrocm 70000", "gfx942", None),
  ],
)
def test_a_gpu_says_what_it_can(monkeypatch, version, capability, want):
  device = types.SimpleNamespace(
    client=types.SimpleNamespace(platform_version=version),
    compute_capability=capability,
  )
  monkeypatch.setattr(jax, "local_devices", lambda backend: [device])
  assert mesh.cuda_capability("gpu") == want
  assert mesh.cuda_capability("cpu") is mesh.cuda_capability("tpu") is None


def test_cudnn_without_a_cuda_gpu_is_refused_before_weights_are_read(
  monkeypatch,
):
  monkeypatch.setattr(policy, "_weights", None)
  experiment = config.Experiment(
    name="e",
    model=config.Model(attention="cudnn", compute_dtype="bfloat16"),
    stages=(config.Stage(name="one"),),
  )
  with pytest.raises(UserError, match="needs a CUDA GPU, and .* kind cpu: set"):
    policy.load(experiment, tokenizer.Bytes())


def test_cudnn_is_refused_where_a_program_is_traced_too():
  q = jnp.zeros((1, 8, 2, 8), jnp.bfloat16)
  with pytest.raises(UserError, match="model.attention=cudnn: it needs a CUDA"):
    attention.grouped(q, q, q, jnp.array([8]), 8, 0, kernel="cudnn")


@pytest.mark.parametrize(
  "options, message",
  [
    ({}, "compute_dtype=float32: set compute_dtype=bfloat16, or attention="),
    (
      {"compute_dtype": "bfloat16", "sampler_dtype": "float32"},
      "sampler_dtype=float32: set sampler_dtype=bfloat16, or attention=auto",
    ),
  ],
)
def test_cudnn_with_wider_numbers_is_refused_by_the_config(options, message):
  with pytest.raises(UserError, match=message):
    config.Model(attention="cudnn", **options)
