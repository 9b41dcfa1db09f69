"""A T5 that was taught to answer 1 or 0: TRUE's judge of entailment.

The published evaluator generates greedily and says yes when the text is "1".
The first token decides that, so one pass of the encoder and one step of the
decoder do: yes is when no token of the vocabulary is likelier than the piece
"1".  The two differ only where a model goes on after "1" in place of ending,
or spells it in other pieces, which one that was taught single answers does
not.  As there, a text is never cut.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from grounded_jax import config, files, weights
from grounded_jax import mesh as mesh_lib
from grounded_jax import t5 as t5_lib
from grounded_jax.records import UserError, reading
from grounded_jax.verifiers import batches
from grounded_jax.verifiers.pieces import Pieces


def text(premise: str, hypothesis: str) -> str:
  """What the model reads of a pair."""
  return f"premise: {premise} hypothesis: {hypothesis}"


@functools.partial(
  jax.jit, static_argnames=("graphdef", "one", "zero", "dtype", "precision")
)
def judge(
  graphdef,
  params,
  tokens: Int[Array, "B S"],
  length: Int[Array, " B"],
  *,
  one: int,
  zero: int,
  dtype: str,
  precision: str,
) -> tuple[Bool[Array, " B"], Float[Array, " B"]]:
  """Whether "1" is the likeliest answer, and its share against "0"."""
  encoded = t5_lib.encode(graphdef, params, tokens, length, dtype, precision)
  start = t5_lib.shape_of(graphdef, params).start
  answer = jnp.full((tokens.shape[0], 1), start, jnp.int32)
  logits = t5_lib.decode(graphdef, params, encoded, length, answer, precision)
  logits = logits[:, 0]
  share = jax.nn.sigmoid(logits[:, one] - logits[:, zero])
  return jnp.argmax(logits, axis=-1) == one, share


class T5:
  """Asks a T5, in arrays of few shapes, on a mesh."""

  def __init__(
    self, cfg: config.Verifier, devices: jax.sharding.Mesh | None = None
  ):
    """Loads the model.

    Args:
      cfg: which model, and how it computes.
      devices: the mesh to run on, the policy's for example; None = `cfg.mesh`
        of this process's own devices.
    """
    checkpoint = weights.read_t5(cfg.path)
    with reading(f"The tokenizer of {checkpoint.path}", "fetch it again"):
      self.pieces = Pieces(checkpoint.path)
    shape = checkpoint.shape
    if self.pieces.vocab > shape.vocab:
      raise UserError(
        f"{checkpoint.path}: the tokenizer has {self.pieces.vocab} pieces but"
        f" the model only {shape.vocab}: they do not belong together."
      )
    mesh = mesh_lib.local(cfg.mesh) if devices is None else devices
    self.dtype = cfg.dtype or _usual_dtype(mesh)
    self._graphdef, shapes, axes = t5_lib.abstract(shape, self.dtype)
    layout = mesh_lib.shardings(mesh, axes, shapes)
    self._params = weights.load_t5(checkpoint, shapes, layout)
    self._rows = mesh_lib.rows(mesh)
    self._ways = mesh_lib.ways(mesh, "batch")
    self._batch_tokens = cfg.batch_tokens
    self.shapes: set[tuple[int, int]] = set()  # of the arrays asked so far
    self.name = f"t5({files.label(cfg.path)}, {self.dtype})"

  def __call__(
    self, premises: Sequence[str], hypotheses: Sequence[str]
  ) -> list[bool]:
    """For each pair, whether the model's greedy answer begins with "1"."""
    return self._ask(premises, hypotheses)[0].tolist()

  def scores(
    self, premises: Sequence[str], hypotheses: Sequence[str]
  ) -> list[float]:
    """For each pair, the probability of "1" against that of "0"."""
    return self._ask(premises, hypotheses)[1].tolist()

  def _ask(
    self, premises: Sequence[str], hypotheses: Sequence[str]
  ) -> tuple[np.ndarray, np.ndarray]:
    pairs = zip(premises, hypotheses, strict=True)
    ids = self.pieces([text(*pair) for pair in pairs])
    verdicts, shares = np.zeros(len(ids), bool), np.zeros(len(ids))
    plan = batches.plan([*map(len, ids)], self._batch_tokens, self._ways)
    # All are handed over before the first is waited for.
    asked = [self._judge(planned, ids) for planned in plan]
    for planned, answers in zip(plan, asked, strict=True):
      places = np.array(planned.texts)
      verdict, share = jax.device_get(answers)
      verdicts[places] = verdict[: len(places)]
      shares[places] = share[: len(places)]
    return verdicts, shares

  def _judge(self, planned: batches.Planned, ids: Sequence[Sequence[int]]):
    tokens = np.zeros((planned.rows, planned.width), np.int32)
    length = np.ones(planned.rows, np.int32)  # of a row without text, too
    for row, i in enumerate(planned.texts):
      tokens[row, : len(ids[i])] = ids[i]
      length[row] = len(ids[i])
    self.shapes.add(tokens.shape)
    return judge(
      self._graphdef,
      self._params,
      *jax.device_put((tokens, length), self._rows),
      one=self.pieces.one,
      zero=self.pieces.zero,
      dtype=self.dtype,
      # Float32 is asked for where its digits matter.
      precision="highest" if self.dtype == "float32" else "default",
    )


def _usual_dtype(mesh: jax.sharding.Mesh) -> str:
  on_cpu = mesh.devices.flat[0].platform == "cpu"
  return "float32" if on_cpu else "bfloat16"
