"""Every knob, with its default, its unit and the meaning of special values.

An experiment file builds one `Experiment`.  Command-line overrides are applied
to its dictionary form (`to_dict`), from which `from_dict` builds and validates
a fresh `Experiment`: the names in `--config.a.b=v` are the field names here,
stages and evals keyed by their `name`.
"""

import dataclasses
import fractions
import math
import re
import types
import typing
from typing import Any

from grounded_jax.records import UserError

SPLITTERS = ("punkt", "rule", "tf_text")
VERIFIERS = ("lexical", "oracle", "t5", "classifier")
MODEL_VERIFIERS = ("t5", "classifier")  # those that `path` names a model for
# The matrices of a layer that an adapter may be added to.
ADAPTABLE = ("q", "k", "v", "o", "gate", "up", "down")

# The fields of a record, and of a passage, that `columns` may rename.
COLUMNS = (
  *("question", "answers", "docs", "id", "dataset", "task"),
  *("title", "text", "answers_found"),
)


def _choice(name: str, value: Any, allowed: tuple) -> None:
  if value not in allowed:
    raise UserError(f"{name}={value!r} must be one of {', '.join(allowed)}.")


def _folder(kind: str, name: str) -> None:
  """Refuses a name that cannot be a folder and part of an override."""
  if not re.fullmatch(r"\w[\w-]*", name):
    raise UserError(
      f"The {kind} name {name!r} must consist of letters, digits, _ and -."
    )


def _positive(section: Any, *names: str) -> None:
  for name in names:
    value = vars(section)[name]
    if not value > 0:
      raise UserError(f"{name}={value} must be greater than 0.")


def _within(
  section: Any, *names: str, low: int = 0, high: int | float = math.inf
) -> None:
  """Refuses a value outside low..high; both ends are allowed."""
  for name in names:
    value = vars(section)[name]
    if not low <= value <= high:
      wanted = f"from {low} to {high}" if high < math.inf else f"{low} or more"
      raise UserError(f"{name}={value} must be {wanted}.")


def pairs(name: str, text: str, allowed: tuple = ()) -> dict[str, str]:
  """The pairs of "a=b,c=d", in their order.

  Raises:
    UserError: an entry is no pair, stands twice or is not one of `allowed`.
  """
  found = {}
  for entry in filter(None, (item.strip() for item in text.split(","))):
    left, equals, right = (part.strip() for part in entry.partition("="))
    if not (left and equals and right) or left in found:
      raise UserError(
        f"{name}={text!r} must be pairs like a=b,c=d, each name once."
      )
    if allowed and left not in allowed:
      raise UserError(
        f"{name}={text!r}: {left!r} must be one of {', '.join(allowed)}."
      )
    found[left] = right
  return found


def mix(source: "Source") -> dict[str, fractions.Fraction]:
  """The weight of each dataset in `source.mix`, exactly as it is written."""
  weights = {}
  for name, value in pairs("mix", source.mix).items():
    try:
      weights[name] = fractions.Fraction(value)
    except (ValueError, ZeroDivisionError):
      weights[name] = fractions.Fraction(0)
    if weights[name] <= 0:
      raise UserError(
        f"mix={source.mix!r}: the weight of {name} must be a number above 0,"
        f" not {value!r}."
      )
  return weights


def _check_drawing(section: Any) -> None:
  """Refuses options of the choice of a token that no draw can have."""
  _within(section, "top_k")
  _within(section, "min_p", high=1)
  _positive(section, "top_p")
  _within(section, "top_p", high=1)


def _check_sizes(kind: str, section: Any) -> None:
  """Refuses the sizes of a training batch that cannot be cut or sampled."""
  _positive(section, "prompts")
  _within(section, "micro")
  # The learner reads all tokens of a completion but the last.
  _within(section, "max_new_tokens", low=2)
  if section.micro and section.prompts % section.micro:
    raise UserError(
      f"{kind}.prompts={section.prompts} is not divisible by"
      f" {kind}.micro={section.micro}."
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoder:
  """The shape of a decoder; read from the model's own files when it has any."""

  layers: int = 4
  embed: int = 128
  mlp: int = 384
  heads: int = 4
  kv_heads: int = 4
  head_dim: int = 32
  vocab: int = 512
  rope_theta: float = 10_000.0
  norm_eps: float = 1e-5
  tied: bool = True  # the output head is the embedding, transposed
  qk_norm: bool = False  # RMS norm on each query and key head (Qwen3)
  qkv_bias: bool = False  # queries, keys and values have a bias (Qwen2)
  activation: str = "silu"  # of the MLP's gate: silu, gelu (by tanh)
  post_norms: bool = False  # a norm also after attention and MLP (Gemma)
  plus_one: bool = False  # norms multiply by 1 + their scale (Gemma)
  scaled_embed: bool = False  # embeddings times the root of `embed` (Gemma)
  query_scalar: float = 0.0  # scores over its root; 0 = head_dim
  attn_softcap: float = 0.0  # bound of the attention's scores; 0 = none
  final_softcap: float = 0.0  # bound of the logits; 0 = none
  # The kinds of layers, repeated over the depth: G sees everything before it,
  # L the last `window` positions; g and l do so without rotary positions.
  pattern: str = "G"
  window: int = 0  # positions a local layer sees, its own too; 0 = none local
  local_rope_theta: float = 0.0  # of L layers, never scaled; 0 = as G layers
  # Longer contexts: none, linear (all angles over rope_factor) or llama3 (slow
  # ones over it, fast ones as they are, between them a mixture).
  rope_scaling: str = "none"
  rope_factor: float = 1.0
  rope_low: float = 1.0  # llama3: turns in rope_original up to which is slow
  rope_high: float = 4.0  # llama3: turns from which on is fast
  rope_original: int = 8192  # llama3: tokens of context before scaling

  def __post_init__(self):
    _choice("activation", self.activation, ("silu", "gelu"))
    _choice("rope_scaling", self.rope_scaling, ("none", "linear", "llama3"))
    _within(self, "query_scalar", "attn_softcap", "final_softcap", "window")
    _within(self, "local_rope_theta")
    _positive(self, "rope_factor", "rope_low", "rope_original")
    self._check_pattern()
    if self.rope_high <= self.rope_low:
      raise UserError(
        f"rope_high={self.rope_high} must exceed rope_low={self.rope_low}."
      )
    # A broken file may claim any number of layers; each has its checks.
    _within(self, "layers", low=1, high=10_000)
    _positive(self, "embed", "mlp", "heads", "kv_heads", "head_dim", "vocab")
    _positive(self, "rope_theta", "norm_eps")
    if self.head_dim % 2:
      raise UserError(f"head_dim={self.head_dim} must be even: halves rotate.")
    if self.heads % self.kv_heads:
      raise UserError(
        f"heads={self.heads} is not divisible by kv_heads={self.kv_heads}."
      )

  def _check_pattern(self):
    if not re.fullmatch("[GLgl]+", self.pattern):
      raise UserError(
        f"pattern={self.pattern!r} must consist of the letters G, L, g and l."
      )
    if ("L" in self.pattern.upper()) != (self.window > 0):
      raise UserError(
        f"window={self.window} does not fit pattern={self.pattern!r}: local"
        " layers (L, l) have a window of 1 or more, others none."
      )

  @property
  def kinds(self) -> str:
    """The kind of each layer: `pattern` as often as it takes."""
    repeats = -(-self.layers // len(self.pattern))
    return (self.pattern * repeats)[: self.layers]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoRA:
  """Low-rank adapters: only they are trained, the weights stay as they are."""

  rank: int = 0  # of the adapters; 0 = none, all weights are trained
  alpha: float = 32.0  # an adapter's product counts alpha / rank times
  targets: str = ",".join(ADAPTABLE)  # which matrices of every layer

  def __post_init__(self):
    _within(self, "rank")
    _positive(self, "alpha")
    names = self.names
    for name in names:
      _choice("targets", name, ADAPTABLE)
    if len(set(names)) < len(names):
      raise UserError(f"targets={self.targets} names a matrix twice.")

  @property
  def names(self) -> tuple[str, ...]:
    """The targets one by one."""
    return tuple(self.targets.split(","))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
  """Which weights, which tokenizer, which number formats."""

  # A directory of HF weights, a .gguf file, "package:NAME" for the GGUF
  # that an installed Python package ships, "warmstart:SEED" for the embedded
  # policy, a directory of HF safetensors in a bucket ("gs://..."), a name on
  # the HF hub, or "" for random weights of the shape `decoder`.
  path: str = ""
  tokenizer: str = ""  # "" = beside the weights; "bytes" = UTF-8 bytes;
  # "world" = the embedded world's own pieces
  decoder: Decoder = Decoder()  # used only when path is ""
  param_dtype: str = "float32"
  compute_dtype: str = "float32"
  sampler_dtype: str = ""  # "" = compute_dtype
  # Of the sampler's keys and values: "" = as it computes, int8 = a byte each,
  # with one scale for a head's vector.
  kv_dtype: str = ""
  matmul_precision: str = "default"  # float32 dots: default, high, highest
  # What computes attention over whole groups: xla, pallas (kernels for TPUs,
  # interpreted elsewhere), cudnn (CUDA GPUs, bfloat16), auto = pallas on TPUs,
  # cudnn where it can, xla on all else.  Decoding a token is always XLA's.
  attention: str = "auto"
  # Recompute in the backward pass: none, dots (all but products
  # with weights and attention), full
  # (all of a layer from its input), offload (so, the input kept on the host).
  remat: str = "none"
  logp_chunk: int = 512  # completion tokens per device and chunk of the head
  lora: LoRA = LoRA()

  @property
  def sampling_dtype(self) -> str:
    """What the sampler computes in."""
    return self.sampler_dtype or self.compute_dtype

  def __post_init__(self):
    dtypes = ("float32", "bfloat16", "float64")
    _choice("param_dtype", self.param_dtype, dtypes)
    _choice("compute_dtype", self.compute_dtype, dtypes)
    _choice("sampler_dtype", self.sampler_dtype, ("", *dtypes))
    _choice("kv_dtype", self.kv_dtype, ("", "int8"))
    _choice("attention", self.attention, ("auto", "xla", "pallas", "cudnn"))
    _choice("remat", self.remat, ("none", "dots", "full", "offload"))
    _choice(
      "matmul_precision", self.matmul_precision, ("default", "high", "highest")
    )
    _positive(self, "logp_chunk")
    self._check_cudnn()

  def _check_cudnn(self):
    if self.attention != "cudnn":
      return
    for name, dtype in (
      ("compute_dtype", self.compute_dtype),
      ("sampler_dtype", self.sampling_dtype),
    ):
      if dtype != "bfloat16":
        raise UserError(
          f"attention=cudnn computes in bfloat16 alone, not in {name}={dtype}:"
          f" set {name}=bfloat16, or attention=auto."
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mesh:
  """Devices along each mesh axis; their product is the device count."""

  data: int = 1
  fsdp: int = -1  # -1 = every device that is left
  tensor: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyMesh(Mesh):
  """The mesh of a policy, which samples in a layout of its own."""

  # Devices that share each weight while sampling, a multiple of `tensor`; the
  # others take prompts.  0 = `tensor` without fsdp, else the fewest that leave
  # two thirds of a device's memory free.
  sampler_tensor: int = 0

  def __post_init__(self):
    _within(self, "sampler_tensor")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
  """Where records come from, and which of them are used."""

  # Comma-separated: record files (JSON lines, JSON, parquet), datasets as
  # hf:NAME[:CONFIG][@SPLIT] (NAME on the hub or a directory; for json, parquet
  # and csv CONFIG names the files); or "world:train", "world:dev", "world:test"
  # for the embedded world.
  path: str = ""
  # Other names of a record's fields, ours first, like
  # "question=query,docs=ctxs,answers=golds"; title, text and answers_found are
  # those of a passage.  "" = our own names.
  columns: str = ""
  streaming: bool = False  # hf: rows as they come, not copied here first
  task: str = ""  # short, list or claims; "" = the record's own
  answerable: str = "any"  # any, only (answerable ones), even (half and half)
  balance: bool = False  # the same number of records from every dataset
  limit: int = 0  # records kept after the choices above; 0 = all
  # Shares of the training prompts by dataset, whatever their sizes, like
  # "asqa=1,qampari=1,eli5=2": each dataset is repeated by itself, half
  # answerable with answerable=even; one not named is left out.  "" = as it is.
  mix: str = ""
  seed: int = 0  # of the world and of the choice of records
  # A source of more records than this is kept in a temporary file (in TMPDIR):
  # its training prompts are made as they are taken, padded to max_prompt_len
  # (or a part of it, see data.buckets).
  in_memory: int = 20_000

  def __post_init__(self):
    _choice("task", self.task, ("", "short", "list", "claims"))
    _choice("answerable", self.answerable, ("any", "only", "even"))
    _within(self, "limit", "in_memory")
    pairs("columns", self.columns, COLUMNS)
    mix(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
  """How records become prompts."""

  train: Source = Source()
  passages: int = 5  # passages shown, the first so many of a record
  max_prompt_len: int = 1024  # tokens
  # Lengths, equal parts of the longest prompt's, that a batch of training
  # prompts may be padded to: every program is compiled for each of them.
  buckets: int = 1
  # A longer prompt: "drop" whole passages from the end (never the question)
  # and recompute answerability, or "error".
  too_long: str = "drop"
  style: str = "trust"  # wording: trust (the paper's), brief, tiny (embedded)
  tags: bool = True  # ask for <think>...</think><answer>...</answer>
  chat: bool = True  # through the tokenizer's chat template, if it has one
  thinking: bool = True  # the template's own thinking switch (Qwen3)
  # Threads that read and tokenise ahead of the step; 0 = the step's own.
  workers: int = 0

  def __post_init__(self):
    _within(self, "workers")
    _choice("too_long", self.too_long, ("drop", "error"))
    _choice("style", self.style, ("trust", "brief", "tiny"))
    _positive(self, "passages", "max_prompt_len", "buckets")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verifier:
  """Who decides whether a passage supports a statement."""

  # lexical, oracle (embedded world only), or a model: t5 (it answers 1 or 0),
  # classifier (any sequence classification of NLI; needs the extra [nli])
  kind: str = "lexical"
  # lexical: the least share of a statement's content words, by weight, that
  # must stand close together; what contradicts the premise, or lacks a name or
  # a number of it, has at most 0.4.
  threshold: float = 0.6
  cache: int = 1_000_000  # remembered (premise, hypothesis) pairs
  # A directory where a model's verdicts outlast the run; other runs and
  # processes may use it too.  "" = none.
  disk: str = ""
  path: str = ""  # of a model: its directory, or its name on the hub
  # Of a model's arithmetic; "" = bfloat16 on accelerators, float32 on CPUs.
  dtype: str = ""
  batch_tokens: int = 8192  # of a model: padded tokens judged at once
  # Of t5: devices of each process; a product below their number = the first
  # so many of them.
  mesh: Mesh = Mesh()

  def __post_init__(self):
    _choice("kind", self.kind, VERIFIERS)
    if self.disk and self.kind not in MODEL_VERIFIERS:
      raise UserError(
        f"disk={self.disk!r} is for verifiers that are models: what"
        f" {self.kind} says is soon found anew and changes with its code. Leave"
        " disk empty."
      )
    _positive(self, "threshold", "batch_tokens")
    _within(self, "threshold", high=1)
    _within(self, "cache")
    _choice("dtype", self.dtype, ("", "float32", "bfloat16"))
    if self.kind in MODEL_VERIFIERS and not self.path:
      raise UserError(
        f"a verifier of kind={self.kind} needs a path: a directory with the"
        " model or its name on the Hugging Face hub; the judge of the published"
        " scores is google/t5_xxl_true_nli_mixture, of kind t5 (`hf download"
        " google/t5_xxl_true_nli_mixture --local-dir DIR`, 11 billion"
        " parameters)."
      )
    if self.kind not in MODEL_VERIFIERS and self.path:
      raise UserError(
        f"path={self.path!r} names a verifier's model, but kind={self.kind}"
        f" reads none: set kind to {' or '.join(MODEL_VERIFIERS)}."
      )

  @property
  def judge(self) -> tuple[str, str | float]:
    """What decides its verdicts: two of one judge are the same verifier."""
    if self.kind in MODEL_VERIFIERS:
      return self.kind, self.path
    return self.kind, self.threshold if self.kind == "lexical" else ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rewards:
  """The outcome reward (paper.md section 2; design section 5 has the table)."""

  tags: bool = True  # False: no layout asked, the gate always passes
  refusal: bool = True  # False in stage 1: Algorithm 1 without that term
  # How statements pay: "sum" as printed, "first" (each gold answer once, by
  # its first mention), "mean" over statements, "list_f1".
  statements: str = "first"
  # A correct citation: cited passages "entail" jointly, or also "minimal".
  citation: str = "minimal"
  max_citations: int = 3  # per statement; 0 = no limit
  # What a stated gold answer loses by a wrong or missing citation, where a
  # right one wins 0.5; 0 = the paper's ablation without penalty.
  penalty: float = 0.5
  # statements=first: the price of each distinct statement that is no gold's
  # first mention, if its citation is right ("surplus") and if it is not
  # ("unsupported"); together at most what the answer has earned; 0 = free.
  surplus: float = 0.1
  unsupported: float = 0.5
  # Points when the verifier says that the think part entails the decision
  # (the paper's process reward, an ablation); 0 = not asked.
  process: float = 0.0
  # Answering the unanswerable: "format" points only as printed, "ternary" =
  # 1.0 below them, "gated" = nothing but the tag count, and no more for
  # refusing the answerable either (GRACE).  Stage 1 has none of them.
  unanswerable: str = "ternary"
  overlong: int = 0  # soft penalty over the last so many tokens; 0 = none
  splitter: str = "punkt"  # of answers into statements: SPLITTERS
  refusal_flag: str = "I apologize, but I couldn't find an answer"
  refusal_threshold: int = 85  # percent, strictly above
  verifier: Verifier = Verifier()

  def __post_init__(self):
    _choice("statements", self.statements, ("sum", "first", "mean", "list_f1"))
    _choice("citation", self.citation, ("entail", "minimal"))
    _choice("unanswerable", self.unanswerable, ("format", "ternary", "gated"))
    _choice("splitter", self.splitter, SPLITTERS)
    _within(self, "max_citations", "overlong", "penalty", "process")
    _within(self, "surplus", "unsupported")
    _within(self, "refusal_threshold", high=100)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GRPO:
  """Group-relative policy optimisation.  Defaults: the modern preset."""

  prompts: int = 48  # per step
  group: int = 8  # completions per prompt
  micro: int = 0  # prompts per micro-batch; 0 = all at once
  # The update computes prompts and completions without their padding, and up
  # to so many times `micro` prompts in a micro-batch, if they fit in the tokens
  # of `micro` of full length; 0 = padded.
  pack: int = 0
  iterations: int = 1  # updates per rollout (mu)
  max_new_tokens: int = 512
  # Equal parts in which the prompts are sampled, the host scoring one while
  # the device samples the next: for verifiers slower than a sampler's pass.
  sample_chunks: int = 1  # 1 = all prompts at once
  # Prompts decoded at once: a group that has ended gives its slot to the next
  # prompt, so that long completions keep few others waiting.  0 = a batch of
  # all prompts, until its longest completion ends.
  slots: int = 0
  # Updates that the policy which samples is behind.  1: the next rollout is
  # sampled and scored during an update, at one more copy of the parameters.
  off_policy_steps: int = 0  # 0 = sampled by the policy that learns from it
  temperature: float = 1.0  # of the sampler and the learner alike
  # Draw only from: the likeliest so many tokens (0 = all), the fewest likeliest
  # of this mass (1 = all), those of at least this share of the likeliest one's
  # probability (0 = all).  The learner's distribution stays the whole one.
  top_k: int = 0
  top_p: float = 1.0
  min_p: float = 0.0
  stop: str = ""  # texts that end a completion, as EOS does, parted by |
  beta: float = 0.0  # KL weight; 0 = no reference model in memory
  kl: str = "k3"  # k3, or k3_weighted (importance-weighted, unbiased gradient)
  # token_mean (over the global batch, DAPO), sequence_mean (GRPO), constant
  # (tokens / (sequences * max_new_tokens), Dr. GRPO)
  aggregation: str = "token_mean"
  ratio: str = "token"  # token, or sequence (GSPO)
  surrogate: str = "clip"  # clip (PPO), or cispo (capped weight, stop-gradient)
  clip_low: float = 0.2
  clip_high: float = 0.28
  dual_clip: float = 3.0  # lower bound for negative advantages; 0 = off
  # TRL's two-sided `delta`: an upper bound on the ratio itself; 0 = off
  delta: float = 0.0
  cispo_cap: float = 5.0  # upper bound of the weight
  baseline: str = "mean"  # of the group: mean, or leave_one_out
  scale: str = "none"  # divide by the std of the: group, batch, none
  combine: str = "sum"  # of reward parts; gdpo = normalise each, then sum
  zero_advantage: str = "refill"  # keep, or refill (drop the group, draw more)
  refill_rounds: int = 2  # extra rollouts at most per step
  truncated: str = "drop"  # from the loss, kept in the group's mean; or keep
  # Sampler and learner disagree: ignore, truncate (token weight, capped), or
  # sequence_mask (drop sequences whose ratio exceeds the cap).
  mismatch: str = "truncate"
  mismatch_cap: float = 2.0

  def __post_init__(self):
    _choice("kl", self.kl, ("k3", "k3_weighted"))
    aggregations = ("token_mean", "sequence_mean", "constant")
    _choice("aggregation", self.aggregation, aggregations)
    _choice("ratio", self.ratio, ("token", "sequence"))
    _choice("surrogate", self.surrogate, ("clip", "cispo"))
    _choice("baseline", self.baseline, ("mean", "leave_one_out"))
    _choice("scale", self.scale, ("group", "batch", "none"))
    _choice("combine", self.combine, ("sum", "gdpo"))
    _choice("zero_advantage", self.zero_advantage, ("keep", "refill"))
    _choice("truncated", self.truncated, ("keep", "drop"))
    mismatches = ("ignore", "truncate", "sequence_mask")
    _choice("mismatch", self.mismatch, mismatches)
    _check_sizes("grpo", self)
    _within(self, "group", low=2)  # one alone has no advantage
    _within(self, "sample_chunks", low=1, high=self.prompts)
    if self.prompts % self.sample_chunks:
      raise UserError(
        f"grpo.prompts={self.prompts} is not divisible by"
        f" grpo.sample_chunks={self.sample_chunks}."
      )
    _within(self, "pack")
    _within(self, "slots", high=self.prompts)
    if self.slots and self.sample_chunks > 1:
      raise UserError(
        f"grpo.slots={self.slots} needs grpo.sample_chunks=1, not"
        f" {self.sample_chunks}: slots take one prompt after another already."
      )
    self._check_off_policy()
    # At temperature 0 the completions of a group would all be one.
    _positive(self, "iterations", "temperature", "cispo_cap", "mismatch_cap")
    _check_drawing(self)
    _within(self, "beta", "clip_high", "dual_clip", "delta", "refill_rounds")
    _within(self, "clip_low", high=1)
    if self.combine == "gdpo" and self.scale != "none":
      raise UserError("combine=gdpo already normalises: set scale=none.")
    if self.zero_advantage == "refill" and self.beta:
      raise UserError(
        f"zero_advantage=refill needs beta=0 (beta={self.beta}): with a KL"
        " term a group without advantage still has a gradient."
      )

  def _check_off_policy(self):
    _within(self, "off_policy_steps", high=1)
    if self.off_policy_steps and self.mismatch == "ignore":
      raise UserError(
        f"grpo.off_policy_steps={self.off_policy_steps} needs the correction"
        " for who sampled: set grpo.mismatch to truncate or sequence_mask."
      )
    if self.off_policy_steps and self.sample_chunks > 1:
      raise UserError(
        f"grpo.off_policy_steps={self.off_policy_steps} needs"
        f" grpo.sample_chunks=1, not {self.sample_chunks}: rollouts are scored"
        " during the update already."
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SFT:
  """Supervised fine-tuning on demonstrations, loss on the completion only."""

  prompts: int = 16  # per step
  group: int = 1  # demonstrations that share a prompt; of best, at most
  micro: int = 0  # prompts per micro-batch; 0 = all at once
  pack: int = 0  # as in grpo: rows without padding; 0 = padded
  max_new_tokens: int = 256  # longer demonstrations are dropped, and counted
  # Tokens of a prompt and one demonstration; what is longer is dropped, and
  # counted.  0 = what data.max_prompt_len and max_new_tokens allow.
  max_len: int = 0
  # Files of conversations, comma-separated, one a row: {"messages": [{"role",
  # "content"}, ...]}, the last one the assistant's.  "" = `demonstrations`.
  path: str = ""
  # "gold": from the training records' annotated passages.  "best": of the
  # completions that the policy samples in each step, as the stage's `grpo` says
  # (group, temperature, ...), the `group` of highest reward; see `solved`.
  # "clean" and "careless": endless lessons in the embedded world (its warm
  # start).
  demonstrations: str = "gold"
  passages: int = 0  # of a lesson; 0 = data.passages
  recitals: int = 0  # of a lesson's group: a passage word for word
  mixed: float = 0.5  # share of a drill's queries that may not be stated

  def __post_init__(self):
    kinds = ("gold", "best", "clean", "careless")
    _choice("demonstrations", self.demonstrations, kinds)
    _check_sizes("sft", self)
    _positive(self, "group")
    _within(self, "pack", "max_len", "passages", "recitals")
    _within(self, "mixed", high=1)
    if self.demonstrations == "gold" and self.group > 3:
      raise UserError(
        f"sft.group={self.group}: gold demonstrations of a prompt differ in"
        " their think part, which is worded in 3 ways: set at most 3."
      )
    if self.recitals >= self.group:
      raise UserError(
        f"sft.recitals={self.recitals} must be below sft.group={self.group}."
      )
    if self.path and (self.group > 1 or self.demonstrations != "gold"):
      raise UserError(
        f"sft.path={self.path!r} has one demonstration for a prompt: leave"
        f" sft.group={self.group} at 1 and sft.demonstrations="
        f"{self.demonstrations} at gold."
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPO:
  """Direct preference optimisation on pairs, chosen and rejected."""

  prompts: int = 64  # pairs per step
  micro: int = 0  # pairs per micro-batch; 0 = all at once
  pack: int = 0  # as in grpo: rows without padding; 0 = padded
  beta: float = 0.5  # of the implicit reward
  max_new_tokens: int = 256  # a pair with a longer completion is dropped
  max_len: int = 0  # as in sft, of the prompt with either completion
  # Files of pairs, comma-separated, one a row: {"prompt", "chosen",
  # "rejected"}, each a text or a list of messages.  "" = pairs made from the
  # training records' annotated passages.
  path: str = ""

  @property
  def group(self) -> int:
    """Completions that share a prompt."""
    return 2

  def __post_init__(self):
    _check_sizes("dpo", self)
    _within(self, "pack", "max_len")
    _positive(self, "beta")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
  """AdamW, or Muon for matrices with AdamW for the rest."""

  kind: str = "adamw"  # adamw, muon
  lr: float = 1e-6  # peak
  schedule: str = "cosine"  # cosine (to 0), constant, linear (to 0)
  warmup: float = 0.1  # share of the steps
  b1: float = 0.9
  b2: float = 0.999
  eps: float = 1e-8
  weight_decay: float = 0.0
  grad_clip: float = 1.0  # global norm; 0 = off
  # Keep the parameters in float32 too, and round that copy to param_dtype
  # after each step: in bfloat16 alone an update below 1/512 of a parameter is
  # lost.  The optimiser's moments are float32 in any case.
  master: bool = False

  def __post_init__(self):
    _choice("kind", self.kind, ("adamw", "muon"))
    _choice("schedule", self.schedule, ("cosine", "constant", "linear"))
    _positive(self, "lr", "eps")
    _within(self, "weight_decay", "grad_clip")
    _within(self, "warmup", "b1", "b2", high=1)
    if 1 in (self.b1, self.b2):
      raise UserError(f"b1={self.b1} and b2={self.b2} must be below 1.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Eval:
  """One evaluation set, scored with TRUST-SCORE before and after each stage."""

  name: str
  source: Source
  # Never the one used as reward: the default is stricter than its default.
  headline: Verifier = Verifier(threshold=0.75)
  batch: int = 50  # prompts decoded at once
  max_new_tokens: int = 300
  temperature: float = 0.0
  top_k: int = 0  # as in a stage's grpo; so are top_p, min_p and stop
  top_p: float = 1.0
  min_p: float = 0.0
  stop: str = ""
  splitter: str = "punkt"
  bootstrap: int = 1000  # resamples of the 95% intervals
  every: int = 0  # also after so many steps of a stage; 0 = never

  def __post_init__(self):
    _choice("splitter", self.splitter, SPLITTERS)
    if self.source.mix:
      raise UserError(
        f"source.mix={self.source.mix!r} is for training: an evaluation takes"
        " each record once."
      )
    _positive(self, "batch")
    _within(self, "max_new_tokens", low=2)
    _within(self, "temperature", "bootstrap", "every")
    _check_drawing(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
  """One training stage: it starts where the stage before ended."""

  name: str
  objective: str = "grpo"  # grpo, sft, dpo
  steps: int = 100  # optimiser rollouts (grpo) or batches (sft, dpo)
  # Passes over the stage's prompts, in place of `steps`: as many steps as it
  # takes to see each so many times; the last ones begin one more.  Groups that
  # are drawn anew (grpo.refill_rounds) count too.  0 = `steps`.
  epochs: int = 0
  records: str = ""  # its record files, as a source's path; "" = data.train's
  answerable: str = "any"  # which training records: any, only, even
  # Of the prompts drawn: a share, or START:END, which moves evenly over the
  # stage's first prompts * steps prompts; those drawn anew (grpo.refill_rounds)
  # count, so that it may end early.  "" = as the records have it.
  answerable_share: str = ""
  # The least reward of a completion that solves its prompt.  By the default
  # rewards 3.0 = a right refusal, or an answer with a gold that is well cited.
  solved: float = 3.0
  # The chance to be drawn, when its turn comes, of a prompt that all or none of
  # its completions solved lately; of one that half of them solved it is 1, as
  # of a new one.  1 = every prompt in turn.
  redraw: float = 1.0
  limit: int = 0  # training questions used; 0 = all
  init_from: str = ""  # a workdir, or workdir/<stage>/checkpoints/<step>
  rewards: Rewards = Rewards()
  grpo: GRPO = GRPO()
  sft: SFT = SFT()
  dpo: DPO = DPO()
  optimizer: Optimizer = Optimizer()
  save_every: int = 50  # steps between checkpoints
  keep: int = 2  # checkpoints kept, the last always
  log_rollouts: int = 10  # steps between stored rollouts; 0 = never
  # The control experiment: scores dealt out anew within each group.
  shuffle_rewards: bool = False

  def __post_init__(self):
    _choice("objective", self.objective, ("grpo", "sft", "dpo"))
    _choice("answerable", self.answerable, ("any", "only", "even"))
    _positive(self, "save_every", "keep")
    _within(self, "steps", "epochs", "limit", "log_rollouts")
    self._check_rows()
    self._check_curriculum()
    best = self.objective == "sft" and self.samples is not None
    drawn, name = self.samples or self.grpo, "sft" if best else "grpo"
    if self.rewards.overlong >= drawn.max_new_tokens:
      raise UserError(
        f"rewards.overlong={self.rewards.overlong} must be below"
        f" {name}.max_new_tokens={drawn.max_new_tokens}."
      )
    if best:
      self._check_best(drawn)

  def _check_best(self, drawn: GRPO):
    if self.sft.group > drawn.group:
      raise UserError(
        f"sft.group={self.sft.group} must be at most grpo.group={drawn.group}:"
        " the best are chosen from so many completions."
      )
    for name, value in (
      ("grpo.off_policy_steps", drawn.off_policy_steps),
      ("sft.max_len", self.sft.max_len),
    ):
      if value:
        raise UserError(
          f"{name}={value} has no meaning with sft.demonstrations=best: set it"
          " to 0."
        )

  def _check_curriculum(self):
    _positive(self, "redraw")
    _within(self, "redraw", high=1)
    chosen = {
      "answerable_share": (self.answerable_share, ""),
      "redraw": (self.redraw, 1.0),
    }
    for name, (value, off) in chosen.items():
      if value != off and self.samples is None:
        raise UserError(
          f"{name}={value!r} is for stages that sample: objective=grpo, or"
          f" objective=sft with sft.demonstrations=best; leave it at {off!r}."
        )
    if self.shares is not None and self.answerable == "only":
      raise UserError(
        f"answerable_share={self.answerable_share!r} draws unanswerable prompts"
        " too: set answerable to any or even, not only."
      )

  def _check_rows(self):
    if self.path and self.records:
      raise UserError(
        f"{self.objective}.path={self.path!r} takes the place of records: leave"
        f" the stage's records={self.records!r} empty."
      )
    if self.path and self.answerable != "any":
      raise UserError(
        f"{self.objective}.path={self.path!r} names rows that do not state"
        f" whether they are answerable: set answerable=any, not"
        f" {self.answerable}."
      )

  @property
  def learns(self) -> GRPO | SFT | DPO:
    """The section of its objective."""
    return {"grpo": self.grpo, "sft": self.sft, "dpo": self.dpo}[self.objective]

  @property
  def refers(self) -> bool:
    """Whether its loss needs the policy that it begins with."""
    return self.objective == "dpo" or (
      self.objective == "grpo" and self.grpo.beta > 0
    )

  @property
  def samples(self) -> GRPO | None:
    """How completions are sampled; None if those to learn from are written."""
    if self.objective == "grpo":
      return self.grpo
    if self.objective == "sft" and self.sft.demonstrations == "best":
      return dataclasses.replace(
        self.grpo,
        micro=0,
        prompts=self.sft.prompts,
        max_new_tokens=self.sft.max_new_tokens,
      )
    return None

  @property
  def shares(self) -> tuple[fractions.Fraction, fractions.Fraction] | None:
    """The answerable prompts' share at the start and at the end; None = any."""
    if not self.answerable_share:
      return None
    start, _, end = self.answerable_share.partition(":")
    try:
      shares = fractions.Fraction(start), fractions.Fraction(end or start)
    except (ValueError, ZeroDivisionError):
      shares = (fractions.Fraction(-1),) * 2
    if not all(0 <= share <= 1 for share in shares):
      raise UserError(
        f"answerable_share={self.answerable_share!r} must be a share from 0 to"
        " 1, or two like 1:0.5."
      )
    return shares

  @property
  def path(self) -> str:
    """Files of written rows that take the place of records; "" = none."""
    return "" if self.objective == "grpo" else self.learns.path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
  """One run, complete."""

  name: str
  seed: int = 0
  model: Model = Model()
  mesh: PolicyMesh = PolicyMesh()
  data: Data = Data()
  stages: tuple[Stage, ...] = ()
  evals: tuple[Eval, ...] = ()

  def __post_init__(self):
    _folder("experiment", self.name)
    _within(self, "seed", high=2**31 - 1)
    for kind, items in (("stage", self.stages), ("eval", self.evals)):
      names = [item.name for item in items]
      for name in names:
        _folder(kind, name)
      if len(set(names)) < len(names):
        raise UserError(f"two of the {kind}s have one name: {names}.")
    self._check_optimizers()
    judges = [e.headline.judge for e in self.evals]
    for stage in self.stages:
      if stage.samples and stage.rewards.verifier.judge in judges:
        raise UserError(
          f"the stage {stage.name} is rewarded by the judge of an evaluation:"
          " give its headline another kind, threshold or path."
        )

  def _check_optimizers(self):
    wide = self.model.lora.rank or self.model.param_dtype != "bfloat16"
    for stage in self.stages:
      if stage.optimizer.master and wide:
        raise UserError(
          f"the stage {stage.name} sets optimizer.master, but what it trains is"
          " float32 already: it is for model.param_dtype=bfloat16 without LoRA."
        )
      if stage.optimizer.kind == "muon" and self.model.lora.rank:
        raise UserError(
          f"the stage {stage.name} sets optimizer.kind=muon, which is for whole"
          " matrices: train adapters (model.lora.rank) with adamw."
        )


def _section_type(hint: Any) -> type | None:
  """The dataclass that a field holds: itself, or one per tuple entry."""
  if dataclasses.is_dataclass(hint):
    return hint
  for arg in typing.get_args(hint):
    if dataclasses.is_dataclass(arg):
      return arg
  return None


def to_dict(section: Any) -> dict[str, Any]:
  """The nested dictionary of a section; named tuples of sections by name."""
  out = {}
  for field in dataclasses.fields(section):
    value = vars(section)[field.name]
    if dataclasses.is_dataclass(value):
      value = to_dict(value)
    elif isinstance(value, tuple) and _section_type(field.type):
      value = {item.name: to_dict(item) for item in value}
    out[field.name] = value
  return out


def from_dict(cls: type, values: dict[str, Any], where: str = "config") -> Any:
  """Builds and validates a section from its dictionary form.

  Raises:
    UserError: a field that does not exist, or a value of the wrong type or
      outside its range; the message names the field.
  """
  hints = typing.get_type_hints(cls)
  kwargs = {}
  for name, value in values.items():
    if name not in hints:
      raise UserError(
        f"{where} has no field {name!r}; it has: {', '.join(hints)}."
      )
    kwargs[name] = _build(hints[name], value, f"{where}.{name}")
  try:
    return cls(**kwargs)
  except UserError as error:
    raise UserError(f"{where}: {error}") from None


def _build(hint: Any, value: Any, where: str) -> Any:
  section = _section_type(hint)
  if section is None:
    return _scalar(hint, value, where)
  if typing.get_origin(hint) is tuple:
    return tuple(
      from_dict(section, dict(item), f"{where}.{name}")
      for name, item in value.items()
    )
  return from_dict(section, dict(value), where)


def _scalar(hint: Any, value: Any, where: str) -> Any:
  if hint is float and type(value) is int:
    return float(value)
  kinds = (
    typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
  )
  if type(value) is float and not math.isfinite(value):
    raise UserError(f"{where}={value} must be a finite number.")
  if type(value) not in kinds:
    wanted = " or ".join(k.__name__ for k in kinds)
    raise UserError(
      f"{where}={value!r} is a {type(value).__name__}; it must be {wanted}."
    )
  return value
