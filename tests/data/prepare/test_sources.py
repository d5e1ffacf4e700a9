"""Finding and reading photos in folders, tars and zips, and the cached indexes."""

import hashlib
import io
import os
import tarfile
import zipfile

import pytest
from prepare_helpers import image_id, member_name, write_folder, write_tars

from timm_landmark.data.prepare.archives import archive_index, walk_tar, walk_zip
from timm_landmark.data.prepare.sources import Location, Reader, SourceChanged, find_sources, locate, verify_md5
from timm_landmark.utils.errors import UserError

PHOTOS = {image_id(index): f"photo {index}".encode() * (index + 1) for index in range(30)}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write_zip(path, prefix="train/", packed=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", packed) as archive:
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
    with tarfile.open(tmp_path / "same.tar", "w") as archive:  # two folders, one file name, as tar -C . writes them
        for name in ("./a/1.jpg", "./b/1.jpg"):
            member = tarfile.TarInfo(name)
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    own = {"x": "a/1.jpg", "y": "b/1.jpg"}
    assert read_all([tmp_path / "same.tar"], own, own) == {"x": b"./a/1.jpg", "y": b"./b/1.jpg"}


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
    walked = list(archive_index(path))
    assert [(name, *numbers) for name, numbers in walked] == list(walk_tar(path)) and len(walked) == 30
    (kept,) = cache.rglob("*.index")
    before = kept.stat().st_mtime_ns
    assert list(archive_index(path)) == walked
    assert kept.stat().st_mtime_ns == before, "rebuilt although nothing changed"
    write_tars(tmp_path / "t", dict(list(PHOTOS.items())[:9]), 1)
    assert len(list(archive_index(path))) == 9
    kept.write_bytes(b"\xff broken")
    assert len(list(archive_index(path))) == 9


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    assert read_all([write_tars(tmp_path / "t", PHOTOS, 2)]) == PHOTOS
    archive = tmp_path / "t/images_000.tar"
    archive.with_name("md5.images_000.txt").write_text(hashlib.md5(archive.read_bytes()).hexdigest())
    assert verify_md5(archive) is True


@pytest.mark.parametrize("packed", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_raw_walk_equals_zipfile_also_where_numbers_need_64_bits(tmp_path, packed, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 400)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 5)
    path = write_zip(tmp_path / "z.zip", "tr\u00e4in/", packed)
    assert b"PK\x06\x07" in path.read_bytes(), "not a zip64 file"
    monkeypatch.undo()
    with zipfile.ZipFile(path) as archive:
        wanted = [(m.filename, m.header_offset, m.compress_size, m.file_size, m.CRC) for m in archive.infolist()]
    assert list(walk_zip(path)) == wanted and len(wanted) == 30


def test_a_damaged_photo_in_a_zip_is_told_from_the_others(tmp_path):
    path = write_zip(tmp_path / "z.zip", "", zipfile.ZIP_STORED)
    name = image_id(20)
    place = locate(path, {name})[name]
    content = bytearray(path.read_bytes())
    content[content.find(PHOTOS[name])] ^= 1
    path.write_bytes(content)
    with pytest.raises(OSError, match="damaged"):
        Reader().read(place)
    assert Reader().read(locate(path, {image_id(21)})[image_id(21)]) == PHOTOS[image_id(21)]


def test_what_was_there_and_is_gone_is_no_missing_photo(tmp_path):
    """A disk that is removed must not turn all remaining photos into rejects."""
    folder, tar = write_folder(tmp_path / "f", PHOTOS), write_tars(tmp_path / "t", PHOTOS, 1) / "images_000.tar"
    name = image_id(29)
    in_folder, in_tar = locate(folder, {name})[name], locate(tar, {name})[name]
    (folder / in_folder.name).unlink()
    os.truncate(tar, in_tar.offset + 3)
    for place in (in_folder, in_tar):
        with pytest.raises(SourceChanged):
            Reader().read(place)
    (folder / in_folder.name).symlink_to("nowhere")
    with pytest.raises(OSError, match="link") as error:
        Reader().read(in_folder)
    assert not isinstance(error.value, SourceChanged)


def test_a_huge_file_is_not_read_into_memory(tmp_path):
    with open(tmp_path / "huge.jpg", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="larger than 512 MiB"):
        Reader().read(Location(str(tmp_path), "huge.jpg"))


def test_an_id_cannot_lead_out_of_the_folder(tmp_path):
    (tmp_path / "in/a/b/c").mkdir(parents=True)
    (tmp_path / "in/././././secret.jpg").touch()
    (tmp_path / "secret.jpg").touch()
    assert locate(tmp_path / "in", {"../../../secret", "../secret", "..."}) == {}


@pytest.mark.parametrize("cut", [700, 100])
def test_a_cut_tar_is_refused(tmp_path, cut):
    path = write_tars(tmp_path / "t", {"abcd": bytes(5000), "abce": bytes(5000)}, 1) / "images_000.tar"
    os.truncate(path, 512 + 5120 + cut)
    with pytest.raises(UserError, match="download it again"):
        list(archive_index(path))


def test_a_broken_zip_is_refused(tmp_path):
    (tmp_path / "k.zip").write_bytes(b"PK\x03\x04 nothing else")
    with pytest.raises(UserError, match="not a readable archive"):
        list(archive_index(tmp_path / "k.zip"))
    whole = write_zip(tmp_path / "w.zip").read_bytes()
    for broken in (whole[:-60], whole[:-300] + bytes(200) + whole[-100:], whole[: len(whole) // 2]):
        (tmp_path / "k.zip").write_bytes(broken)
        with pytest.raises(UserError, match="not a readable archive"):
            list(archive_index(tmp_path / "k.zip"))


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
    with pytest.raises(UserError, match="does not contain an md5"):
        verify_md5(path)


def test_a_path_that_is_no_source_is_said(tmp_path):
    with pytest.raises(UserError, match="no such folder or archive"):
        find_sources([tmp_path / "none"])
    (tmp_path / "x.rar").touch()
    with pytest.raises(UserError, match="neither a folder"):
        find_sources([tmp_path / "x.rar"])
