"""The verbs evaluate and predict, as a user calls them on the CPU."""

from timm_landmark.cli import main as cli
from timm_landmark.runs.folder import read_run_info


def evaluate(run, *options, code=0):
    assert cli(["evaluate", str(run), "--device", "cpu", *map(str, options)]) == code
    return read_run_info(run)


def predict(run, photos, *options, code=0):
    assert cli(["predict", str(run), str(photos), "--device", "cpu", *map(str, options)]) == code
