"""Counts of compiled programs, by hand and against XLA's own."""

import jax
import jax.numpy as jnp
import pytest

from grounded_jax import config, hlo, hlo_text, logp, types
from grounded_jax import model as model_lib

WIDTH, ROWS = 64, 32


def analysed(function, *arguments, **options):
  """(its counts, XLA's) of a function compiled for this machine."""
  compiled = jax.jit(function).lower(*arguments).compile()
  return hlo.analyse(compiled.as_text(), **options), compiled.cost_analysis()


def array(*dims, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(dims, dtype)


def module(body: str, *others: str) -> str:
  """A module's text with such an entry."""
  return "\n".join(
    ["HloModule m", *others, "ENTRY %main (p: f32[2]) -> f32[2] {", body, "}"]
  )


def total(body: str, *others: str):
  return hlo.analyse(module(body, *others)).total()


# Dots and loops, against the same program without loops and against XLA.


@pytest.mark.parametrize(
  "spec, left, right, flops",
  [
    ("ab,bc->ac", (3, 5), (5, 7), 2 * 3 * 5 * 7),
    ("gab,gbc->gac", (4, 3, 5), (4, 5, 7), 2 * 4 * 3 * 5 * 7),
    ("pqkh,pskh->pkqs", (2, 6, 3, 8), (2, 5, 3, 8), 2880),
  ],
)
def test_a_dot_is_two_operations_for_each_pair_that_meets(
  spec, left, right, flops
):
  found, xla = analysed(
    lambda x, y: jnp.einsum(spec, x, y), array(*left), array(*right)
  )
  assert found.total().flops == flops == xla["flops"]


def test_a_convolution_leaves_padding_out():
  # Kernel 3 over 5 numbers padded by 1: 3 * 5 pairs, of which 2 are padding.
  found, xla = analysed(
    lambda x, w: jax.lax.conv_general_dilated(
      x, w, (1,), [(1, 1)], dimension_numbers=("NWC", "WIO", "NWC")
    ),
    array(2, 5, 4),
    array(3, 4, 6),
  )
  assert found.total().flops == 2 * 13 * 2 * 4 * 6 == xla["flops"]


def layers(x, weights, unroll):
  body = lambda x, w: (jnp.tanh(x @ w), None)
  return jax.lax.scan(body, x, weights, unroll=unroll)[0]


@pytest.mark.parametrize("depth", [2, 7])
def test_a_scan_counts_as_its_unrolled_self_and_as_xla_counts_that(depth):
  arguments = array(ROWS, WIDTH), array(depth, WIDTH, WIDTH)
  scanned, once = analysed(lambda x, w: layers(x, w, 1), *arguments)
  unrolled, xla = analysed(lambda x, w: layers(x, w, depth), *arguments)
  assert [loop.trips for loop in scanned.loops] == [depth]
  assert not unrolled.loops
  flops = depth * 2 * ROWS * WIDTH * WIDTH
  assert (
    scanned.total().flops == unrolled.total().flops == flops == xla["flops"]
  )
  assert once["flops"] < 2 * flops / depth  # XLA's own, of the loop
  assert unrolled.total().main == pytest.approx(xla["bytes accessed"], rel=0.02)
  # The loop copies its first carry, and counts.
  extra = scanned.total().main - unrolled.total().main
  assert 0 <= extra < 2.2 * 4 * ROWS * WIDTH


def test_loops_in_loops_multiply():
  def outer(x, weights):
    inner = lambda x, w: (x @ w, None)
    body = lambda x, w: (jax.lax.scan(inner, x, w)[0], None)
    return jax.lax.scan(body, x, weights)[0]

  found, _ = analysed(outer, array(ROWS, WIDTH), array(3, 5, WIDTH, WIDTH))
  assert found.total().flops == 15 * 2 * ROWS * WIDTH * WIDTH
  (outermost,) = (loop for loop in found.loops if not loop.around)
  (innermost,) = (loop for loop in found.loops if loop.around)
  assert (outermost.trips, innermost.trips, innermost.runs) == (3, 5, 15)
  once = found.inside(outermost.name)
  assert once.total().flops == 5 * 2 * ROWS * WIDTH * WIDTH
  assert once.inside(innermost.name).total().flops == 2 * ROWS * WIDTH * WIDTH


def test_a_loop_that_depends_on_data_is_unknown_and_counts_as_told():
  def function(x, w):
    go_on = lambda carry: (carry[0] < 9) & (carry[1].sum() < 1e6)
    step = lambda carry: (carry[0] + 1, carry[1] @ w)
    return jax.lax.while_loop(go_on, step, (0, x))[1]

  arguments = array(ROWS, WIDTH), array(WIDTH, WIDTH)
  once, _ = analysed(function, *arguments)
  (loop,) = once.loops
  assert loop.trips is None
  assert once.total().flops == 2 * ROWS * WIDTH * WIDTH
  assert once.table()["loops_of_unknown_length"] == [loop.name]
  told, _ = analysed(function, *arguments, trips={loop.name: 9})
  assert told.total().flops == 9 * once.total().flops
  assert told.table()["loops_of_unknown_length"] == []


def scores_of_a_decoder():
  """The log-probabilities of completions, and their arguments.

  Unrolled, a gradient would be another program: what its backward pass
  computes again, XLA finds computed before.
  """
  decoder = config.Decoder(
    layers=3, embed=48, mlp=96, heads=4, kv_heads=2, head_dim=16, vocab=130
  )
  graphdef, params = model_lib.abstract(decoder)
  # Two blocks of the prompt, and of each completion.
  p, l, g, c = 2, 300, 2, 140
  ints = lambda *dims: array(*dims, dtype=jnp.int32)
  prompts = types.PromptBatch(tokens=ints(p, l), length=ints(p), key=ints(p))
  cfg = config.Model(decoder=decoder, logp_chunk=100)

  def scores(params, prompts, tokens):
    sampled = jnp.ones(tokens.shape, bool)
    found = logp.token_logp(
      graphdef, params, prompts, tokens, sampled, temperature=1.0, model=cfg
    )
    return found[0]

  return scores, params, prompts, ints(p, g, c)


def test_attention_blocks_within_layers_count_as_unrolled(monkeypatch):
  looped, _ = analysed(*scores_of_a_decoder())
  scan = jax.lax.scan
  whole = lambda f, init, xs=None, **options: scan(
    f, init, xs, **(options | {"unroll": True})
  )
  monkeypatch.setattr(jax.lax, "scan", whole)
  unrolled, xla = analysed(*scores_of_a_decoder())
  assert max(len(loop.around) for loop in looped.loops) == 2
  assert not unrolled.loops
  found = unrolled.total()
  assert looped.total().flops == found.flops
  # XLA's number holds elementwise operations too, but transcendental ones.
  elementwise = found.elementwise - xla["transcendentals"]
  assert found.flops + elementwise == pytest.approx(xla["flops"], rel=1e-4)
  assert found.main == pytest.approx(xla["bytes accessed"], rel=0.02)


# Single instructions, by hand.

_SLICING = """\
%slicing (p0: f32[9,40], p1: s32[]) -> f32[1,40] {
  %p0 = f32[9,40]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  %flat = f32[9,40]{1,0} bitcast(%p0)
  %cut = f32[1,40]{1,0} dynamic-slice(%flat, %p1, %zero), \
dynamic_slice_sizes={1,40}
  ROOT %out = f32[1,40]{1,0} negate(%cut)
}
"""

_UPDATING = """\
%updating (p0: bf16[9,40], p1: bf16[1,40], p2: s32[]) -> bf16[9,40] {
  %p0 = bf16[9,40]{1,0} parameter(0)
  %p1 = bf16[1,40]{1,0} parameter(1)
  %p2 = s32[] parameter(2)
  %zero = s32[] constant(0)
  %twice = bf16[1,40]{1,0} add(%p1, %p1)
  ROOT %out = bf16[9,40]{1,0} \
dynamic-update-slice(%p0, %twice, %p2, %zero)
}
"""

_INPUTS = """\
  %p = f32[2]{0} parameter(0)
  %all = f32[9,40]{1,0} iota(), iota_dimension=0
  %row = bf16[1,40]{1,0} iota(), iota_dimension=0
  %i = s32[] constant(3)
"""
_MADE = 4 * 9 * 40 + 2 * 40  # bytes that the iotas write


def test_a_fusion_reads_of_an_operand_what_it_slices():
  body = _INPUTS + (
    "  ROOT %f = f32[1,40]{1,0} fusion(%all, %i), kind=kLoop, calls=%slicing"
  )
  found = total(body, _SLICING)
  assert found.main - _MADE == 4 * 40 + 4 + 4 * 40  # row, index, result
  assert found.elementwise == 40


def test_an_update_in_place_writes_what_it_updates():
  body = _INPUTS + (
    "  %old = bf16[9,40]{1,0} constant({...})\n"
    "  ROOT %f = bf16[9,40]{1,0} fusion(%old, %row, %i), kind=kLoop,"
    " calls=%updating"
  )
  assert total(body, _UPDATING).main - _MADE == 2 * 40 + 4 + 2 * 40


def test_slices_and_updates_outside_fusions_move_their_slice():
  cut = "  %cut = f32[2,40]{1,0} slice(%all), slice={[1:3], [0:40]}\n"
  assert total(_INPUTS + cut).main - _MADE == 2 * 4 * 2 * 40
  put = (
    "  %old = bf16[9,40]{1,0} constant({...})\n"
    "  %put = bf16[9,40]{1,0} dynamic-update-slice(%old, %row, %i, %i)\n"
  )
  assert total(_INPUTS + put).main - _MADE == 2 * 2 * 40 + 4  # and the index


def test_only_the_main_memory_counts():
  body = """\
  %p = f32[2]{0} parameter(0)
  %big = f32[100]{0} iota(), iota_dimension=0
  %near = (f32[100]{0:S(1)}, f32[100]{0}, u32[]{:S(2)}) copy-start(%big)
  %there = f32[100]{0:S(1)} copy-done(%near)
  %far = (f32[100]{0:S(5)}, f32[100]{0:S(1)}, u32[]{:S(2)}) copy-start(%there)
  %gone = f32[100]{0:S(5)} copy-done(%far)
  %more = f32[100]{0:S(1)} add(%there, %there)
"""
  found = total(body)
  assert found.main == 400 + 400  # made, then read by the first copy
  assert found.host == 400
  assert found.elementwise == 100


def test_slices_and_updates_of_the_hosts_memory_count_as_their_slice():
  body = (
    _INPUTS
    + """\
  %far = f32[9,40]{1,0:S(5)} custom-call(), custom_call_target="AllocateBuffer"
  %ds = ((f32[9,40]{1,0:S(5)}, s32[], s32[]), f32[1,40]{1,0}, u32[]{:S(2)}) \
dynamic-slice-start(%far, %i, %i), dynamic_slice_sizes={1,40}
  %dd = f32[1,40]{1,0} dynamic-slice-done(%ds)
  %us = ((f32[9,40]{1,0:S(5)}, f32[1,40]{1,0}, s32[], s32[]), \
f32[9,40]{1,0:S(5)}, u32[]{:S(2)}) dynamic-update-slice-start(%far, %dd, %i, %i)
  %ud = f32[9,40]{1,0:S(5)} dynamic-update-slice-done(%us)
"""
  )
  found = total(body)
  assert found.host == 2 * 4 * 40
  assert found.main - _MADE == 2 * (4 * 40 + 4)  # with each one's index


def test_what_names_memory_costs_nothing():
  body = """\
  %p = f32[2]{0} parameter(0)
  %q = f32[2]{0} bitcast(%p)
  %t = (f32[2]{0}, f32[2]{0}) tuple(%p, %q)
  %a = f32[900]{0} custom-call(), custom_call_target="AllocateBuffer"
  ROOT %g = f32[2]{0} get-tuple-element(%t), index=1
"""
  assert total(body).main == 0


def test_a_kernel_counts_as_it_declares():
  body = """\
  %p = f32[2]{0} parameter(0)
  ROOT %k = f32[2]{0} custom-call(%p), custom_call_target="tpu_custom_call", \
backend_config={"custom_call_config":{"cost_estimate":{"flops":"12345",\
"transcendentals":"3","bytes_accessed":"6789"}}}
"""
  found = total(body)
  assert (found.flops, found.main) == (12345, 6789)
  silent = total(body.replace("cost_estimate", "window_config"))
  assert (silent.flops, silent.main) == (0, 2 * 2 * 4)


@pytest.mark.parametrize(
  "window, labels, left, right, out, multiply_adds",
  [
    # Batches of 8 and 4: the diagonal of the first axis, places of the second.
    (
      "size=8x1 stride=7x1 lhs_dilate=8x1",
      "01bf_0oi1->01bf",
      "8,4,256,128",
      "8,512,128,1",
      "8,4,256,512",
      8 * 4 * 256 * 512 * 128,
    ),
    # Heads lie along the kernel: one of its 8 places meets the input.
    (
      "size=8x1 pad=7_7x0_0 rhs_reversal=1x0",
      "b1f0_0o1i->b0f1",
      "6136,1,256,1",
      "8,128,1,256",
      "6136,8,128,1",
      6136 * 8 * 128 * 256,
    ),
  ],
)
def test_a_dot_written_as_a_convolution_counts_as_the_dot(
  window, labels, left, right, out, multiply_adds
):
  body = f"""\
  %p = f32[2]{{0}} parameter(0)
  %x = bf16[{left}]{{3,2,1,0}} iota(), iota_dimension=0
  %w = bf16[{right}]{{3,2,1,0}} iota(), iota_dimension=0
  %c = f32[{out}]{{3,2,1,0}} convolution(%x, %w), window={{{window}}}, \
dim_labels={labels}
"""
  assert total(body).flops == 2 * multiply_adds


# Collectives.


def test_collectives_count_once_with_the_larger_side():
  body = """\
  %p = f32[2]{0} parameter(0)
  %x = bf16[10,8]{1,0} iota(), iota_dimension=0
  %g = bf16[40,8]{1,0} all-gather(%x), channel_id=1, dimensions={0}
  %s = (bf16[10,8]{1,0}, bf16[40,8]{1,0}) all-gather-start(%x), dimensions={0}
  %d = bf16[40,8]{1,0} all-gather-done(%s)
  %r = bf16[10,8]{1,0} reduce-scatter(%g), dimensions={0}, to_apply=%add
  %a = f32[2]{0} all-reduce(%p), to_apply=%add
  %c = (bf16[10,8]{1,0}, bf16[10,8]{1,0}, u32[], u32[]) \
collective-permute-start(%x), source_target_pairs={{0,1},{1,0}}
  %e = bf16[10,8]{1,0} collective-permute-done(%c)
  %t = bf16[10,8]{1,0} all-to-all(%x), dimensions={0}
"""
  assert hlo.analyse(module(body)).table()["collectives"] == {
    "all-gather": {"count": 2, "bytes": 2 * 640},
    "reduce-scatter": {"count": 1, "bytes": 640},
    "all-reduce": {"count": 1, "bytes": 8},
    "collective-permute": {"count": 1, "bytes": 160},
    "all-to-all": {"count": 1, "bytes": 160},
  }


_STARTING = """\
%starting (p0: bf16[10,8]) -> (bf16[10,8], bf16[40,8], u32[]) {
  %p0 = bf16[10,8]{1,0} parameter(0)
  %g0 = bf16[40,8]{1,0} all-gather(%p0), dimensions={0}, \
frontend_attributes={chain_id="7"}
  ROOT %s0 = (bf16[10,8]{1,0}, bf16[40,8]{1,0}, u32[]{:S(2)}) \
custom-call(%g0), custom_call_target="AsyncCollectiveStart"
}

%beside (p0: bf16[10,8], p1: bf16[40,8], p2: f32[100]) -> (f32[100], \
bf16[10,8], bf16[40,8]) {
  %p0 = bf16[10,8]{1,0} parameter(0)
  %p1 = bf16[40,8]{1,0} parameter(1)
  %p2 = f32[100]{0} parameter(2)
  %n = f32[100]{0} negate(%p2)
  %g1 = bf16[40,8]{1,0} all-gather(%p0), dimensions={0}, \
frontend_attributes={chain_id="7"}
  ROOT %t1 = (f32[100]{0}, bf16[10,8]{1,0}, bf16[40,8]{1,0}) \
tuple(%n, %p0, %g1)
}

%ending (p0: bf16[10,8], p1: bf16[40,8]) -> bf16[40,8] {
  %p0 = bf16[10,8]{1,0} parameter(0)
  %p1 = bf16[40,8]{1,0} parameter(1)
  %g2 = bf16[40,8]{1,0} all-gather(%p0), dimensions={0}, \
frontend_attributes={chain_id="7"}
  ROOT %d2 = bf16[40,8]{1,0} custom-call(%p0, %p1, %g2), \
custom_call_target="AsyncCollectiveDone"
}
"""


def test_a_collective_beside_fusions_counts_where_it_starts():
  body = """\
  %p = f32[2]{0} parameter(0)
  %x = bf16[10,8]{1,0} iota(), iota_dimension=0
  %y = f32[100]{0} iota(), iota_dimension=0
  %s = (bf16[10,8]{1,0}, bf16[40,8]{1,0}, u32[]{:S(2)}) fusion(%x), \
kind=kCustom, calls=%starting
  %s0 = bf16[10,8]{1,0} get-tuple-element(%s), index=0
  %s1 = bf16[40,8]{1,0} get-tuple-element(%s), index=1
  %b = (f32[100]{0}, bf16[10,8]{1,0}, bf16[40,8]{1,0}) \
fusion(%s0, %s1, %y), kind=kLoop, calls=%beside
  %b0 = bf16[10,8]{1,0} get-tuple-element(%b), index=1
  %b1 = bf16[40,8]{1,0} get-tuple-element(%b), index=2
  ROOT %d = bf16[40,8]{1,0} fusion(%b0, %b1), kind=kCustom, calls=%ending
"""
  found = hlo.analyse(module(body, _STARTING))
  assert [(c.name, k.bytes) for c, k in found.collectives()] == [("s", 640)]
  made, gathered, negated = 160 + 400, 160 + 640, 400 + 400
  assert found.total().main == made + gathered + negated


_LOOP = """\
%body (c: (s32[], f32[4,8], f32[8])) -> (s32[], f32[4,8], f32[8]) {
  %c = (s32[], f32[4,8]{1,0}, f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%c), index=0
  %w = f32[4,8]{1,0} get-tuple-element(%c), index=1
  %x = f32[8]{0} get-tuple-element(%c), index=2
  %two = s32[] constant(2)
  %zero = s32[] constant(0)
  %next = s32[] add(%i, %two)
  %row = f32[1,8]{1,0} dynamic-slice(%w, %i, %zero), dynamic_slice_sizes={1,8}
  %all = f32[3,8]{1,0} all-gather(%row), dimensions={0}
  %sum = f32[8]{0} all-reduce(%x), to_apply=%add
  ROOT %t = (s32[], f32[4,8]{1,0}, f32[8]{0}) tuple(%next, %w, %sum)
}

%condition (c: (s32[], f32[4,8], f32[8])) -> pred[] {
  %c = (s32[], f32[4,8]{1,0}, f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%c), index=0
  %end = s32[] constant(9)
  ROOT %go = pred[] compare(%i, %end), direction=LT
}
"""

_START = """\
  %p = f32[2]{0} parameter(0)
  %weights = f32[4,8]{1,0} parameter(1), metadata={op_name="params[\\'w\\']"}
  %one = s32[] constant(1)
  %x0 = f32[8]{0} iota(), iota_dimension=0
  %t0 = (s32[], f32[4,8]{1,0}, f32[8]{0}) tuple(%one, %weights, %x0)
  %loop = (s32[], f32[4,8]{1,0}, f32[8]{0}) while(%t0), condition=%condition, \
body=%body
"""


def test_a_loop_from_1_below_9_by_2_runs_four_times():
  found = hlo.analyse(module(_START, _LOOP))
  assert [loop.trips for loop in found.loops] == [4]
  assert found.table()["collectives"]["all-gather"] == {
    "count": 4,
    "bytes": 4 * 3 * 8 * 4,
  }


def test_a_collective_tells_which_argument_it_moves_and_in_which_loop():
  found = hlo.analyse(module(_START, _LOOP))
  moved = [(c.loops, k.kind, k.argument) for c, k in found.collectives()]
  assert moved == [
    (("loop",), "all-gather", "params['w']"),
    (("loop",), "all-reduce", ""),
  ]


def test_a_text_without_entry_is_refused():
  with pytest.raises(ValueError, match="ENTRY"):
    hlo_text.parse("HloModule m")
