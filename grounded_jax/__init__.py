"""Training language models to answer from retrieved passages, on JAX."""

__version__ = "0.1.0"
