"""timm's train script, which no timm wheel holds: where it is looked for, how it is fetched, how it is run."""

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

from timm_landmark.utils.errors import UserError
from timm_landmark.utils.files import sha256_file, write_atomic
from timm_landmark.utils.text import say

ENVIRONMENT = "TIMM_TRAIN_SCRIPT"
BASE_URL = "https://raw.githubusercontent.com/huggingface/pytorch-image-models"
# the newest commit of timm's repository whose train.py was run with the supported timm, and the sum of that file
COMMIT = "aa4b5850c1543fa488abf260f18390eda46cf85d"
SHA256 = "f0bb70b9e1c8c576eb1f7beba9cb46953d01ec1308d68c59ec055a6266f76388"


def cache_folder() -> Path:
    """Where ``train --fetch-script`` keeps the script, as ``train-SHA256.py``."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "timm_landmark"


def find_script(given: str | None = None) -> Path | None:
    """Finds timm's train script: ``--train-script``, the environment, an editable timm checkout, the user's cache.

    Args:
        given: The value of ``--train-script``.

    Returns:
        The file, or None where there is none.

    Raises:
        UserError: If a file was named, by option or environment, and is not there, or the one in the cache is no
            longer what was fetched.
    """
    for origin, name in (("--train-script", given), (ENVIRONMENT, os.environ.get(ENVIRONMENT))):
        if name:
            if not Path(name).is_file():
                raise UserError(f"{origin} {name}: no such file; give the train.py of timm's repository")
            return Path(name)
    import timm

    checkout = Path(timm.__file__).parent.parent
    # beside an installed timm lies site-packages, where a train.py would be somebody else's
    if (checkout / "train.py").is_file() and (checkout / "pyproject.toml").is_file():
        return checkout / "train.py"
    for path in cache_folder().glob("train-*.py"):
        if path.name != _cached_name(found := sha256_file(path)):
            raise UserError(
                f"{path} is not the file that was fetched: its sha256 is {found}; fetch it again with "
                "`timm-landmark train --fetch-script`"
            )
        return path
    return None


def fetch_script(revision: str, sha256: str | None) -> bool:
    """Downloads timm's train script into the user's cache, in two steps for any revision but the listed one.

    Without a sum to expect it only shows what it found and the command that accepts it. Nothing of the file is run.

    Args:
        revision: A commit or tag of timm's repository.
        sha256: The sum to expect; not needed for the listed commit.

    Returns:
        Whether the script was kept.

    Raises:
        UserError: If the download fails or the sum is another one; nothing is written then.
    """
    url = f"{BASE_URL}/{urllib.parse.quote(revision)}/train.py"
    expected = sha256.lower() if sha256 else None
    if revision == COMMIT:
        if expected not in (None, SHA256):
            raise UserError(f"--sha256 {sha256} is not the sum listed for {COMMIT}, {SHA256}; leave it out")
        expected = SHA256
    say(f"fetching {url}")
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            content = response.read()
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise UserError(
            f"{url} cannot be fetched ({error}); check the revision and the network, or give a copy with --train-script"
        ) from None
    found = hashlib.sha256(content).hexdigest()
    say(f"{len(content):,} bytes, sha256 {found}")
    if expected is None:
        command = shlex.join(["timm-landmark", "train", "--fetch-script", revision, "--sha256", found])
        say("not kept, and nothing of it was run. Read it; if you trust it, accept it with", f"  {command}")
        return False
    if found != expected:
        raise UserError(f"{url} has sha256 {found}, expected {expected}; it was not kept")
    path = cache_folder() / _cached_name(found)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content)
    for other in set(path.parent.glob("train-*.py")) - {path}:
        other.unlink()
    say(f"kept as {path}")
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
        """What ``run.json`` says of the trainer."""
        import timm

        return {
            "kind": "timm train.py",
            "timm": timm.__version__,
            "script_commit": COMMIT if self.sha256 == SHA256 else None,
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
        raise UserError(f"{path} is not timm's train script; give the train.py of timm's repository")
    try:
        names = runpy.run_path(str(path), run_name="timm_train_script")
    except Exception as error:
        raise UserError(
            f"{path} does not run with the installed timm ({error}); take the one that `timm-landmark train "
            "--fetch-script` fetches"
        ) from None
    parser = names.get("parser")
    taken = names.get("create_scheduler_v2") is timm.scheduler.create_scheduler_v2
    if not isinstance(parser, argparse.ArgumentParser) or not taken:
        raise UserError(
            f"{path} does not take its scheduler from timm.scheduler.create_scheduler_v2, so the paper's rule for the "
            "learning rate cannot be applied; take the one that `timm-landmark train --fetch-script` fetches"
        )
    return TrainScript(path, sha256_file(path), parser)
