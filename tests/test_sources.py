"""Photos found and read in folders, tars and zips, with the indexes that are kept."""

import hashlib
import io
import os
import tarfile
import zipfile

import pytest
from prepare_helpers import image_id, member_name, write_folder, write_tars

from timm_landmark.data.sources import Reader, archive_index, find_sources, locate, verify_md5, walk_tar
from timm_landmark.errors import UserError

PHOTOS = {image_id(index): f"photo {index}".encode() * (index + 1) for index in range(30)}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write_zip(path, prefix="train/"):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in PHOTOS.items():
            archive.writestr(prefix + member_name(name), content)
    return path


def read_all(paths, wanted=PHOTOS, own=None) -> dict[str, bytes]:
    found, reader = {}, Reader()
    for source in find_sources(paths):
        places = locate(source, set(wanted) - found.keys(), own)
        found |= {name: reader.read(place) for name, place in places.items()}
    return found


def test_folder_flat_nested_and_under_train(tmp_path):
    for name, content in PHOTOS.items():
        (tmp_path / "flat").mkdir(exist_ok=True)
        (tmp_path / "flat" / f"{name}.jpg").write_bytes(content)
    write_folder(tmp_path / "nested", PHOTOS)
    write_folder(tmp_path / "release/train", PHOTOS)
    for folder in ("flat", "nested", "release"):
        assert read_all([tmp_path / folder], [*PHOTOS, "feedfeedfeedfeed"]) == PHOTOS


def test_tars_zip_and_a_mixture(tmp_path):
    write_tars(tmp_path / "tars", PHOTOS, 4)
    assert read_all([tmp_path / "tars"]) == PHOTOS
    assert read_all([write_zip(tmp_path / "kaggle.zip")]) == PHOTOS
    half = dict(list(PHOTOS.items())[:15])
    write_folder(tmp_path / "loose", half)
    assert read_all([tmp_path / "loose", tmp_path / "tars/images_001.tar", tmp_path / "kaggle.zip"]) == PHOTOS


def test_own_photos_by_path_in_folder_and_archive(tmp_path):
    own = {name: member_name(name) for name in PHOTOS}
    assert read_all([write_folder(tmp_path / "f", PHOTOS)], own=own) == PHOTOS
    assert read_all([write_zip(tmp_path / "own.zip", "")], own=own) == PHOTOS


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_raw_walk_equals_tarfile(tmp_path, form):
    path = tmp_path / "t.tar"
    with tarfile.open(path, "w", format=form) as archive:
        for name in ["a.jpg", "b/" * 30 + "c.jpg", "d" * 90 + "/" + "e" * 90 + ".jpg", "empty.jpg"]:
            member = tarfile.TarInfo(name)
            member.size = 0 if name == "empty.jpg" else 700
            archive.addfile(member, io.BytesIO(bytes(member.size)))
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    with tarfile.open(path) as archive:
        wanted = [(member.name, member.offset_data, member.size) for member in archive if member.isreg()]
    assert list(walk_tar(path)) == wanted


def test_index_is_kept_and_refreshed_when_the_archive_changed(tmp_path, cache):
    path = write_tars(tmp_path / "t", PHOTOS, 1) / "images_000.tar"
    assert set(archive_index(path)) == set(PHOTOS)
    kept = list(cache.rglob("*.json"))
    assert len(kept) == 1
    before = kept[0].stat().st_mtime_ns
    archive_index(path)
    assert kept[0].stat().st_mtime_ns == before, "made again though nothing changed"
    write_tars(tmp_path / "t", dict(list(PHOTOS.items())[:9]), 1)
    assert len(archive_index(path)) == 9
    kept[0].write_text("{broken")
    assert len(archive_index(path)) == 9


@pytest.mark.parametrize("cut", [700, 100])
def test_a_cut_tar_is_refused(tmp_path, cut):
    path = write_tars(tmp_path / "t", {"abcd": bytes(5000), "abce": bytes(5000)}, 1) / "images_000.tar"
    os.truncate(path, 512 + 5120 + cut)
    with pytest.raises(UserError, match="fetch it again"):
        archive_index(path)


def test_a_broken_zip_is_refused(tmp_path):
    (tmp_path / "k.zip").write_bytes(b"PK\x03\x04 nothing else")
    with pytest.raises(UserError, match="not a readable archive"):
        archive_index(tmp_path / "k.zip")


def test_md5_is_checked_once_for_each_state(tmp_path, cache):
    path = write_tars(tmp_path / "t", PHOTOS, 1) / "images_000.tar"
    assert verify_md5(path) is False
    listed = path.with_name("md5.images_000.txt")
    listed.write_text(f"{hashlib.md5(path.read_bytes()).hexdigest()}  images_000.tar\n")
    assert verify_md5(path) is True and len(list(cache.rglob("*.md5"))) == 1
    content = bytearray(path.read_bytes())
    content[600] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))
    with pytest.raises(UserError, match=r"md5\.images_000\.txt"):
        verify_md5(path)
    listed.write_text("<html>")
    with pytest.raises(UserError, match="holds no md5"):
        verify_md5(path)


def test_a_path_that_is_no_source_is_said(tmp_path):
    with pytest.raises(UserError, match="no such folder or archive"):
        find_sources([tmp_path / "none"])
    (tmp_path / "x.rar").touch()
    with pytest.raises(UserError, match="neither a folder"):
        find_sources([tmp_path / "x.rar"])
