"""Files are written completely or not at all."""

import fcntl
import os

import pytest

from timm_landmark.utils.files import write_atomic


def test_what_is_flushed_could_be_written(tmp_path, monkeypatch):
    """Windows refuses to flush a file that was opened for reading."""
    modes = []

    def fsync(handle):
        modes.append(fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE)

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomic(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new" and modes == [os.O_RDWR]


def test_what_cannot_be_flushed_leaves_the_old_file(tmp_path, monkeypatch):
    def fsync(handle):
        raise OSError("disk full")

    write_atomic(tmp_path / "a", "old")
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old" and os.listdir(tmp_path) == ["a"]
