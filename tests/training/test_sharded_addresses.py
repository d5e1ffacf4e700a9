"""A prepared data set in shards at an address: over HTTP, and from a command."""
# ruff: noqa: F811  (fixtures)

import pytest
from sharded_cases import evaluated, folders, no_script, server, shards, trained, trainer  # noqa: F401
from train_cases import train

from timm_landmark.data import address
from timm_landmark.data.shards import read_shard_info
from timm_landmark.inference.evaluate import main as evaluate
from timm_landmark.runs.folder import read_args, read_summary
from timm_landmark.runs.model import load_run
from timm_landmark.utils.errors import UserError


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.full)])
def test_an_address(server, shards, trainer, trained, tmp_path, workers):
    run = tmp_path / "run"
    assert train(server.url, run, "--epochs", 1, *trainer, "--workers", workers) == 0
    assert read_args(run)["data_dir"] == server.url
    assert evaluated(run, "-j", workers) == evaluated(run, "--data", shards)
    if not workers:
        assert read_summary(run) == read_summary(trained)[:1]


@pytest.mark.parametrize(
    ("fault", "workers"),
    [
        ("missing", 1),
        ("cut", 0),
        *(pytest.param(*case, marks=pytest.mark.full) for case in (("missing", 0), ("cut", 1))),
    ],
)
def test_a_shard_that_the_server_lacks_is_an_error(
    server, shards, trained, trainer, tmp_path, monkeypatch, fault, workers
):
    monkeypatch.setattr(address, "WAITS", (0.01,))
    for split in ("train", "test"):
        name = list(read_shard_info(shards)[split])[1]
        monkeypatch.setattr(server.handler, fault, {name})
        with pytest.raises(UserError, match=rf"{name} (is missing|cannot be read)") as caught:
            if split == "train":
                train(server.url, tmp_path / "run", "--epochs", 1, *trainer, "--workers", workers)
            else:
                evaluate([str(trained), "--data", server.url, "-j", str(workers), "--device", "cpu"])
        assert "\n" not in str(caught.value)


def test_a_failing_server_is_asked_again(server, shards, monkeypatch, capfd):
    monkeypatch.setattr(address, "WAITS", (0.01, 0.01))
    monkeypatch.setattr(server.handler, "busy", 2)
    assert (address.place(server.url) / "classes.csv").read_bytes() == (shards / "classes.csv").read_bytes()
    assert capfd.readouterr().err.count("classes.csv: HTTP 503 Service Unavailable; trying again in 0 s") == 2


def test_a_command_gives_the_files(shards, trained, trainer, tmp_path):
    run = tmp_path / "run"
    assert train(f"pipe:cat {shards}", run, "--epochs", 1, *trainer) == 0
    assert read_summary(run) == read_summary(trained)[:1]
    assert load_run(run).data is None  # the run, with its command, may come from another user
    assert evaluated(run, "--data", f"pipe:cat {shards}") == evaluated(run, "--data", shards)
    in_the_middle = address.place(f"pipe:sh -c 'cat \"$0\" -' {shards}")  # as the AWS CLI needs the file's name
    assert (in_the_middle / "classes.csv").read_bytes() == (shards / "classes.csv").read_bytes()
    with pytest.raises(UserError, match=r"pipe:cat /nowhere/dataset\.json: the command ended with exit code 1"):
        train("pipe:cat /nowhere", tmp_path / "other")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("s3://bucket/DATA", "--data s3://bucket/DATA: only addresses with http:// .*pipe:s5cmd cat"),
        ("http://[::1/DATA", "is not an address"),
        ("http://127.0.0.1:9", "cannot be read: .*refused"),
    ],
)
def test_an_address_that_cannot_be_read(data, told, tmp_path, monkeypatch):
    monkeypatch.setattr(address, "WAITS", (0.01,))
    with pytest.raises(UserError, match=told):
        train(data, tmp_path / "run")


def test_folders_at_an_address_are_refused(server, tmp_path, monkeypatch):
    monkeypatch.setattr(server.handler, "missing", {"_info.json"})
    with pytest.raises(UserError, match=r"_info\.json is missing; .* contains no shards"):
        train(server.url, tmp_path / "run")
