"""Training from shards with timm's ``wds/`` reader, except that a missing or damaged shard is an error.

timm's reader only logs a warning for a shard that it cannot read, and fills the epoch with other images.
:func:`installed` replaces it in ``timm.data`` by :class:`ShardReader` while a trainer runs, timm's script or the
stand-in. timm still assigns shards to processes, shuffles, and determines the length of an epoch; this module reads the
shards, compares them with sha256sums.txt and counts their images. It is one of three hooks into timm's script, with
:mod:`timm_landmark.training.rate_rule` and :mod:`timm_landmark.training.processes`.
"""

import argparse
import importlib.util
import io
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from timm.data.readers import reader_wds

from timm_landmark.data.address import Address, Place, place
from timm_landmark.data.check import read_sums
from timm_landmark.data.layout import ClassRow
from timm_landmark.data.shards import INFO, read_samples, read_shard_info
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.patching import replaced

NAME = "wds/"  # timm's --dataset
VALIDATION_WORKERS = 2  # the most that timm's script uses for shards if several processes train


class ShardReader(reader_wds.ReaderWds):
    """Reads a split in shards; takes the arguments of timm's reader."""

    def __init__(self, root: str, *args: Any, **options: Any) -> None:
        super().__init__(root, *args, **options)
        self._data = place(root)
        self._shards = read_shard_info(self._data)[self.split_info.name]
        self._sums = read_sums(self._data)
        self._seed: int | None = None

    def __iter__(self) -> Generator[Any, Any, None]:
        """Yields one epoch, in an order that depends only on the seed and the epoch with ``--workers 0``.

        A resumed run then has the same order. Loading processes get a seed that also depends on the epoch in which
        they start. timm's shuffle would continue with the random state of the epoch before.
        """
        if self._seed is None:
            self._lazy_init()  # gets this loading process's number and seed from torch
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
        pipeline: Any = self.ds
        stages = pipeline.pipeline
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
    """Replaces timm's reader by :class:`ShardReader` within the block.

    Also lets webdataset, with which timm reads ``_info.json``, open addresses as this package does, without curl.
    """
    module: Any = reader_wds  # type checkers refuse what this replaces
    schemes = {} if module.wds is None else module.wds.gopen_schemes
    before = dict(schemes)
    schemes.update(dict.fromkeys(("http", "https", "pipe"), _open))
    try:
        with replaced(module, "ReaderWds", ShardReader):
            yield
    finally:
        schemes.clear()
        schemes.update(before)


def _open(url: str, mode: str, bufsize: int) -> io.BytesIO:
    return io.BytesIO(Address(url).read_bytes())


def check_shards(data: Place, classes: Sequence[ClassRow], args: argparse.Namespace, processes: int) -> None:
    """Checks, before a run starts, that a data set in shards can be trained on.

    Args:
        data: The data set.
        classes: Its classes.
        args: The trainer's options.
        processes: Number of training processes.

    Raises:
        UserError: If webdataset is not installed, a shard is missing (at an address, this is only noticed when the
            shard is read), or there are fewer shards than loading processes.
    """
    if importlib.util.find_spec("webdataset") is None:
        raise UserError(
            f"--data {data}: its images are in shards, and timm needs webdataset to read them, which is not installed; "
            "run pip install 'timm-landmark[webdataset]'"
        )
    shards = read_shard_info(data)
    workers = {args.train_split: args.workers}
    workers[args.val_split] = min(args.workers, VALIDATION_WORKERS) if processes > 1 else 0
    for split, loaders in workers.items():
        if sum(shards[split].values()) != sum(getattr(row, split) for row in classes):
            raise UserError(f"{data}: {INFO} and classes.csv disagree on the images in {split}; prepare it again")
        if isinstance(data, Path) and (missing := [name for name in shards[split] if not (data / name).is_file()]):
            raise UserError(f"{data / missing[0]} is missing; restore it or prepare the data set again")
        if len(shards[split]) < processes * max(1, loaders):
            raise UserError(
                f"--workers {args.workers}: {split} has {len(shards[split])} shards, but each of the {processes} "
                f"processes x {max(1, loaders)} loading processes needs its own; pass a smaller number"
            )
