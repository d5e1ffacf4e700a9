"""What the tests of training share: a short run, timm's scripts where they can be had, and where each key came from."""

import os
from pathlib import Path

import pytest

from timm_landmark.training.timm_script import find_script
from timm_landmark.training.train import main

SHORT = ["--seed", "3", "--img-size", "32", "--workers", "0", "-b", "12", "--lr", "0.02", "--device", "cpu"]
MODEL = "test_resnet"
FOUND = find_script()  # before a test hides it


def train(data: Path, run: Path, *options: object, model: str = MODEL) -> int:
    """``timm-landmark train`` on the CPU, in this process, as short as it can be."""
    return main([model, "--data", str(data), "--output", str(run), *SHORT, *map(str, options)])


def train_script() -> Path:
    """The path of timm's train.py; the test is skipped, with the reason, where there is none."""
    if FOUND is None:
        pytest.skip("timm's train.py is not at hand: set TIMM_TRAIN_SCRIPT, or `timm-landmark train --fetch-script`")
    return FOUND


def validate_script() -> Path:
    """The path of timm's validate.py beside its train.py, or in TIMM_VALIDATE_SCRIPT."""
    path = Path(os.environ.get("TIMM_VALIDATE_SCRIPT") or train_script().with_name("validate.py"))
    if not path.is_file():
        pytest.skip("timm's validate.py is not at hand: set TIMM_VALIDATE_SCRIPT, or put it beside train.py")
    return path
