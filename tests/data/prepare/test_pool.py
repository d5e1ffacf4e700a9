"""Workers that die, hang or wait: what is blamed on a photo, and what on the disk or server that it lies on."""

import functools
import multiprocessing
import os
import signal
import threading
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
    """Reads (off the clock), then works (on it), then writes, each for the seconds that the job says."""
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
    """The last result left the clock running; the next job comes after more than anyone's patience."""

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
    """Does not answer while a file exists, as a network disk whose server is away."""

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
    """Far longer than it takes to blame a photo twice."""
    arguments = command(*small_source(tmp_path / "source"), tmp_path / "data", "--workers", "2")
    child = start_prepare(arguments, tmp_path / "log")
    threading.Timer(1.5, stalling.unlink).start()
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
    """As on Windows, where there is no fork."""
    source = small_source(tmp_path / "source", classes=2)
    assert main(["prepare", *command(*source, tmp_path / "forked", "--workers", "2")]) == 0
    monkeypatch.setattr(pool, "_CONTEXT", multiprocessing.get_context("spawn"))
    assert main(["prepare", *command(*source, tmp_path / "spawned", "--workers", "2")]) == 0
    for name in ("manifest.csv", "rejects.csv"):
        assert (tmp_path / "spawned" / name).read_bytes() == (tmp_path / "forked" / name).read_bytes()


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
    """Never a lock that is a mere file: it would stay when its process is killed."""
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
