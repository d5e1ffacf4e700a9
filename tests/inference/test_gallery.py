"""The page of the gallery: self-contained, escaped, and correct about which answers are right and wrong."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from timm_landmark.inference.answers import Answer, Guess, Label
from timm_landmark.inference.pages import gallery as module
from timm_landmark.inference.pages.gallery import Gallery
from timm_landmark.inference.photos import Photo
from timm_landmark.utils.errors import UserError

LABELS = (Label("0", "Tower"), Label("1", "Arch & <b>Gate</b>"), Label("2", '"><img src=x onerror=alert(1)>'))


class Page(HTMLParser):
    """Tags with their attributes, and the text between."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [("", {})], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.tags[-1][0] != "style":
            self.words.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def answer(name, shares, truth=None, known=True):
    order = sorted(range(len(shares)), key=lambda index: -shares[index])
    guesses = tuple(Guess(index, shares[index]) for index in order)
    return Answer(Photo(Path(name), None, Image.new("RGB", (160, 90), "teal")), guesses, truth, known)


def page(tmp_path, answers):
    gallery = Gallery("resneat50 of a/run", LABELS)
    for each in answers:
        gallery.add(each)
    gallery.write(tmp_path / "out.html")
    return Page((tmp_path / "out.html").read_text(encoding="utf-8")), gallery


ANSWERS = [
    answer("folder/low.jpg", (0.5, 0.3, 0.2), LABELS[0]),
    answer("high.jpg", (0.01, 0.98, 0.01), LABELS[0]),
    answer("again.jpg", (0.1, 0.7, 0.2), LABELS[0]),
    answer("third.jpg", (0.1, 0.1, 0.8), LABELS[1]),
    answer("foreign.jpg", (0.6, 0.3, 0.1), Label("9", "Elsewhere"), False),
    answer("open.jpg", (0.4, 0.35, 0.25)),
    Answer(Photo(Path("bad<i>.jpg"), problem="truncated: <b>cut</b>")),
]


def test_nothing_comes_from_outside_and_names_are_text(tmp_path):
    found, _ = page(tmp_path, ANSWERS)
    assert not found.all("script") and not found.all("link") and not found.all("iframe") and not found.all("b")
    for _, attrs in found.tags:
        assert not any(name.startswith("on") for name in attrs)
        for name in ("src", "href"):
            assert re.match(r"data:image/jpeg;base64,|#", attrs.get(name, "#"))
    style = re.search(r"<style>(.*?)</style>", (tmp_path / "out.html").read_text(), re.S).group(1)
    assert "url(" not in style and "@import" not in style
    assert LABELS[2].name in found.text and LABELS[1].name in found.text and "bad<i>.jpg" in found.text
    assert any(meta.get("name") == "viewport" for meta in found.all("meta"))
    policy = next(meta["content"] for meta in found.all("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'")


def test_pictures_lie_inside_with_alternative_texts_the_surest_first(tmp_path):
    found, _ = page(tmp_path, ANSWERS)
    pictures = found.all("img")
    names = ["high.jpg", "third.jpg", "again.jpg", "foreign.jpg", "low.jpg", "open.jpg"]
    assert [picture["alt"].partition(",")[0] for picture in pictures] == names
    assert pictures[0]["alt"] == f"high.jpg, predicted as {LABELS[1].name}, true class Tower"
    assert pictures[5]["alt"] == "open.jpg, predicted as Tower"
    for picture in pictures:
        assert picture["loading"] == "lazy"
        content = base64.b64decode(picture["src"].partition(",")[2], validate=True)
        with Image.open(io.BytesIO(content)) as image:
            assert image.format == "JPEG" and image.size == (160, 90)


def test_right_wrong_and_confusions(tmp_path):
    found, gallery = page(tmp_path, ANSWERS)
    states = [attrs["class"] for attrs in found.all("li")]
    assert states == ["wrong", "wrong", "wrong", "foreign", "right", "open"]
    assert "1 of 4 correct (25.0 %" in found.text and "1 of classes that the model does not have" in found.text
    assert gallery.summary() == "6 photos, 6 shown, 1 of 4 correct"
    table = found.text.partition("predicted as photos")[2]
    assert table.strip().startswith(f"Tower {LABELS[1].name} 2 {LABELS[1].name} {LABELS[2].name} 1")
    assert "1 could not be read." in found.text and "truncated: <b>cut</b>" in found.text


def test_without_truth_nothing_is_judged(tmp_path):
    found, gallery = page(tmp_path, [ANSWERS[5]])
    assert "correct" not in found.text and "Confusions" not in found.text and not found.all("input")
    assert "1 photo," in found.text and gallery.summary() == "1 photo, 1 shown"


def test_beyond_the_cap_the_counts_are_still_of_all(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_THUMBNAILS", 4)
    found, _ = page(tmp_path, [answer(f"{n}.jpg", (0.6, 0.3, 0.1), LABELS[n % 2]) for n in range(10)])
    assert len(found.all("img")) == 4
    assert "Only the first 4 are shown, but all are counted." in found.text and "5 of 10 correct" in found.text


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path):
    (tmp_path / "out.html").mkdir()
    with pytest.raises(UserError, match="--gallery"):
        page(tmp_path, ANSWERS)
    assert [path.name for path in tmp_path.iterdir()] == ["out.html"]


@pytest.mark.full
def test_a_full_gallery_stays_small(tmp_path):
    """3000 photos with the detail of real ones: below 40 MB, written in seconds."""
    import numpy as np

    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize(
        (160, 120), Image.Resampling.BICUBIC
    )
    gallery = Gallery("model", LABELS)
    for number in range(3200):
        gallery.add(Answer(Photo(Path(f"{number}.jpg"), None, noise), (Guess(number % 3, 0.5),)))
    gallery.write(tmp_path / "out.html")
    assert (tmp_path / "out.html").stat().st_size < 40e6
    assert (tmp_path / "out.html").read_text().count("<img ") == 3000
