"""Procedural landmarks: format, bytes, geometry, and that neither colours nor pixels alone reveal the class."""

import errno
import hashlib
import itertools
import json
import os

import numpy as np
import pytest
from PIL import Image

from benchmarks.comparison.sets import RESULTS
from benchmarks.synthetic.nearest_neighbour import nearest_neighbours
from timm_landmark.cli import main as cli
from timm_landmark.data.check import check_dataset, stored_name
from timm_landmark.data.layout import SPLITS, ClassRow, ManifestRow, RejectRow, read_dataset_info, read_rows
from timm_landmark.data.synthetic import synthesize as module
from timm_landmark.data.synthetic.forms import draw_look
from timm_landmark.data.synthetic.forms_tall import KINDS
from timm_landmark.data.synthetic.geometry import Camera, Model, paint_order
from timm_landmark.data.synthetic.scene import draw_camera
from timm_landmark.data.synthetic.synthesize import class_names, landmark, split_counts, synthesize, view
from timm_landmark.utils.errors import UserError


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("synthetic") / "data"
    synthesize(path, classes=4, images=9, size=40, seed=5)
    return path


def test_it_is_a_prepared_data_set_that_checks(data):
    assert check_dataset(data) == []
    classes, manifest = read_rows(data, ClassRow), read_rows(data, ManifestRow)
    assert [(row.train, row.validation, row.test) for row in classes] == [(7, 1, 1)] * 4
    assert (data / "class_map.txt").read_text().split() == [row.folder for row in classes]
    assert read_rows(data, RejectRow) == []
    assert len(manifest) == 36 and len({row.sha256 for row in manifest}) == 36, "two views with the same bytes"
    assert read_dataset_info(data)["arguments"] == {"classes": 4, "images": 9, "size": 40, "seed": 5}
    with Image.open(data / stored_name(manifest[0])) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (40, 40))


def test_a_flipped_byte_is_found(data, tmp_path):
    import shutil

    copy = shutil.copytree(data, tmp_path / "copy")
    victim = next(iter(sorted(copy.rglob("*.jpg"))))
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    assert any(victim.name in problem for problem in check_dataset(copy))


def test_an_image_depends_on_seed_class_and_number_alone(data):
    """Rendered alone and in another order, images have the same bytes as in the data set."""
    rows = {row.source: row for row in read_rows(data, ManifestRow)}
    for index, number in [(3, 8), (0, 0), (2, 4)]:
        content = view(landmark(5, index), 5, index, number, 40)
        assert hashlib.sha256(content).hexdigest() == rows[f"synthetic/5/{index}/{number}"].sha256
    assert view(landmark(6, 0), 6, 0, 0, 40) != view(landmark(5, 0), 5, 0, 0, 40)


@pytest.mark.parametrize("images", [3, 4, 7, 8, 12, 20, 80, 161])
def test_split_is_six_one_one_with_no_split_empty(images):
    parts = split_counts(images)
    assert sum(parts) == images and min(parts) >= 1
    assert abs(parts[1] - images / 8) <= 0.5 + (images < 8) and parts[1] == parts[2]


def test_names_are_told_apart_and_stay_when_classes_are_added():
    names = class_names(0, 120)
    assert len(set(names)) == 120
    assert class_names(0, 12) == names[:12]
    assert len({name.split(" ", 1)[1] for name in names[: len(KINDS)]}) == len(KINDS), "a kind was repeated too early"


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--classes", "1"], "--classes 1"),
        (["--classes", "10001"], "--classes 10001"),
        (["--images", "2"], "--images 2"),
        (["--size", "31"], "--size 31"),
        (["--size", "4096"], "--size 4096"),
        (["--seed", "-1"], "--seed -1"),
        (["--classes", "many"], "--classes"),
        (["--quality", "3"], "--quality"),
    ],
)
def test_a_bad_value_is_named_and_nothing_is_written(options, word, tmp_path, capsys):
    assert cli(["synthesize", "--output", str(tmp_path / "new"), *options]) == 2
    assert word in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_current_folder_is_not_replaced(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli(["synthesize", "--output", "."]) == 2
    assert "--output .: the current folder cannot be replaced" in capsys.readouterr().err


def test_an_output_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        synthesize(tmp_path, 2, 3, 32)
    with pytest.raises(UserError, match="not a folder"):
        synthesize(tmp_path / "mine.txt", 2, 3, 32)
    assert (tmp_path / "mine.txt").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1
    (tmp_path / "empty").mkdir()
    synthesize(tmp_path / "empty", 2, 3, 32)
    assert check_dataset(tmp_path / "empty") == []


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))])
def test_interrupted_or_on_a_full_disk_nothing_is_left(failure, tmp_path, monkeypatch):
    drawn = []

    def fail(*arguments):
        drawn.append(arguments)
        if len(drawn) == 4:
            raise failure
        return b"picture"

    monkeypatch.setattr(module, "view", fail)
    with pytest.raises((KeyboardInterrupt, UserError)) as caught:
        synthesize(tmp_path / "data", 2, 3, 32)
    if caught.type is UserError:
        assert "No space left" in str(caught.value) and "--output" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "build"), KINDS, ids=[name for name, _ in KINDS])
def test_every_face_of_a_form_looks_outwards(name, build):
    """Every face points away from the middle of its part; one that points inwards would be a hole."""
    model = build(draw_look(np.random.default_rng(3)))
    parts = {}
    for (points, _, _), part in zip(model.polygons, model.polygon_part, strict=True):
        parts.setdefault(part, []).append(points)
    low, high = model.bounds()
    assert low[2] == pytest.approx(0, abs=1e-6) and np.isfinite(high).all()
    for faces in parts.values():
        middle = np.mean([face.mean(0) for face in faces], 0)
        for face in faces:
            normal = np.cross(face, np.roll(face, -1, 0)).sum(0)
            size = max(np.linalg.norm(normal), 1e-9)
            assert normal @ (face.mean(0) - middle) >= -1e-3 * size


def test_camera_projects_along_its_rays():
    camera = Camera.looking_at(np.array([3.0, -20, 2]), np.array([0.0, 0, 5]), 0.1, 1.0, 33)
    (middle,), _ = camera.project(np.array([[0.0, 0, 5]]))
    assert middle == pytest.approx([16.5, 16.5])
    rays = camera.rays()
    points = camera.eye + rays.reshape(-1, 3) * 7.0
    pixels, _ = camera.project(points)
    rows, columns = np.divmod(np.arange(33 * 33), 33)
    assert pixels == pytest.approx(np.column_stack([columns, rows]) + 0.5)
    assert rays[0, 16] @ camera.axes[1] > 0, "the first row is the upper one"


@pytest.mark.parametrize("seed", range(6))
def test_painting_order_leaves_the_nearest_box_on_top(seed):
    """With rays at boxes that do not overlap: of those that a ray meets, the nearest is painted last."""
    rng = np.random.default_rng(seed)
    low, high = [], []
    while len(low) < 14:
        corner, size = rng.uniform(-8, 8, 3), rng.uniform(0.5, 5, 3)
        if all(((corner >= h) | (corner + size <= b)).any() for b, h in zip(low, high, strict=True)):
            low.append(corner)
            high.append(corner + size)
    low, high = np.array(low), np.array(high)
    eye = rng.normal(0, 1, 3)
    eye *= 25 / np.linalg.norm(eye)
    order = paint_order(low, high, eye)
    assert sorted(order) == list(range(14))
    place = np.argsort(order)
    met = 0
    for _ in range(3000):
        ray = rng.uniform(-9, 9, 3) - eye
        near, far = np.sort(np.stack([(low - eye) / ray, (high - eye) / ray]), 0)
        enter, leave = near.max(1), far.min(1)
        hit = np.flatnonzero((enter < leave) & (enter > 0))
        if len(hit) > 1:
            met += 1
            assert hit[place[hit].argmax()] == hit[enter[hit].argmin()]
    assert met > 50


def test_the_landmark_is_in_the_picture():
    model = landmark(0, 0)
    low, high = model.bounds()
    for seed in range(300):
        camera = draw_camera(model, np.random.default_rng(seed), 64)
        (middle,), (depth,) = camera.project(((low + high) / 2)[None])
        assert depth > 0 and (middle > -8).all() and (middle < 72).all()
        corners = np.array(list(itertools.product(*zip(low, high, strict=True))))
        pixels, _ = camera.project(corners)
        assert np.ptp(pixels, 0).max() > 64 * 0.3, "too small to recognize"


def test_extending_a_model_keeps_both():
    first, second = Model(), Model()
    first.box(0, 0, 1, 1, 0, 1, (1, 0, 0))
    second.add([], [(5.0, 5.0, 5.0, 1.0, (0, 1, 0))])
    both = first.extend(second)
    assert both.polygon_part == [0] * 5 and both.blob_part == [1] and len(both.low) == 2
    assert len(first.low) == 1, "the model of the class must not change"


@pytest.mark.full
def test_neither_pixels_nor_shape_nor_colours_tell_the_classes(tmp_path):
    """The nearest neighbour is far less accurate than a network (the next test)."""
    synthesize(tmp_path / "data", classes=12, images=80, size=64)
    found = nearest_neighbours(tmp_path / "data")
    assert all(1 / 12 / 2 < found[name]["value"] < 0.4 for name in ("pixels", "shape", "colours"))


def test_a_network_learns_what_the_nearest_neighbour_does_not_see():
    """Compares the committed run of resnet50 on a synthesized data set with the committed nearest neighbours."""
    folder = RESULTS / "synthetic"
    run = json.loads((folder / "resnet50-s0" / "run.json").read_text())
    neighbours = json.loads((folder / "nearest_neighbour.json").read_text())
    dataset = json.loads((folder / "dataset.json").read_text())
    assert run["data_digest"] == neighbours["data_digest"] == dataset["digest"]
    low, _ = run["evaluation"]["test"]["top1"]["interval"]
    for name in ("pixels", "shape", "colours"):
        assert low > neighbours[name]["interval"][1] + 0.2
    counts = neighbours["pixels"]
    assert counts["images"] == run["evaluation"]["test"]["images"] == dataset["counts"]["test"]


def test_the_nearest_neighbour_is_found(tmp_path):
    """A class with its own flat colour is recognized; one with another's colour is confused with it."""
    data = tmp_path / "data"
    synthesize(data, 2, 8, 32)
    for row in read_rows(data, ManifestRow):
        shade = (200, 30, 30) if row.folder == "0000" or row.split == "test" else (30, 30, 200)
        Image.new("RGB", (32, 32), shade).save(data / stored_name(row))
    found = nearest_neighbours(data)
    assert found["pixels"]["correct"] == found["colours"]["correct"] == 1 and found["pixels"]["images"] == 2
    assert found["largest_class"] == 0.5


@pytest.mark.full
def test_every_split_and_class_of_a_larger_set(tmp_path):
    synthesize(tmp_path / "data", classes=30, images=8, size=32, seed=9)
    assert check_dataset(tmp_path / "data") == []
    for split in SPLITS:
        assert len(list((tmp_path / "data" / split).iterdir())) == 30
