"""Worker processes that may die: each photo goes to one process, and a decoder that crashes costs only that photo.

Only a job that is working on data it already holds can be blamed for being slow: a stalled disk or server stalls every
job alike.
"""

import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeAlias, TypeVar

from timm_landmark.data.images import settle_process
from timm_landmark.utils.text import say

Job = TypeVar("Job")
Result = TypeVar("Result")
Function: TypeAlias = Callable[[Job], Iterable[bool | Result]]

# Forked workers start at once and share the parent's memory; without fork (Windows) they are spawned.
_CONTEXT = (
    multiprocessing.get_context("fork")
    if "fork" in multiprocessing.get_all_start_methods()
    else multiprocessing.get_context("spawn")
)
_AHEAD = 3  # jobs that a worker has queued, so that it never waits for the parent
PATIENCE = 60.0  # seconds for one job on the clock


class _Worker(Generic[Job, Result]):
    def __init__(self, function: Function[Job, Result], staff: "list[_Worker[Job, Result]]") -> None:
        self.connection, other = _CONTEXT.Pipe()
        # A forked worker inherits its parent's ends of all pipes; while it holds them, no worker sees its parent die.
        ends = [self.connection, *(worker.connection for worker in staff)]
        foreign = ends if _CONTEXT.get_start_method() == "fork" else []
        self.clock = _CONTEXT.RawValue("d", -time.monotonic())  # start time; negative while the clock is stopped
        self.process = _CONTEXT.Process(
            target=_serve, args=(function, other, self.clock, foreign, os.getpid()), daemon=True
        )
        self.process.start()
        other.close()
        self.jobs: deque[Job] = deque()
        self.since = time.monotonic()
        self.late = False


def run_jobs(
    function: Function[Job, Result],
    jobs: Iterable[Job],
    workers: int,
    died: Callable[[Job, str], Result],
    stalled: Callable[[Job, float], None],
    patience: float = PATIENCE,
) -> Iterator[Result]:
    """Runs ``function`` on every job in worker processes and yields the results as they arrive.

    Args:
        function: Called in a worker. It yields True to start the job's clock, False to stop it, and last the job's
            result. It must not raise.
        jobs: Hashable and not None; taken in order, a few ahead of their results.
        workers: Number of processes.
        died: Called in this process with a job and a reason when two workers died over it or took longer than
            ``patience`` on the clock; its return value is yielded as the job's result.
        stalled: Called in this process about every ``patience`` seconds while jobs off the clock make no progress,
            with the job that has waited longest and its waiting time in seconds; may raise.
        patience: Seconds for one job on the clock.

    Yields:
        One result per job.
    """
    pending, queue, suspects = iter(jobs), deque[Job](), set[Job]()
    staff: list[_Worker[Job, Result]] = []
    reported = 0.0
    try:
        for _ in range(workers):
            staff.append(_Worker(function, staff))
        while True:
            for worker in staff:
                _fill(worker, queue, pending)
            busy = [worker for worker in staff if worker.jobs]
            if not busy:
                return
            ready = wait([worker.connection for worker in busy], timeout=min(1.0, patience / 2))
            longest, waiting = 0.0, None
            for worker in busy:
                if worker.connection in ready:
                    continue
                clock = worker.clock.value
                seconds = time.monotonic() - max(abs(clock), worker.since)  # the job may not have started yet
                if clock > 0 and seconds > patience:
                    worker.late = True
                    worker.process.kill()  # its death is noticed in the next round
                elif clock < 0 and seconds > longest:
                    longest, waiting = seconds, worker
            if waiting is not None and longest // patience > reported:
                stalled(waiting.jobs[0], longest)
            reported = longest // patience
            dead = []
            for worker in busy:
                if worker.connection not in ready:
                    continue
                try:
                    result = worker.connection.recv()
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
                how = f"no answer for {patience:.0f} s" if worker.late else _cause(worker)
                if suspect in suspects:
                    say(f"two workers died while decoding one photo ({how}); it is rejected", file=sys.stderr)
                    yield died(suspect, how)
                else:  # once may be chance: the system may have killed the worker for its memory
                    suspects.add(suspect)
                    queue.appendleft(suspect)
                staff.append(_Worker(function, staff))
    finally:
        for worker in staff:
            worker.process.kill()
        for worker in staff:
            worker.process.join(5)  # one that hangs in a system call dies when the call ends
            worker.connection.close()


def _fill(worker: _Worker[Job, Any], queue: deque[Job], pending: Iterator[Job]) -> None:
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
            return  # the worker died, which the next wait notices


def _cause(worker: _Worker[Any, Any]) -> str:
    """What ended a worker's process: a signal or an exit code."""
    code = worker.process.exitcode or 0
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _serve(
    function: Function[Any, Any], connection: Connection, clock: Any, foreign: list[Connection], parent: int
) -> None:
    settle_process()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends the workers
    for end in foreign:
        end.close()
    while True:
        try:
            job = connection.recv()  # fails when the parent ends: no other process holds its end of the pipe
            if os.getppid() != parent:  # the parent was killed: nobody waits for the jobs it had sent
                os._exit(0)
            clock.value = -time.monotonic()
            for message in function(job):
                clock.value = time.monotonic() if message is True else -time.monotonic()
                if not isinstance(message, bool):
                    connection.send(message)
        except (EOFError, OSError):
            os._exit(0)
