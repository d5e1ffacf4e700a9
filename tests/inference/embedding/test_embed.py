"""``embed``: the vectors are the model's, the file names model and photos, and mistakes are told."""

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from embed_cases import PHOTOS, ROWS, about, embed
from pyarrow import parquet
from run_helpers import TINY, make_run

from timm_landmark.cli import main as cli
from timm_landmark.hub.export import main as export
from timm_landmark.inference.embed import embed_photos, unit_vectors
from timm_landmark.inference.embedding import store
from timm_landmark.inference.namer import load_namer
from timm_landmark.inference.photos import find_photos
from timm_landmark.inference.split_predictions import photo_loader
from timm_landmark.runs.model import load_run, load_run_model
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.files import sha256_file


def test_vectors_are_the_pooled_features_of_the_model(data, tmp_path):
    """With the images, transform and order of ``evaluate``'s loader."""
    folder = make_run(tmp_path / "run", data=data, **TINY)
    assert embed(folder, data / "test", tmp_path / "v.parquet") == 0
    found = load_run(folder)
    model = load_run_model(found)
    expected = {}
    with torch.inference_mode():
        loader, rows = photo_loader(found, data, "test")
        for images, numbers in loader:
            pooled = model.forward_head(model.forward_features(images), pre_logits=True)
            for number, vector in zip(numbers.tolist(), pooled, strict=True):
                expected[rows[number].image_id] = vector / vector.norm()
    table = parquet.read_table(tmp_path / "v.parquet").to_pylist()
    assert [row["path"] for row in table] == [str(path) for path in find_photos([data / "test"])]
    assert len(table) == len(expected) == PHOTOS
    for row in table:
        vector = np.array(row["embedding"], np.float32)
        np.testing.assert_allclose(vector, expected[Path(row["path"]).stem], atol=1e-6)
        assert abs(np.linalg.norm(vector.astype(np.float64)) - 1) < 1e-6
        assert row["sha256"] == sha256_file(Path(row["path"]))
    assert np.std([row["embedding"] for row in table], axis=0).max() > 1e-3, "all photos have the same vector"


def test_schema_row_groups_and_metadata(whole):
    file = parquet.ParquetFile(whole)
    types = {field.name: str(field.type) for field in file.schema_arrow}
    assert types == {"path": "string", "sha256": "string", "embedding": "fixed_size_list<element: float>[96]"}
    sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    assert sizes == [ROWS] * 4 + [2]
    found = about(whole)
    assert (found["model"], found["width"], found["photos"], found["left_out"]) == ("test_resnet", 96, PHOTOS, [])
    assert "CenterCrop(size=(64, 64))" in found["transform"] and str(whole.parent) not in json.dumps(found)
    assert not store.parts_folder(whole).exists()


def test_a_run_and_its_export_have_the_same_weights_and_vectors(data, run, whole, tmp_path, small_parts):
    assert export([str(run), "--output", str(tmp_path / "folder")]) == 0
    assert embed(tmp_path / "folder", data / "test", tmp_path / "v.parquet") == 0
    assert about(tmp_path / "v.parquet")["weights"] == about(whole)["weights"]
    assert parquet.read_table(tmp_path / "v.parquet").equals(parquet.read_table(whole))
    other = make_run(tmp_path / "run", data=data, model="test_resnet", names=("a", "b"))
    assert embed(other, data / "test", tmp_path / "o.parquet") == 0
    assert about(tmp_path / "o.parquet")["weights"] != about(whole)["weights"]


def test_unreadable_photos_are_reported_and_left_out(data, run, tmp_path, capsys, small_parts):
    """Also when a whole part has none, and again when the finished command is repeated."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, path in enumerate(find_photos([data / "test"])[:6]):
        shutil.copy(path, photos / f"{number}.jpg")
    for number in range(4):
        (photos / f"a{number}.jpg").write_bytes(b"no photo")
    (photos / "1.jpg").write_bytes((photos / "1.jpg").read_bytes()[:400])
    for _ in range(2):
        assert embed(run, photos, tmp_path / "v.parquet") == 1
        error = capsys.readouterr().err
        assert f"{photos / '1.jpg'}: " in error and f"{photos / 'a3.jpg'}: undecodable" in error
        assert "5 of 10 photos have no vector" in error
    assert parquet.read_table(tmp_path / "v.parquet")["path"].to_pylist() == [
        str(photos / f"{number}.jpg") for number in (0, 2, 3, 4, 5)
    ]
    assert about(tmp_path / "v.parquet")["left_out"][0][0] == str(photos / "1.jpg")
    (tmp_path / "v.parquet").unlink()
    for path in photos.glob("[0-9].jpg"):
        path.unlink()
    assert embed(run, photos, tmp_path / "v.parquet") == 1
    assert parquet.read_table(tmp_path / "v.parquet").num_rows == 0


def test_file_names_are_kept_in_the_file_and_escaped_on_the_terminal(data, run, tmp_path, capsys):
    photo = find_photos([data / "test"])[0]
    hostile, raw = tmp_path / "\x1b[31mé\n.jpg", os.fsencode(tmp_path) + b"/\xe9.jpg"
    shutil.copy(photo, hostile)
    shutil.copy(photo, raw)
    (tmp_path / "\x1bbad.jpg").write_bytes(b"")
    assert embed(run, tmp_path, tmp_path / "v.parquet") == 1
    names = {Path(path).name for path in parquet.read_table(tmp_path / "v.parquet")["path"].to_pylist()}
    assert names == {hostile.name, r"\xe9.jpg"}
    error = capsys.readouterr().err
    assert r"\x1bbad.jpg: empty" in error and "\x1b" not in error


class Pooled(torch.nn.Module):
    """A model whose features are given."""

    def __init__(self, values):
        super().__init__()
        self.values = torch.nn.Parameter(torch.tensor(values), requires_grad=False)

    def forward_features(self, x):
        return x

    def forward_head(self, x, pre_logits=False):
        return self.values.expand(len(x), *self.values.shape[1:])


def test_features_without_a_direction_and_without_a_number(run, data):
    namer = load_namer(str(run), "cpu")
    paths = find_photos([data / "test"])[:1]
    (found,) = embed_photos(dataclasses.replace(namer, model=Pooled([[3.0, 4.0]])), paths, 2, 1)
    np.testing.assert_array_equal(found.embedding, np.array([0.6, 0.8], np.float32))
    (found,) = embed_photos(dataclasses.replace(namer, model=Pooled([[0.0, 0.0]])), paths, 2, 1)
    assert isinstance(found, store.Problem) and "all zero" in found.reason
    huge = unit_vectors(dataclasses.replace(namer, model=Pooled([[3e38, 3e38]])), [torch.zeros(3, 8, 8)])[0]
    np.testing.assert_allclose(huge, np.sqrt(0.5), rtol=1e-6)
    for values, message in (([[float("nan")]], "not finite"), ([[[1.0]]], "have the shape")):
        with pytest.raises(UserError, match=message):
            unit_vectors(dataclasses.replace(namer, model=Pooled(values)), [torch.zeros(3, 8, 8)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output", "v.csv"], "--output v.csv: its name must end in .parquet"),
        (["--output", "absent/v.parquet"], "--output absent/v.parquet: no such folder absent; create it"),
        (["--output", "folder.parquet"], "--output folder.parquet: not a file"),
        (["--output", "foreign.parquet"], "--output foreign.parquet exists and was not written by embed"),
        (["--output", "taken.parquet"], "taken.parquet.parts was not written by embed; move it away"),
        (["-b", "0"], "--batch-size 0: must be at least 1"),
        (["-j", "-1"], "--workers -1: must be at least 1"),
        (["--device", "gpu"], "--device gpu: not available"),
        (["absent.jpg"], "absent.jpg: no such file or folder"),
    ],
)
def test_mistakes_end_in_one_line_and_write_nothing(data, run, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.parquet").mkdir()
    (tmp_path / "foreign.parquet").write_text("mine")
    (tmp_path / "taken.parquet.parts").mkdir()
    (tmp_path / "taken.parquet.parts" / "mine.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    words = options if "absent.jpg" not in options else []
    photos = options if not words else [str(data / "test")]
    assert cli(["embed", str(run), *photos, "--output", "new.parquet", "--device", "cpu", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "foreign.parquet").read_text() == "mine"


def test_the_snippets_of_the_docs(whole, data, tmp_path, monkeypatch, capsys):
    """On another file than in the docs, whose own blocks run with `make test-all`."""
    page = Path(__file__).resolve().parents[3] / "docs" / "publishing.md"
    section = page.read_text(encoding="utf-8").partition("\n## Embeddings\n")[2].partition("\n## ")[0]
    pandas, faiss = re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    shutil.copy(whole, tmp_path / "photos.parquet")
    monkeypatch.chdir(tmp_path)
    rows = parquet.read_table(whole).to_pylist()
    vectors = np.array([row["embedding"] for row in rows], np.float32)
    order = np.argsort(-(vectors @ vectors[0]), kind="stable")[:3]
    exec(compile(pandas, "pandas", "exec"), {})
    assert "18 photos, 18 different files" in capsys.readouterr().out
    exec(compile(faiss, "faiss", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"1.000 {rows[0]['path']}"
    assert [line.partition(" ")[2] for line in lines] == [rows[place]["path"] for place in order]
