"""Runs ``timm-landmark`` and kills its process with SIGKILL at the N-th atomic write.

    python kill_at_replace.py N before|torn|after ROWS embed MODEL ... --output FILE

before: the temporary file is complete; torn: half of it is written; after: it was renamed. ROWS is the size of a part.
"""

import os
import signal
import sys
from pathlib import Path

from timm_landmark import cli
from timm_landmark.inference.embedding import store

count, moment = int(sys.argv[1]), sys.argv[2]
replace = os.replace


def die_at_last(source, target):
    global count
    count -= Path(source).name.endswith(".tmp")
    if count == 0 and moment == "torn":
        content = Path(source).read_bytes()
        Path(source).write_bytes(content[: len(content) // 2])
    if count == 0 and moment != "after":
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
    if count == 0:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    store.ROWS = int(sys.argv[3])
    os.replace = die_at_last
    sys.exit(cli.main(sys.argv[4:]))
