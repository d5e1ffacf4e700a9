"""Worker processes that may die: each photo is handed to one process, and a decoder's crash costs that photo alone.

Only a job at work on what it holds can be blamed for being slow: a disk or server that stalls stalls every job alike.
"""

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
from timm_landmark.utils.text import say

# Forked workers start at once and share the parent's memory; where there is no fork they are spawned.
_CONTEXT = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
_AHEAD = 3  # jobs a worker holds, so that it never waits for the parent
PATIENCE = 60.0  # seconds for one job on the clock


class _Worker:
    def __init__(self, function: Callable[[Any], Iterable[Any]], staff: list["_Worker"]) -> None:
        self.connection, other = _CONTEXT.Pipe()
        # A forked worker holds all of its parent's ends of pipes; while it does, no worker sees its parent die.
        ends = [self.connection, *(worker.connection for worker in staff)]
        foreign = ends if _CONTEXT.get_start_method() == "fork" else []
        self.clock = _CONTEXT.RawValue("d", -time.monotonic())  # when it was started, or negative: stopped
        self.process = _CONTEXT.Process(
            target=_serve, args=(function, other, self.clock, foreign, os.getpid()), daemon=True
        )
        self.process.start()
        other.close()
        self.jobs: deque[Any] = deque()
        self.since = time.monotonic()
        self.late = False


def run_jobs(
    function: Callable[[Any], Iterable[Any]],
    jobs: Iterable[Any],
    workers: int,
    died: Callable[[Any, str], Any],
    stalled: Callable[[Any, float], None],
    patience: float = PATIENCE,
) -> Iterator[Any]:
    """Runs ``function`` on every job in worker processes and yields the results as they come.

    Args:
        function: Called in a worker. It yields True where the job's clock starts to run, False where it stops, and last
            the job's result. It must not raise.
        jobs: Hashable and not None; taken in order, a few ahead of their results.
        workers: Number of processes.
        died: Called here with a job and a reason when two workers died, or took longer than ``patience`` on the clock,
            over it; what it returns is yielded as the job's result.
        stalled: Called here about every ``patience`` seconds while a job off the clock does not go on, with the one
            that has waited longest and its seconds; may raise.
        patience: Seconds for one job on the clock.

    Yields:
        One result a job.
    """
    pending, queue, suspects = iter(jobs), deque(), set()
    staff: list[_Worker] = []
    told = 0.0
    try:
        for _ in range(workers):
            staff.append(_Worker(function, staff))
        while True:
            for worker in staff:
                _fill(worker, queue, pending)
            busy = {worker.connection: worker for worker in staff if worker.jobs}
            if not busy:
                return
            dead = []
            ready = wait(list(busy), timeout=min(1.0, patience / 2))
            longest, job = 0.0, None
            for worker in (busy[end] for end in busy if end not in ready):
                clock = worker.clock.value
                seconds = time.monotonic() - max(abs(clock), worker.since)  # it may not have begun the job yet
                if clock > 0 and seconds > patience:
                    worker.late = True
                    worker.process.kill()  # found dead in the next round
                elif clock < 0 and seconds > longest:
                    longest, job = seconds, worker.jobs[0]
            if longest // patience > told:
                stalled(job, longest)
            told = longest // patience
            for connection in ready:
                worker = busy[connection]
                try:
                    result = connection.recv()
                except (EOFError, OSError):
                    dead.append(worker)
                    continue
                worker.jobs.popleft()
                worker.since = time.monotonic()
                yield result
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
                staff.append(_Worker(function, staff))
    finally:
        for worker in staff:
            worker.process.kill()
        for worker in staff:
            worker.process.join(5)  # one that hangs in its system call dies when that ends
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


def _serve(
    function: Callable[[Any], Iterable[Any]], connection: Connection, clock: Any, foreign: list[Connection], parent: int
) -> None:
    settle_process()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends the workers
    for end in foreign:
        end.close()
    while True:
        try:
            job = connection.recv()  # ends when the parent does: no other process holds its end of the pipe
            if os.getppid() != parent:  # it was killed: nobody waits for the jobs that it had sent
                os._exit(0)
            clock.value = -time.monotonic()
            for message in function(job):
                clock.value = time.monotonic() if message is True else -time.monotonic()
                if not isinstance(message, bool):
                    connection.send(message)
        except (EOFError, OSError):
            os._exit(0)
