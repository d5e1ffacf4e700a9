"""Counts of the images that timm's reader repeats and leaves out, also with real processes."""

import itertools
import json
import math
import subprocess
import sys
from collections import Counter

import pytest

from benchmarks import report
from benchmarks.shard_epochs import BATCH, SETS, SETTINGS, count_epoch, write_set
from timm_landmark.data.shards import read_shard_info

PROCESS = """
import json, sys
sys.path.insert(0, sys.argv[1])
import torch.distributed as dist
from pathlib import Path
from benchmarks.shard_epochs import make_loader
dist.init_process_group("gloo")
read = [sum(make_loader(Path(sys.argv[2]), split, dist.get_world_size(), 0), []) for split in ("train", "validation")]
Path(sys.argv[2], f"read-{dist.get_rank()}.json").write_text(json.dumps(read))
"""


TRAIN, VALIDATION = 200, 130


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("numbered")
    write_set(folder, TRAIN, VALIDATION)
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_one_process_fills_its_last_batches_and_validates_exactly(data, workers):
    whole = max(workers, 1) * BATCH  # every loading process fills its own last batch
    assert count_epoch(data, "train", TRAIN, 1, workers) == {"repeated": -TRAIN % whole, "left_out": 0}
    assert count_epoch(data, "validation", VALIDATION, 1, workers) == {"repeated": 0, "left_out": 0}


@pytest.mark.parametrize("processes", [2, 3, 5, 7])
def test_processes_validate_on_equally_many_images_of_unequal_shares(data, processes):
    lengths = list(read_shard_info(data)["validation"].values())
    shares = [sum(lengths[rank::processes]) for rank in range(processes)]
    each = math.ceil(VALIDATION / processes)
    wanted = {
        "repeated": sum(max(0, each - share) for share in shares),
        "left_out": sum(max(0, share - each) for share in shares),
    }
    assert count_epoch(data, "validation", VALIDATION, processes, 0) == wanted
    assert wanted["left_out"] or processes in (2, 3)


@pytest.mark.full
def test_real_processes_read_the_same(data, tmp_path):
    (tmp_path / "process.py").write_text(PROCESS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
    command += [str(tmp_path / "process.py"), str(report.REPOSITORY), str(data)]
    assert subprocess.run(command, check=False).returncode == 0
    ranks = [json.loads((data / f"read-{rank}.json").read_text()) for rank in range(3)]
    for number, (split, images) in enumerate((("train", TRAIN), ("validation", VALIDATION))):
        read = Counter(itertools.chain.from_iterable(rank[number] for rank in ranks))
        counts = {"repeated": read.total() - len(read), "left_out": images - len(read)}
        assert counts == count_epoch(data, split, images, 3, 0)


def test_the_committed_counts_are_of_every_setting():
    result = json.loads(report.SHARD_EPOCHS.read_text())
    found = [(tuple(row["images"]), row["processes"], row["workers"]) for row in result["rows"]]
    assert found == [(images, *setting) for images in SETS.values() for setting in SETTINGS]
    assert {row["processes"] for row in result["rows"]} == {1, 2, 3}
