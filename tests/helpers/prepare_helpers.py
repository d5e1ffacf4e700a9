"""Seeded sources for ``timm-landmark prepare`` in the layout of Google Landmarks, and ways to run it."""

import csv
import hashlib
import io
import os
import signal
import subprocess
import sys
import tarfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from timm_landmark.cli import main

# The code of the installed command.
COMMAND = "import sys, timm_landmark_cli; sys.exit(timm_landmark_cli.main())"


def scene(seed: int, width: int = 160, height: int = 120) -> Image.Image:
    """A smooth random picture of 1/f noise in colour: no two seeds are near duplicates."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), dtype=np.float32)
    for cells in (4, 8, 16):
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32) * (4 / cells)
    return Image.fromarray((255 * (total - total.min()) / np.ptp(total)).astype(np.uint8))


def encode(image: Image.Image, form: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def image_id(index: int) -> str:
    return hashlib.md5(f"image {index}".encode()).hexdigest()[:16]


def member_name(name: str) -> str:
    return f"{name[0]}/{name[1]}/{name[2]}/{name}.jpg"


def write_folder(root: Path, images: dict[str, bytes]) -> Path:
    for name, content in images.items():
        path = root / member_name(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def write_tars(root: Path, images: dict[str, bytes], count: int) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        with tarfile.open(root / f"images_{index:03d}.tar", "w") as archive:
            for name in sorted(images)[index::count]:
                member = tarfile.TarInfo(member_name(name))
                member.size = len(images[name])
                archive.addfile(member, io.BytesIO(images[name]))
    return root


def write_csv(path: Path, labels: dict[str, int]) -> Path:
    path.write_text("id,url,landmark_id\n" + "".join(f"{name},,{label}\n" for name, label in labels.items()))
    return path


def small_source(root: Path, classes: int = 4, per_class: int = 12) -> tuple[Path, Path]:
    """Writes a csv and a folder of photos; returns both paths."""
    labels = {image_id(index): 100 + index % classes for index in range(classes * per_class)}
    images = {image_id(index): encode(scene(index), quality=85) for index in range(classes * per_class)}
    root.mkdir(parents=True, exist_ok=True)
    return write_csv(root / "train.csv", labels), write_folder(root / "train", images)


def command(metadata: Path, images: Path, output: Path, *more: str) -> list[str]:
    return ["--metadata", str(metadata), "--images", str(images), "--output", str(output), "--seed", "5", *more]


def prepare(*arguments: str) -> int:
    """Runs the command in this process and returns its exit code."""
    return main(["prepare", *arguments])


def run_prepare(*arguments: str, **options) -> subprocess.CompletedProcess:
    """Runs the command in its own process, as a user does."""
    return subprocess.run(
        [sys.executable, "-c", COMMAND, "prepare", *arguments],
        capture_output=True,
        text=True,
        check=False,
        **{"timeout": 300, **options},
    )


def start(function: Callable[[], int | None], log: Path) -> int:
    """Runs ``function`` in a forked child with its own process group: a real process to kill, without start-up time.

    Returns:
        The process id, also that of the group; the exit code is the return value of ``function``.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.setpgid(0, 0)
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        code = function()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(70)


def start_prepare(arguments: Sequence[str], log: Path) -> int:
    """Runs the command in a forked child; see ``start``."""
    return start(lambda: prepare(*arguments), log)


def finish(child: int) -> int:
    """Waits for a child and returns its exit code, which is negative if a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
