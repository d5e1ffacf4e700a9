"""An untrusted config.json: predict, check and push report in one line what is wrong with it."""

import json
import math

import pytest
from PIL import Image

from timm_landmark import cli
from timm_landmark.data.check import write_sums
from timm_landmark.hub.config import read_config


def edit(folder, place, value):
    """Sets a value such as ``pretrained_cfg.crop_pct`` and updates the checksums."""
    config = json.loads((folder / "config.json").read_text())
    *outer, last = place.split(".")
    inner = config
    for key in outer:
        inner = inner[key]
    inner[last] = value
    (folder / "config.json").write_text(json.dumps(config))
    write_sums(folder)


def told(capsys, folder, *words):
    """Checks that the three verbs print the same single line with these words."""
    photo = folder.parent / "photo.png"
    Image.new("RGB", (90, 70), "teal").save(photo)
    assert cli.main(["predict", str(folder), str(photo), "--device", "cpu"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    line = err.removeprefix("timm-landmark predict: error: ").strip()
    for verb in (["check", str(folder)], ["push", str(folder), "org/mine", "--dry-run"]):
        assert cli.main(verb) == 1
        out, err = capsys.readouterr()
        assert line in out.splitlines() and err == ""
    assert all(word in line for word in words), line


INCONSISTENT = [
    ("model_args.num_classes", 5, ["model_args has num_classes 5", "3"]),
    ("model_args.in_chans", 1, ["model_args has in_chans 1", "3"]),
    ("model_args.features_only", True, ["features_only"]),
    ("model_args.pretrained_strict", False, ["pretrained_strict"]),
    ("model_args.device", "meta", ["device"]),
    ("model_args.global_pool", "", ["global_pool ''"]),
    ("model_args.global_pool", None, ["global_pool None"]),
    ("model_args", ["a"], ["model_args"]),
    ("num_classes", 2, ["3 label_names for 2 classes"]),
    ("num_classes", "many", ["num_classes 'many'"]),
    ("num_classes", math.inf, ["num_classes inf"]),
    ("num_classes", -1, ["num_classes -1"]),
    ("num_classes", True, ["num_classes True"]),
    ("num_classes", False, ["num_classes False"]),
    ("label_names", 7, ["label_names"]),
    ("label_names", ["a", "b", 3], ["label_names"]),
    ("label_descriptions", ["a"], ["label_descriptions"]),
    ("landmark_ids", [0, 1, 2], ["landmark_ids"]),
    ("landmark_ids", ["0"], ["1 landmark_ids for 3 classes"]),
    ("num_classes", 10**12, ["num_classes 1000000000000"]),
    ("architecture", "no\x1b[31mthing", ["unknown architecture 'no"]),
    ("architecture", 7, ["unknown architecture 7"]),
    ("pretrained_cfg", [], ["not written by"]),
    *[("thresholds", value, ["thresholds is not an object"]) for value in ([0.5], "0.5", 0.5)],
    *[("thresholds", {"certain": value}, ["thresholds: certain"]) for value in (1.5, -0.1, math.nan, "0.5", True, {})],
    ("thresholds", {"none": "\x1b[31m"}, ["thresholds: none '"]),
    ("thresholds", {"target_accuracy": None}, ["thresholds: target_accuracy None"]),
    ("pretrained_cfg.tag", "\x1b[31m", ["tag"]),
]
BAD_TRANSFORMS = [
    *[("crop_pct", value, ["crop_pct"]) for value in (math.nan, "0.875", -1, 0, 1e-4, math.inf, [0.9], True)],
    ("crop_pct", 0.01, ["crop_pct 0.01", "2048 pixels"]),
    *[
        ("input_size", value, ["input_size"])
        for value in ([3, 64], [3, 0, 64], [3, -64, -64], [3, 64.5, 64], "big", 64, [4, 64, 64], [3, 10**400, 64])
    ],
    ("input_size", [3, 100_000, 100_000], ["2048 pixels"]),
    ("input_size", [1, 64, 64], ["mean has 3 numbers for the 1 channels"]),
    *[("mean", value, ["mean"]) for value in (0.5, "x", [0.5], [0.5, 0.5, math.nan], [[0.5]] * 3, [10**400, 0, 0])],
    *[("std", value, ["std"]) for value in (0.5, [1, 1], [0.2, 0, 0.2], [0.2, -0.2, 0.2], [0.2, 1e-50, 0.2])],
    *[("interpolation", value, ["interpolation"]) for value in ("nosuch", "random", 3, ["bicubic"])],
    ("crop_mode", "nosuch", ["crop_mode"]),
]


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [*INCONSISTENT, *((f"pretrained_cfg.{place}", value, words) for place, value, words in BAD_TRANSFORMS)],
)
def test_what_contradicts_itself_or_asks_for_too_much(folder, capsys, place, value, words):
    edit(folder, place, value)
    told(capsys, folder, "config.json", *words)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"num_classes": 1e999}',
        b'{"num_classes": ' + b"9" * 5000 + b"}",
    ],
    ids=range(8),
)
def test_what_is_no_configuration(folder, capsys, content):
    (folder / "config.json").write_bytes(content)
    write_sums(folder)
    told(capsys, folder, "config.json")


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        ("model_args.nosuch", 1, "cannot be built from its config.json (TypeError"),
        ("model_args.kwargs_filter", ["num_classes"], "its output has the shape (1, 1000), not (1, 3)"),
        ("model_args.layers", [2, 1, 1, 1], "its tensors do not fit test_resnet"),
        ("pretrained_cfg.nosuch", 1, "cannot be built from its config.json (TypeError"),
        ("pretrained_cfg.label_offset", 1, "its tensors do not fit test_resnet"),
    ],
)
def test_what_the_model_itself_refuses(folder, capsys, place, value, says):
    """These problems are found when the model is built and run on a blank image."""
    edit(folder, place, value)
    photo = folder.parent / "photo.png"
    Image.new("RGB", (90, 70), "teal").save(photo)
    assert cli.main(["predict", str(folder), str(photo), "--device", "cpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line


def test_what_is_not_stated_is_what_timm_takes(folder):
    config = json.loads((folder / "config.json").read_text())
    for key in ("interpolation", "crop_mode", "mean", "std", "tag"):
        config["pretrained_cfg"][key] = None
    del config["pretrained_cfg"]["crop_pct"]
    for key in ("model_args", "label_names", "label_descriptions", "landmark_ids"):
        del config[key]
    (folder / "config.json").write_text(json.dumps(config))
    read = read_config(folder)
    assert read.transform == dict(
        input_size=(3, 64, 64), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), interpolation="bicubic",
        crop_pct=0.875, crop_mode="center",
    )  # fmt: skip
    assert read.labels == () and read.names == read.landmark_ids == ("0", "1", "2") and read.name == "test_resnet"
