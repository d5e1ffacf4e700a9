"""The model card and the notes of an export: figures of the run's files, and names that do no harm."""

import json
import re
import subprocess
import sys

import pytest
import torch
from loopback_hub import LoopbackHub
from PIL import Image
from run_helpers import export, make_run
from train_data import make_data

from timm_landmark.data.layout import ClassRow, read_rows
from timm_landmark.hub.exported import read_config
from timm_landmark.hub.model_card import metrics, run_metrics
from timm_landmark.runs.model import load_run, load_run_model

HOSTILE = (
    "../../etc/passwd",
    "<script>alert(1)</script>|`x`[a](javascript:b)",
    "a\x1b[31mred\nline\u202eright\x07\x9b",
    "é 漢",
)


@pytest.fixture(scope="module")
def run(tiny_run):
    return tiny_run


@pytest.fixture(scope="module")
def folder(tiny_export):
    return tiny_export


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
