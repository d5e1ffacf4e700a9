"""Predictions: the same probabilities as timm's own inference, every format, bad photos, hostile names."""

import csv
import io
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from run_helpers import TINY, make_run
from train_cases import validate_script
from train_data import make_data

from timm_landmark.cli import main as cli
from timm_landmark.data.images import resize
from timm_landmark.data.layout import ClassRow, read_rows, write_rows
from timm_landmark.inference.namer import load_namer, name_photos
from timm_landmark.inference.photos import find_photos, read_photo, squashed, true_class
from timm_landmark.inference.rendering import CSV_COLUMNS
from timm_landmark.runs.model import load_run, load_run_model

HOSTILE = "\x1b[31mRed\x07 \u202egnirts</script><b>&"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("predict") / "data", size=72)


@pytest.fixture(scope="module")
def run(data):
    return make_run(data.parent / "run", data=data, layers=TINY["layers"])


@pytest.fixture(scope="module")
def namer(run):
    return load_namer(str(run), "cpu")


def timm_probabilities(run, folder):
    """What timm's inference.py does with a folder: its dataset, its loader, its transform."""
    from timm.data import create_dataset, create_loader

    found = load_run(run)
    loader = create_loader(
        create_dataset("", root=str(folder)),
        input_size=found.input_size,
        batch_size=5,
        interpolation=found.interpolation,
        mean=found.mean,
        std=found.std,
        crop_pct=found.crop_pct,
        num_workers=0,
        use_prefetcher=False,
    )
    model = load_run_model(found)
    with torch.inference_mode():
        shares = torch.cat([model(images).softmax(-1) for images, _ in loader])
    return dict(zip(loader.dataset.filenames(absolute=True), shares, strict=True))


def test_probabilities_are_those_of_timm(data, run, namer):
    expected = timm_probabilities(run, data / "test")
    answers = list(name_photos(namer, find_photos([data / "test"]), top=3, batch_size=7))
    assert len(answers) == len(expected) == 18
    for answer in answers:
        shares = torch.zeros(3)
        for guess in answer.guesses:
            shares[guess.index] = guess.probability
        torch.testing.assert_close(shares, expected[str(answer.photo.path)], atol=1e-6, rtol=1e-5)
        assert [g.probability for g in answer.guesses] == sorted((g.probability for g in answer.guesses), reverse=True)


@pytest.mark.full
@pytest.mark.script
def test_probabilities_are_those_of_inference_py(data, tmp_path):
    script = validate_script().with_name("inference.py")
    if not script.is_file():
        pytest.skip(f"timm's inference.py is not beside {script.with_name('validate.py')}")
    run = make_run(tmp_path / "run", data=data, model="test_resnet")
    found = load_run(run)
    # fmt: off
    command = [
        sys.executable, str(script), "--data-dir", str(data / "test"), "--model", "test_resnet", "--num-classes", "3",
        "--checkpoint", str(found.checkpoint), "--img-size", "64", "--crop-pct", str(found.crop_pct), "--device", "cpu",
        "--interpolation", found.interpolation, "--mean", *map(str, found.mean), "--std", *map(str, found.std),
        "--topk", "3", "--fullname", "--results-dir", str(tmp_path), "--results-file", "out", "--workers", "0",
        "--results-format", "json", "--results-separate-col",
    ]
    # fmt: on
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out.json").read_text())
    rows = rows if isinstance(rows, list) else [{"filename": name, **row} for name, row in rows.items()]
    expected = {row["filename"].rpartition("/")[2]: row for row in rows}
    answers = list(name_photos(load_namer(str(run), "cpu"), find_photos([data / "test"]), top=3))
    assert len(expected) == len(answers) == 18
    for answer in answers:
        row = expected[answer.photo.path.name]
        shares = row["prob"] if "prob" in row else [row[f"prob_{place}"] for place in range(3)]
        assert [guess.probability for guess in answer.guesses] == pytest.approx(shares, abs=1e-5)


def test_a_photo_that_is_not_square_is_squashed_and_not_cropped(namer, tmp_path):
    """Left red, right blue: a centre crop would lose both ends, squashing keeps them."""
    wide = Image.new("RGB", (600, 100), "lime")
    wide.paste("red", (0, 0, 120, 100))
    wide.paste("blue", (480, 0, 600, 100))
    wide.save(tmp_path / "wide.png")
    assert read_photo(tmp_path / "wide.png", squashed).pixels.size == (256, 256)
    (answer,) = name_photos(namer, [tmp_path / "wide.png"], top=3)
    with torch.inference_mode():
        shares = namer.model(namer.transform(resize(wide, 256))[None]).softmax(-1)[0]
    assert [guess.probability for guess in answer.guesses] == pytest.approx(
        shares[[g.index for g in answer.guesses]].tolist()
    )
    assert resize(wide, 256).getpixel((40, 128))[0] > 200 and resize(wide, 256).getpixel((220, 128))[2] > 200


def test_every_format_of_prepare_by_its_bytes_and_upright(namer, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((90, 60), Image.Resampling.NEAREST)
    for name, form in [("a.png", "PNG"), ("b.webp", "WEBP"), ("c.bmp", "BMP"), ("d.tif", "TIFF"), ("e.jpg", "PNG")]:
        image.save(tmp_path / name, form, **({"lossless": True} if form == "WEBP" else {}))
    turned = Image.Exif()
    turned[0x0112] = 6  # stored rotated by 90 degrees
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "f.png", exif=turned)
    answers = list(name_photos(namer, find_photos([tmp_path]), top=3))
    assert [answer.photo.problem for answer in answers] == [None] * 6
    assert len({tuple((g.index, round(g.probability, 5)) for g in answer.guesses) for answer in answers}) == 1


def test_a_bad_photo_is_reported_and_the_rest_go_on(data, run, tmp_path, capsys):
    good = sorted((data / "test").rglob("*.jpg"))[:3]
    for number, path in enumerate(good):
        (tmp_path / f"{number}.jpg").write_bytes(path.read_bytes())
    (tmp_path / "0b.jpg").write_bytes(good[0].read_bytes()[:300])
    (tmp_path / "1b.jpg").write_bytes(b"")
    (tmp_path / "2b.jpg").write_bytes(b"<!doctype html>")
    (tmp_path / "3b.HEIC").write_bytes(b"a photo of a format that is not supported")
    (tmp_path / "notes.txt").write_text("no photo, and not looked at in a folder")
    assert (
        cli(["predict", str(run), str(tmp_path), "--format", "json", "--device", "cpu", "-b", "2", "--top", "2"]) == 1
    )
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert [row["photo"].rpartition("/")[2] for row in found] == [
        "0.jpg",
        "0b.jpg",
        "1.jpg",
        "1b.jpg",
        "2.jpg",
        "2b.jpg",
        "3b.HEIC",
    ]
    assert ["problem" in row for row in found] == [False, True] * 3 + [True]
    assert all(len(row["guesses"]) == 2 for row in found[:6:2])
    assert "1b.jpg: empty" in err and "2b.jpg: html" in err and "4 of 7 photos" in err
    assert cli(["predict", str(run), str(tmp_path / "notes.txt"), "--device", "cpu"]) == 1, "named itself, it is tried"


def test_table_and_csv_say_the_same(data, run, capsys):
    folder = data / "test" / "0001"
    assert cli(["predict", str(run), str(folder), "--device", "cpu", "--top", "9"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert cli(["predict", str(run), str(folder), "--device", "cpu", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 6 * 3 and len(table) == 6 * 4, "as many guesses as there are classes, not more"
    assert table[0] == rows[0]["photo"] and float(table[1].split()[0]) == pytest.approx(
        100 * float(rows[0]["probability"]), abs=0.01
    )
    assert {row["name"] for row in rows} == {"Class 0", "Class 1", "Class 2"}
    assert sum(float(row["probability"]) for row in rows[:3]) == pytest.approx(1, abs=1e-5)
    assert [row["rank"] for row in rows[:3]] == ["1", "2", "3"]


def test_hostile_names_do_nothing_in_a_terminal(data, tmp_path, capsys):
    run = make_run(tmp_path / "run", data=data, names=(HOSTILE, "Fine", "Good"), layers=TINY["layers"])
    photo = tmp_path / "odd\x1b]0;title\x07name \u202e.jpg"
    photo.write_bytes(next((data / "test").rglob("*.jpg")).read_bytes())
    bad = tmp_path / "bad\x1b[2J.jpg"
    bad.write_bytes(b"")
    for form in ("table", "csv", "json"):
        assert cli(["predict", str(run), str(photo), str(bad), "--format", form, "--device", "cpu"]) == 1
        out, err = capsys.readouterr()
        assert "gnirts" in out and "bad" in err
        for char in ("\x1b", "\x07", "\u202e"):
            assert char not in out + err
    assert cli(["predict", str(run), str(tmp_path / "none\x1b.jpg")]) == 2


def test_an_exported_folder_answers_as_its_run(data, run, namer, tmp_path):
    assert cli(["export", str(run), "--output", str(tmp_path / "model")]) == 0
    exported = load_namer(str(tmp_path / "model"), "cpu")
    assert exported.labels == namer.labels
    paths = find_photos([data / "validation"])
    for one, other in zip(name_photos(exported, paths), name_photos(namer, paths), strict=True):
        assert [guess.index for guess in one.guesses] == [guess.index for guess in other.guesses]
        assert [g.probability for g in one.guesses] == pytest.approx([g.probability for g in other.guesses], abs=1e-6)
        assert one.truth == other.truth and one.known


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_answers_that_are_no_numbers_are_an_error(data, tmp_path, capsys, form):
    """NaN in one class's weights once gave exit code 0, "nan %", invalid JSON, and a page that judged the answers."""
    run = make_run(tmp_path / "run", data=data, model="test_resnet")
    checkpoint = load_run(run).checkpoint
    state = torch.load(checkpoint, weights_only=False)
    state["state_dict"]["fc.weight"][1] = math.nan
    torch.save(state, checkpoint)
    options = ["--device", "cpu", "--format", form, "-b", "4", "--gallery", str(tmp_path / "page.html")]
    assert cli(["predict", str(run), str(data / "test"), *options]) == 2
    out, err = capsys.readouterr()
    assert "test_resnet of run: the model's logits are not finite" in err and "nan" not in out.lower()
    assert out == {"table": "", "csv": f"{CSV_COLUMNS}\n", "json": "[\n]\n"}[form]
    assert not (tmp_path / "page.html").exists()


def test_a_name_that_is_not_utf_8_is_written_out(data, run, tmp_path, capsys):
    photo = tmp_path / b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    try:
        photo.write_bytes(next((data / "test").rglob("*.jpg")).read_bytes())
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    for form in ("table", "csv", "json"):
        options = ["--format", form, "--device", "cpu", "--gallery", str(tmp_path / "page.html")]
        assert cli(["predict", str(run), str(tmp_path), *options]) == 0
        out = capsys.readouterr().out
        assert "caf\\xe9.jpg" in (json.loads(out)[0]["photo"] if form == "json" else out)
        assert "caf\\xe9.jpg" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_truth_is_known_in_a_prepared_split_only(data, namer, tmp_path):
    first = next(iter(sorted((data / "test" / "0002").iterdir())))
    assert true_class(first).name == "Class 2"
    loose = tmp_path / "test" / "0002" / "x.jpg"
    loose.parent.mkdir(parents=True)
    loose.write_bytes(first.read_bytes())
    assert true_class(loose) is None
    foreign = make_data(tmp_path / "other", images=(1, 1, 1))
    rows = read_rows(foreign, ClassRow)
    write_rows(foreign, ClassRow, [ClassRow(rows[0].folder, "0", "Elsewhere", 1, 1, 1), *rows[1:]])
    answers = list(name_photos(namer, find_photos([first, loose, foreign / "test"])))
    assert [answer.truth.name if answer.truth else None for answer in answers] == [
        *("Class 2", None),
        *("Elsewhere", "Class 1", "Class 2"),
    ]
    assert [answer.known for answer in answers] == [True, True, False, True, True]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["nowhere", "{photo}"], ["nowhere", "hf-hub:ORG/NAME"]),
        (["{run}", "{run}/none.jpg"], ["none.jpg", "no such file"]),
        (["{run}", "{empty}"], ["no photos"]),
        (["{run}", "{photo}", "--top", "0"], ["--top 0"]),
        (["{run}", "{photo}", "-b", "0"], ["--batch-size 0"]),
        (["{run}", "{photo}", "--workers", "-1"], ["--workers -1"]),
        (["{run}", "{photo}", "--format", "xml"], ["xml"]),
        (["{run}", "{photo}", "--device", "warp"], ["--device warp"]),
        (["{run}", "{photo}", "--gallery", "{folder}"], ["--gallery", "must be a file"]),
        (["{run}", "{photo}", "--gallery", "{empty}/none/x.html"], ["--gallery", "existing folder"]),
        (["{run}", "--gallery", "{photo}", "{photo}"], ["--gallery", "must end in .html"]),
        (["{run}", "--gallery", "{empty}/new", "{photo}"], ["--gallery", "must end in .html"]),
        (["{run}"], ["PHOTO"]),
    ],
)
def test_mistakes_end_in_one_line(options, words, data, run, tmp_path, capsys):
    places = {name: tmp_path / name for name in ("empty", "folder.html")}
    for place in places.values():
        place.mkdir()
    photo = next((data / "test").rglob("*.jpg"))
    before = photo.read_bytes()
    names = dict(run=run, photo=photo, empty=places["empty"], folder=places["folder.html"])
    assert cli(["predict", *(each.format(**names) for each in options)]) == 2
    assert photo.read_bytes() == before
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and all(word in err for word in words)


def test_a_run_whose_classes_do_not_fit_is_refused(data, tmp_path, capsys):
    run = make_run(tmp_path / "run", data=data, layers=TINY["layers"])
    write_rows(run, ClassRow, read_rows(run, ClassRow)[:2])
    assert cli(["predict", str(run), str(data / "test")]) == 2
    assert "2 classes" in capsys.readouterr().err


def test_grey_models_get_grey_photos(data, tmp_path):
    run = make_run(tmp_path / "run", data=data, model="test_resnet")
    args = yaml.safe_load((run / "args.yaml").read_text()) | {"in_chans": 1, "mean": [0.5], "std": [0.25]}
    (run / "args.yaml").write_text(yaml.safe_dump(args))
    found = load_run(run)
    torch.manual_seed(1)
    model = timm.create_model("test_resnet", num_classes=3, in_chans=1)
    torch.save({"epoch": 1, "state_dict": model.state_dict()}, found.checkpoint)
    namer = load_namer(str(run), "cpu")
    assert namer.mode == "L"
    assert len(list(name_photos(namer, find_photos([data / "test"])))) == 18


@pytest.mark.full
def test_a_reader_that_leaves_early_is_no_traceback(data, run):
    command = [sys.executable, "-m", "timm_landmark.cli", "predict", str(run), str(data), "--device", "cpu", "-b", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait() in (0, 1)
    assert "Traceback" not in errors and "BrokenPipe" not in errors
