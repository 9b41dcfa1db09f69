"""The two rewards, every value pinned (design section 5 has the table)."""

from grounded_jax import config

_FLAG = "I apologize, but I couldn't find an answer"


def paper(refusal: bool) -> config.Rewards:
  """What the paper states (arXiv:2506.15522, Eq. 1-8 and Algorithm 1).

  Its literal sum over statements can be farmed by repetition.

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
