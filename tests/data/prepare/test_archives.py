"""Hostile, damaged and old archives: reading them ends, reports the problem, and agrees with ``tarfile``."""

import io
import itertools
import random
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from timm_landmark.data.prepare.archives import archive_index, walk_tar, walk_zip
from timm_landmark.data.shards import read_shard
from timm_landmark.utils.errors import UserError

MORE = 50  # more members than any archive here has, so that an endless loop cannot hang the test


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def signed(header: bytearray, of: str = "B") -> bytes:
    """The header with a correct checksum, over unsigned or (``b``) signed bytes."""
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(struct.unpack(f"512{of}", header))
    return bytes(header)


def member(name: str, content: bytes = b"", **fields) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512)


def with_size(block: bytes, field: bytes) -> bytes:
    header = bytearray(block[:512])
    header[124:136] = field.ljust(12, b"\0")
    return signed(header) + block[512:]


def pax(records: dict[str, str], kind: bytes = tarfile.XHDTYPE) -> bytes:
    body = b""
    for key, value in records.items():
        text = f" {key}={value}\n".encode()
        length = len(text) + len(str(len(text) + 2))
        body += str(length).encode() + text
    return member("pax", body, type=kind)


def write(path: Path, *blocks: bytes) -> Path:
    path.write_bytes(b"".join(blocks) + bytes(1024))
    return path


PHOTO = member("a.jpg", bytes(700))
BACK = b"-0000002000"
BASE_256 = b"\xff" * 10 + b"\xf0\x00"  # -4096
HOSTILE = {
    "octal": [PHOTO, with_size(member("b.jpg"), BACK)],
    "base 256": [PHOTO, with_size(member("b.jpg"), BASE_256)],
    "folder of GNU": [PHOTO, with_size(member("b", type=b"D"), BACK)],
    "pax record": [PHOTO, PHOTO, pax({"size": "-2048"}), member("b.jpg")],
    "pax record of a folder of GNU": [PHOTO, PHOTO, pax({"size": "-2048"}), member("b", type=b"D")],
    "long name": [PHOTO, with_size(member("b", type=tarfile.GNUTYPE_LONGNAME), BACK), member("b.jpg")],
    "pax header": [PHOTO, with_size(member("b", type=tarfile.XHDTYPE), BASE_256), member("b.jpg")],
    "beyond the end": [PHOTO, with_size(member("b.jpg"), b"00000100000")],
    "beyond any memory": [with_size(member("b", type=tarfile.XHDTYPE), b"\x80" + b"\x7f" * 11), PHOTO],
    "beyond the end, by a pax record": [pax({"size": "5000"}), member("b.jpg")],
    "a thousand extensions": [pax({"comment": "x"})] * 1500 + [PHOTO],
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_size_that_leads_back_or_out_of_the_archive_ends_the_walk(tmp_path, cache, case):
    archive = write(tmp_path / "t.tar", *HOSTILE[case])
    with pytest.raises((ValueError, tarfile.TarError, RecursionError)):
        list(itertools.islice(walk_tar(archive), MORE))
    with pytest.raises(UserError, match=r"--images .*t.tar: not a readable archive \(.*\); download it again"):
        list(itertools.islice(archive_index(archive), MORE))
    assert not [path for path in cache.rglob("*") if path.is_file()], "part of an index was kept"


@pytest.mark.timeout(10)
@pytest.mark.parametrize("case", ["octal", "base 256", "pax record", "pax record of a folder of GNU"])
def test_a_shard_that_leads_back_is_no_shard(tmp_path, case):
    with open(write(tmp_path / "t.tar", *HOSTILE[case]), "rb") as file, pytest.raises(tarfile.TarError):
        read_shard(file)


def flipped(block: bytes, at: int) -> bytes:
    return block[:at] + bytes([block[at] ^ 1]) + block[at + 1 :]


@pytest.mark.parametrize(
    "blocks",
    [
        [flipped(PHOTO, 0), PHOTO],
        [PHOTO, flipped(PHOTO, 0), PHOTO],
        [PHOTO, flipped(PHOTO, 149), PHOTO],
        [PHOTO, pax({"path": "c.jpg"}), flipped(PHOTO, 0), PHOTO],
        [PHOTO, flipped(pax({"path": "c.jpg"}), 0), PHOTO],
        [pax({"path": "c.jpg"}), PHOTO, flipped(PHOTO, 0)],
        [PHOTO, b"\0" + PHOTO[1:]],
        [PHOTO, b"garbage" * 100],
    ],
    ids=["first", "second", "sum", "after pax", "pax", "behind pax", "empty name", "garbage"],
)
def test_a_wrong_checksum_is_damage_and_not_the_end(tmp_path, blocks):
    """``tarfile`` would stop there silently: every later photo would be reported as missing."""
    with pytest.raises(UserError, match="download it again"):
        list(archive_index(write(tmp_path / "t.tar", *blocks)))


def test_odd_headers_are_read_as_tarfile_reads_them(tmp_path):
    high = bytearray(member("x.jpg", bytes(10)))
    high[0:3] = b"\xe9\xff\x80"
    blocks = [
        signed(high[:512], "b") + bytes(high[512:]),  # a sum of signed bytes, as on old Suns
        with_size(member("folder", type=tarfile.DIRTYPE), b"00000002000"),  # no content follows
        member("link", type=tarfile.LNKTYPE, size=700),
        member("old/", type=tarfile.AREGTYPE, size=600),
        member("dump", bytes(900), type=b"D"),  # content follows, but it is not a file
        member("seven.jpg", bytes(30), type=tarfile.CONTTYPE),
        with_size(member("large.jpg", bytes(515)), b"\x80" + (515).to_bytes(11, "big")),
        pax({"comment": "as git writes it"}, tarfile.XGLTYPE),
        pax({"path": "é/" + "long" * 90 + ".jpg", "size": "40"}) + member("short", bytes(40)),
        with_size(member("spaces.jpg", bytes(8)), b"        10 "),
        member("last.jpg"),
    ]
    archive = write(tmp_path / "t.tar", *blocks)
    with tarfile.open(archive, encoding="utf-8") as members:
        wanted = [(each.name, each.offset_data, each.size) for each in members if each.isreg()]
    assert list(walk_tar(archive)) == wanted and len(wanted) == 6


def test_a_sparse_file_is_refused_with_the_remedy(tmp_path):
    archive = write(tmp_path / "t.tar", member("s.jpg", bytes(512), type=tarfile.GNUTYPE_SPARSE))
    with pytest.raises(UserError, match="without --sparse"):
        list(archive_index(archive))


def archives(rng: random.Random) -> bytes:
    """A small tar of any format, with short, long and odd names."""
    buffer = io.BytesIO()
    form = rng.choice([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for number in range(rng.randint(1, 4)):
            info = tarfile.TarInfo(rng.choice(["a", "é" * 9, "n" * 90 + "/" + "m" * 60]) + f"{number}.jpg")
            info.size = rng.choice([0, 10, 512, 700])
            archive.addfile(info, io.BytesIO(bytes(info.size)))
    return buffer.getvalue()


def check_mutated_tars(tmp_path: Path, count: int) -> None:
    rng = random.Random(count)
    ended = 0
    for _ in range(count):
        content = bytearray(archives(rng))
        start = 512 * rng.randrange(len(content) // 512)
        for _ in range(rng.choice([1, 2, 8])):
            at = start + rng.choice([124, 125, 135, 156, 257, 345, rng.randrange(512)])
            content[at] = rng.choice([0, 0x2D, 0x30, 0x37, 0x4C, 0x53, 0x67, 0x78, 0x80, 0xFF, rng.randrange(256)])
        if rng.random() < 0.8:  # so that the checksum does not reveal it
            content[start : start + 512] = signed(content[start : start + 512])
        (tmp_path / "t.tar").write_bytes(content)
        try:
            found = list(itertools.islice(archive_index(tmp_path / "t.tar"), MORE))
        except UserError:
            ended += 1
            continue
        assert len(found) < MORE, "the walk goes in a circle"
        for _, (offset, size) in found:
            assert 0 <= offset <= offset + size <= len(content)
    assert count / 10 < ended < count


def test_mutated_tars_end_in_an_index_or_one_line(tmp_path):
    check_mutated_tars(tmp_path, 400)


@pytest.mark.full
def test_twenty_thousand_mutated_tars(tmp_path):
    check_mutated_tars(tmp_path, 20_000)


def test_a_zip_whose_directory_leads_out_of_it_is_refused(tmp_path, cache):
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("a.jpg", bytes(100))
    whole = (tmp_path / "z.zip").read_bytes()
    directory = whole.index(b"PK\x01\x02")
    for field, at in (("size", 20), ("offset", 42)):
        broken = bytearray(whole)
        broken[directory + at : directory + at + 4] = b"\xfe\xff\xff\xff"
        (tmp_path / "z.zip").write_bytes(broken)
        with pytest.raises(UserError, match="not a readable archive"):
            list(archive_index(tmp_path / "z.zip"))
        assert not [path for path in cache.rglob("*") if path.is_file()], field
    far = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, 46, 2**64 - 1)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, len(whole), 1)
    (tmp_path / "z.zip").write_bytes(whole + far + locator + whole[-22:])
    with pytest.raises(UserError, match="not a readable archive"):
        list(archive_index(tmp_path / "z.zip"))


def test_a_zip64_field_that_is_too_short_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        info = zipfile.ZipInfo("a.jpg")
        info.extra = struct.pack("<HHQ", 0x1001, 8, 5)
        archive.writestr(info, bytes(5))
    whole = bytearray((tmp_path / "z.zip").read_bytes())
    directory = whole.index(b"PK\x01\x02")
    for at in (20, 24, 42):  # sizes and offset
        whole[directory + at : directory + at + 4] = b"\xff" * 4
    extra = whole.index(b"\x01\x10", directory)
    whole[extra : extra + 2] = b"\x01\x00"  # one value for three fields
    (tmp_path / "z.zip").write_bytes(whole)
    with pytest.raises(UserError, match="zip64 field is missing"):
        list(archive_index(tmp_path / "z.zip"))


def test_names_in_a_zip_are_utf_8_where_they_can_be(tmp_path):
    """macOS writes UTF-8 without the flag; otherwise a zip without it uses code page 437."""
    names = [("e\u0301.jpg".encode(), False), ("\u00e9.jpg".encode("cp437"), False), (b"caf\xe9.jpg", True)]
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        for number in range(3):
            archive.writestr(f"{number:0{len(names[number][0])}d}", b"x")
    content = bytearray((tmp_path / "z.zip").read_bytes())
    for number, (name, flagged) in enumerate(names):
        held = f"{number:0{len(name)}d}".encode()
        for signature, name_at, flags_at in ((b"PK\x03\x04", 30, 6), (b"PK\x01\x02", 46, 8)):
            start = next(
                at
                for at in range(len(content))
                if content[at : at + 4] == signature and content[at + name_at : at + name_at + len(held)] == held
            )
            content[start + name_at : start + name_at + len(name)] = name
            content[start + flags_at : start + flags_at + 2] = struct.pack("<H", 0x800 * flagged)
    (tmp_path / "z.zip").write_bytes(content)
    assert [name for name, *_ in walk_zip(tmp_path / "z.zip")] == ["e\u0301.jpg", "\u00e9.jpg", "caf\udce9.jpg"]
