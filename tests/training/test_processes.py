"""Training in two processes on the CPU, with torchrun and timm's script: the same run as in one process."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from train_cases import MODEL, SHORT, train_script
from train_data import make_data

from timm_landmark.data.layout import ClassRow, read_rows
from timm_landmark.runs.checkpoints import checkpoint_epoch
from timm_landmark.runs.folder import best_epoch, read_run_info, read_summary
from timm_landmark.training import processes
from timm_landmark.training.rate_rule import paper_rates

pytestmark = [
    pytest.mark.script,
    pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch has no gloo"),
]
EPOCHS, RATE = 6, 0.003  # with these the accuracy falls, so that the rule has an effect


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """36 images to train, hard to tell apart, so that accuracy goes up and down."""
    return make_data(tmp_path_factory.mktemp("data") / "data", classes=6, images=(6, 4, 2), size=40, contrast=0.1)


def words(data, run, *options, model=MODEL):
    return ["train", model, "--data", str(data), "--output", str(run), *SHORT, "--epochs", str(EPOCHS),
            "--train-script", str(train_script()), *map(str, options)]  # fmt: skip


def start(program, *nodes, cwd=None, **environment):
    """Starts ``program`` under torchrun, in two processes of this machine unless ``nodes`` says otherwise."""
    nodes = nodes or ("--standalone", "--nproc-per-node", "2")
    command = [sys.executable, "-m", "torch.distributed.run", *map(str, nodes), *map(str, program)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", **environment}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return subprocess.Popen(command, env=environment, cwd=cwd, **pipes)


def finish(process, timeout=120):
    output, _ = process.communicate(timeout=timeout)
    return process.returncode, output


def here(name):
    return Path(__file__).parents[1] / "helpers" / name


def check_rates(run, rates):
    """The rates of all updates in a process are those of the rule for the accuracies in summary.csv."""
    rows = read_summary(run)
    by_the_rule = paper_rates(RATE, [row["eval_top1"] for row in rows])[:-1]
    assert [row["lr"] for row in rows] == by_the_rule
    updates = len(rates) // EPOCHS
    assert rates == [rate for rate in by_the_rule for _ in range(updates)]
    assert rates[-1] < rates[0], "no accuracy fell: the data of this test do not test the rule"


def observe(folder, *arguments, model=MODEL):
    """Trains in two processes and in one; returns both runs and the notes of each process."""
    notes = {"pair": [], "one": []}
    for name, processes_ in (("pair", 2), ("one", 1)):
        (folder / name).mkdir()
        program = [here("observed.py"), folder / name, *words(*arguments[:1], folder / name / "run", *arguments[1:])]
        program[program.index(MODEL)] = model
        code, output = finish(start(program, "--standalone", "--nproc-per-node", processes_))
        assert code == 0, output[-3000:]
        notes[name] = [torch.load(folder / name / f"rank-{rank}.pt") for rank in range(processes_)]
    return folder / "pair" / "run", folder / "one" / "run", notes["pair"], *notes["one"]


def check_gradients(pair, one):
    """One step on one global batch: the gradients equal those of one process, up to the order of sums.

    The order changes most of them by a millionth, and a few, through a ReLU, by some thousandths; BatchNorm statistics
    per process would change them by 7 to 200 %.
    """
    assert len(pair[0]["gradients"]) == len(one["gradients"])
    for first, second, alone in zip(pair[0]["gradients"], pair[1]["gradients"], one["gradients"], strict=True):
        assert torch.equal(first, second)
        assert (first - alone).norm() <= 1e-2 * alone.norm()
    assert all(gradient.norm() > 0 for gradient in one["gradients"])


@pytest.fixture(scope="module")
def observed(tmp_path_factory):
    """A run in which each batch is the whole data set, without augmentation, with BatchNorm over both processes."""
    data = make_data(tmp_path_factory.mktemp("few") / "data", classes=6, images=(2, 4, 2), size=40, contrast=0.3)
    options = ["--no-aug", "--sync-bn", "--model-kwargs", "zero_init_last=False"]  # else half of the gradients are zero
    options += ["--lr", RATE]
    return observe(tmp_path_factory.mktemp("observed"), data, *options)


def test_the_gradients_are_those_of_one_process(observed):
    *_, pair, one = observed
    check_gradients(pair, one)


def test_as_many_updates_at_the_rates_that_the_rule_gives(observed):
    run, alone, pair, one = observed
    assert len(pair[0]["rates"]) == len(pair[1]["rates"]) == len(one["rates"]) == EPOCHS
    for notes in pair:
        check_rates(run, notes["rates"])
    check_rates(alone, one["rates"])
    losses = [[row["train_loss"] for row in read_summary(folder)] for folder in (run, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert all(map(torch.equal, pair[0]["weights"], pair[1]["weights"]))


def test_what_the_run_says_of_its_processes(observed):
    run, alone, *_ = observed
    info = read_run_info(run)
    assert (info["processes"], info["global_batch"], info["batch_per_process"]) == (2, 12, 6)
    assert info["finished"] is True
    assert read_rows(run, ClassRow) == read_rows(alone, ClassRow)
    assert {file.name for file in run.iterdir() if not file.name.startswith("checkpoint-")} == {
        file.name for file in alone.iterdir() if not file.name.startswith("checkpoint-")
    }


@pytest.mark.full
def test_the_attention_units_gradients_are_those_of_one_process(tmp_path):
    data = make_data(tmp_path / "data", classes=6, images=(2, 4, 2), size=64)
    options = ["--no-aug", "--sync-bn", "--img-size", 64, "--epochs", 1]
    options += ["--model-kwargs", "layers=[1,1,1,1]", "zero_init_last=False"]
    *_, pair, one = observe(tmp_path, data, *options, model="resneat50")
    check_gradients(pair, one)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """An uninterrupted run in two processes, three batches an epoch, augmented; and in one."""
    folder = tmp_path_factory.mktemp("whole")
    run, _, pair, one = observe(folder, data, "--lr", RATE)
    assert len(pair[0]["rates"]) == len(pair[1]["rates"]) == len(one["rates"]) == 3 * EPOCHS
    for notes in pair:
        check_rates(run, notes["rates"])
    return run


@pytest.mark.full
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("doomed", "moment", "workers"), [(1, "epoch", 0), (0, "epoch", 0), (0, "saved", 0), (1, "epoch", 2)]
)
def test_a_killed_process_ends_the_job_with_a_word_and_resume_goes_on(data, whole, tmp_path, doomed, moment, workers):
    run = tmp_path / "run"
    options = words(data, run, "--lr", RATE, "--workers", workers)
    started = time.monotonic()
    code, output = finish(start([here("kill_at.py"), moment, "2", *options], DOOMED=str(doomed)))
    assert time.monotonic() - started < 60
    assert code != 0
    said = [line for line in output.splitlines() if "--resume" in line]
    assert said == [
        "timm-landmark train: error: another process of this run has ended; continue with the same command and --resume"
    ]
    assert read_run_info(run)["finished"] is False
    code, output = finish(start(["-m", "timm_landmark.cli", *options, "--resume"]))
    assert code == 0, output[-3000:]
    info = read_run_info(run)
    assert info["finished"] is True
    assert info["sessions"][0]["processes"] == 2
    best = best_epoch(read_summary(run))
    assert checkpoint_epoch(run / "model_best.pth.tar") == best
    assert checkpoint_epoch(run / "last.pth.tar") == EPOCHS - 1
    if workers == 0:  # workers have random states of their own
        assert (run / "summary.csv").read_text() == (whole / "summary.csv").read_text()
    rows = read_summary(run)
    assert [row["lr"] for row in rows] == paper_rates(RATE, [row["eval_top1"] for row in rows])[:-1]


@pytest.mark.full
def test_two_machines_give_what_two_processes_give_and_one_of_them_writes(data, whole, tmp_path):
    """Two torchrun agents on the loopback, each in its own folder; they agree on ranks themselves."""
    folders = [tmp_path / name for name in ("a", "b")]
    port = free_port()
    nodes = ["--nnodes", 2, "--nproc-per-node", 1, "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}"]
    agents = []
    for folder in folders:
        folder.mkdir()
        program = ["-m", "timm_landmark.cli", *words(data, "run", "--lr", RATE)]
        agents.append(start(program, *nodes, "--rdzv-id", "x", "--local-addr", "127.0.0.1", cwd=folder))
    for code, output in map(finish, agents):
        assert code == 0, output[-3000:]
    (first,) = [folder for folder in folders if any(folder.iterdir())]
    assert (first / "run" / "summary.csv").read_text() == (whole / "summary.csv").read_text()
    assert read_run_info(first / "run")["processes"] == 2


@pytest.mark.full
def test_a_mistake_is_reported_once(data, tmp_path):
    code, output = finish(start(["-m", "timm_landmark.cli", *words(data, tmp_path / "run", "--lr", "nan")]))
    assert code != 0
    assert output.count("timm-landmark train: error: --lr nan") == 1


def test_each_message_is_reported_by_one_process_of_a_machine(monkeypatch):
    """A message that only one process has is always reported."""
    port = free_port()
    store = torch.distributed.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    for name in ("MASTER_ADDR", "MASTER_PORT", "GROUP_RANK", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    assert [processes.first_to_report("alone") for _ in range(2)] == [True, True]
    started = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GROUP_RANK": 0, "TORCHELASTIC_RESTART_COUNT": 0}
    for name, value in started.items():
        monkeypatch.setenv(name, str(value))
    assert [processes.first_to_report(message) for message in ("a", "b", "a")] == [True, True, False]
    monkeypatch.setenv("GROUP_RANK", "1")
    assert processes.first_to_report("a")
    del store


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_the_hook_acts_on_the_cpu_alone_and_is_taken_away():
    original = torch.nn.parallel.DistributedDataParallel
    with processes.parallel_on("cuda:1"):
        assert torch.nn.parallel.DistributedDataParallel is original
    with processes.parallel_on("cpu"):
        assert issubclass(torch.nn.parallel.DistributedDataParallel, original)
    assert torch.nn.parallel.DistributedDataParallel is original
