"""timm's train script, which no timm wheel holds: where it is looked for, how it is fetched, how it is run."""

import argparse
import hashlib
import os
import runpy
import sys
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from timm_landmark.errors import UserError
from timm_landmark.files import sha256_file, write_atomic
from timm_landmark.text import say

ENVIRONMENT = "TIMM_TRAIN_SCRIPT"
BASE_URL = "https://raw.githubusercontent.com/huggingface/pytorch-image-models"
KNOWN_SHA256 = {"1.0.28": "1fb02d26fe16536bc7de2c987980644353117c2b2b8046532261464093cd1ac6"}


def cache_path(version: str) -> Path:
    """Where ``train --fetch-script`` puts the train script of timm ``version``."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "timm_landmark" / f"timm-{version}" / "train.py"


def find_script(given: str | None = None) -> Path | None:
    """Finds timm's train script: ``--train-script``, the environment, an editable timm checkout, the user's cache.

    Args:
        given: The value of ``--train-script``.

    Returns:
        The file, or None where there is none.

    Raises:
        UserError: If a file was named, by option or environment, and is not there.
    """
    for origin, name in (("--train-script", given), (ENVIRONMENT, os.environ.get(ENVIRONMENT))):
        if name:
            if not Path(name).is_file():
                raise UserError(f"{origin} {name}: no such file; give the train.py of timm's repository")
            return Path(name)
    import timm

    checkout = Path(timm.__file__).parent.parent
    for path in (checkout / "train.py", cache_path(timm.__version__)):
        # beside an installed timm lies site-packages, where a train.py would be somebody else's
        if path.is_file() and (path.parent != checkout or (checkout / "pyproject.toml").is_file()):
            return path
    return None


def fetch_script(sha256: str | None) -> Path:
    """Downloads the train script of the installed timm's tag into the user's cache, after checking its SHA-256.

    Args:
        sha256: The sum to expect, needed where this package lists none for the installed timm.

    Raises:
        UserError: If no sum is known, the download fails or the sum is another one; nothing is written then.
    """
    import timm

    url = f"{BASE_URL}/v{timm.__version__}/train.py"
    expected = KNOWN_SHA256.get(timm.__version__)
    if expected and sha256 and sha256.lower() != expected:
        raise UserError(
            f"--sha256 {sha256} is not the sum listed for timm {timm.__version__}, {expected}; leave it out"
        )
    expected = expected or (sha256 or "").lower()
    if not expected:
        raise UserError(
            f"no sum is listed for the train.py of timm {timm.__version__} (only for {', '.join(KNOWN_SHA256)}); look "
            f"at {url} and give its sum with --sha256"
        )
    say(f"fetching {url}")
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            content = response.read()
    except (OSError, ValueError) as error:
        raise UserError(
            f"{url} cannot be fetched ({error}); check the network, or give a copy with --train-script"
        ) from None
    found = hashlib.sha256(content).hexdigest()
    say(f"sha256 {found}")
    if found != expected:
        raise UserError(f"{url} has sha256 {found}, expected {expected}; it was not kept")
    path = cache_path(timm.__version__)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content)
    say(f"kept as {path}")
    return path


@dataclass(frozen=True)
class TrainScript:
    """The train script of timm, loaded but not started."""

    title = "timm's train.py"
    path: Path
    sha256: str
    parser: argparse.ArgumentParser

    @property
    def version(self) -> str | None:
        """The timm release whose script this is, None where this package does not list its sum."""
        return next((version for version, known in KNOWN_SHA256.items() if known == self.sha256), None)

    def describe(self) -> dict[str, str | None]:
        """What ``run.json`` says of the trainer."""
        import timm

        return {
            "kind": "timm train.py",
            "timm": timm.__version__,
            "script_version": self.version,
            "script_sha256": self.sha256,
        }

    def run(self, argv: Sequence[str]) -> None:
        """Runs the script, unmodified, in this process, as ``python train.py *argv`` would."""
        before = sys.argv
        sys.argv = [str(self.path), *argv]
        try:
            runpy.run_path(str(self.path), run_name="__main__")
        finally:
            sys.argv = before


def load_script(path: Path) -> TrainScript:
    """Loads the script without starting it, for its parser and to see that it takes its scheduler from the hook.

    Raises:
        UserError: If the file cannot be imported or is not timm's train script.
    """
    import timm.scheduler

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); give timm's train.py") from None
    if "create_scheduler_v2" not in text or "config_parser" not in text:  # seen before anything of it is run
        raise UserError(f"{path} is not timm's train script; give the train.py of a timm release from 1.0.28 on")
    try:
        names = runpy.run_path(str(path), run_name="timm_train_script")
    except Exception as error:
        raise UserError(
            f"{path} does not run with the installed timm ({error}); give the train.py of that timm's tag, for example "
            "by `timm-landmark train --fetch-script`"
        ) from None
    parser = names.get("parser")
    taken = names.get("create_scheduler_v2") is timm.scheduler.create_scheduler_v2
    if not isinstance(parser, argparse.ArgumentParser) or not taken:
        raise UserError(
            f"{path} does not take its scheduler from timm.scheduler.create_scheduler_v2, so the paper's rule for the "
            "learning rate cannot be applied; give the train.py of a timm release from 1.0.28 on"
        )
    return TrainScript(path, sha256_file(path), parser)
