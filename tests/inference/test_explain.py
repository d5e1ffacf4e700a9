"""``predict --explain``: the heat maps on the page are those of the first guesses, and every mistake is told."""

import base64
import io
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from browser import WIDTHS, browser_page, needs_browser, overflow
from PIL import Image
from run_helpers import make_run
from train_data import make_data

from timm_landmark.cli import main as cli
from timm_landmark.inference import heat_maps
from timm_landmark.inference.heat_maps import overlay, uncropped
from timm_landmark.inference.namer import load_namer, name_photos
from timm_landmark.inference.photos import THUMBNAIL, find_photos


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("explain") / "data", images=(2, 1, 3), size=72)


@pytest.fixture(scope="module")
def run(data):
    return make_run(data.parent / "run", data, "test_resnet")


@pytest.fixture(scope="module")
def wide(data):
    photo = data.parent / "wide.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (6, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((480, 240)).save(photo)
    return photo


@pytest.fixture(scope="module")
def page(data, run, wide):
    """The page of the test photos, an oblong one and a broken one."""
    out, broken = data.parent / "page.html", data.parent / "broken.jpg"
    broken.write_bytes(b"no photo")
    photos = [str(data / "test"), str(wide), str(broken)]
    assert cli(["predict", str(run), *photos, "--gallery", str(out), "--explain", "--device", "cpu"]) == 1
    return out


def test_heat_maps_are_those_of_the_first_guesses(data, run, wide):
    """With whatever batches: drawn over the thumbnail, put back from the network's input to the photo."""
    namer = load_namer(str(run), "cpu")
    paths = find_photos([data / "test", wide])
    answers = list(name_photos(namer, paths, batch_size=4, thumbnails=True, explain=True))
    assert len(answers) == 10 and namer.crop_pct == 0.875 and namer.input_size == (3, 64, 64)
    for answer in answers:
        with Image.open(answer.photo.path) as image:
            pixels = namer.pixels(image.convert("RGB"))[None]
        heat = namer.explainer.heat(pixels, torch.tensor([answer.guesses[0].index]))[0]
        expected = overlay(answer.photo.thumbnail, uncropped(heat, namer.crop_pct))
        assert answer.layer == namer.explainer.layer == "layer3"
        assert answer.heat.size == answer.photo.thumbnail.size
        np.testing.assert_allclose(np.asarray(answer.heat, int), np.asarray(expected, int), atol=6)
    assert answers[-1].heat.size == (THUMBNAIL, THUMBNAIL // 2)
    plain = list(name_photos(namer, paths, batch_size=4, thumbnails=True))
    assert [answer.guesses for answer in plain] == [answer.guesses for answer in answers]
    assert all(answer.heat is None and answer.layer is None for answer in plain)


def test_json_names_the_class_and_the_layer(data, run, wide, tmp_path, capsys):
    options = ["--gallery", str(tmp_path / "page.html"), "--format", "json", "--device", "cpu"]
    assert cli(["predict", str(run), str(wide), *options, "--explain"]) == 0
    captured = capsys.readouterr()
    (found,) = json.loads(captured.out)
    assert found["heat_map"] == {"class": found["guesses"][0]["class"], "layer": "layer3"}
    assert "Grad-CAM at layer3" in captured.err
    assert cli(["predict", str(run), str(wide), *options]) == 0
    assert "heat_map" not in json.loads(capsys.readouterr().out)[0]
    assert "Grad-CAM" not in (tmp_path / "page.html").read_text()


def test_an_exported_folder_is_explained_as_its_run(data, run, wide, tmp_path):
    assert cli(["export", str(run), "--output", str(tmp_path / "model")]) == 0
    one, two = (
        next(name_photos(load_namer(str(source), "cpu"), [wide], thumbnails=True, explain=True))
        for source in (run, tmp_path / "model")
    )
    assert one.layer == two.layer == "layer3"
    np.testing.assert_allclose(np.asarray(one.heat, int), np.asarray(two.heat, int), atol=6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--explain"], ["--explain", "add --gallery OUT.html"]),
        (["--explain", "--gallery", "{folder}/page.txt"], ["--gallery", "must end in .html"]),
        (["--explain=layer4", "--gallery", "{folder}/page.html"], ["--explain"]),
    ],
)
def test_mistakes_end_in_one_line(options, words, run, wide, tmp_path, capsys):
    options = [each.format(folder=tmp_path) for each in options]
    assert cli(["predict", str(run), str(wide), *options]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and all(word in err for word in words)
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_nothing_is_started(tmp_path, monkeypatch, capsys):
    """Not even the model is looked for."""
    monkeypatch.setattr(heat_maps, "find_spec", lambda name: None)
    options = ["--explain", "--gallery", str(tmp_path / "page.html")]
    assert cli(["predict", "nowhere", "none.jpg", *options]) == 2
    assert "--explain needs the package grad-cam; run pip install 'timm-landmark[explain]'" in capsys.readouterr().err


def test_a_model_without_maps_is_refused_before_any_photo(data, wide, tmp_path, capsys):
    run = make_run(tmp_path / "run", data, "test_vit", size=160)
    assert cli(["predict", str(run), str(wide), "--explain", "--gallery", str(tmp_path / "page.html")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "VisionTransformer has none" in err and "convolutional" in err
    assert not (tmp_path / "page.html").exists()
    assert cli(["predict", str(run), str(wide), "--gallery", str(tmp_path / "page.html"), "--device", "cpu"]) == 0


@pytest.mark.full
def test_predict_is_as_light_as_before():
    code = (
        "import sys, timm_landmark.inference.predict\n"
        "print([name for name in ('cv2', 'matplotlib', 'pytorch_grad_cam') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_the_page_has_two_pictures_a_photo_and_says_what_they_show(page):
    text = page.read_text(encoding="utf-8")
    assert text.count("<img ") == 20 and text.count("heat map of Class") == 10
    assert "Grad-CAM at layer <code>layer3</code>" in text
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in text and "<script" not in text
    for source in text.split('src="data:image/jpeg;base64,')[1:]:
        Image.open(io.BytesIO(base64.b64decode(source.partition('"')[0]))).verify()


@needs_browser
@pytest.mark.parametrize("width", WIDTHS)
def test_in_a_browser_the_heat_map_is_beside_its_photo(page, width):
    with browser_page(width) as (tab, requests, problems):
        tab.goto(page.as_uri())
        assert overflow(tab) == 0
        cards = tab.locator(".cards > li")
        assert cards.count() == 10
        for number in range(10):
            cards.nth(number).scroll_into_view_if_needed()
            pictures = cards.nth(number).locator("img")
            photo, heat = (pictures.nth(each).bounding_box() for each in (0, 1))
            assert pictures.count() == 2 and photo["y"] == heat["y"] and heat["x"] >= photo["x"] + photo["width"]
            assert (heat["width"], heat["height"]) == (photo["width"], photo["height"])
            assert photo["width"] > 140, "smaller than the thumbnails"
            for each in (0, 1):
                assert pictures.nth(each).evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
        tab.locator("label[for=wrong]").click()
        assert 0 < tab.locator(".cards > li:visible").count() < 10
        assert [each for each in requests if not each.startswith("data:")] == [page.as_uri()] and problems == []
