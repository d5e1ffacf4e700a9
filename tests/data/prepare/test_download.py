"""Downloads from a loopback server that misbehaves as real ones do."""

import os
import shutil
import signal
import time
from email.utils import formatdate

import pytest
from download_server import QUICK, Server, md5, noise
from prepare_helpers import finish, start

from timm_landmark.data.prepare.download import METADATA, fetch, fetch_metadata, fetch_shards
from timm_landmark.utils.errors import UserError


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as server:
        yield server


@pytest.mark.parametrize(
    "faults",
    [
        [],
        ["cut"],
        ["cut"] * 12,  # more than Retry.attempts, but each makes progress
        ["status 500", "status 503", "status 502"],
        ["status 429 1"],
        ["cut", "ignore range"],
        ["cut", "cut, ignore range", "cut, ignore range", "cut"],
        ["cut", "other range", "status 500"],
        ["wrong bytes"],
        ["cut", "wrong bytes"],
        ["hang"],
        ["cut", "status 408", "cut", "status 429", "wrong bytes"],
    ],
    ids=lambda faults: " - ".join(faults[:3]) or "none",
)
def test_every_fault_ends_in_the_right_bytes(server, tmp_path, faults):
    content = noise(300_000)
    server.files["a.tar"] = content
    server.faults["a.tar"] = list(faults)
    assert fetch(f"{server.url}/a.tar", tmp_path / "a.tar", md5(content), QUICK).read_bytes() == content
    assert not server.faults["a.tar"], "a fault never occurred"
    assert os.listdir(tmp_path) == ["a.tar"]


def test_cut_connections_cost_no_byte_twice(server, tmp_path):
    content = noise(400_000)
    server.files["a.tar"] = content
    server.faults["a.tar"] = ["cut"] * 5
    fetch(f"{server.url}/a.tar", tmp_path / "a.tar", md5(content), QUICK)
    assert server.sent["a.tar"] == len(content)
    assert server.requests[1] == ("a.tar", "bytes=200000-")


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_obeyed(server, tmp_path, form):
    server.files["a"] = b"x"
    server.faults["a"] = [
        "status 429 1" if form == "seconds" else f"status 503 {formatdate(time.time() + 2, usegmt=True)}"
    ]
    start = time.monotonic()
    fetch(f"{server.url}/a", tmp_path / "a", retry=QUICK)
    assert time.monotonic() - start >= 0.95


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        (["status 500"] * 4, "HTTP 500"),
        (["wrong bytes"] * 4, "wrong bytes"),
        (["cut", "wrong bytes"] * 8, "attempts in a row failed"),
        (["status 403"], "HTTP 403"),
    ],
)
def test_giving_up_names_the_reason_and_keeps_no_wrong_file(server, tmp_path, faults, message):
    server.files["a.tar"] = noise(50_000)
    server.faults["a.tar"] = faults
    with pytest.raises(UserError, match=message):
        fetch(f"{server.url}/a.tar", tmp_path / "a.tar", md5(server.files["a.tar"]), QUICK)
    assert not (tmp_path / "a.tar").exists()


def test_missing_file_bad_address_and_no_server(server, tmp_path):
    with pytest.raises(UserError, match=r"HTTP 404.*--base-url"):
        fetch(f"{server.url}/none", tmp_path / "none", retry=QUICK)
    with pytest.raises(UserError, match="--base-url"):
        fetch("landmarks/none", tmp_path / "none", retry=QUICK)
    with pytest.raises(UserError, match="4 attempts in a row"):
        fetch("http://127.0.0.1:9/none", tmp_path / "none", retry=QUICK)


def test_a_whole_part_needs_no_byte_and_a_too_long_one_starts_anew(server, tmp_path):
    content = noise(10_000)
    server.files["a"] = content
    (tmp_path / "a.part").write_bytes(content)
    fetch(f"{server.url}/a", tmp_path / "a", md5(content), QUICK)
    assert server.sent["a"] == 0
    (tmp_path / "a").unlink()
    (tmp_path / "a.part").write_bytes(content + b"more")
    assert fetch(f"{server.url}/a", tmp_path / "a", md5(content), QUICK).read_bytes() == content


def begin(server, tmp_path, validators=True) -> bytes:
    """Leaves a partial file, half of it, from a run that gave up."""
    server.tags, server.files["a"] = validators, noise(40_000)
    server.faults["a"] = ["cut", *["status 500"] * 4]
    with pytest.raises(UserError, match="attempts in a row"):
        fetch(f"{server.url}/a", tmp_path / "a", retry=QUICK)
    assert (tmp_path / "a.part").stat().st_size == 20_000
    server.sent.clear()
    return server.files["a"]


def test_a_part_of_an_unchanged_file_is_gone_on_with(server, tmp_path):
    content = begin(server, tmp_path)
    assert fetch(f"{server.url}/a", tmp_path / "a", retry=QUICK).read_bytes() == content
    assert server.sent["a"] == 20_000 and os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("case", ["another address", "changed", "changed, the server ignores If-Range", "no validator"])
def test_a_part_is_never_completed_from_another_file(server, tmp_path, case):
    """Without an md5 nothing else would notice a mixture of two files of the same length."""
    begin(server, tmp_path, validators=case != "no validator")
    url, other = f"{server.url}/a", noise(40_000, seed=1)
    if case == "another address":
        server.files["mirror/a"], url = other, f"{server.url}/mirror/a"
    else:
        server.files["a"] = other
        server.faults["a"] = ["ignore If-Range"] if "ignores" in case else []
    assert fetch(url, tmp_path / "a", retry=QUICK).read_bytes() == other
    assert os.listdir(tmp_path) == ["a"]


def test_no_room_is_said_before_the_download(server, tmp_path, monkeypatch):
    server.files["a.tar"] = noise(5000)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match="free; free space"):
        fetch(f"{server.url}/a.tar", tmp_path / "a.tar", retry=QUICK)


def put_shards(server: Server, count: int) -> list[bytes]:
    shards = [noise(100_000, seed) for seed in range(count)]
    for index, content in enumerate(shards):
        server.files[f"train/images_{index:03d}.tar"] = content
        server.files[f"md5sum/train/md5.images_{index:03d}.txt"] = f"{md5(content)}  images_{index:03d}.tar\n".encode()
    return shards


def test_shards_come_one_at_a_time_verified_and_each_once(server, tmp_path):
    shards = put_shards(server, 4)
    server.faults["train/images_002.tar"] = ["cut", "status 500", "wrong bytes"]
    seen = []
    for path in fetch_shards(tmp_path / "s", tmp_path / "done", server.url, shards=4, retry=QUICK):
        assert [other.name for other in (tmp_path / "s").glob("*.tar")] == [path.name]
        seen.append(path.read_bytes())
        if len(seen) == 3:
            break  # the third is not stored yet: a later run needs it again
    assert seen == shards[:3]
    again = [
        path.read_bytes() for path in fetch_shards(tmp_path / "s", tmp_path / "done", server.url, shards=4, retry=QUICK)
    ]
    assert again == shards[2:]
    assert server.sent["train/images_000.tar"] == 100_000
    assert server.sent["train/images_002.tar"] == 200_000  # one complete but wrong (in two halves), one correct
    assert not list((tmp_path / "s").glob("*.tar"))
    assert list(fetch_shards(tmp_path / "s", tmp_path / "done", server.url, shards=4, retry=QUICK)) == []


def test_kept_shards_are_read_again_and_a_damaged_one_is_fetched_again(server, tmp_path, capsys):
    shards = put_shards(server, 2)
    assert len(list(fetch_shards(tmp_path, tmp_path / "done", server.url, keep=True, shards=2, retry=QUICK))) == 2
    assert len(list(tmp_path.glob("*.tar"))) == 2
    (tmp_path / "images_001.tar").write_bytes(b"damaged")
    again = [
        path.read_bytes()
        for path in fetch_shards(tmp_path, tmp_path / "done", server.url, keep=True, shards=2, retry=QUICK)
    ]
    assert again == shards
    assert server.sent["train/images_000.tar"] == 100_000
    assert "images_001.tar no longer matches its md5" in capsys.readouterr().err


def test_md5_file_that_holds_a_page_is_refused(server, tmp_path):
    put_shards(server, 1)
    server.files["md5sum/train/md5.images_000.txt"] = b"<html>login</html>"
    with pytest.raises(UserError, match="does not contain an md5"):
        list(fetch_shards(tmp_path, tmp_path / "done", server.url, shards=1, retry=QUICK))


def test_metadata_files(server, tmp_path):
    for name in METADATA:
        server.files[f"metadata/{name}"] = name.encode() * 100
        server.faults[f"metadata/{name}"] = ["cut", "status 500"]
    paths = fetch_metadata(tmp_path / "new", server.url, QUICK)
    assert {name: path.read_bytes() for name, path in paths.items()} == {name: name.encode() * 100 for name in METADATA}


def test_a_killed_download_goes_on_where_it_was(server, tmp_path):
    content = noise(1_000_000)
    server.files["a.tar"] = content
    server.slow = 0.02
    part = tmp_path / "a.tar.part"
    child = start(lambda: fetch(f"{server.url}/a.tar", tmp_path / "a.tar", md5(content)) and 0, tmp_path / "log")
    while not (part.exists() and part.stat().st_size):
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    assert finish(child) == -signal.SIGKILL
    had = part.stat().st_size
    server.slow = 0.0
    assert fetch(f"{server.url}/a.tar", tmp_path / "a.tar", md5(content), QUICK).read_bytes() == content
    assert server.requests[-1] == ("a.tar", f"bytes={had}-")
    assert 0 < had < len(content)
