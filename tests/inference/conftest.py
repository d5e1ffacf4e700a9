"""A run of five landmarks and photos of others, for the tests of thresholds; other modules make their own data."""

import shutil

import numpy as np
import pytest
from PIL import Image
from train_cases import train
from train_data import make_data
from verbs import evaluate


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data") / "data", classes=5, images=(8, 12, 9), size=48, contrast=0.25)


@pytest.fixture(scope="session")
def unknown(tmp_path_factory):
    """Photos of random colours: a quarter strong, the others between those of the classes, which the model doubts."""
    folder = tmp_path_factory.mktemp("unknown") / "elsewhere"
    folder.mkdir()
    generator = np.random.default_rng(5)
    for number in range(40):
        contrast = 0.06 if number % 4 else 1
        color = 128 + contrast * (generator.integers(0, 256, 3) - 128)
        pixels = np.clip(color + generator.integers(-90, 91, (48, 48, 3)), 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def trained(data, tmp_path_factory):
    run = tmp_path_factory.mktemp("trained") / "run"
    assert train(data, run, "--epochs", 4) == 0
    return run


@pytest.fixture(scope="session")
def measured(trained, unknown, tmp_path_factory):
    """The run, evaluated with unknown photos; not to be changed."""
    run = shutil.copytree(trained, tmp_path_factory.mktemp("measured") / "run")
    evaluate(run, "--unknown", unknown, "--target-accuracy", 0.8)
    return run


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def copy(measured, tmp_path):
    return shutil.copytree(measured, tmp_path / "run")
