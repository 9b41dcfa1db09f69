"""R_process: does the thinking lead to the decision (paper, section on
ablations)?

    R_process = weight * nli(think part => decision)

The paper's text names the two sides but not their wording.  Here the decision
of who answers is the answer itself, without citations; that of who refuses is
a sentence, because no thought entails an apology.  The verifier says yes or no,
so R_process is all or nothing.
"""

from grounded_jax import text
from grounded_jax.records import Completion
from grounded_jax.rewards.statements import Pair

REFUSED = "The documents do not answer the question."


def decision(completion: Completion, refused: bool) -> Pair:
  """The think part, and what it must entail."""
  said = REFUSED if refused else text.remove_citations(completion.answer)
  return completion.think, said.strip()
