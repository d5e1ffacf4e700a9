"""Collecting what ``evaluate --unknown`` measured, and its table."""

import json

import numpy as np
import pytest
from PIL import Image
from run_helpers import make_run
from train_data import make_data

from benchmarks import unknown
from benchmarks.rendering.inference_tables import unknown_table
from timm_landmark import cli


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("unknown")
    data = make_data(root / "data", images=(2, 6, 6))
    run = make_run(root / "run", data, model="test_resnet", evaluated=False)
    (root / "others").mkdir()
    for number in range(12):
        noise = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / "others" / f"{number}.png")
    return run


def test_a_run_without_unknown_photos_is_refused(run, tmp_path, capsys):
    with pytest.raises(SystemExit):
        unknown.main([str(run), "--trained-on", "a", "--unknown", "b", "--output", str(tmp_path / "unknown.json")])
    assert "evaluate" in capsys.readouterr().err and not (tmp_path / "unknown.json").exists()


def test_entries_are_collected_and_rendered(run, tmp_path):
    assert cli.main(["evaluate", str(run), "--device", "cpu", "--unknown", str(run.parent / "others")]) == 0
    output = tmp_path / "unknown.json"
    for name in ("ten landmarks", "twelve landmarks", "ten landmarks"):
        words = ["--trained-on", name, "--unknown", "noise", "--output", str(output)]
        assert unknown.main([str(run), *words]) == 0
    entries = json.loads(output.read_text())
    assert list(entries) == ["ten landmarks", "twelve landmarks"]
    assert str(run.parent) not in output.read_text()
    found = json.loads((run / "run.json").read_text())["evaluation"]["unknown"]
    assert entries["ten landmarks"]["unknown"] == found
    rows = [line for line in unknown_table(entries).splitlines() if line.startswith("| ten")]
    assert len(rows) == 1 and "noise (12)" in rows[0] and f"{100 * found['fpr95']:.1f} |" in rows[0]
    low, high = found["auroc_interval"]
    assert f"{100 * found['auroc']:.1f} [{100 * low:.1f}, {100 * high:.1f}]" in rows[0]


def test_a_model_that_is_never_certain_has_a_row():
    share = {"value": 0.5, "interval": [0.4, 0.6]}
    found = {"photos": 3, "auroc": 0.5, "auroc_interval": [0.1, 0.9], "fpr95": 1.0, "none": None}
    thresholds = {"target_accuracy": 0.95}
    entry = dict(
        model="m", seed=0, unknown_photos="u", top1=share, selective=None, thresholds=thresholds, unknown=found
    )
    assert "| 0 |  | 50.0 [10.0, 90.0] | 100.0 | never | never |" in unknown_table({"a": entry})
