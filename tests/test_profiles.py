"""Traced operations by what they are."""

from benchmarks import profiles


def test_operations_are_summed_by_the_first_kind_that_names_them():
  found = profiles.summed(
    [
      ("dot.3", 3.0),
      ("dot.clone.4", 1.0),
      ("copy_fusion.1", 2.0),
      ("add_exponential_fusion", 2.0),
      ("while.7", 100.0),  # holds the others
    ],
    profiles._XLA,
  ).table()
  assert found["operation_seconds"] == 8.0
  assert found["kinds"] == {
    "products": 0.5,
    "copies and layouts": 0.25,
    profiles.OTHER: 0.25,
  }
  assert found["operations"]["dot"] == 0.5


def test_operations_of_torch_count_as_what_they_do():
  found = profiles.summed(
    [
      ("aten::addmm", 1.0),
      ("aten::_scaled_dot_product_flash_attention_for_cpu", 1.0),
      ("aten::_log_softmax", 1.0),
      ("aten::mul", 1.0),
    ],
    profiles._TORCH,
  ).table()["kinds"]
  assert found == {
    "products": 0.25,
    "attention": 0.25,
    "softmax and its gradient": 0.25,
    profiles.OTHER: 0.25,
  }
