"""ten_landmarks.py on a small repository of the same layout, with and without a work tree."""

import subprocess
from collections import Counter

import pytest
from prepare_helpers import encode, scene

from benchmarks import ten_landmarks
from timm_landmark.data.layout import ManifestRow, read_dataset_info, read_rows

CLASSES = ("colosseum", "pantheon", "rialto_bridge")


def git(*words):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *map(str, words)], check=True, capture_output=True)


def repository(folder, csv_text=None, without=None):
    """Ten photos of each class and two without a label, committed."""
    images = folder / "data" / "images"
    images.mkdir(parents=True)
    lines = [",filename,partition,semantic_label,numeric_label"]
    for index in range(32):
        label = CLASSES[index % 3] if index < 30 else ""
        lines.append(f"{index},{index:05d}.png,{'train' if index % 4 else 'val'},{label},{index % 3 if label else -1}")
        if index != without:
            (images / f"{index:05d}.png").write_bytes(encode(scene(index, 64, 64), "PNG"))
    (folder / "data" / "landmarks.csv").write_text("\n".join(lines) + "\n" if csv_text is None else csv_text)
    git("init", "-q", folder)
    git("-C", folder, "add", ".")
    git("-C", folder, "commit", "-q", "-m", "photos")
    return folder


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    return repository(tmp_path_factory.mktemp("clone") / "NN")


@pytest.mark.parametrize("bare", [False, True])
def test_a_clone_becomes_a_prepared_set(bare, clone, tmp_path):
    if bare:
        git("clone", "-q", "--mirror", clone, tmp_path / "NN.git")
    else:
        git("clone", "-q", clone, tmp_path / "NN")
    assert ten_landmarks.main([str(tmp_path / ("NN.git" if bare else "NN")), str(tmp_path / "out")]) == 0
    rows = read_rows(tmp_path / "out" / "data", ManifestRow)
    assert {row.source: row.landmark_id for row in rows} == {
        f"{CLASSES[i % 3]}/{i:05d}.png": CLASSES[i % 3] for i in range(30)
    }
    assert Counter((row.folder, row.split) for row in rows) == {
        (f"{k:04d}", split): n for k in range(3) for split, n in (("train", 3), ("validation", 2), ("test", 5))
    }
    info = read_dataset_info(tmp_path / "out" / "data")
    assert (info["image_size"], info["arguments"]["split_by"]) == (128, "group")
    photo = tmp_path / "out" / "photos" / "pantheon" / "00001.png"
    assert photo.read_bytes() == (clone / "data" / "images" / "00001.png").read_bytes()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["data", "photos"]


def test_the_git_folder_of_a_work_tree_serves(clone):
    assert len(ten_landmarks.read_labels(clone / ".git")) == 30


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"without": 7}, "data/images/00007.png is missing"),
        ({"csv_text": "id,url\n1,2\n"}, "has no columns filename, semantic_label"),
        ({"csv_text": "filename,semantic_label\n1.png,\n"}, "no row with a label"),
        ({"csv_text": "filename,semantic_label\n1.png,../../up\n"}, "'../../up', which is not a plain file name"),
    ],
)
def test_what_is_wrong_in_the_repository_is_told(changes, told, tmp_path, capsys):
    assert ten_landmarks.main([str(repository(tmp_path / "NN", **changes)), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert told in error and str(tmp_path / "NN") in error
    assert not (tmp_path / "out" / "data").exists()


def test_a_repository_without_the_csv_is_told(tmp_path, capsys):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.txt").write_text("a")
    git("init", "-q", tmp_path / "other")
    git("-C", tmp_path / "other", "add", ".")
    git("-C", tmp_path / "other", "commit", "-q", "-m", "a")
    assert ten_landmarks.main([str(tmp_path / "other"), str(tmp_path / "out")]) == 2
    assert "data/landmarks.csv is missing" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("make", [False, True])
def test_a_folder_that_is_no_repository_is_told(make, tmp_path, capsys):
    if make:
        (tmp_path / "NN").mkdir()
    assert ten_landmarks.main([str(tmp_path / "NN"), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "not a git repository" in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()
