"""A small release, shared by the tests of the whole command; test_prepare_faults.py makes its own."""

import pytest
from prepare_helpers import small_source


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return small_source(tmp_path_factory.mktemp("source"))
