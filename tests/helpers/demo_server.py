"""The verb ``demo`` in a process of its own, whose connections to other machines are recorded."""

import os
import re
import signal
import subprocess
import sys

# Starts the verb and records every address outside this machine that the process connects to or looks up.
START = """
import sys
def watch(event, arguments, log=sys.argv[1]):
    if event == "socket.connect":
        place = arguments[1][0] if isinstance(arguments[1], tuple) else "local"
    elif event == "socket.getaddrinfo":
        place = arguments[0]
    else:
        return
    if place not in ("127.0.0.1", "::1", "localhost", "local", None):
        open(log, "a").write(f"{event} {place}\\n")
sys.addaudithook(watch)
from timm_landmark.cli import main
sys.exit(main(["demo", *sys.argv[2:]]))
"""


class Server:
    """The verb in a process of its own, with its temporary files in ``folder``."""

    def __init__(self, folder, *arguments):
        self.folder, self.log = folder / "tmp", folder / "network.log"
        self.folder.mkdir()
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, str(self.log), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(self.folder)},
        )
        line = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found, (line, self.process.stderr.read())
        self.url = found[0]

    def files(self):
        return sorted(path.name for path in self.folder.rglob("*") if path.is_file())

    def end(self, number=signal.SIGINT):
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err
