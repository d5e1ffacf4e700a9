"""The page of ``demo`` in a real browser: names, sentences for bad photos, nothing kept, nothing from the network."""

import io
import json
import re
import socket
import struct
import sys
import urllib.error
import urllib.request
import zlib
from dataclasses import replace

import pytest
from browser import WIDTHS, browser_page, drop_files, needs_browser, overflow
from demo_server import Server
from PIL import Image
from run_helpers import make_run
from train_data import make_data

from timm_landmark.cli import main as cli
from timm_landmark.inference.answers import Label
from timm_landmark.inference.demo import EXAMPLES, Guard, example_photos, listening
from timm_landmark.inference.namer import load_namer, name_photos
from timm_landmark.inference.pages.browser import MOST_PHOTOS, _uploaded, build_app, render_answers
from timm_landmark.runs.thresholds import Thresholds
from timm_landmark.utils.errors import UserError

HOSTILE = "<img src=x onerror=window.pwned=1> **b** $$x$$ ${window.pwned=1}"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("demo") / "data", size=72)


@pytest.fixture(scope="module")
def run(data):
    return make_run(data.parent / "run", data=data, model="test_resnet", names=(HOSTILE, "Class 1", "Class 2"))


@pytest.fixture(scope="module")
def photo(data):
    return sorted((data / "test" / "0001").iterdir())[0]


@pytest.fixture(scope="module")
def server(run, tmp_path_factory):
    """The page, which must leave nothing behind at Ctrl-C."""
    server = Server(tmp_path_factory.mktemp("server"), run, "--port", "0", "--device", "cpu")
    yield server
    code, out, err = server.end()
    assert (code, out) == (130, "") and err.split("\n") == ["", "timm-landmark demo: interrupted", ""]
    left = [path.name for path in server.folder.iterdir() if not path.name.startswith("torchinductor")]
    assert left == [] and server.files() == [], "the temporary folder is still there"
    assert not server.log.exists(), server.log.read_text()


def png_of(width, height):
    """A small PNG file that states a huge size."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def jpeg(size=200):
    buffer = io.BytesIO()
    Image.effect_noise((size, size), 80).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


@needs_browser
def test_a_dropped_photo_is_named_and_not_kept(server, run, photo):
    (expected,) = name_photos(load_namer(str(run), "cpu"), [photo])
    before = server.files()
    with browser_page() as (page, requests, problems):
        page.goto(server.url)
        drop_files(page, {"my photo <b>.jpg": photo.read_bytes()})
        page.wait_for_selector(".answer")
        assert page.inner_text(".answer h2") == "my photo <b>.jpg", "the name of the user's file, as text"
        shown = page.locator(".answer li")
        labels = [HOSTILE, "Class 1", "Class 2"]
        for row, guess in enumerate(expected.guesses):
            text = shown.nth(row).inner_text()
            assert labels[guess.index] in text and f"{100 * guess.probability:.1f} %" in text
            width = shown.nth(row).locator(".bar div").evaluate("each => parseFloat(each.style.width)")
            assert width == pytest.approx(100 * guess.probability, abs=0.06)
        widths = page.eval_on_selector_all(".answer img", "each => each.map(image => image.naturalWidth)")
        assert widths == [72, 72], "the photo and its heat map are shown"
        assert page.evaluate("[window.pwned, document.querySelectorAll('.answer b, .answer .katex').length]") == [
            None,
            0,
        ]
        page.wait_for_timeout(500)  # late requests
        assert all(address.startswith((f"{server.url}/", "data:", "blob:")) for address in requests), requests
        assert problems == [], "console errors, such as those of the Content-Security-Policy"
    assert server.files() == before, "the upload was deleted"


@needs_browser
def test_bad_photos_get_sentences(server, photo):
    whole = jpeg()
    drops = {
        "good.jpg": photo.read_bytes(),
        "cut.jpg": whole[: len(whole) // 2],
        "notes.txt": b"no photo at all",
        "empty.jpg": b"",
        "page.jpg": b"<!doctype html><p>hello",
        "bomb.png": png_of(50_000, 50_000),
    }
    before = server.files()
    with browser_page() as (page, _, problems):
        page.goto(server.url)
        drop_files(page, drops)
        page.wait_for_selector(".answer")
        names, texts = page.locator("h2").all_inner_texts(), page.locator(".verdict").all_inner_texts()
        verdicts = dict(zip(names, texts, strict=True))
        assert verdicts["good.jpg"] in ("Class 1", "Class 2", HOSTILE)
        assert "The file is incomplete" in verdicts["cut.jpg"] and "not an image" in verdicts["notes.txt"]
        assert "web page" in verdicts["page.jpg"] and "empty" in verdicts["empty.jpg"]
        assert "too many pixels (50000 x 50000" in verdicts["bomb.png"]
        assert page.locator(".toast-body").count() == 0 and problems == []
        drop_files(page, {f"{number}.jpg": whole for number in range(MOST_PHOTOS + 1)})
        page.wait_for_selector(f"text={MOST_PHOTOS + 1} photos are too many")
        assert page.locator(".answer").count() == 1
    assert server.files() == before


@needs_browser
def test_an_example_is_named_and_stays(server, data):
    with browser_page() as (page, _, problems):
        page.goto(server.url)
        page.wait_for_selector(".gallery-item")
        assert page.locator(".gallery-item").count() == 3
        page.locator(".gallery-item").nth(2).click()
        page.wait_for_selector(".answer")
        assert "It shows Class 2." in page.inner_text(".answer") and problems == []
    assert len(list((data / "validation" / "0002").iterdir())) == 6, "photos of the data set are never deleted"


@needs_browser
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_fits(server, photo, width):
    with browser_page(width) as (page, _, _problems):
        page.goto(server.url)
        drop_files(page, {"x" * 70 + ".jpg": photo.read_bytes()})
        page.wait_for_selector(".answer")
        assert overflow(page) == 0


def answer_of(url, headers=None, method="GET"):
    request = urllib.request.Request(url, headers=headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.headers


def test_the_server_gives_nothing_else(server, run):
    status, headers = answer_of(server.url)
    policy = headers["content-security-policy"]
    assert status == 200 and "default-src 'none'" in policy and "connect-src 'self'" in policy
    assert "http" not in policy and "*" not in policy
    scripts = re.search("script-src ([^;]*)", policy)[1]
    assert "unsafe" not in scripts and scripts.startswith("'self' 'sha256-"), "no script but those of Gradio's page"
    for path in (run / "run.json", "/etc/passwd"):
        assert answer_of(f"{server.url}/gradio_api/file={path}")[0] in (403, 404)
    assert answer_of(server.url, {"Host": "attacker.example"})[0] == 400, "DNS rebinding"
    length = str(Guard(None).most_bytes + 1)
    assert answer_of(f"{server.url}/gradio_api/upload", {"Content-Length": length}, "POST")[0] == 413
    port = int(server.url.rpartition(":")[2])
    others = [each[4][0] for each in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]
    for address in set(others) - {"127.0.0.1", "127.0.1.1"}:
        with pytest.raises(OSError):
            socket.create_connection((address, port), timeout=2)


def test_only_uploads_are_read_and_deleted(tmp_path):
    uploads = tmp_path / "uploads"
    (uploads / "0a").mkdir(parents=True)
    inside, outside = uploads / "0a" / "in.jpg", tmp_path / "out.jpg"
    for path in (inside, outside, uploads / "flat.jpg"):
        path.write_bytes(b"x")
    (uploads / "0a" / "link.jpg").symlink_to(outside)
    sent = [str(inside), str(outside), f"{uploads}/0a/../../out.jpg", str(uploads / "0a" / "link.jpg"), "a\0b", 7]
    sent += [str(uploads / "flat.jpg"), "http://example.com/a.jpg"]
    found = _uploaded([{"path": each, "orig_name": "mine"} for each in sent] + ["x", None], uploads)
    assert found == [(inside, "mine")]
    assert _uploaded(None, uploads) == [] and _uploaded([{"path": str(inside)}], uploads) == [(inside, "in.jpg")]


def test_labels_are_text(run, photo):
    html = render_answers(load_namer(str(run), "cpu"), [(photo, "a\n\n# b")], 3)
    assert "&lt;img src=x onerror" in html and "<img src=x" not in html and "\n" not in html


@pytest.mark.parametrize(
    "certain, none, state, verdict",
    [
        (None, None, "landmark", "{name}"),
        (0.01, None, "landmark", "{name}"),
        (0.999, None, "uncertain", "Not certain (best guess {name}, {percent} %)"),
        (0.999, 0.99, "none", "None of the model&#39;s landmarks (best guess {name}, {percent} %)"),
    ],
)
def test_the_page_decides_by_the_thresholds(run, photo, certain, none, state, verdict):
    namer = load_namer(str(run), "cpu")
    namer = replace(namer, labels=tuple(Label(str(row), f"Class {row}") for row in range(3)))
    ((first, *_),) = (answer.guesses for answer in name_photos(namer, [photo]))
    html = render_answers(replace(namer, thresholds=Thresholds(certain, none)), [(photo, "a")], 3)
    expected = verdict.format(name=f"Class {first.index}", percent=f"{100 * first.probability:.0f}")
    assert f'<section class="answer {state}">' in html and f'<p class="verdict">{expected}</p>' in html


def test_without_heat_maps_the_page_says_why(run, monkeypatch):
    namer = load_namer(str(run), "cpu")
    monkeypatch.setattr("timm_landmark.inference.heat_maps.find_spec", lambda name: None)
    texts = [block.value for block in build_app(namer).blocks.values() if isinstance(getattr(block, "value", 0), str)]
    assert any("no heat maps" in text and "pip install &#39;timm-landmark[explain]&#39;" in text for text in texts)


def test_a_model_without_finite_output_is_a_sentence(run, photo):
    import torch

    namer = load_namer(str(run), "cpu")
    torch.nn.init.constant_(namer.model.get_classifier().bias, float("nan"))
    assert "not finite" in render_answers(namer, [(photo, "a")], 3)


def test_examples_are_of_different_classes_and_of_the_right_data(run, data, tmp_path):
    photos = example_photos(str(run))
    assert [path.parent.name for path in photos] == ["0000", "0001", "0002"]
    assert {path.parent.parent for path in photos} == {data / "validation"}
    info = json.loads((run / "run.json").read_text())
    for name, change in (("other", {"data_digest": "0" * 64}), ("same", {})):
        (tmp_path / name).mkdir()
        for file in run.iterdir():
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
        (tmp_path / name / "run.json").write_text(json.dumps({**info, **change}))
    assert example_photos(str(tmp_path / "other")) == [] and len(example_photos(str(tmp_path / "same"))) == 3
    assert example_photos("hf-hub:org/name") == [] and EXAMPLES > 3


def test_a_port_in_use(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(UserError, match=rf"--port {port} cannot be used \(Address already in use\)"),
            listening(port),
        ):
            pass
    with listening(None) as first, listening(None) as second:
        assert second.getsockname()[1] > first.getsockname()[1] and second.getsockname()[0] == "127.0.0.1"
    assert "is in use; using" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options, words",
    [
        (["{run}", "--port", "70000"], ["--port 70000", "65535"]),
        (["{run}", "--port", "x"], ["--port", "invalid int value"]),
        (["{run}", "--threshold", "2"], ["--threshold 2", "from 0 to 1"]),
        (["{run}", "--threshold", "0.5", "--no-threshold"], ["contradict"]),
        (["{run}", "--top", "0"], ["--top 0", "at least 1"]),
        (["{run}", "--device", "toaster"], ["toaster"]),
        (["absent", "--port", "0"], ["absent", "neither a run"]),
    ],
)
def test_wrong_options(run, options, words, capsys):
    assert cli(["demo", *(each.format(run=run) for each in options)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and all(word in err for word in words)


def test_without_the_extra(run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert cli(["demo", str(run)]) == 2
    assert "pip install 'timm-landmark[demo]'" in capsys.readouterr().err
