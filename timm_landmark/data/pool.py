"""Worker processes that may die: each photo is handed to one process, and a decoder's crash costs that photo alone."""

import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

from timm_landmark.data.images import settle_process
from timm_landmark.text import say

# Forked workers start at once and share the parent's memory; where there is no fork they are spawned.
_CONTEXT = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
_AHEAD = 3  # jobs a worker holds, so that it never waits for the parent
PATIENCE = 60.0  # seconds for one job


class _Worker:
    def __init__(self, function: Callable[[Any], Any], inherited: list[int]) -> None:
        self.connection, other = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(
            target=_serve, args=(function, other, [self.connection, *inherited], os.getpid()), daemon=True
        )
        self.process.start()
        other.close()
        self.jobs: deque[Any] = deque()
        self.since = time.monotonic()
        self.late = False


def run_jobs(
    function: Callable[[Any], Any],
    jobs: Iterable[Any],
    workers: int,
    died: Callable[[Any, str], Any],
    inherited: Iterable[int] = (),
    patience: float = PATIENCE,
) -> Iterator[Any]:
    """Runs ``function`` on every job in worker processes and yields the results as they come.

    Args:
        function: Called in a worker; its result is sent back. It must not raise.
        jobs: Hashable and not None; taken in order, a few ahead of their results.
        workers: Number of processes.
        died: Called here with a job and a reason when two workers died, or took longer than ``patience``, over it; what
            it returns is yielded as the job's result.
        inherited: File descriptors that a worker must not keep open (locks).
        patience: Seconds for one job.

    Yields:
        One result a job.
    """
    pending, queue, suspects = iter(jobs), deque(), set()
    staff: list[_Worker] = []
    descriptors = list(inherited)

    def hire() -> _Worker:
        return _Worker(function, descriptors + [worker.connection.fileno() for worker in staff])

    try:
        for _ in range(workers):
            staff.append(hire())
        while True:
            for worker in staff:
                _fill(worker, queue, pending)
            busy = {worker.connection: worker for worker in staff if worker.jobs}
            if not busy:
                return
            dead = []
            for connection in wait(list(busy), timeout=1.0):
                worker = busy[connection]
                try:
                    result = connection.recv()
                except (EOFError, OSError):
                    dead.append(worker)
                    continue
                worker.jobs.popleft()
                worker.since = time.monotonic()
                yield result
            for worker in busy.values():
                if worker.jobs and time.monotonic() - worker.since > patience:
                    worker.late = True
                    worker.process.kill()  # found dead in the next round
            for worker in dead:
                worker.process.join()
                worker.connection.close()
                staff.remove(worker)
                suspect, *others = worker.jobs
                queue.extendleft(reversed(others))
                how = f"no answer for {patience:.0f} s" if worker.late else _how(worker)
                if suspect in suspects:
                    say(f"a worker died twice over one photo ({how}); it is rejected", file=sys.stderr)
                    yield died(suspect, how)
                else:  # once may be chance: the system may have killed it for memory
                    suspects.add(suspect)
                    queue.appendleft(suspect)
                staff.append(hire())
    finally:
        for worker in staff:
            worker.process.kill()
        for worker in staff:
            worker.process.join()
            worker.connection.close()


def _fill(worker: _Worker, queue: deque[Any], pending: Iterator[Any]) -> None:
    while len(worker.jobs) < _AHEAD:
        job = queue.popleft() if queue else next(pending, None)
        if job is None:
            return
        if not worker.jobs:
            worker.since = time.monotonic()
        worker.jobs.append(job)
        try:
            worker.connection.send(job)
        except OSError:
            return  # it died; the next wait finds out


def _how(worker: _Worker) -> str:
    code = worker.process.exitcode or 0
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _serve(function: Callable[[Any], Any], connection: Connection, foreign: list[Any], parent: int) -> None:
    settle_process()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends the workers
    for handle in foreign:
        if isinstance(handle, int):
            os.close(handle)
        else:
            handle.close()
    while True:
        try:
            job = connection.recv()  # ends when the parent does: no other process holds its end of the pipe
            if os.getppid() != parent:  # it was killed: nobody waits for the jobs that it had sent
                os._exit(0)
            connection.send(function(job))
        except (EOFError, OSError):
            os._exit(0)
