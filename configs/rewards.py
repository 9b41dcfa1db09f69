"""The two rewards, every value pinned (design section 5 has the table).

What they can pay, where a gold is one that a shown passage supports:

| | paper | modern |
|---|---|---|
| least | 0, no tag right | -1, no tag right and at the length limit |
| most, answerable, stage 1 | 2 + statements | 2 + golds |
| most, answerable, stage 2 | 2.5 + statements | 2.5 + golds |
| most, unanswerable, stage 1, 2 | 2, 3 | 2, 3 |

Once the layout holds, an answer to an answerable question gets at least 2 (2.5
in stage 2) and refusing it 2; answering an unanswerable one gets 2, but by
modern() in stage 2 only 1.  All less the overlong penalty.
"""

from grounded_jax import config

_FLAG = "I apologize, but I couldn't find an answer"


def paper(refusal: bool) -> config.Rewards:
  """What the paper states (arXiv:2506.15522, Eq. 1-8 and Algorithm 1).

  Its literal sum over statements can be farmed by repetition and by copying.

  Args:
    refusal: True in stage 2, False in stage 1.
  """
  return config.Rewards(
    tags=True,
    refusal=refusal,
    statements="sum",
    citation="entail",
    max_citations=0,
    penalty=0.5,
    surplus=0.0,
    unsupported=0.0,
    process=0.0,
    unanswerable="format",
    overlong=0,
    splitter="punkt",
    refusal_flag=_FLAG,
    refusal_threshold=85,
  )


def modern(refusal: bool, overlong: int = 128) -> config.Rewards:
  """Each gold pays once, citations are minimal, false answers cost a point.

  A distinct statement that is no gold's first mention has a price, taken from
  what the answer earned: 0.5 if its citation is wrong or missing, or else an
  answer could grow false sentences at no cost; 0.1 if it is right, so that
  copying the passages whole, which states every gold, pays less than choosing.

  Args:
    refusal: True in stage 2, False in stage 1.
    overlong: tokens before the limit over which the length penalty grows;
      about a quarter of the limit.
  """
  return config.Rewards(
    tags=True,
    refusal=refusal,
    statements="first",
    citation="minimal",
    max_citations=3,
    penalty=0.5,
    surplus=0.1,
    unsupported=0.5,
    process=0.0,
    unanswerable="ternary",
    overlong=overlong,
    splitter="punkt",
    refusal_flag=_FLAG,
    refusal_threshold=85,
  )
