"""Shared by the tests of training: a short run, and the paths of timm's scripts."""

import os
from pathlib import Path

import pytest

from timm_landmark.training.timm_script import find_script
from timm_landmark.training.train import main

SHORT = ["--seed", "3", "--img-size", "32", "--workers", "0", "-b", "12", "--lr", "0.02", "--device", "cpu"]
MODEL = "test_resnet"
FOUND = find_script()  # before a test hides it


def train(data: Path, run: Path, *options: object, model: str = MODEL) -> int:
    """A very short ``timm-landmark train`` on the CPU, in this process."""
    return main([model, "--data", str(data), "--output", str(run), *SHORT, *map(str, options)])


def train_script() -> Path:
    """The path of timm's train.py; without one the test is skipped with a reason."""
    if FOUND is None:
        pytest.skip("timm's train.py was not found: set TIMM_TRAIN_SCRIPT, or run `timm-landmark train --fetch-script`")
    return FOUND


def validate_script() -> Path:
    """The path of timm's validate.py: TIMM_VALIDATE_SCRIPT, or next to train.py."""
    path = Path(os.environ.get("TIMM_VALIDATE_SCRIPT") or train_script().with_name("validate.py"))
    if not path.is_file():
        pytest.skip("timm's validate.py was not found: set TIMM_VALIDATE_SCRIPT, or put it next to train.py")
    return path
