"""The kernels equal the dense softmax, and TPUs' compiler takes them."""

import functools

import attention_tpu_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grounded_jax import aot, attention, attention_blocks, config, hlo

# prompt tokens, completions, tokens of one, query heads, key heads, block
SHAPES = {
  "completions of many blocks": (19, 3, 21, 4, 2, 8),
  "blocks of many completions": (9, 5, 3, 4, 4, 16),
  "one key head": (16, 2, 8, 3, 1, 8),
  "one block a completion": (7, 4, 7, 2, 2, 8),
  "prompts alone": (21, 0, 0, 4, 2, 8),
}


def layouts(shape) -> attention_blocks.Layout:
  prompt_len, group, own, *_, block = shape
  return attention_blocks.Layout(
    prompt_len=prompt_len, group=group, own=own, block=block
  )


@pytest.mark.parametrize(
  "shape, rule",
  [
    ("completions of many blocks", {}),
    ("completions of many blocks", {"window": 7, "softcap": 0.7, "scale": 0.3}),
    ("blocks of many completions", {"window": 3}),
    ("one key head", {"window": 2**30, "softcap": 2.0}),
    ("one block a completion", {"window": 5}),
    ("prompts alone", {"window": 9}),
    ("prompts alone", {}),
  ],
)
def test_output_and_gradients_equal_the_dense_softmax(monkeypatch, shape, rule):
  shape = SHAPES[shape]
  monkeypatch.setattr(attention_blocks, "_BLOCKS", shape[-1:])
  want = cases.value_and_grads(attention.dense, shape, **rule)
  function = functools.partial(attention.grouped, kernel="pallas")
  got = cases.value_and_grads(function, shape, **rule)
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("own", [5, 130])
def test_the_blocks_that_a_tpu_gets_equal_the_dense_softmax(own):
  shape = (200, 3, own, 2, 1, 0)
  want = cases.value_and_grads(attention.dense, shape)
  function = functools.partial(attention.grouped, kernel="pallas")
  for a, b in zip(cases.value_and_grads(function, shape), want, strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def test_bfloat16_is_as_near_to_float32_as_xlas_own():
  shape = (40, 3, 24, 4, 2, 0)
  want = cases.value_and_grads(attention.dense, shape)
  far = {}
  for kernel in ("xla", "pallas"):
    function = functools.partial(attention.grouped, kernel=kernel)
    got = cases.value_and_grads(function, shape, dtype="bfloat16")
    far[kernel] = [
      np.abs(np.float32(a) - b).max() for a, b in zip(got, want, strict=True)
    ]
  assert all(np.array(far["pallas"]) < 1.5 * np.array(far["xla"]))


def test_what_no_query_may_see_changes_nothing(monkeypatch):
  """Neither another completion's keys nor those beyond the prompt's length."""
  shape = prompt_len, _, own, *_ = SHAPES["completions of many blocks"]
  monkeypatch.setattr(attention_blocks, "_BLOCKS", (8,))
  q, k, v, length, _ = cases.tensors(shape)
  call = lambda k, v: attention.grouped(
    q, k, v, length, prompt_len, 3, kernel="pallas"
  )
  mine = slice(prompt_len + own, prompt_len + 2 * own)
  hidden = np.arange(q.shape[1]) < prompt_len
  hidden = hidden & (np.arange(q.shape[1]) >= np.array(length)[:, None])
  hidden[:, prompt_len : mine.start] = hidden[:, mine.stop :] = True
  other = lambda x: jnp.where(hidden[..., None, None], 1e3 - x, x)
  before, after = call(k, v), call(other(k), other(v))
  assert (before[:, mine] == after[:, mine]).all()
  assert (before[:, mine.stop :] != after[:, mine.stop :]).any()


@pytest.mark.parametrize("window", [1, 3, 9, 2**30])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_pairs_of_blocks_hold_every_pair_of_tokens_that_is_seen(shape, window):
  prompt_len, group, own, *_, block = shape
  made = layouts(shape)
  t = prompt_len + group * own
  number = jnp.arange(t, dtype=jnp.float32)[None, :, None, None]
  # Which token stands where, -1 for padding.
  where = np.array(made.lay(number + 1))[0, 0, :, 0].astype(int) - 1
  for length in (1, prompt_len // 2, prompt_len):
    want = attention._mask(
      jnp.array([length]), prompt_len, group, t, jnp.array(window)
    )[0]
    got = np.zeros((t + 1, t + 1), bool)  # the last one: padding
    for query, key in made.pairs():
      place = (query, key, length, window)
      some, every = made.visible(*place)
      mask = np.array(made.mask(*place)).T
      assert mask.all() or not every
      rows, columns = (where[i * block :][:block] for i in (query, key))
      mask &= (rows >= 0)[:, None] & (columns >= 0)
      if some:
        got[np.ix_(rows, columns)] |= mask
      else:
        reads = (rows >= prompt_len) | (rows < length)
        assert not mask[reads].any()
    reads = (np.arange(t) >= prompt_len) | (np.arange(t) < length)
    np.testing.assert_array_equal(got[:t, :t][reads], np.array(want)[reads])


def test_laid_out_rows_come_back_as_they_were():
  for shape in SHAPES.values():
    made = layouts(shape)
    x = jax.random.normal(
      jax.random.key(0), (2, shape[0] + shape[1] * shape[2], 3, 5)
    )
    assert made.lay(x).shape == (2, 3, made.tokens, 5)
    assert (made.unlay(made.lay(x)) == x).all()


def test_a_block_is_the_largest_that_pads_a_row_by_a_quarter_at_most():
  block = lambda *row: attention_blocks.layout(*row).block
  assert block(2048, 2048 + 8 * 512, 8) == 512
  assert block(2048, 2048 + 8 * 511, 8) == 512
  assert block(2048, 2048 + 8 * 300, 8) == 128  # 384 each, not 512
  assert block(300, 300, 0) == 128
  assert block(7, 10, 3) == 128


def test_auto_is_xla_on_a_cpu_to_the_last_bit():
  shape = SHAPES["completions of many blocks"]
  auto, xla = (
    cases.value_and_grads(
      functools.partial(attention.grouped, kernel=kernel), shape
    )
    for kernel in ("auto", "xla")
  )
  assert all((a == b).all() for a, b in zip(auto, xla, strict=True))


def test_each_device_of_a_mesh_runs_the_kernel_on_its_prompts_and_heads():
  found = cases.on_eight_devices(cases.__file__)
  assert found.pop("cut") == [["data", "fsdp"], None, "tensor"]
  assert len(found) == 2 and max(found.values()) < 1e-5


@pytest.fixture
def _compiler(monkeypatch):
  """TPUs as their compiler's library describes them, asking no server."""
  pytest.importorskip("libtpu", reason="needs the extra [tpu]")
  for name, value in (
    ("TPU_SKIP_MDS_QUERY", "1"),
    ("TPU_ACCELERATOR_TYPE", "v5litepod-4"),
    ("TPU_WORKER_HOSTNAMES", "localhost"),
  ):
    monkeypatch.setenv(name, value)


@pytest.mark.slow
@pytest.mark.parametrize(
  "shape, options",
  [
    (cases.QWEN3_8B, {}),
    (cases.GEMMA2, {"softcap": 50.0, "window": 4096}),
    (cases.SMALL, {"dtype": "float32", "precision": "highest"}),
  ],
  ids=["qwen3-8b", "gemma2", "small"],
)
@pytest.mark.parametrize("topology", ["v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_the_compiler_of_tpus_takes_all_three_kernels(
  _compiler, topology, shape, options
):
  devices = aot.mesh(topology, config.Mesh(data=1, fsdp=2, tensor=2))
  compiled = cases.compiled(devices, shape, **options)
  text = compiled.as_text()
  for kernel in ("forward", "backward_of_queries", "backward_of_keys"):
    assert f"grouped_attention_{kernel}" in text
  # Each device computes a half of the prompts and a half of the heads.
  assert "all-gather" not in text and "all-reduce" not in text
  assert hlo.analyse(text).total().flops >= cases.flops(shape) / 4
