"""The work folder DATA/.prepare: what a run has finished so far, so that a kill at any moment costs a photo or two.

state.json      the options and selection that the run was begun with
journal.jsonl   a line for each photo read: its hashes, or why it was rejected
images/         decoded photos by id, until they are placed by rename
lock            held while a run is at work
"""

import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import Any

from timm_landmark.data.check import SUMS
from timm_landmark.data.layout import FILES, SPLITS
from timm_landmark.errors import UserError
from timm_landmark.files import write_json

NAME, FINISHED = ".prepare", ".prepare-finished"
OWN = {*FILES.values(), *SPLITS, NAME, FINISHED, SUMS, "class_map.txt", "dataset.json", "README.md", "attribution.csv"}
OWN |= {"classes.png", "rejects.png", "_info.json"}


class WorkFolder:
    """A begun data set; use as a context manager, which holds its lock."""

    def __init__(self, data: Path, state: dict[str, Any]) -> None:
        self.data = data
        self.path = data / NAME
        self.images = self.path / "images"
        self.journal = self.path / "journal.jsonl"
        self.state = state
        self.lock = -1

    def __enter__(self) -> "WorkFolder":
        """Makes or reopens the folder.

        Raises:
            UserError: If ``data`` holds foreign files or a begun set with other options, or another run is at work.
        """
        if not self.path.exists():
            refuse_foreign(self.data)
        self.images.mkdir(parents=True, exist_ok=True)
        self.lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self.lock)
            raise UserError(f"--output {self.data}: another run is at work there; wait for it or stop it") from None
        begun = self.path / "state.json"
        if begun.exists():
            refuse_difference(self.data, json.loads(begun.read_text(encoding="utf-8")), self.state, "begun")
        else:
            write_json(begun, self.state)
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self.lock)

    def read_journal(self) -> tuple[dict[str, dict[str, Any]], dict[str, Path]]:
        """What is done: id -> record, and id -> stored picture, wherever it is by now. A torn last line is dropped."""
        placed = {path.stem: path for path in self.images.glob("*.jpg")}
        for split in SPLITS:
            placed |= {path.stem: path for path in (self.data / split).glob("*/*.jpg")}
        records: dict[str, dict[str, Any]] = {}
        if self.journal.exists():
            content = self.journal.read_bytes()
            if content and not content.endswith(b"\n"):
                with open(self.journal, "ab") as file:
                    file.write(b"\n")
            for line in content.splitlines():
                try:
                    record = json.loads(line)
                    records[record["id"]] = record
                except (ValueError, KeyError, TypeError):
                    continue
        done = {key: record for key, record in records.items() if "reason" in record or key in placed}
        return done, {key: path for key, path in placed.items() if key in done}

    def finish(self) -> None:
        """Removes the folder; renamed first, so that a kill leaves it whole or out of the way."""
        os.rename(self.path, self.data / FINISHED)
        shutil.rmtree(self.data / FINISHED)

    def discard(self) -> None:
        """Removes a folder in which nothing was done, and the data folder if that is empty."""
        shutil.rmtree(self.path)
        if not any(self.data.iterdir()):
            self.data.rmdir()


def append(journal: Path, record: dict[str, Any]) -> None:
    """Adds one line in one write, which concurrent workers cannot mix."""
    handle = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(handle, json.dumps(record).encode() + b"\n")
    finally:
        os.close(handle)


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
