"""Where a prepared data set lies: in a folder or, with its images in shards, at an address.

http://HOST/DATA, https://HOST/DATA   its files are fetched from there, again where the connection or the server fails
pipe:COMMAND DATA                     its files are what the shell command ``COMMAND DATA/NAME`` prints (S3 and others)
"""

import http.client
import io
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, TypeAlias

from timm_landmark.utils.errors import UserError
from timm_landmark.utils.text import printable, say

TIMEOUT = 60.0  # seconds without a byte
WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before each further attempt
_HTTP, _PIPE = ("http://", "https://"), "pipe:"


@dataclass(frozen=True)
class Address:
    """A folder or file at an address: what reading a data set needs of a ``pathlib.Path``."""

    url: str

    def __truediv__(self, name: str) -> "Address":
        return Address(f"{self.url.rstrip('/')}/{name}")

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """The last part of it."""
        return self.url.rpartition("/")[2]

    @property
    def is_command(self) -> bool:
        """Whether reading from it runs a command of the shell."""
        return self.url.startswith(_PIPE)

    def read_bytes(self) -> bytes:
        """The whole file.

        Raises:
            FileNotFoundError: If the server says that there is none.
            UserError: If it cannot be had for another reason.
        """
        return _run(self.url.removeprefix(_PIPE)) if self.is_command else _get(self.url)

    def read_text(self, encoding: str = "utf-8") -> str:
        """The whole file as text; errors as of :meth:`read_bytes`."""
        return self.read_bytes().decode(encoding)

    def open(self, encoding: str = "utf-8", newline: str | None = None) -> TextIO:
        """The file, opened for reading text; errors as of :meth:`read_bytes`."""
        return io.TextIOWrapper(io.BytesIO(self.read_bytes()), encoding=encoding, newline=newline)

    def exists(self) -> bool:
        """Whether the file can be read, which is tried."""
        try:
            self.read_bytes()
        except (FileNotFoundError, UserError):
            return False
        return True

    def is_dir(self) -> bool:
        """Whether a prepared data set is there."""
        return (self / "dataset.json").exists()


Place: TypeAlias = Path | Address


def place(text: str) -> Place:
    """What an option ``--data`` names: an address if it is written like one, else a folder.

    Raises:
        UserError: For an address of a kind that is not read.
    """
    if text.startswith((*_HTTP, _PIPE)):
        return Address(text)
    if "://" in text:
        raise UserError(
            f"--data {text}: only addresses with http:// and https:// are read; for any other, give a command that "
            "prints a file: --data 'pipe:COMMAND ADDRESS', such as 'pipe:s5cmd cat s3://BUCKET/DATA'"
        )
    return Path(text)


def _get(url: str) -> bytes:
    for wait in (*WAITS, None):
        try:
            request = urllib.request.Request(url, headers={"User-Agent": "timm-landmark"})
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                return answer.read()  # raises IncompleteRead if it ends early
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code} {printable(str(error.reason), 80)}"
            if error.code in (404, 410):
                raise FileNotFoundError(f"{url}: {reason}") from None
            if error.code < 500 and error.code not in (408, 425, 429):
                raise UserError(f"{url} cannot be read: {reason}") from None
        except (ValueError, http.client.InvalidURL) as error:
            raise UserError(f"{url} is not an address ({error})") from None
        except (OSError, http.client.HTTPException) as error:
            reason = printable(str(getattr(error, "reason", None) or error), 80)
        if wait is not None:
            say(f"{url}: {reason}; again in {wait:.0f} s", file=sys.stderr)
            time.sleep(wait)
    raise UserError(f"{url} cannot be read: {reason}, {len(WAITS) + 1} times; check the address and the server")


def _run(command: str) -> bytes:
    done = subprocess.run(command, shell=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise UserError(f"pipe:{command}: the command ended with exit code {done.returncode}, so the file is not read")
    return done.stdout
