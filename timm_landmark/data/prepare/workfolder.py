"""The work folder DATA/.prepare: what a run has finished so far, so that a kill at any moment costs a photo or two.

state.json      the options and selection that the run was begun with
journal.jsonl   a line for each photo read: its hashes, or why it was rejected
images/         decoded photos by id, until they are placed by rename
download/       csv files and the current shard of --download
shards.txt      shards of --download whose selected photos are all in images/
lock            held while a run is at work
"""

import errno
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from timm_landmark.data.check import SUMS
from timm_landmark.data.layout import FILES, SPLITS
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.files import write_json

NAME, FINISHED = ".prepare", ".prepare-finished"
OWN = {*FILES.values(), *SPLITS, NAME, FINISHED, SUMS, "class_map.txt", "dataset.json", "README.md", "attribution.csv"}
OWN |= {"classes.png", "rejects.png", "_info.json"}


class WorkFolder:
    """A begun data set; use as a context manager, which holds its lock."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.path = data / NAME
        self.images = self.path / "images"
        self.download = self.path / "download"
        self.shards = self.path / "shards.txt"
        self._journal = self.path / "journal.jsonl"
        self._state = self.path / "state.json"
        self._lines: BinaryIO | None = None  # of the journal, open while it is added to
        # Never a soft lock, a mere file: it would outlive a killed run. Forked workers do not inherit this one.
        self._lock = FileLock(self.path / "lock", fallback_to_soft=False)

    def __enter__(self) -> "WorkFolder":
        """Makes or reopens the folder.

        Raises:
            UserError: If ``data`` holds foreign files, another run is at work, or the file system has no locks.
        """
        if not self.path.exists():
            refuse_foreign(self.data)
        self.images.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            raise UserError(f"--output {self.data}: another run is at work there; wait for it or stop it") from None
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                raise
            raise UserError(
                f"--output {self.data}: its file system cannot lock files ({error.strerror}); name a folder on another"
            ) from None
        return self

    def __exit__(self, *error: object) -> None:
        if self.path.exists() and not self._state.exists() and not self.download.exists():
            self.discard()
        self._release()

    def begin(self, state: dict[str, Any]) -> None:
        """Records the options and selection, or compares them with those that the set was begun with.

        Raises:
            UserError: If it was begun with others.
        """
        if self._state.exists():
            refuse_difference(self.data, json.loads(self._state.read_text(encoding="utf-8")), state, "begun")
        else:
            write_json(self._state, state)

    def keep(self, record: dict[str, Any]) -> None:
        """Journals what a worker says of a photo, then names its picture: a named picture always has its line.

        Called by the one process that holds the lock, so lines of the journal cannot mix on any system.
        """
        temporary = record.pop("temporary", None)
        if self._lines is None:
            self._lines = open(self._journal, "ab")  # noqa: SIM115
        self._lines.write(json.dumps(record).encode() + b"\n")
        self._lines.flush()
        if temporary is not None:
            os.replace(self.images / temporary, self.images / f"{record['id']}.jpg")

    def read_journal(self) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
        """Records by id: of photos whose picture is stored, and of those rejected. A torn last line is dropped."""
        records: dict[str, dict[str, Any]] = {}
        if self._journal.exists():
            content = self._journal.read_bytes()
            if content and not content.endswith(b"\n"):
                with open(self._journal, "ab") as file:
                    file.write(b"\n")
            for line in content.splitlines():
                try:
                    record = json.loads(line)
                    records[record["id"]] = record
                except (ValueError, KeyError, TypeError):
                    continue
        pictures = self.pictures()
        stored = {key: record for key, record in records.items() if "reason" not in record and key in pictures}
        return stored, {key: record for key, record in records.items() if "reason" in record}

    def read_shards(self) -> set[str]:
        """Names of the shards that are done."""
        return set(self.shards.read_text(encoding="utf-8").split()) if self.shards.exists() else set()

    def pictures(self) -> dict[str, Path]:
        """Stored pictures by id, wherever they are by now."""
        found = {path.stem: path for path in self.images.glob("*.jpg")}
        for split in SPLITS:
            found |= {path.stem: path for path in (self.data / split).glob("*/*.jpg")}
        return found

    def finish(self) -> None:
        """Removes the folder; renamed first, so that a kill leaves it whole or out of the way."""
        self._release()
        os.rename(self.path, self.data / FINISHED)
        shutil.rmtree(self.data / FINISHED)

    def discard(self) -> None:
        """Removes a folder in which nothing was done, and the data folder if that is empty."""
        self._release()
        shutil.rmtree(self.path)
        if not any(self.data.iterdir()):
            self.data.rmdir()

    def _release(self) -> None:
        """Closes what is open in the folder: Windows renames and removes none with an open file in it."""
        if self._lines is not None:
            with suppress(OSError):  # of a full disk, which has been told
                self._lines.close()
        self._lock.release()


def refuse_foreign(data: Path) -> None:
    """Raises UserError if ``data`` holds anything at all: it is not a set that this verb has begun."""
    if data.exists() and not data.is_dir():
        raise UserError(f"--output {data}: is a file; name a new folder")
    names = sorted(entry.name for entry in data.iterdir()) if data.exists() else []
    if names:
        raise UserError(
            f"--output {data}: holds files that no begun data set explains ({', '.join(names[:5])}); name a new or "
            "empty folder"
        )


def refuse_difference(data: Path, there: dict[str, Any], here: dict[str, Any], what: str) -> None:
    """Raises UserError if a begun or finished set was made with other options, naming each."""
    options = [
        f"--{key.replace('_', '-')} is {there.get(key)} there and {value} now"
        for key, value in here.items()
        if key != "selection" and there.get(key) != value
    ]
    if not options and there.get("selection") != here["selection"]:
        options = ["the metadata selects other images now"]
    if options:
        raise UserError(
            f"--output {data}: a data set {what} with another selection: {'; '.join(options)}. Repeat the command it "
            "was made with, or name another folder"
        )
