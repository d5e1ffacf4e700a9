"""The work folder DATA/.prepare: what a run has finished so far, so that an interruption costs only a photo or two.

state.json      the options and selection that the run was started with
journal.jsonl   one line per photo read: its hashes, or the reason why it was rejected
images/         decoded photos by id, until they are moved into place by rename
download/       csv files and the current shard of --download
shards.txt      shards of --download whose selected photos are all in images/
lock            held while a run is active
"""

import errno
import json
import os
import shutil
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from timm_landmark.data.layout import SPLITS
from timm_landmark.data.prepare.store import Records, Rejected, Stored
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.files import write_json

NAME, FINISHED = ".prepare", ".prepare-finished"


class WorkFolder:
    """An unfinished data set; use it as a context manager, which holds its lock."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.path = data / NAME
        self.images = self.path / "images"
        self.download = self.path / "download"
        self.shards = self.path / "shards.txt"
        self._journal = self.path / "journal.jsonl"
        self._state = self.path / "state.json"
        self._lines: BinaryIO | None = None  # the journal, while it is open for appending
        # Never a soft lock: a plain file would outlive a killed run. Forked workers do not inherit this one.
        self._lock = FileLock(self.path / "lock", fallback_to_soft=False)

    def __enter__(self) -> "WorkFolder":
        """Creates or reopens the folder.

        Raises:
            UserError: If ``data`` has other files, another run is active, or the file system does not support locks.
        """
        if not self.path.exists():
            refuse_foreign(self.data)
        self.images.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            raise UserError(
                f"--output {self.data}: another run is writing to it; wait until it ends or stop it"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                raise
            raise UserError(
                f"--output {self.data}: the file system does not support locks ({error.strerror}); choose a folder on "
                "another file system"
            ) from None
        return self

    def __exit__(self, *error: object) -> None:
        if self.path.exists() and not self._state.exists() and not self.download.exists():
            self.discard()
        self._release()

    def begin(self, state: dict[str, Any]) -> None:
        """Records the options and selection, or compares them with those that the run was started with.

        Raises:
            UserError: If they differ.
        """
        if self._state.exists():
            refuse_difference(self.data, json.loads(self._state.read_text(encoding="utf-8")), state, "started")
        else:
            write_json(self._state, state)

    def keep(self, record: Stored | Rejected) -> None:
        """Appends a photo's record to the journal, then renames its picture: every named picture has its line.

        Only the process that holds the lock calls this, so lines of the journal never interleave.
        """
        if self._lines is None:
            self._lines = open(self._journal, "ab")  # noqa: SIM115
        self._lines.write(_to_line(record))
        self._lines.flush()
        if isinstance(record, Stored) and record.temporary is not None:
            os.replace(self.images / record.temporary, self.images / f"{record.id}.jpg")

    def read_journal(self) -> tuple[dict[str, Stored], dict[str, Rejected]]:
        """Records by id: photos whose picture is stored, and rejected photos. An incomplete last line is dropped."""
        records: Records = {}
        if self._journal.exists():
            content = self._journal.read_bytes()
            if content and not content.endswith(b"\n"):
                with open(self._journal, "ab") as file:
                    file.write(b"\n")
            for line in content.splitlines():
                try:
                    record = _from_line(line)
                except (ValueError, TypeError):
                    continue
                records[record.id] = record
        pictures = self.pictures()
        stored = {key: item for key, item in records.items() if isinstance(item, Stored) and key in pictures}
        return stored, {key: item for key, item in records.items() if isinstance(item, Rejected)}

    def read_shards(self) -> set[str]:
        """Names of the finished shards."""
        return set(self.shards.read_text(encoding="utf-8").split()) if self.shards.exists() else set()

    def pictures(self) -> dict[str, Path]:
        """Stored pictures by id, in the work folder or already in place."""
        found = {path.stem: path for path in self.images.glob("*.jpg")}
        for split in SPLITS:
            found |= {path.stem: path for path in (self.data / split).glob("*/*.jpg")}
        return found

    def finish(self) -> None:
        """Removes the folder. It is renamed first, so that an interruption never leaves half of it under its name."""
        self._release()
        os.rename(self.path, self.data / FINISHED)
        shutil.rmtree(self.data / FINISHED)

    def discard(self) -> None:
        """Removes a folder in which nothing was done, and the data folder if it is empty."""
        self._release()
        shutil.rmtree(self.path)
        if not any(self.data.iterdir()):
            with suppress(OSError):  # the current folder cannot be removed under the name "."
                self.data.rmdir()

    def _release(self) -> None:
        """Closes the folder's open files: Windows cannot rename or remove a folder that has one."""
        if self._lines is not None:
            with suppress(OSError):  # a full disk, which was already reported
                self._lines.close()
        self._lock.release()


def _to_line(record: Stored | Rejected) -> bytes:
    """A record as a line of the journal; fields that are None, and the temporary name, are left out."""
    fields = {key: value for key, value in asdict(record).items() if value is not None and key != "temporary"}
    return json.dumps(fields).encode() + b"\n"


def _from_line(line: bytes) -> Stored | Rejected:
    """The record of a line.

    Raises:
        ValueError, TypeError: If the line is damaged.
    """
    fields = json.loads(line)
    return Rejected(**fields) if "reason" in fields else Stored(**fields)


def refuse_foreign(data: Path) -> None:
    """Raises UserError if ``data`` is not empty: it is not a data set that this command started."""
    if data.exists() and not data.is_dir():
        raise UserError(f"--output {data}: is a file; choose a new folder")
    names = sorted(entry.name for entry in data.iterdir()) if data.exists() else []
    if names:
        raise UserError(
            f"--output {data}: is not empty and is not an unfinished data set ({', '.join(names[:5])}); choose a new "
            "or empty folder"
        )


def refuse_difference(data: Path, there: dict[str, Any], here: dict[str, Any], what: str) -> None:
    """Raises UserError, naming each difference, if a started or finished data set was made with other options."""
    options = [
        f"--{key.replace('_', '-')} was {there.get(key)} and is now {value}"
        for key, value in here.items()
        if key != "selection" and there.get(key) != value
    ]
    if not options and there.get("selection") != here["selection"]:
        options = ["the metadata now selects other images"]
    if options:
        raise UserError(
            f"--output {data}: the data set there was {what} with other options: {'; '.join(options)}. Repeat the "
            "original command, or choose another folder"
        )
