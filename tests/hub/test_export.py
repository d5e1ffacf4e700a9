"""``export``: a folder that timm loads bit-equal and whose card agrees with the run's files, or no folder."""

import json
import math
import os
import re
import stat
import subprocess
import sys
from dataclasses import asdict

import pytest
import timm
import torch
import yaml
from loopback_hub import LoopbackHub
from PIL import Image
from run_helpers import TINY, make_run
from safetensors.torch import load_file, save_file
from train_data import make_data

from timm_landmark.data.check import SUMS, read_sums
from timm_landmark.data.layout import ClassRow, read_rows
from timm_landmark.hub import check
from timm_landmark.hub.export import main
from timm_landmark.hub.exported import load_model, read_config
from timm_landmark.hub.model_card import metrics, run_metrics
from timm_landmark.hub.onnx import export_onnx
from timm_landmark.runs.model import load_run, load_run_model
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.files import sha256_file

HOSTILE = (
    "../../etc/passwd",
    "<script>alert(1)</script>|`x`[a](javascript:b)",
    "a\x1b[31mred\nline\u202eright\x07\x9b",
    "é 漢",
)


def export(run, output, *options):
    assert main([str(run), "--output", str(output), *options]) == 0
    return output


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run") / "first try", **TINY)


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    return export(run, tmp_path_factory.mktemp("export") / "f", "--name", "resneat50.my_landmarks")


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


def test_card_metadata_is_read_and_says_what_the_run_says(folder):
    from huggingface_hub import ModelCard

    card = ModelCard.load(folder / "README.md", ignore_metadata_errors=False)
    assert card.data.library_name == "timm" and card.data.license == "apache-2.0"
    assert {"image-classification", "timm", "transformers"} <= set(card.data.tags)
    info = json.loads((folder / "run.json").read_text())
    assert metrics(card.content) == run_metrics(info) == {("test", "top-1"): 2 / 3, ("test", "GAP"): 0.51234}
    assert card.data.eval_results[0].dataset_revision == "0" * 64


def test_every_figure_of_the_text_is_the_runs(run, folder):
    text = (folder / "README.md").read_text()
    model = load_run_model(load_run(run))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert f"**Parameters:** {parameters / 1e6:.2f} M" in text
    from timm_landmark.accounting.macs import count_macs
    from timm_landmark.layers import force_path

    with force_path("plain"):
        count = count_macs(model, torch.zeros(1, 3, 64, 64))
    assert f"**MACs:** {count.macs / 1e9:.3f} G" in text
    assert f"**Activations:** {count.activations / 1e6:.2f} M" in text
    assert "| top-1 | 66.67 % | 43.75 % .. 83.72 % |" in text and "| GAP | 0.5123 | 0.4100 .. 0.6200 |" in text
    assert "18 images of the split `test` (epoch 1" in text and "top-1 75.00 %" in text
    assert "seed 1, 2 epochs at 64 pixels, global batch 64" in text
    assert "36 images in train, 18 images in validation, 18 images in test" in text
    assert "The licences of the photos are unknown." in text
    assert "top-3" not in text  # of three classes: says nothing


def test_the_card_speaks_of_the_exported_epoch_and_of_test_images(tmp_path):
    run = make_run(tmp_path / "run", model="test_resnet")
    (run / "summary.csv").write_text(
        "epoch,train_loss,eval_loss,eval_top1,eval_top5,lr\n0,1.2,0.9,50.0,100.0,0.1\n1,1.0,0.7,40.0,100.0,0.1\n"
    )
    (run / "args.yaml").write_text((run / "args.yaml").read_text().replace("eval_metric: top1", "eval_metric: loss"))
    info = json.loads((run / "run.json").read_text())
    test = info["evaluation"]["test"]
    info["evaluation"]["validation"] = test | {"split": "validation", "images": 500}
    info["evaluation"]["test"] = test | {"images": 5000}
    (run / "run.json").write_text(json.dumps(info))
    text = (export(run, tmp_path / "f") / "README.md").read_text()
    assert "this figure is optimistic): top-1 40.00 %" in text and "intervals are wide" not in text
    del info["evaluation"]["test"]
    (run / "run.json").write_text(json.dumps(info))
    text = (export(run, tmp_path / "g") / "README.md").read_text()
    assert "500 images of the split `validation`" in text and "Not evaluated on a test split" in text


def test_the_name_of_the_data_is_plain_text_in_the_metadata(tmp_path):
    from huggingface_hub import ModelCard

    data = make_data(tmp_path / "data")
    (data / "dataset.json").write_text(json.dumps({"release": "Kaggle 2020/2021 (GLDv2 clean)"}))
    folder = export(make_run(tmp_path / "run", data, model="test_resnet"), tmp_path / "f")
    card = ModelCard.load(folder / "README.md", ignore_metadata_errors=False)
    assert card.data.eval_results[0].dataset_name == "Kaggle 2020/2021 (GLDv2 clean)"


def test_an_evaluation_of_another_epoch_is_left_out(tmp_path):
    run = make_run(tmp_path / "run", model="test_resnet")
    info = json.loads((run / "run.json").read_text())
    info["evaluation"]["test"]["epoch"] = 0
    (run / "run.json").write_text(json.dumps(info))
    folder = export(run, tmp_path / "f")
    assert metrics((folder / "README.md").read_text()) == {}
    assert "Not evaluated on a test split" in (folder / "README.md").read_text()


@pytest.mark.full  # four fresh processes
def test_every_snippet_of_the_card_runs_in_fresh_processes(folder, tmp_path):
    card = (folder / "README.md").read_text()
    snippets = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(snippets) == 4
    Image.new("RGB", (90, 70), "teal").save(tmp_path / "photo.jpg")
    with LoopbackHub() as hub:
        hub.add("ORG/resneat50.my_landmarks", folder)
        for snippet, shown in zip(snippets, ("Class", "Class", "(1, 2048, 2, 2)", ""), strict=True):
            assert snippet.startswith("import timm_landmark")
            child = subprocess.run(
                [sys.executable, "-W", "ignore", "-c", snippet + "\nif 'embedding' in dir(): print(embedding.shape)"],
                env=hub.env(tmp_path / "cache"), cwd=tmp_path, capture_output=True, text=True,
            )  # fmt: skip
            assert child.returncode == 0, child.stderr
            assert shown in child.stdout
            if "features_only" in snippet:
                assert re.findall(r"# (\(1, .*\))", snippet) == child.stdout.splitlines()
            if "embedding" in snippet:
                assert "2048" in child.stdout and "# (1, 2048)" in snippet


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


def test_hostile_class_names_do_no_harm(tmp_path, capfd):
    folder = export(make_run(tmp_path / "run", model="test_resnet", names=HOSTILE), tmp_path / "f")
    shown = "".join(capfd.readouterr())
    for path in (folder / "README.md", folder / "config.json", folder / "classes.csv", folder / "run.json"):
        text = path.read_text(encoding="utf-8")
        shown += text
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text), path
    card = (folder / "README.md").read_text()
    assert "<script>" not in card and "](javascript:" not in card and "&lt;script&gt;" in card
    rows = [line for line in card.splitlines() if line.startswith("| ") and line.endswith("| 3 | 6 |")]
    assert len(rows) == len(HOSTILE)  # no name broke out of its row
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 4 for row in rows)
    assert metrics(card)
    assert [row.name for row in read_rows(folder, ClassRow)] == list(read_config(folder).names)
    assert read_config(folder).names[3] == "é 漢"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f", "run"]


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
