"""DistributedDataParallel on two processes: the gradients are the mean of what each process would get alone."""

from pathlib import Path

import pytest
import torch
from model_cases import PA, RESNEAT, Case, assert_same_gradients, gradients, lively
from torch.nn.parallel import DistributedDataParallel

WORLD = 2


def model_and_images(case: Case):
    """The same on every process, in training mode; images of shape (WORLD, 2, 3, size, size), one row per process."""
    torch.manual_seed(0)
    model = lively(case.small()).train().double()
    return model, case.images(2 * WORLD).double().unflatten(0, (WORLD, 2))


def worker(rank: int, folder: Path, cases: tuple[Case, ...]) -> None:
    """One process of the group: runs forward and backward on its share and saves the gradients."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    for case in cases:
        model, images = model_and_images(case)
        parallel = DistributedDataParallel(model)  # no find_unused_parameters: every parameter takes part
        found = [gradients(model, images[rank], run=parallel) for _ in range(2)]  # the second finds unused parameters
        torch.save(found[-1], folder / f"{case.name}-{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch has no gloo")
@pytest.mark.parametrize(
    "cases", [(RESNEAT,), pytest.param((RESNEAT, PA), marks=pytest.mark.full)], ids=["one", "both"]
)
def test_gradients_are_the_mean_over_processes(cases, tmp_path):
    torch.multiprocessing.spawn(worker, (tmp_path, cases), nprocs=WORLD)
    for case in cases:
        model, images = model_and_images(case)
        alone = [gradients(model, share) for share in images]
        mean = {name: sum(part[name] for part in alone) / WORLD for name in alone[0]}
        for rank in range(WORLD):
            assert_same_gradients(torch.load(tmp_path / f"{case.name}-{rank}.pt"), mean, 1e-6)
