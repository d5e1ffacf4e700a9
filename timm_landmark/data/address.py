"""Where a prepared data set is: in a folder or, with its images in shards, at an address.

http://HOST/DATA, https://HOST/DATA   files are downloaded, with retries if the connection or the server fails
pipe:COMMAND DATA                     a file is the output of the shell command ``COMMAND DATA/NAME`` (S3 and others)
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
    """A folder or file at an address, with the part of ``pathlib.Path`` that reading a data set needs."""

    url: str

    def __truediv__(self, name: str) -> "Address":
        return Address(f"{self.url.rstrip('/')}/{name}")

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.url.rpartition("/")[2]

    @property
    def is_command(self) -> bool:
        """Whether reading it runs a shell command."""
        return self.url.startswith(_PIPE)

    def read_bytes(self) -> bytes:
        """The whole file.

        Raises:
            FileNotFoundError: If the server does not have it.
            UserError: If it cannot be read for another reason.
        """
        return _run(self.url.removeprefix(_PIPE)) if self.is_command else _get(self.url)

    def read_text(self, encoding: str = "utf-8") -> str:
        """The whole file as text; raises the errors of :meth:`read_bytes`."""
        return self.read_bytes().decode(encoding)

    def open(self, encoding: str = "utf-8", newline: str | None = None) -> TextIO:
        """The file, opened for reading text; raises the errors of :meth:`read_bytes`."""
        return io.TextIOWrapper(io.BytesIO(self.read_bytes()), encoding=encoding, newline=newline)

    def exists(self) -> bool:
        """Whether the file can be read; it is read to find out."""
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
    """The value of an option ``--data``: an address if it looks like one, else a folder.

    Raises:
        UserError: If the scheme of the address is not supported.
    """
    if text.startswith((*_HTTP, _PIPE)):
        return Address(text)
    if "://" in text:
        raise UserError(
            f"--data {text}: only addresses with http:// and https:// are supported; for others, pass a command "
            "that prints a file: --data 'pipe:COMMAND ADDRESS', such as 'pipe:s5cmd cat s3://BUCKET/DATA'"
        )
    return Path(text)


def _get(url: str) -> bytes:
    reason = ""
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
            say(f"{url}: {reason}; trying again in {wait:.0f} s", file=sys.stderr)
            time.sleep(wait)
    raise UserError(
        f"{url} cannot be read: {reason}, after {len(WAITS) + 1} attempts; check the address and the server"
    )


def _run(command: str) -> bytes:
    done = subprocess.run(command, shell=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise UserError(
            f"pipe:{command}: the command ended with exit code {done.returncode}; check the command and the address"
        )
    return done.stdout
