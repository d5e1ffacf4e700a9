"""The statistics of Scale: by unit, in both directions."""

import sys
from pathlib import Path

import pytest
import timm
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
scale = pytest.importorskip("scale")


def test_untrained_units_weigh_nothing_and_larger_projections_do() -> None:
    torch.manual_seed(0)
    net = timm.create_model("resneat50", num_classes=5)
    batches = [torch.randn(3, 3, 64, 64), torch.randn(2, 3, 64, 64)]
    before = scale.scale_statistics(net, batches)
    assert [row["channels"] for row in before] == [256] * 3 + [512] * 4 + [1024] * 6 + [2048] * 3
    assert all(abs(row["mean"] - 0.5) < 0.01 and row["over_channels"] < 1e-3 for row in before)
    with torch.no_grad():
        for unit in net.modules():
            if isinstance(unit, scale.ChannelAttention2d):
                for projection in (unit.query, unit.key, unit.value):
                    projection.weight.mul_(300)
    after = scale.scale_statistics(net, batches)
    assert all(row["over_channels"] > 1e-3 and row["over_photos"] > 0 for row in after)
    assert net.training  # as it was given


def test_a_folder_that_is_no_run_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert scale.main([str(tmp_path), "--data", str(tmp_path)]) == 2
    assert "run.json" in capsys.readouterr().err
