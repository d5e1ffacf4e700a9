"""Downloads against a loopback server that misbehaves the way real ones do."""

import hashlib
import os
import random
import shutil
import signal
import threading
import time
from collections import Counter
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from prepare_helpers import command, encode, finish, image_id, scene, start, write_csv, write_folder, write_tars

from timm_landmark.cli import main
from timm_landmark.data.download import METADATA, Retry, fetch, fetch_metadata, fetch_shards
from timm_landmark.errors import UserError

QUICK = Retry(attempts=4, first_wait=0.01, longest_wait=1.2, timeout=1)


class Server:
    """Serves ``files``; ``faults`` holds, for a path, what goes wrong with its next requests, in order."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[str]] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.sent: Counter = Counter()
        self.slow = 0.0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *args) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.lstrip("/")
        self.requests.append((path, handler.headers.get("Range")))
        fault = self.faults[path].pop(0) if self.faults.get(path) else ""
        if path not in self.files:
            return self.error(handler, 404)
        if fault.startswith("status"):
            _, code, *after = fault.split(" ", 2)
            return self.error(handler, int(code), after[0] if after else None)
        if fault == "hang":
            time.sleep(QUICK.timeout + 0.5)
            handler.close_connection = True
            return None
        content = self.files[path]
        start = 0
        if (wanted := handler.headers.get("Range")) and "ignore range" not in fault:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                handler.send_response(416)
                handler.send_header("Content-Range", f"bytes */{len(content)}")
                handler.send_header("Content-Length", "0")
                handler.end_headers()
                return None
            if fault == "other range":
                start = 0
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            handler.send_response(200)
        body = content[start:]
        if fault == "wrong bytes":
            body = bytes([body[0] ^ 1]) + body[1:]
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if "cut" in fault:
            body = body[: max(1, len(body) // 2)]
            handler.close_connection = True
        for offset in range(0, len(body), 1 << 14):
            self.sent[path] += len(body[offset : offset + (1 << 14)])  # before the client can have the last byte
            handler.wfile.write(body[offset : offset + (1 << 14)])
            time.sleep(self.slow)
        return None

    @staticmethod
    def error(handler: BaseHTTPRequestHandler, code: int, retry_after: str | None = None) -> None:
        handler.send_response(code)
        if retry_after:
            handler.send_header("Retry-After", retry_after)
        handler.send_header("Content-Length", "0")
        handler.end_headers()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


@pytest.mark.parametrize(
    "faults",
    [
        [],
        ["cut"],
        ["cut"] * 12,  # more than Retry.attempts, but each brings bytes
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
    assert not server.faults["a.tar"], "a fault was never met"
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


def test_no_room_is_said_before_the_download(server, tmp_path, monkeypatch):
    server.files["a.tar"] = noise(5000)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match="free; make room"):
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
    for path in fetch_shards(tmp_path / "s", server.url, shards=4, retry=QUICK):
        assert [other.name for other in (tmp_path / "s").glob("*.tar")] == [path.name]
        seen.append(path.read_bytes())
        if len(seen) == 3:
            break  # the third is not yet stored: a later run needs it again
    assert seen == shards[:3]
    again = [path.read_bytes() for path in fetch_shards(tmp_path / "s", server.url, shards=4, retry=QUICK)]
    assert again == shards[2:]
    assert server.sent["train/images_000.tar"] == 100_000
    assert server.sent["train/images_002.tar"] == 200_000  # one whole of wrong bytes (in two halves), one right
    assert not list((tmp_path / "s").glob("*.tar"))
    assert list(fetch_shards(tmp_path / "s", server.url, shards=4, retry=QUICK)) == []


def test_kept_shards_are_read_again_and_a_damaged_one_is_fetched_again(server, tmp_path, capsys):
    shards = put_shards(server, 2)
    assert len(list(fetch_shards(tmp_path, server.url, keep=True, shards=2, retry=QUICK))) == 2
    assert len(list(tmp_path.glob("*.tar"))) == 2
    (tmp_path / "images_001.tar").write_bytes(b"damaged")
    again = [path.read_bytes() for path in fetch_shards(tmp_path, server.url, keep=True, shards=2, retry=QUICK)]
    assert again == shards
    assert server.sent["train/images_000.tar"] == 100_000
    assert "images_001.tar no longer has its md5" in capsys.readouterr().err


def test_md5_file_that_holds_a_page_is_refused(server, tmp_path):
    put_shards(server, 1)
    server.files["md5sum/train/md5.images_000.txt"] = b"<html>login</html>"
    with pytest.raises(UserError, match="holds no md5"):
        list(fetch_shards(tmp_path, server.url, shards=1, retry=QUICK))


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


def test_the_whole_verb_from_a_bad_server_equals_the_one_from_a_folder(server, tmp_path, monkeypatch):
    """csv files and four shards, every one with faults, one shard on the disk at a time."""
    monkeypatch.setattr("timm_landmark.data.download.Retry", lambda: QUICK)
    images = {image_id(index): encode(scene(index), quality=85) for index in range(32)}
    labels = {name: 100 + index % 2 for index, name in enumerate(images)}
    csv = write_csv(tmp_path / "train.csv", labels)
    categories = "landmark_id,category\n100,Category:A_place\n101,Category:Another\n"
    attribution = "id,url,author,license,title\n" + "".join(f"{name},u,someone,CC BY 4.0,t\n" for name in images)
    (tmp_path / "train_label_to_category.csv").write_text(categories)
    (tmp_path / "train_attribution.csv").write_text(attribution)
    for name in METADATA:
        server.files[f"metadata/{name}"] = (tmp_path / name).read_bytes()
        server.faults[f"metadata/{name}"] = ["cut", "status 503"]
    for path in write_tars(tmp_path / "tars", images, 4).iterdir():
        server.files[f"train/{path.name}"] = path.read_bytes()
        server.faults[f"train/{path.name}"] = ["cut", "status 429", "wrong bytes"]
        server.files[f"md5sum/train/md5.{path.stem}.txt"] = f"{md5(path.read_bytes())}  {path.name}\n".encode()
    assert main(["prepare", *command(csv, write_folder(tmp_path / "photos", images), tmp_path / "one")]) == 0
    arguments = ["--download", "--base-url", server.url, "--output", str(tmp_path / "two"), "--seed", "5"]
    assert main(["prepare", *arguments]) == 0
    assert not any(server.faults.values())
    for name in ("manifest.csv", "classes.csv", "rejects.csv", "attribution.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert "A place" in (tmp_path / "two/classes.csv").read_text()
    assert not list(tmp_path.glob("two.download/**/*.tar"))
    assert "CC BY 4.0 | 32" in (tmp_path / "two/README.md").read_text()
