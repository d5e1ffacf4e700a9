"""``export``: a folder that timm loads bit-equal, or no folder."""

import json
import math
import os
import re
import stat
from dataclasses import asdict

import pytest
import timm
import torch
import yaml
from run_helpers import TINY, export, make_run
from safetensors.torch import load_file, save_file

from timm_landmark.data.check import SUMS, read_sums
from timm_landmark.hub import check
from timm_landmark.hub.export import main
from timm_landmark.hub.exported import load_model, read_config
from timm_landmark.hub.onnx import export_onnx
from timm_landmark.runs.model import load_run, load_run_model
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.files import sha256_file


@pytest.fixture(scope="module")
def run(tiny_run):
    return tiny_run


@pytest.fixture(scope="module")
def folder(tiny_export):
    return tiny_export


def same(weights, other):
    return weights.keys() == other.keys() and all(other[name].equal(value) for name, value in weights.items())


def test_folder_holds_what_it_should_readable_by_all(folder):
    files = {path.name for path in folder.iterdir()}
    assert files == {
        "model.safetensors", "config.json", "README.md", "LICENSE", "test_vectors.safetensors", "run.json",
        "summary.csv", "classes.csv", SUMS,
    }  # fmt: skip
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o644}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    sums = read_sums(folder)
    assert sums == {name: sha256_file(folder / name) for name in files - {SUMS}}


def test_weights_are_the_best_epochs_and_timm_loads_them(run, folder):
    trained = load_run_model(load_run(run))
    stored = load_file(folder / "model.safetensors")
    assert same(trained.state_dict(), stored)
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert same(loaded.state_dict(), stored)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert loaded(images).equal(trained(images))


def test_config_says_how_the_run_was_trained(folder):
    config = read_config(folder)
    assert (config.architecture, config.num_classes) == ("resneat50", 3)
    assert config.names == ("Class 0", "Class 1", "Class 2") and config.landmark_ids == ("0", "1", "2")
    cfg = config.pretrained
    assert cfg["input_size"] == [3, 64, 64] and cfg["interpolation"] == "bilinear" and cfg["crop_pct"] == 0.875
    assert cfg["mean"] == [0.485, 0.456, 0.406] and cfg["std"] == [0.229, 0.224, 0.225]
    assert cfg["tag"] == "my_landmarks" and cfg["hf_hub_filename"] == "model.safetensors"
    loaded = timm.create_model(f"local-dir:{folder}")
    assert timm.data.resolve_model_data_config(loaded)["input_size"] == (3, 64, 64)


def test_defaults_of_the_architecture_do_not_leak_into_the_config(tmp_path):
    """timm's resnet50 is tested at 288 pixels and a crop of 0.95; this run was validated differently."""
    run = make_run(tmp_path / "run", model="resnet26t", size=64)
    cfg = read_config(export(run, tmp_path / "f")).pretrained
    assert "test_input_size" not in cfg and "test_crop_pct" not in cfg and cfg["input_size"] == [3, 64, 64]


def test_the_epsilon_of_batchnorm_goes_with_the_model(tmp_path):
    run = make_run(tmp_path / "run", model="test_efficientnet")
    args = yaml.safe_load((run / "args.yaml").read_text()) | {"bn_eps": 0.1}
    (run / "args.yaml").write_text(yaml.safe_dump(args))
    folder = export(run, tmp_path / "folder", "--name", "test_efficientnet.x")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert {module.eps for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)} == {0.1}
    assert check.main([str(folder)]) == 0


def test_vectors_are_the_seeded_input_and_its_logits(folder):
    vectors = load_file(folder / "test_vectors.safetensors")
    generator = torch.Generator().manual_seed(0)
    assert vectors["input"].equal(torch.randn(2, 3, 64, 64, generator=generator))
    model, _ = load_model(str(folder))
    with torch.no_grad():
        assert (model(vectors["input"]) - vectors["logits"]).abs().max() < 1e-5
    assert vectors["logits"].std() > 1e-3  # not all zero


def test_ema_weights_are_taken_where_the_run_has_them(tmp_path):
    run = make_run(tmp_path / "run", model="test_resnet", ema=True)
    stored = load_file(export(run, tmp_path / "f") / "model.safetensors")
    checkpoint = torch.load(run / "model_best.pth.tar", weights_only=False)
    assert same(checkpoint["state_dict_ema"], stored)
    assert "exponential moving average" in (tmp_path / "f" / "README.md").read_text()


def test_fp16_is_stored_half_and_loads_as_the_rounded_float(run, tmp_path):
    folder = export(run, tmp_path / "half", "--dtype", "fp16")
    stored = load_file(folder / "model.safetensors")
    assert {value.dtype for value in stored.values() if value.is_floating_point()} == {torch.float16}
    model, _ = load_model(str(folder))
    assert same({k: v.to(model.state_dict()[k].dtype) for k, v in stored.items()}, model.state_dict())
    vectors = load_file(folder / "test_vectors.safetensors")
    with torch.no_grad():
        assert (model(vectors["input"]) - vectors["logits"]).abs().max() < 1e-5


def test_fp16_refuses_what_it_cannot_hold(tmp_path):
    run = make_run(tmp_path / "run", model="test_resnet")
    state = torch.load(run / "model_best.pth.tar", weights_only=False)
    next(value for name, value in state["state_dict"].items() if "running_var" in name)[0] = 1e6
    torch.save(state, run / "model_best.pth.tar")
    with pytest.raises(UserError, match=r"--dtype fp16: .* beyond 65504; use --dtype fp32"):
        main([str(run), "--output", str(tmp_path / "f"), "--dtype", "fp16"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_channels_last_weights_become_contiguous(tmp_path):
    run = make_run(tmp_path / "run", model="test_resnet")
    state = torch.load(run / "model_best.pth.tar", weights_only=False)
    for name, value in state["state_dict"].items():
        if value.ndim == 4:
            state["state_dict"][name] = value.to(memory_format=torch.channels_last)
    torch.save(state, run / "model_best.pth.tar")
    assert same(load_file(export(run, tmp_path / "f") / "model.safetensors"), state["state_dict"])


@pytest.mark.full  # a quick version is in test_end_to_end.py
@pytest.mark.filterwarnings("ignore")
def test_onnx_agrees_in_onnxruntime_at_any_batch(tmp_path):
    pytest.importorskip("onnxscript", reason="needs the extra 'export'")
    runtime = pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
    folder = export(make_run(tmp_path / "run", **TINY), tmp_path / "f", "--onnx")
    session = runtime.InferenceSession(folder / "model.onnx")
    model, _ = load_model(str(folder))
    images = torch.randn(5, 3, 64, 64)
    with torch.no_grad():
        expected = model(images)
    (logits,) = session.run(None, {"images": images.numpy()})
    assert (torch.from_numpy(logits) - expected).abs().max() < 1e-3
    assert "model.onnx" in read_sums(folder)


def broken_run(path):
    """A run whose weights for the last class are NaN."""
    run = make_run(path, model="test_resnet")
    state = torch.load(run / "model_best.pth.tar", weights_only=False)
    state["state_dict"]["fc.weight"][-1] = math.nan
    torch.save(state, run / "model_best.pth.tar")
    return run


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_answers_that_are_no_numbers_are_not_exported(tmp_path, dtype):
    with pytest.raises(UserError, match="not finite" if dtype == "fp32" else "beyond 65504"):
        main([str(broken_run(tmp_path / "run")), "--output", str(tmp_path / "f"), "--dtype", dtype])
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")
def test_onnx_whose_answers_are_no_numbers_does_not_agree(tmp_path):
    pytest.importorskip("onnxscript", reason="needs the extra 'export'")
    folder = export(make_run(tmp_path / "run", model="test_resnet"), tmp_path / "f")
    weights = load_file(folder / "model.safetensors")
    weights["fc.weight"][-1] = math.nan
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(UserError, match="onnxruntime's logits differ by nan"):
        export_onnx(folder, 1e-3)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--name", "resnet50.x"], "--name resnet50.x: the run's model is test_resnet"),
        (["--name", "test_resnet.a/b"], "letters, digits"),
        (["--name", "test_resnet."], "letters, digits"),
        (["--dtype", "int8"], "--dtype"),
    ],
)
def test_bad_options(tmp_path, options, message):
    run = make_run(tmp_path / "run", model="test_resnet")
    with pytest.raises(UserError, match=re.escape(message)):
        main([str(run), "--output", str(tmp_path / "f"), *options])
    assert not (tmp_path / "f").exists()


def test_what_is_no_finished_run(tmp_path):
    with pytest.raises(UserError, match="not a run"):
        main([str(tmp_path), "--output", str(tmp_path / "f")])
    run = make_run(tmp_path / "run", model="test_resnet")
    (run / "model_best.pth.tar").write_bytes(b"torn")
    with pytest.raises(UserError, match="no readable checkpoint"):
        main([str(run), "--output", str(tmp_path / "f")])


def test_a_hostile_checkpoint_runs_nothing(tmp_path):
    class Planted:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    run = make_run(tmp_path / "run", model="test_resnet")
    torch.save({"epoch": 1, "state_dict": Planted()}, run / "model_best.pth.tar")
    with pytest.raises(UserError):
        main([str(run), "--output", str(tmp_path / "f")])
    from timm_landmark.runs.checkpoints import load_model_weights

    with pytest.raises(UserError, match="loading it would run code, which is not allowed"):
        load_model_weights(run / "model_best.pth.tar")
    assert not (tmp_path / "ran").exists()


def test_args_of_the_model_travel(run, folder):
    """A model that was created with arguments is created with the same arguments again."""
    assert yaml.safe_load((run / "args.yaml").read_text())["model_kwargs"] == TINY
    assert json.loads((folder / "config.json").read_text())["model_args"]["layers"] == TINY["layers"]
    assert asdict(read_config(folder))["architecture"] == "resneat50"
