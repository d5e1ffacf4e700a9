"""timm's train script, which timm's wheels do not include: finding it, downloading it and running it."""

import argparse
import hashlib
import http.client
import os
import runpy
import shlex
import sys
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from timm_landmark.utils.errors import UserError
from timm_landmark.utils.files import sha256_file, write_atomic
from timm_landmark.utils.patching import replaced
from timm_landmark.utils.text import say

ENVIRONMENT = "TIMM_TRAIN_SCRIPT"
BASE_URL = "https://raw.githubusercontent.com/huggingface/pytorch-image-models"
# the newest commit of timm's repository whose train.py was tested with the supported timm, and the file's checksum
COMMIT = "aa4b5850c1543fa488abf260f18390eda46cf85d"
SHA256 = "f0bb70b9e1c8c576eb1f7beba9cb46953d01ec1308d68c59ec055a6266f76388"


class Trainer(Protocol):
    """What ``train`` needs of a trainer."""

    @property
    def title(self) -> str:
        """Its name in messages."""
        ...

    @property
    def parser(self) -> argparse.ArgumentParser:
        """The parser of its options."""
        ...

    def describe(self) -> dict[str, str | None]:
        """What ``run.json`` records about the trainer."""
        ...

    def run(self, argv: Sequence[str]) -> None:
        """Trains as ``python train.py *argv`` would."""
        ...


def cache_folder() -> Path:
    """Where ``train --fetch-script`` stores the script, as ``train-SHA256.py``."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "timm_landmark"


def find_script(given: str | None = None) -> Path | None:
    """Looks for timm's train script: ``--train-script``, the environment, an editable timm checkout, the user's cache.

    Args:
        given: The value of ``--train-script``.

    Returns:
        The file, or None if there is none.

    Raises:
        UserError: If the file named by the option or the environment is missing, or the one in the cache was changed
            after the download.
    """
    for origin, name in (("--train-script", given), (ENVIRONMENT, os.environ.get(ENVIRONMENT))):
        if name:
            if not Path(name).is_file():
                raise UserError(f"{origin} {name}: no such file; give the train.py of timm's repository")
            return Path(name)
    import timm

    checkout = Path(timm.__file__).parent.parent
    # for an installed timm this folder is site-packages, where a train.py would belong to another project
    if (checkout / "train.py").is_file() and (checkout / "pyproject.toml").is_file():
        return checkout / "train.py"
    for path in cache_folder().glob("train-*.py"):
        if path.name != _cached_name(found := sha256_file(path)):
            raise UserError(
                f"{path} was changed after the download: its sha256 is {found}; download it again with "
                "`timm-landmark train --fetch-script`"
            )
        return path
    return None


def fetch_script(revision: str, sha256: str | None) -> bool:
    """Downloads timm's train script into the user's cache; any revision but ``COMMIT`` takes two steps.

    Without an expected checksum it only prints the checksum of the file and the command that accepts it. The file is
    not run.

    Args:
        revision: A commit or tag of timm's repository.
        sha256: The expected checksum; not needed for ``COMMIT``.

    Returns:
        Whether the script was stored.

    Raises:
        UserError: If the download fails or the checksum differs; nothing is written then.
    """
    url = f"{BASE_URL}/{urllib.parse.quote(revision)}/train.py"
    expected = sha256.lower() if sha256 else None
    if revision == COMMIT:
        if expected not in (None, SHA256):
            raise UserError(f"--sha256 {sha256} is not the known checksum of {COMMIT}, {SHA256}; leave it out")
        expected = SHA256
    say(f"downloading {url}")
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            content = response.read()
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise UserError(
            f"{url} cannot be downloaded ({error}); check the revision and the network, or pass a local copy with "
            "--train-script"
        ) from None
    found = hashlib.sha256(content).hexdigest()
    say(f"{len(content):,} bytes, sha256 {found}")
    if expected is None:
        command = shlex.join(["timm-landmark", "train", "--fetch-script", revision, "--sha256", found])
        say("It was neither stored nor run. Review it; if you trust it, store it with", f"  {command}")
        return False
    if found != expected:
        raise UserError(f"{url} has sha256 {found}, expected {expected}; it was not stored")
    path = cache_folder() / _cached_name(found)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content)
    for other in set(path.parent.glob("train-*.py")) - {path}:
        other.unlink()
    say(f"stored as {path}")
    return True


def _cached_name(sha256: str) -> str:
    return f"train-{sha256}.py"


@dataclass(frozen=True)
class TrainScript:
    """The train script of timm, loaded but not started."""

    title = "timm's train.py"
    path: Path
    sha256: str
    parser: argparse.ArgumentParser

    def describe(self) -> dict[str, str | None]:
        """What ``run.json`` records about the trainer."""
        import timm

        return {
            "kind": "timm train.py",
            "timm": timm.__version__,
            "script_commit": COMMIT if self.sha256 == SHA256 else None,
            "script_sha256": self.sha256,
        }

    def run(self, argv: Sequence[str]) -> None:
        """Runs the unmodified script in this process as ``python train.py *argv`` would."""
        with replaced(sys, "argv", [str(self.path), *argv]):
            runpy.run_path(str(self.path), run_name="__main__")


def load_script(path: Path) -> TrainScript:
    """Loads the script without starting it, to get its parser and to check that it uses the scheduler hook.

    Raises:
        UserError: If the file cannot be imported or is not timm's train script.
    """
    import timm.scheduler

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); give timm's train.py") from None
    if "create_scheduler_v2" not in text or "config_parser" not in text:  # checked before any of it is run
        raise UserError(f"{path} is not timm's train script; give the train.py of timm's repository")
    try:
        names = runpy.run_path(str(path), run_name="timm_train_script")
    except Exception as error:
        raise UserError(
            f"{path} does not run with the installed timm ({error}); use the one that `timm-landmark train "
            "--fetch-script` downloads"
        ) from None
    parser = names.get("parser")
    taken = names.get("create_scheduler_v2") is timm.scheduler.create_scheduler_v2
    if not isinstance(parser, argparse.ArgumentParser) or not taken:
        raise UserError(
            f"{path} does not get its scheduler from timm.scheduler.create_scheduler_v2, so the paper's learning rate "
            "rule cannot be applied; use the one that `timm-landmark train --fetch-script` downloads"
        )
    return TrainScript(path, sha256_file(path), parser)
