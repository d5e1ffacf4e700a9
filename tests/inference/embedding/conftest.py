"""Photos, a run, and the file of vectors that an uninterrupted command writes."""

import pytest
from embed_cases import ROWS, embed
from run_helpers import make_run
from train_data import make_data

from timm_landmark.inference import photos as photos_module
from timm_landmark.inference.embedding import store


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("embed") / "data", size=72)


@pytest.fixture(scope="session")
def run(data):
    return make_run(data.parent / "run", data=data, model="test_resnet")


@pytest.fixture(scope="session")
def whole(data, run):
    """The file of an uninterrupted command with small parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "ROWS", ROWS)
        assert embed(run, data / "test", data.parent / "whole.parquet") == 0
    return data.parent / "whole.parquet"


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(store, "ROWS", ROWS)


@pytest.fixture
def read(monkeypatch):
    """The photos that are read."""
    seen = []
    original = photos_module.read_photo
    monkeypatch.setattr(photos_module, "read_photo", lambda path, *more: seen.append(path) or original(path, *more))
    return seen
