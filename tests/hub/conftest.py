"""An exported folder, shared by the tests of this folder."""

import shutil

import pytest
from run_helpers import make_export


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """An exported test_resnet with three classes; not to be changed."""
    return make_export(tmp_path_factory.mktemp("exported"), model="test_resnet")


@pytest.fixture
def folder(exported, tmp_path):
    """A copy of it, which a test may change."""
    return shutil.copytree(exported, tmp_path / "f")
