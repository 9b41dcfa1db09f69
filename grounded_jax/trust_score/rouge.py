"""ROUGE-L of long answers, by tensorflow_text (the extra [text])."""

from collections.abc import Mapping, Sequence
from typing import Any

from grounded_jax import sentences, text


def references(record: Mapping[str, Any]) -> list[str]:
  """The long answers that a record's output is compared with; [] = none.

  Those that it states: `answer` (ELI5), or `long_answer` of each of its
  `annotations` (ASQA); else, for claims, its gold claims joined.
  """
  stated = [record.get("answer")] + [
    annotation.get("long_answer")
    for annotation in record.get("annotations") or ()
    if isinstance(annotation, Mapping)
  ]
  found = [x for x in stated if isinstance(x, str) and x.strip()]
  if not found and record["task"] == "claims" and record["answers"]:
    found = [" ".join(claim[0] for claim in record["answers"])]
  return found


def rouge_l(outputs: Sequence[str], targets: Sequence[str]) -> list[float]:
  """The F-measure of the longest common subsequence of words, 0..1 each.

  Words are those of the normal forms, without citations.

  Raises:
    UserError: the extra [text] is missing.
  """
  library = sentences.tensorflow_text()
  import tensorflow as tf  # after the check above

  ragged = lambda texts: tf.ragged.constant(
    [text.normalize(text.remove_citations(t)).split() for t in texts],
    ragged_rank=1,
    dtype=tf.string,
  )
  scores = library.metrics.rouge_l(ragged(outputs), ragged(targets))
  return scores.f_measure.numpy().tolist()
