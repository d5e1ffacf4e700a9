"""Training in several processes (torchrun): the hook for CPUs, and how a run ends when one of its processes dies."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import distributed, nn
from torch.nn import parallel

from timm_landmark.utils.text import say


@contextmanager
def parallel_on(device: str) -> Iterator[None]:
    """A hook into timm's script, for CPUs alone: parallel training without device ids.

    timm's script hands the device of each process to ``torch.nn.parallel.DistributedDataParallel``, which takes none
    on a CPU and raises. Within this block it is given none there; on any other device nothing is touched.

    Args:
        device: The value of ``--device``.
    """
    original = parallel.DistributedDataParallel
    if torch.device(device).type != "cpu":
        yield
        return

    class DistributedDataParallel(original):
        def __init__(self, module: nn.Module, device_ids: list[Any] | None = None, **options: Any) -> None:
            super().__init__(module, **options)

    parallel.DistributedDataParallel = DistributedDataParallel
    try:
        yield
    finally:
        parallel.DistributedDataParallel = original


_telling = threading.Lock()
_told = False


def watch() -> None:
    """From here on SIGTERM ends this process with a word: torchrun sends it to the others when one process has died.

    A thread waits for it, because the main thread may be held by an operation that waits for the dead process.
    """
    arrived, written = os.pipe()
    os.set_blocking(written, False)
    signal.signal(signal.SIGTERM, lambda *_: None)  # only signals with a handler of Python's are written to the pipe
    signal.set_wakeup_fd(written, warn_on_full_buffer=False)

    def wait() -> None:
        while signal.SIGTERM not in os.read(arrived, 1):
            pass
        tell()
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def tell() -> None:
    """Says how to go on after the end of another process: once, by one of the processes of a machine."""
    global _told
    with _telling:
        if not _told and _first_here():
            message = "another process of this run has ended; go on with the same command and --resume"
            say(f"timm-landmark train: error: {message}", file=sys.stderr)
        _told = True


def _first_here() -> bool:
    """Whether no other process of this machine has asked before, as far as the job's store can still tell."""
    try:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = distributed.TCPStore(
            address, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=5)
        )
        started = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), os.environ.get("GROUP_RANK", "0")
        return store.add(f"timm_landmark told {' '.join(started)}", 1) == 1
    except (KeyError, ValueError, RuntimeError):  # the store has ended with the process or machine that held it
        return True


def lost_another(error: Exception) -> bool:
    """Whether ``error`` is of a connection to another process of the job."""
    return isinstance(error, distributed.DistError) or any(word in str(error) for word in ("gloo", "NCCL"))
