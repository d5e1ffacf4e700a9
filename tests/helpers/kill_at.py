"""Runs ``timm-landmark`` and kills its process with SIGKILL at a given moment of a given epoch.

    python kill_at.py MOMENT EPOCH train MODEL --data ...

The moments lie between the writes of a run's files. Of several processes, the one whose rank is DOOMED (0) is killed.
"""

import os
import signal
import sys
from pathlib import Path

from timm.utils import CheckpointSaver

from timm_landmark import cli
from timm_landmark.runs.checkpoints import checkpoint_epoch
from timm_landmark.training.rate_rule import Steered

RUN = Path(sys.argv[sys.argv.index("--output") + 1]) if "--output" in sys.argv else None
MOMENTS = ("epoch", "row", "torn", "unlinked", "renamed", "saved")


def die():
    begun = (RUN / "run.json").exists()  # not in the rehearsal
    if begun and os.environ.get("RANK", "0") == os.environ.get("DOOMED", "0"):
        os.kill(os.getpid(), signal.SIGKILL)


def arm(moment, epoch):
    """Wraps the method, of timm or of this package, during which the process is killed."""
    step_update, save_checkpoint, save, replace = (
        *(Steered.step_update, CheckpointSaver.save_checkpoint),
        *(CheckpointSaver._save, CheckpointSaver._replace),
    )

    def in_the_epoch(self, num_updates, metric=None):
        step_update(self, num_updates, metric)
        if self._epoch == epoch and metric is not None:
            die()

    def around_saving(self, at, metric=None):
        if at == epoch and moment == "row":  # summary.csv has the row, no checkpoint does
            die()
        result = save_checkpoint(self, at, metric)
        if at == epoch and moment == "saved":  # everything is written, the scheduler has not stepped
            die()
        return result

    def in_the_middle_of_writing(self, path, at, metric=None):
        save(self, path, at, metric)
        if at == epoch:
            content = Path(path).read_bytes()
            Path(path).write_bytes(content[: len(content) // 2])
            die()

    def around_renaming(self, source, target):
        mine = checkpoint_epoch(Path(source)) == epoch
        if mine and moment == "unlinked":  # timm unlinks the old one first
            Path(target).unlink(missing_ok=True)
            die()
        replace(self, source, target)
        if mine:  # the best one is not linked yet
            die()

    if moment == "epoch":
        Steered.step_update = in_the_epoch
    elif moment in ("row", "saved"):
        CheckpointSaver.save_checkpoint = around_saving
    elif moment == "torn":
        CheckpointSaver._save = in_the_middle_of_writing
    elif moment in ("unlinked", "renamed"):
        CheckpointSaver._replace = around_renaming
    else:
        raise ValueError(moment)


if __name__ == "__main__":
    arm(sys.argv[1], int(sys.argv[2]))
    sys.exit(cli.main(sys.argv[3:]))
