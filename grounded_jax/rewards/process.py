"""R_process, the paper's ablation: does the thought lead to the decision?

    R_process = weight * nli(think part => decision), for any decision

The paper names the two sides but not their wording.  Here the decision to
answer is the answer itself, without citations, and the decision to refuse is a
sentence of ours, because no thought entails an apology.  The verifier says yes
or no, so it is all or nothing.
"""

from grounded_jax import text
from grounded_jax.records import Completion
from grounded_jax.rewards.statements import Pair

REFUSED = "The documents do not answer the question."


def decision(completion: Completion, refused: bool) -> Pair:
  """The think part, and what it must entail."""
  said = REFUSED if refused else text.remove_citations(completion.answer)
  return completion.think, said.strip()
