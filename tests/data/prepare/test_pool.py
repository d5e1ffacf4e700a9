"""Workers that die, hang or wait: whether the photo is to blame, or its disk or server."""

import functools
import json
import multiprocessing
import os
import signal
import time

import pytest
from prepare_helpers import command, finish, read_csv, small_source, start, start_prepare

from timm_landmark.cli import main
from timm_landmark.data.prepare import pool, prepare, store
from timm_landmark.data.prepare.pool import run_jobs
from timm_landmark.data.prepare.sources import Reader
from timm_landmark.data.prepare.workfolder import WorkFolder
from timm_landmark.utils.errors import UserError


def work(job):
    """Reads (off the clock), works (on it) and writes, each for the seconds given by the job."""
    _, reading, working, writing = job
    time.sleep(reading)
    yield True
    time.sleep(working)
    yield False
    time.sleep(writing)
    yield job


def run(jobs, stalled=lambda job, seconds: None, workers=2):
    return sorted(run_jobs(work, jobs, workers, lambda job, how: (job[0], how), stalled, patience=0.3))


def test_only_time_on_the_clock_is_blamed_on_a_job():
    waits = []
    jobs = [(0, 1.0, 0, 0), (1, 0, 0, 1.0), (2, 0, 9, 0), *((index, 0, 0.01, 0) for index in range(3, 9))]
    done = run(jobs, lambda job, seconds: waits.append((job[0], round(seconds, 1))))
    assert done == sorted([*(job for job in jobs if job[0] != 2), (2, "no answer for 0 s")])
    assert {job for job, _ in waits} <= {0, 1} and waits


def test_a_stall_is_told_again_and_again_and_can_end_the_run():
    waits = []

    def stalled(job, seconds):
        waits.append(seconds)
        if len(waits) == 3:
            raise UserError("enough")

    begun = time.monotonic()
    with pytest.raises(UserError, match="enough"):
        run([(0, 60, 0, 0), (1, 60, 0, 0)], stalled)
    assert 0.9 < time.monotonic() - begun < 5
    assert [int(seconds / 0.3) for seconds in waits] == [1, 2, 3]


def test_a_slow_consumer_is_not_blamed_on_the_workers():
    done = []
    for result in run_jobs(work, [(n, 0, 0.01, 0) for n in range(12)], 2, lambda job, how: how, print, patience=0.2):
        time.sleep(0.5 if len(done) < 3 else 0)
        done.append(result)
    assert sorted(done) == [(n, 0, 0.01, 0) for n in range(12)]


def test_a_worker_that_was_idle_long_is_not_blamed():
    """The clock is still running after the last result; the next job comes after more than ``patience`` seconds."""

    def late():
        for number in range(8):
            if number == 4:
                time.sleep(1.0)
            yield number, 0, 0.01, 0

    def no_end(job):  # as for a photo that is rejected while it is decoded
        yield True
        yield job

    told = []
    stalled = lambda job, seconds: told.append(seconds)  # noqa: E731
    done = sorted(run_jobs(no_end, late(), 2, lambda job, how: how, stalled, patience=0.3))
    assert [job[0] for job in done] == list(range(8)) and not told


class StallingReader(Reader):
    """Does not answer while a file exists, like a network disk whose server is down."""

    def read(self, location):
        while self.flag.exists():
            time.sleep(0.01)
        return super().read(location)


@pytest.fixture
def stalling(tmp_path, monkeypatch):
    reader = StallingReader()
    reader.flag = tmp_path / "away"
    reader.flag.touch()
    monkeypatch.setattr(store, "_reader", reader)
    monkeypatch.setattr(pool, "run_jobs", functools.partial(run_jobs, patience=0.2))
    return reader.flag


def test_a_source_that_stalls_rejects_no_photo(tmp_path, stalling):
    """The stall is much longer than the time after which a photo would be blamed twice."""
    arguments = command(*small_source(tmp_path / "source"), tmp_path / "data", "--workers", "2")
    child = start_prepare(arguments, tmp_path / "log")
    deadline = time.monotonic() + 60
    while not (tmp_path / "log").exists() or "no answer for" not in (tmp_path / "log").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(1)
    stalling.unlink()
    assert finish(child) == 0, (tmp_path / "log").read_text()
    assert read_csv(tmp_path / "data/rejects.csv") == []
    said = (tmp_path / "log").read_text()
    assert f"--images {tmp_path / 'source/train'} or --output {tmp_path / 'data'}: no answer for" in said


def test_a_source_that_stays_away_ends_the_run_and_the_next_one_goes_on(tmp_path, stalling, monkeypatch, capfd):
    monkeypatch.setattr(prepare, "STALLED", 0.5)
    arguments = command(*small_source(tmp_path / "source"), tmp_path / "data", "--workers", "2")
    assert main(["prepare", *arguments]) == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert "no answer for" in error and "repeat the command to continue" in error
    stalling.unlink()
    assert main(["prepare", *arguments]) == 0
    assert read_csv(tmp_path / "data/rejects.csv") == []


def test_spawned_workers_do_what_forked_ones_do(tmp_path, monkeypatch):
    """As on Windows, which has no fork."""
    source = small_source(tmp_path / "source", classes=2)
    assert main(["prepare", *command(*source, tmp_path / "forked", "--workers", "2")]) == 0
    monkeypatch.setattr(pool, "_CONTEXT", multiprocessing.get_context("spawn"))
    assert main(["prepare", *command(*source, tmp_path / "spawned", "--workers", "2")]) == 0
    for name in ("manifest.csv", "rejects.csv"):
        assert (tmp_path / "spawned" / name).read_bytes() == (tmp_path / "forked" / name).read_bytes()


def test_a_journal_of_plain_records_is_read_and_damaged_lines_are_skipped(tmp_path):
    """The keys on disk are part of the format: an unfinished data set continues after an update."""
    photo = {"id": "a", "sha256": "0", "stored": "1", "hash": 7, "source": "a.jpg"}
    lines = [photo, photo | {"id": "gone"}, {"id": "b", "reason": "empty", "archive": "t.tar"}, {"id": "c"}, 5, "text"]
    with WorkFolder(tmp_path / "data") as folder:
        journal = folder.path / "journal.jsonl"
        journal.write_text("".join(f"{json.dumps(line)}\n" for line in lines) + '{"id": "torn')
        (folder.images / "a.jpg").touch()
        stored, rejected = folder.read_journal()
        assert stored == {"a": store.Stored(**photo)}
        assert rejected == {"b": store.Rejected("b", "empty", "t.tar")}
        (folder.images / "1.tmp").touch()
        folder.keep(store.Stored("d", "2", "3", 8, "d.jpg", temporary="1.tmp"))
        folder.keep(rejected["b"])
        added = [json.loads(line) for line in journal.read_text().splitlines()[-2:]]
        assert added == [{"id": "d", "sha256": "2", "stored": "3", "hash": 8, "source": "d.jpg"}, lines[2]]
        assert set(folder.read_journal()[0]) == {"a", "d"}


def test_the_lock_of_a_killed_run_is_free_though_its_worker_lives(tmp_path):
    def killed():
        with WorkFolder(tmp_path / "data"):
            for _ in run_jobs(work, [(0, 20, 0, 0)], 1, print, print):
                pass

    child = start(killed, tmp_path / "log")
    deadline = time.monotonic() + 20
    while not (workers := children(child)):
        assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.01)
    with pytest.raises(UserError, match="another run is writing"), WorkFolder(tmp_path / "data"):
        pass
    os.kill(child, signal.SIGKILL)
    finish(child)
    try:
        assert all(os.path.exists(f"/proc/{worker}") for worker in workers)
        with WorkFolder(tmp_path / "data"):
            pass
    finally:
        for worker in workers:
            os.kill(worker, signal.SIGKILL)


def children(process: int) -> list[int]:
    with open(f"/proc/{process}/task/{process}/children") as file:
        return [int(word) for word in file.read().split()]


def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch):
    """There is no fallback to a plain lock file, which would remain after a kill."""
    import errno
    import fcntl

    def flock(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    with (
        pytest.raises(UserError, match=r"--output .*does not support locks.*on another file system"),
        WorkFolder(tmp_path),
    ):
        pass
