"""Training from shards: timm's own ``wds/`` reader, for which a missing or broken shard is an error.

timm's reader logs a warning for what it cannot read and fills the epoch with other images. :func:`installed` puts
:class:`ShardReader` in its place in ``timm.data`` while a trainer runs, timm's script or the stand-in. The shares of
the processes, the shuffling and the length of an epoch remain timm's; the bytes of a shard are read here, compared with
sha256sums.txt and counted. It is one of three hooks into timm's script, beside those of
:mod:`timm_landmark.training.rate_rule` and :mod:`timm_landmark.training.processes`.
"""

import argparse
import importlib.util
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from timm.data.readers import reader_wds

from timm_landmark.data.address import Address, Place, place
from timm_landmark.data.check import read_sums
from timm_landmark.data.layout import ClassRow
from timm_landmark.data.shards import INFO, read_samples, read_shard_info
from timm_landmark.utils.errors import UserError

NAME = "wds/"  # timm's --dataset
VALIDATION_WORKERS = 2  # most that timm's script takes for shards where several processes train


class ShardReader(reader_wds.ReaderWds):
    """timm's reader of a split in shards; arguments are timm's."""

    def __init__(self, root: str, *args: Any, **options: Any) -> None:
        super().__init__(root, *args, **options)
        self._data = place(root)
        self._shards = read_shard_info(self._data)[self.split_info.name]
        self._sums = read_sums(self._data)
        self._seed: int | None = None

    def __iter__(self) -> Iterator[Any]:
        """One epoch, in an order that depends on nothing but seed, epoch and loading process, so that a run can resume.

        timm's shuffle would continue with the random state that the epoch before left.
        """
        if self._seed is None:
            self._lazy_init()  # asks torch which loading process this is, and for its seed
            self._seed = self.worker_seed
        self.worker_seed = self._seed + self.epoch_count.value
        self._lazy_init()
        return super().__iter__()

    def _lazy_init(self) -> None:
        lenient, reader_wds.log_and_continue = reader_wds.log_and_continue, self._fail
        try:
            super()._lazy_init()
        finally:
            reader_wds.log_and_continue = lenient
        stages = self.ds.pipeline
        stages[stages.index(self._split_by_node_and_worker) + 1] = self._read  # in place of webdataset's

    def _read(self, shards: Iterable[dict[str, str]]) -> Iterator[dict[str, Any]]:
        for shard in shards:
            name = os.path.basename(shard["url"])
            for key, (index, content) in read_samples(self._data, name, self._shards[name], self._sums).items():
                yield {"__key__": key, "__url__": shard["url"], "cls": str(index).encode(), "jpg": content}

    def _fail(self, error: Exception) -> NoReturn:
        raise UserError(f"{self._data}: an image cannot be decoded ({error}); prepare the data set again") from error


@contextmanager
def installed() -> Iterator[None]:
    """Puts :class:`ShardReader` in place of timm's reader for the length of the block.

    Also lets webdataset, which timm reads ``_info.json`` with, open addresses as this package does: without curl.
    """
    original = reader_wds.ReaderWds
    if reader_wds.wds is not None:
        reader_wds.wds.gopen_schemes.update(dict.fromkeys(("http", "https", "pipe"), _open))
    reader_wds.ReaderWds = ShardReader
    try:
        yield
    finally:
        reader_wds.ReaderWds = original


def _open(url: str, mode: str, bufsize: int) -> io.BytesIO:
    return io.BytesIO(Address(url).read_bytes())


def check_shards(data: Place, classes: Sequence[ClassRow], args: argparse.Namespace, processes: int) -> None:
    """Looks at a set in shards before a run starts.

    Args:
        data: The data set.
        classes: Its classes.
        args: The trainer's options.
        processes: Processes that train together.

    Raises:
        UserError: If webdataset is missing, a shard is missing (at an address it is seen when its turn comes), or
            there are fewer shards than loading processes.
    """
    if importlib.util.find_spec("webdataset") is None:
        raise UserError(
            f"--data {data}: its images are in shards, and timm reads those with webdataset, which is not installed; "
            "pip install 'timm-landmark[webdataset]'"
        )
    shards = read_shard_info(data)
    workers = {args.train_split: args.workers}
    workers[args.val_split] = min(args.workers, VALIDATION_WORKERS) if processes > 1 else 0
    for split, loaders in workers.items():
        if sum(shards[split].values()) != (images := sum(getattr(row, split) for row in classes)):
            raise UserError(f"{data}: {INFO} and classes.csv count {split} differently ({images}); prepare it again")
        if isinstance(data, Path) and (missing := [name for name in shards[split] if not (data / name).is_file()]):
            raise UserError(f"{data / missing[0]} is missing; restore it or prepare the data set again")
        if len(shards[split]) < processes * max(1, loaders):
            raise UserError(
                f"--workers {args.workers}: {split} has {len(shards[split])} shards, and each of the {processes} "
                f"processes x {max(1, loaders)} loading processes needs one of its own; give a smaller number"
            )
