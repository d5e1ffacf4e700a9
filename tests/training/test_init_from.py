"""``train --init-from``: every tensor with the same name and shape, over a loopback Hub, with seeded weights."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from loopback_hub import LoopbackHub
from run_helpers import make_export
from safetensors.torch import load_file, save_file
from train_data import make_data

import timm_landmark  # noqa: F401
from timm_landmark.runs.checkpoints import load_model_weights
from timm_landmark.training import init_from
from timm_landmark.utils.errors import UserError


def seeded(name, seed=3, **arguments):
    torch.manual_seed(seed)
    return timm.create_model(name, **arguments)


def test_resneat50_takes_14_94_of_16_23_million_from_resnext50():
    source, model = seeded("resnext50_32x4d"), seeded("resneat50", seed=4)
    fresh = {name: value.clone() for name, value in model.state_dict().items()}
    copied = init_from.copy_equal(model, source.state_dict(), "resnext50_32x4d")
    assert (round(copied.parameters / 1e6, 2), round(copied.of / 1e6, 2)) == (14.94, 16.23)
    assert all(".attn." in name for name in copied.fresh)
    weights = source.state_dict()
    for name, value in model.state_dict().items():
        assert value.equal(fresh[name] if name in copied.fresh else weights[name])
    _, fresh = copied.describe()
    assert fresh.startswith("randomly initialized: ") and "query.weight (16)" in fresh


def test_another_class_count_leaves_the_head_fresh():
    model = seeded("resneat50", num_classes=5)
    copied = init_from.copy_equal(model, seeded("resnext50_32x4d").state_dict(), "x")
    assert {"fc.weight", "fc.bias"} <= set(copied.fresh)


def test_inception_resnet_pa_takes_stem_and_reductions_from_inception_resnet_v2():
    with torch.device("meta"):
        source, model = timm.create_model("inception_resnet_v2"), timm.create_model("inception_resnet_pa")
    weights = {name: torch.zeros(value.shape) for name, value in source.state_dict().items()}
    model.to_empty(device="cpu")
    copied = init_from.copy_equal(model, weights, "inception_resnet_v2")
    assert "conv2d_1a.conv.weight" not in copied.fresh and "repeat.0.conv2d.weight" not in copied.fresh
    assert "mixed_7a.branch0.0.conv.weight" not in copied.fresh and "classif.weight" not in copied.fresh
    assert any(name.startswith("repeat.0.branches") for name in copied.fresh)
    assert copied.parameters > 10e6


def test_what_shares_nothing_is_refused():
    with pytest.raises(UserError, match="--init-from x: none of its tensors"):
        init_from.copy_equal(seeded("resneat50"), {"a": torch.zeros(1)}, "x")


def test_unknown_sources(tmp_path):
    with pytest.raises(UserError, match=r"--init-from resnext51: not a run, .* a timm model or a checkpoint"):
        init_from.source_weights("resnext51")
    with pytest.raises(UserError, match="not a run"):
        init_from.source_weights(str(tmp_path))
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match="cannot be read"):
        init_from.source_weights(str(tmp_path / "torn.safetensors"))


def test_a_run_starts_from_a_file_and_says_so(tmp_path, capsys):
    save_file(seeded("test_resnet", num_classes=3).state_dict(), tmp_path / "w.safetensors")
    args = argparse.Namespace(model="test_resnet", num_classes=5, seed=1)
    start = init_from.initial_state(args, str(tmp_path / "w.safetensors"))
    kept = init_from.write_start(*start, tmp_path / "init.safetensors")
    start, source = load_file(tmp_path / "init.safetensors"), load_file(tmp_path / "w.safetensors")
    assert kept["source"] == "w.safetensors"  # no path
    assert start["conv1.0.weight"].equal(source["conv1.0.weight"])
    torch.manual_seed(1)
    assert start["fc.weight"].equal(timm.create_model("test_resnet", num_classes=5).state_dict()["fc.weight"])
    assert "randomly initialized: fc.weight, fc.bias" in capsys.readouterr().out


def test_a_run_and_its_export_are_sources(tmp_path, monkeypatch):
    folder = make_export(tmp_path, model="test_resnet")
    expected = load_model_weights(tmp_path / "run" / "model_best.pth.tar")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").rename("resneat50")  # named like a model: as in `train resneat50 --output resneat50`
    for source in ("./resneat50", str(folder)):
        weights = init_from.source_weights(source)
        assert weights.keys() == expected.keys()
        assert all(weights[name].equal(value) for name, value in expected.items())
    with pytest.raises(UserError, match=r"both a timm model and a folder; write \./resneat50 for the folder"):
        init_from.source_weights("resneat50")


def test_train_from_timms_weights_over_the_hub(tmp_path):
    """The command in a new process: with a tiny learning rate, an epoch leaves the downloaded weights unchanged."""
    data = make_data(tmp_path / "data", images=(16, 3, 3), size=32)
    source = seeded("test_resnet")
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    cfg = timm.get_pretrained_cfg("test_resnet")
    with LoopbackHub() as hub:
        hub.add(cfg.hf_hub_id, {"model.safetensors": (tmp_path / "model.safetensors").read_bytes()})
        child = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "timm_landmark.cli", "train", "test_resnet", "--data", data,
             "--output", tmp_path / "run", "--init-from", "test_resnet", "--epochs", "1", "--img-size", "32",
             "-b", "16", "--lr", "0.000000001", "--workers", "0", "--device", "cpu"],
            env=hub.env(tmp_path / "cache"), capture_output=True, text=True,
        )  # fmt: skip
        assert child.returncode == 0, child.stderr[-2000:]
        assert all(path.endswith("model.safetensors") for _, path in hub.requests)
    assert (
        "tensors with the same name and shape" in child.stdout
        and "randomly initialized: fc.weight, fc.bias" in child.stdout
    )
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert info["init_from"]["source"] == "test_resnet"
    with torch.serialization.safe_globals([argparse.Namespace]):
        trained = torch.load(tmp_path / "run" / "last.pth.tar", weights_only=True)["state_dict"]
    for name, value in source.named_parameters():
        if not name.startswith("fc."):
            assert torch.allclose(trained[name], value, atol=1e-6)


def test_the_papers_comparison_never_uses_it():
    root = Path(__file__).resolve().parents[2]
    for file in ("timm_landmark/training/recipes/paper.yaml", "benchmarks/compare.py"):
        text = (root / file).read_text()
        assert "init-from" not in text and "init_from" not in text and "initial" not in text
