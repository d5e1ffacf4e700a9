"""An exported folder in transformers: its auto classes and its pipeline load it after ``import timm_landmark``."""

import json

import pytest
import timm
import torch
from PIL import Image
from run_helpers import TINY, make_export

from timm_landmark.data.layout import ClassRow
from timm_landmark.hub.config import class_names

NAMES = ("Eiffel Tower", "Notre-Dame (Paris)", "長城")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_export(tmp_path_factory.mktemp("transformers"), names=NAMES, **TINY)


@pytest.fixture(scope="module")
def photo():
    return Image.effect_noise((120, 90), 80).convert("RGB")


@pytest.fixture(scope="module")
def expected(folder, photo):
    """The input and logits of timm."""
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    images = transform(photo)[None]
    with torch.inference_mode():
        return images, model(images)


def test_auto_classes_give_timms_input_and_logits(folder, photo, expected):
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    images, logits = expected
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    given = AutoImageProcessor.from_pretrained(folder)(photo)["pixel_values"]
    assert given.equal(images)
    with torch.inference_mode():
        torch.testing.assert_close(model(given).logits, logits, atol=1e-6, rtol=0)
    assert tuple(model.config.id2label.values()) == NAMES
    assert model.config.label2id == {name: index for index, name in enumerate(NAMES)}


def test_the_pipeline_prints_landmark_names(folder, photo, expected):
    from transformers import pipeline

    guesses = pipeline("image-classification", model=str(folder), device="cpu")(photo)
    shares = dict(zip(NAMES, expected[1].softmax(-1)[0].tolist(), strict=True))
    assert [guess["label"] for guess in guesses] == sorted(NAMES, key=lambda name: -shares[name])
    assert [guess["score"] for guess in guesses] == pytest.approx(sorted(shares.values(), reverse=True), abs=1e-6)


def test_the_class_count_is_stated_once(folder):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["num_classes"] == 3 and "num_classes" not in config["model_args"]


def test_labels_are_names_where_they_are_unique():
    def labels(*classes):
        rows = [ClassRow(f"{number:04d}", key, name, 1, 1, 1) for number, (key, name) in enumerate(classes)]
        found = class_names(rows)
        assert len(set(found["label_names"])) == len(rows)
        assert [found["label_descriptions"][label] for label in found["label_names"]] == [
            name or key or row.folder for row, (key, name) in zip(rows, classes, strict=True)
        ]
        return found["label_names"], found["landmark_ids"]

    assert labels(("7", "Tower"), ("9", "Gate")) == (["Tower", "Gate"], ["7", "9"])
    assert labels(("7", "Tower"), ("9", "Tower"), ("8", "Gate"))[0] == ["Tower (7)", "Tower (9)", "Gate"]
    assert labels(("7", ""), ("", "Gate"), ("", "")) == (["7", "Gate", "0002"], ["7", "0001", "0002"])
    assert labels(("7", "Tower"), ("7", "Tower"))[0] == ["Tower (0000)", "Tower (0001)"]
    assert labels(("7", "Tower"), ("9", "Tower"), ("1", "Tower (7)"))[0][0] == "Tower (0000)"
