"""Training in several processes with torchrun: the hook for CPUs, and what is reported when a process fails."""

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

from timm_landmark.utils.patching import replaced
from timm_landmark.utils.text import say


@contextmanager
def parallel_on(device: str) -> Iterator[None]:
    """A hook into timm's script that lets several processes train on CPUs.

    timm's script passes each process's device to ``torch.nn.parallel.DistributedDataParallel``, which accepts no
    device ids on a CPU and raises. Within this block the ids are dropped on a CPU; other devices are not affected.

    Args:
        device: The value of ``--device``.
    """
    if torch.device(device).type != "cpu":
        yield
        return

    class DistributedDataParallel(parallel.DistributedDataParallel):
        def __init__(self, module: nn.Module, device_ids: list[Any] | None = None, **options: Any) -> None:
            super().__init__(module, **options)

    with replaced(parallel, "DistributedDataParallel", DistributedDataParallel):
        yield


_reporting = threading.Lock()
_reported = False


def watch() -> None:
    """Makes SIGTERM end this process with a message: torchrun sends it when another process has failed.

    A thread waits for the signal, because the main thread may be blocked in an operation that waits for that process.
    """
    receiving, sending = os.pipe()
    os.set_blocking(sending, False)
    signal.signal(signal.SIGTERM, lambda *_: None)  # only signals with a Python handler are written to the pipe
    signal.set_wakeup_fd(sending, warn_on_full_buffer=False)

    def wait() -> None:
        while signal.SIGTERM not in os.read(receiving, 1):
            pass
        report_lost_process()
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def report_lost_process() -> None:
    """Prints how to continue after another process has ended; one process of each machine prints it, once."""
    global _reported
    message = "another process of this run has ended; continue with the same command and --resume"
    with _reporting:
        if not _reported and first_to_report(message):
            say(f"timm-landmark train: error: {message}", file=sys.stderr)
        _reported = True


def first_to_report(message: str) -> bool:
    """Whether this process is the first of its machine to report ``message``; True if that cannot be determined.

    torchrun's store counts the reports. A message that only one process has is therefore always printed.
    """
    try:
        attempt, machine = os.environ["TORCHELASTIC_RESTART_COUNT"], os.environ["GROUP_RANK"]
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = distributed.TCPStore(
            address, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=5)
        )
        return store.add(f"timm_landmark reported {attempt} {machine} {message}", 1) == 1
    except (KeyError, ValueError, RuntimeError):  # not started by torchrun, or the store's process has ended
        return True


def lost_another(error: Exception) -> bool:
    """Whether ``error`` comes from a broken connection to another process of the job."""
    return isinstance(error, distributed.DistError) or any(word in str(error) for word in ("gloo", "NCCL"))
