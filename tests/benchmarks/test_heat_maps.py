"""The benchmark of heat maps: shares by hand, and a whole measurement of a small network."""

import json

import numpy as np
import pytest
from PIL import Image
from run_helpers import make_run
from train_data import make_data

from benchmarks.comparison import consistency
from benchmarks.synthetic import heat_maps
from timm_landmark.data.synthetic.synthesize import class_names, synthesize


def test_shares_by_hand():
    heat, masks = np.zeros((4, 2, 2), np.float32), np.zeros((4, 2, 2), np.float32)
    heat[0] = [[1, 0], [0, 3]]
    heat[1] = [[0, 1], [0, 0]]
    heat[2] = 0.5  # everywhere
    masks[0, 1, 1], masks[1, 0, 1], masks[2, 0], masks[3, 0, 0] = 1, 0.5, 1, 1
    own, others = heat_maps.shares(heat, masks)
    np.testing.assert_allclose(own, [0.75, 0.5, 0.5, np.nan])
    np.testing.assert_allclose(others, [(0 + 0.25 + 0.25) / 3, (0 + 1 + 0) / 3, (0.25 + 0.125 + 0.25) / 3, np.nan])


def test_summary_by_hand():
    own, others, area = np.array([0.6, 0.2, np.nan]), np.array([0.3, 0.3, np.nan]), np.array([0.2, 0.3, 0.9])
    found = heat_maps.summary(own, others, area)
    assert (found["photos"], found["more_than_its_area"]) == (2, 1)
    assert (found["heat"], found["area"]) == (pytest.approx(0.4), pytest.approx(0.25))
    assert found["ratio"]["value"] == pytest.approx(1.6)
    assert found["difference"]["value"] == pytest.approx(0.1)
    assert found["ratio"]["interval"] == pytest.approx([0.2 / 0.3, 3.0])  # only one of the photos, or both
    assert found["difference"]["interval"] == pytest.approx([-0.1, 0.3])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("heat") / "data"
    synthesize(path, classes=2, images=12, size=40)
    return path


def test_a_run_is_measured_and_drawn(data, tmp_path):
    run = make_run(tmp_path / "run", data, "test_resnet", tuple(class_names(0, 2)), size=32)
    output, figure = tmp_path / "out.json", tmp_path / "out.png"
    options = ["--data", str(data), "--output", str(output), "--figure", str(figure), "--split", "train"]
    assert heat_maps.main([str(run), *options]) == 0
    found = json.loads(output.read_text())
    consistency.check_paths(output, found)
    assert (found["photos"], found["layer"], found["data"]["classes"]) == (16, "layer2", 2)
    for each in (found["trained"], found["random"]):
        assert 0 < each["area"] < 0.6 and 0 <= each["heat"] <= 1
        low, high = each["ratio"]["interval"]
        assert low <= each["ratio"]["value"] <= high
    seeds = found["random"]["seeds"]
    assert len({each["heat"] for each in seeds}) == len(seeds) == 5
    with Image.open(figure) as image:
        assert min(image.size) > 300


def test_masks_lie_on_the_landmarks_as_the_network_sees_them(data, tmp_path):
    """The middle of the mask, cut as the photo is, has the place that it has in the photo."""
    run = heat_maps.load_run(make_run(tmp_path / "run", data, "test_resnet", tuple(class_names(0, 2)), size=32))
    photos = heat_maps.load_photos(run, data, "train")
    assert photos.inputs.shape == (16, 3, 32, 32) and photos.masks.shape == (16, 32, 32)
    for mask, whole in zip(photos.masks, photos.whole_masks, strict=True):
        expected = np.asarray(whole.resize((36, 36), Image.Resampling.BILINEAR), np.float32)[2:34, 2:34] / 255
        np.testing.assert_allclose(mask, expected, atol=0.05)


def test_other_data_and_other_bytes_are_refused(data, tmp_path, capsys):
    other = make_data(tmp_path / "photos")
    run = make_run(tmp_path / "run", other, "test_resnet")
    assert heat_maps.main([str(run), "--data", str(other), "--output", str(tmp_path / "x.json")]) == 2
    assert "not made by timm-landmark synthesize" in capsys.readouterr().err
    photo = next((data / "test").rglob("*.jpg"))
    content = photo.read_bytes()
    photo.write_bytes(content + b"\0")
    assert heat_maps.main([str(run), "--data", str(data), "--output", str(tmp_path / "x.json")]) == 2
    photo.write_bytes(content)
    assert "rendered by other versions" in capsys.readouterr().err
    assert not (tmp_path / "x.json").exists()
