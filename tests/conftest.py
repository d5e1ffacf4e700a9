"""What all tests share: a fixed seed, and readable assertions in the helper modules."""

import sys

import pytest

pytest.register_assert_rewrite("model_cases")


@pytest.fixture(autouse=True)
def seeded():
    """The same random numbers whatever runs before; torch is not imported for tests that do without it."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
