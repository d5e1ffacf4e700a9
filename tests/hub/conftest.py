"""An exported folder and pushing it, shared by the tests of this folder."""

import shutil

import pytest
from loopback_hub import TOKEN
from run_helpers import TINY, export, make_export, make_run

from timm_landmark import cli


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """An exported test_resnet with three classes; not to be changed."""
    return make_export(tmp_path_factory.mktemp("exported"), model="test_resnet")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """A finished run of a small ResNeAt; not to be changed."""
    return make_run(tmp_path_factory.mktemp("run") / "first try", **TINY)


@pytest.fixture(scope="session")
def tiny_export(tiny_run, tmp_path_factory):
    """Its export; not to be changed."""
    return export(tiny_run, tmp_path_factory.mktemp("export") / "f", "--name", "resneat50.my_landmarks")


@pytest.fixture
def folder(exported, tmp_path):
    """A copy of it, which a test may change."""
    return shutil.copytree(exported, tmp_path / "f")


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Runs push in this process, without the new process of check; test_end_to_end.py tests both."""

    def run(hub, *arguments, token=TOKEN):
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr("timm_landmark.hub.check._vectors", lambda source, folder: [])
        monkeypatch.delenv("HF_TOKEN", raising=False)
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        return cli.main(["push", *map(str, arguments)])

    return run
