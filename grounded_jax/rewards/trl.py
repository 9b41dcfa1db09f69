"""The rewards as TRL's `GRPOTrainer` takes them: `reward_funcs=...`.

TRL calls each function with the prompts, the completions (texts, or message
lists when the prompts are conversations), the completions' token ids and one
list for each column of the data set, all of one length.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from grounded_jax import config, rewards
from grounded_jax.records import Doc, Example, UserError, check_doc, find_task
from grounded_jax.verifiers import Verifier

RewardFunction = Callable[..., list[float]]


def reward_functions(
  cfg: config.Rewards,
  verifier: Verifier,
  *,
  prefill: str = "",
  max_tokens: int = 0,
) -> list[RewardFunction]:
  """One function per reward part, named after it; their sum is the reward.

  The data set needs the columns question, docs and answers, and task or
  dataset; answerable follows from the docs when it is not given.  A batch is
  scored once, whichever function is called first.

  Args:
    cfg: which reward.
    verifier: asked once per batch.
    prefill: what the chat template writes at the start of a completion.
    max_tokens: `max_completion_length`; read by the overlong penalty.
  """
  batch = _Batch(cfg, verifier, prefill, max_tokens)
  return [_function(batch, part) for part in rewards.PARTS]


def _function(batch: "_Batch", part: str) -> RewardFunction:
  """One part of each completion's score, under the name that TRL logs.

  A plain function: of a partial, TRL would log the name of what it wraps, and
  all parts under that one.
  """

  def reward(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]] | None = None,
    **columns: Any,
  ) -> list[float]:
    del prompts
    scores = batch.scores(completions, completion_ids, columns)
    return [score.parts[part] for score in scores]

  reward.__name__ = f"reward_{part}"
  return reward


class _Batch:
  """The scores of the batch that was asked for last."""

  def __init__(
    self,
    cfg: config.Rewards,
    verifier: Verifier,
    prefill: str,
    max_tokens: int,
  ):
    self._cfg = cfg
    self._verifier = verifier
    self._prefill = prefill
    self._max_tokens = max_tokens
    self._key: Any = None
    self._scores: list[rewards.Score] = []

  def scores(
    self,
    completions: Sequence[Any],
    ids: Sequence[Sequence[int]] | None,
    columns: Mapping[str, Any],
  ) -> list[rewards.Score]:
    texts = [_written(completion) for completion in completions]
    tokens = [len(row) for row in ids] if ids else [0] * len(texts)
    examples = [_example(columns, i) for i in range(len(texts))]
    key = (examples, texts, tokens)
    if key != self._key:
      self._scores = rewards.score_batch(
        examples,
        [
          rewards.completion(
            text, tokens=count, prefill=self._prefill, tags=self._cfg.tags
          )
          for text, count in zip(texts, tokens, strict=True)
        ],
        self._cfg,
        self._verifier,
        max_tokens=self._max_tokens,
      )
      self._key = key
    return self._scores


def _written(completion: str | Sequence[Mapping[str, str]]) -> str:
  """The text of a completion, or of the messages of a conversation's."""
  if isinstance(completion, str):
    return completion
  return "".join(message["content"] for message in completion)


def _example(columns: Mapping[str, Any], i: int) -> Example:
  """The example of row `i` of the data set's columns."""
  where = f"Row {i} of the batch"
  for name in ("question", "docs", "answers"):
    if name not in columns:
      raise UserError(f"The data set has no column {name!r}.")
    if columns[name][i] is None:
      raise UserError(f"{where} has no {name!r}.")
  answers = columns["answers"][i]
  if not all(answers):
    raise UserError(f"{where}: an entry of 'answers' is empty.")
  for number, doc in enumerate(columns["docs"][i], start=1):
    check_doc(f"{where}, doc {number}", doc, len(answers))
  docs = tuple(
    Doc(
      title=doc["title"],
      text=doc["text"],
      answers_found=tuple(doc["answers_found"]),
    )
    for doc in columns["docs"][i]
  )
  task = columns["task"][i] if "task" in columns else ""
  dataset = columns["dataset"][i] if "dataset" in columns else ""
  answerable = any(any(doc.answers_found) for doc in docs)
  if "answerable" in columns and columns["answerable"][i] is not None:
    answerable = bool(columns["answerable"][i])
  return Example(
    id=str(columns["id"][i]) if "id" in columns else "",
    task=find_task(where, task, dataset),
    question=columns["question"][i],
    docs=docs,
    answers=tuple(tuple(aliases) for aliases in answers),
    answerable=answerable,
    dataset=dataset or "",
  )
