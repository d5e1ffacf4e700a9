"""The page of ``evaluate``: its charts, what it says, and how it looks in a browser."""

import base64
import io
import json
import re
import shutil
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
from browser import WIDTHS, browser_page, needs_browser, overflow
from PIL import Image
from run_helpers import make_run
from train_data import make_data, pack

from timm_landmark import cli
from timm_landmark.data.layout import ClassRow, read_rows
from timm_landmark.inference.pages import evaluation as module
from timm_landmark.inference.pages.charts import Axis, Line, confusion_matrix, line_chart
from timm_landmark.inference.pages.evaluation import write_evaluation_page
from timm_landmark.inference.split_predictions import read_predictions
from timm_landmark.runs.model import load_run

NAMES = ("Tower", "Arch & <b>Gate</b>", '"><img src=x onerror=alert(1)>')
SVG = "{http://www.w3.org/2000/svg}"


def parsed(svg):
    return ET.fromstring(svg.replace("<svg ", f'<svg xmlns="{SVG[1:-1]}" ', 1))


def test_axes_have_a_few_round_numbers():
    assert Axis("", 0, 100).ticks() == [0, 20, 40, 60, 80, 100]
    assert Axis("", 0, 1.3).ticks() == pytest.approx([0, 0.5, 1.0])
    assert Axis("", 1, 10).ticks() == [2, 4, 6, 8, 10]
    for high in (0.0005, 0.37, 7, 25, 1234):
        assert 3 <= len(Axis("", 0, high).ticks()) <= 7


def test_a_line_goes_through_its_points():
    chart = parsed(
        line_chart(
            "t", [Line("<a>", [(0, 0), (5, 50), (10, 100)])], Axis("x", 0, 10), Axis("y", 0, 100), (5, 50, "here")
        )
    )
    line = chart.find(f"{SVG}polyline")
    first, middle, last = [tuple(map(float, point.split(","))) for point in line.get("points").split()]
    assert first[0] < middle[0] < last[0] and first[1] > middle[1] > last[1]  # y grows downwards
    assert middle == pytest.approx(((first[0] + last[0]) / 2, (first[1] + last[1]) / 2), abs=0.2)
    assert line.find(f"{SVG}title").text == "<a>"
    mark = next(path for path in chart.iter(f"{SVG}path") if path.get("class") == "mark")
    assert mark.get("d").startswith(f"M{middle[0]:.1f} ") and mark.get("d").endswith(f"V{middle[1]:.1f}")
    assert "here" in [text.text for text in chart.iter(f"{SVG}text")]


def test_the_confusion_matrix_counts_by_true_class():
    counts = np.array([[3, 1, 0], [0, 0, 0], [2, 0, 6]])
    matrix = parsed(confusion_matrix(counts, NAMES))
    cells = {group.find(f"{SVG}title").text: group for group in matrix.iter(f"{SVG}g")}
    assert len(cells) == 9
    shown = cells[f"1 of Tower as {NAMES[1]}"]
    assert shown.find(f"{SVG}text").text == "1"
    assert [rect.get("fill-opacity") for rect in shown.iter(f"{SVG}rect")] == [None, "0.250"]
    assert [rect.get("class") for rect in shown.iter(f"{SVG}rect")] == ["empty", "wrong"]
    right = cells[f"6 of {NAMES[2]} as {NAMES[2]}"]
    assert [rect.get("class") for rect in right.iter(f"{SVG}rect")] == ["empty", "right"]


def test_many_classes_are_a_small_picture():
    counts = np.eye(1000, dtype=np.int64) * 10
    counts[0, 1] = 10
    picture = confusion_matrix(counts, [str(i) for i in range(1000)])
    assert picture.startswith('<img class="pixels" src="data:image/png;base64,') and len(picture) < 50_000
    with Image.open(io.BytesIO(base64.b64decode(picture.split(",", 1)[1].split('"')[0]))) as image:
        assert image.size == (500, 500)
        assert np.array_equal(np.asarray(image) == 0, np.eye(500, dtype=bool))


def test_in_a_picture_of_blocks_a_rare_confusion_stays_visible():
    counts = np.eye(1001, dtype=np.int64) * 10
    counts[3, 999] = 90
    picture = confusion_matrix(counts, [str(i) for i in range(1001)])
    with Image.open(io.BytesIO(base64.b64decode(picture.split(",", 1)[1].split('"')[0]))) as image:
        assert image.size == (334, 334) and image.getpixel((333, 1)) < 20
        assert image.getpixel((332, 1)) == 255 and image.getpixel((333, 333)) == 0


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A run with random weights whose classes have names that must not be markup, and its page."""
    root = tmp_path_factory.mktemp("page")
    data = make_data(root / "data", classes=3, images=(2, 6, 6), size=72)
    run = make_run(root / "run", data, model="test_resnet", names=NAMES, size=64, evaluated=False)
    assert cli.main(["evaluate", str(run), "--device", "cpu"]) == 0
    return run


def page_of(run):
    return (run / "evaluation.html").read_text(encoding="utf-8")


def test_the_page_has_the_numbers_of_run_json(evaluated):
    run, text = evaluated, page_of(evaluated)
    result = json.loads((run / "run.json").read_text())["evaluation"]["test"]
    assert f"{result['top1']['correct']} of {result['top1']['images']} images" in text
    for row in result["per_class"]:
        assert f"{100 * row['interval'][0]:.1f} to {100 * row['interval'][1]:.1f} %" in text
    wrong = result["images"] - result["top1"]["correct"]
    assert wrong and f"{wrong} of {wrong} wrong answers" in text
    assert text.count('alt="Heat map of') == wrong == text.count("in truth ")
    assert "<b>Gate" not in text and "<img src=x" not in text
    assert "Loss by epoch" in text and "Validation accuracy by epoch" in text
    assert len(text) < 400_000


def test_the_worst_mistakes_come_first(evaluated):
    shares = re.findall(r"</strong>, ([\d.]+) %<br>", page_of(evaluated))
    assert len(shares) > 2 and list(map(float, shares)) == sorted(map(float, shares), reverse=True)


def test_without_the_extra_the_page_says_how_to_get_it(evaluated, tmp_path, monkeypatch):
    copy = shutil.copytree(evaluated, tmp_path / "run")
    monkeypatch.setattr(module, "is_available", lambda: False)
    assert cli.main(["evaluate", str(copy), "--device", "cpu"]) == 0
    text = page_of(copy)
    assert "pip install &#39;timm-landmark[explain]&#39;" in text
    assert "data:image/jpeg" in text and "Heat map of" not in text


def written(run, data, split="test", **changes):
    """The page of a finished evaluation, written again with another data set or other results."""
    loaded = load_run(run)
    info = loaded.info | {"evaluation": {split: loaded.info["evaluation"][split] | changes}}
    info["evaluation"][split] = {name: value for name, value in info["evaluation"][split].items() if value != "gone"}
    classes, predictions = read_rows(run, ClassRow), read_predictions(run / f"predictions-{split}.csv")
    write_evaluation_page(replace(loaded, info=info), data, split, predictions, classes, run / "again.html")
    return (run / "again.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("where", ["<nowhere>", None])
def test_without_the_data_set_the_page_says_so(evaluated, tmp_path, where):
    text = written(evaluated, tmp_path / where if where else None)
    reason = "&lt;nowhere&gt; is not a prepared data set" if where else "the data set of the run does not exist"
    assert "The photos cannot be shown: " in text and reason in text
    assert "data:image/jpeg" not in text and "in truth " in text


def test_one_damaged_and_one_missing_photo_leave_the_others(evaluated, tmp_path):
    data = shutil.copytree(load_run(evaluated).data, tmp_path / "data")
    wrong = [each for each in read_predictions(evaluated / "predictions-test.csv") if not each.correct]
    first, second = (data / "test" / each.folder / f"{each.image_id}.jpg" for each in wrong[:2])
    first.write_bytes(b"no photo")
    second.unlink()
    text = written(evaluated, data)
    assert "2 of the photos cannot be shown: " in text and "is missing or damaged" in text
    assert text.count('alt="Heat map of') == text.count(", taken for ") == len(wrong) - 2
    assert text.count("in truth ") == len(wrong)


def test_photos_from_shards_are_those_of_the_folder(evaluated, tmp_path):
    data = load_run(evaluated).data
    pictures = [re.findall(r'src="([^"]+)"', written(evaluated, each)) for each in (data, pack(data, tmp_path / "s"))]
    assert pictures[0] == pictures[1] and len(pictures[0]) > 2


def test_results_of_an_earlier_version_have_no_curve(evaluated):
    text = written(evaluated, None, risk_coverage="gone", selective="gone", retrieval="gone")
    assert "<h2>Confidence" not in text and "right if certain" not in text and "<h2>Accuracy by class" in text


def test_validation_has_a_page(evaluated, tmp_path):
    copy = shutil.copytree(evaluated, tmp_path / "run")
    assert cli.main(["evaluate", str(copy), "--device", "cpu", "--split", "validation"]) == 0
    text = (copy / "evaluation-validation.html").read_text(encoding="utf-8")
    assert "images of validation" in text and "Confidence" in text and "nearest neighbours" not in text
    assert page_of(copy) == page_of(evaluated), "the page of test stays"


def test_a_page_that_cannot_be_written_is_an_error(evaluated, tmp_path, capsys):
    copy = shutil.copytree(evaluated, tmp_path / "run")
    (copy / "evaluation.html").unlink()
    (copy / "evaluation.html").mkdir()
    assert cli.main(["evaluate", str(copy), "--device", "cpu"]) == 2
    assert "evaluation.html" in capsys.readouterr().err


@needs_browser
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_in_a_browser(evaluated, width):
    address = (evaluated / "evaluation.html").as_uri()
    with browser_page(width) as (page, requests, problems):
        page.goto(address)
        assert problems == [] and overflow(page) == 0
        assert [url for url in requests if not url.startswith("data:")] == [address]
        assert page.locator("svg.chart").count() == 4  # risk, loss, accuracy, learning rate
        sizes = page.eval_on_selector_all("svg.chart text", "all => all.map(e => e.getBoundingClientRect().height)")
        assert min(sizes) > 8  # readable on a phone too
        assert page.eval_on_selector_all("img", "all => all.every(e => e.complete && e.naturalWidth > 0)")
