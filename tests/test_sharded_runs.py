"""A prepared data set in shards: trained, evaluated, exported and compared as one in folders, also at an address."""

import csv
import functools
import json
import shutil
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import collect
import comparison
import numpy as np
import pytest
from train_cases import MODEL, train, train_script
from train_data import make_data, pack

from timm_landmark import cli
from timm_landmark.data import address
from timm_landmark.data.check import check_dataset, write_sums
from timm_landmark.data.layout import ManifestRow
from timm_landmark.data.shards import read_shard_info, write_shard
from timm_landmark.errors import UserError
from timm_landmark.evaluate import main as evaluate
from timm_landmark.export import main as export
from timm_landmark.runs import load_run, read_args, read_info, read_summary


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("sharded") / "folders", classes=7, images=(6, 5, 4), size=48, contrast=0.3)


@pytest.fixture(scope="module")
def shards(folders, tmp_path_factory):
    data = pack(folders, tmp_path_factory.mktemp("sharded") / "shards")
    assert [problem for problem in check_dataset(data) if "digest" not in problem] == []
    return data


@pytest.fixture
def broken(shards, tmp_path):
    return shutil.copytree(shards, tmp_path / "broken")


@pytest.fixture(scope="module", params=["stand-in", pytest.param("script", marks=pytest.mark.script)])
def trainer(request):
    """The options that choose the trainer."""
    if request.param == "script":
        yield ["--train-script", str(train_script())]
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TIMM_TRAIN_SCRIPT", raising=False)
        patch.setenv("XDG_CACHE_HOME", "/nonexistent")
        yield []


@pytest.fixture(scope="module")
def trained(shards, trainer, tmp_path_factory):
    run = tmp_path_factory.mktemp("trained") / f"{MODEL}-s3"
    assert train(shards, run, "--epochs", 3, *trainer) == 0
    return run


@pytest.fixture
def server(shards):
    """Serves the set; ``missing`` holds the names that it denies, ``cut`` those that it sends half of."""

    class Handler(SimpleHTTPRequestHandler):
        missing, cut = set(), set()

        def do_GET(self) -> None:
            name = self.path.lstrip("/")
            if name in self.missing:
                self.send_error(404)
            elif name in self.cut:
                content = (shards / name).read_bytes()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2])
            else:
                super().do_GET()

        def log_message(self, *args) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(shards)))
    http.daemon_threads, http.handler = True, Handler
    threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    http.url = f"http://127.0.0.1:{http.server_port}"
    yield http
    http.shutdown()


def evaluated(run, *options):
    """What run.json says of the test split, and the predictions beside it."""
    assert evaluate([str(run), "--device", "cpu", *map(str, options)]) == 0
    return read_info(run)["evaluation"]["test"], (run / "predictions-test.csv").read_bytes()


def test_kept_features_are_exactly_those_of_the_folders(folders, shards, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    kept = []
    for options in (["--data", folders], ["--data", shards], ["--data", shards, "-j", 3]):
        evaluated(run, *options, "-b", 5, "--keep-features")
        with np.load(run / "features-test.npz") as file:
            kept.append({name: file[name] for name in file})
    for other in kept[1:]:
        assert all(np.array_equal(other[name], kept[0][name]) for name in ("image_id", "logits", "pooled"))
    with open(run / "predictions-test.csv", newline="") as file:
        assert [row["image_id"] for row in csv.DictReader(file)] == kept[0]["image_id"].tolist()


def test_evaluate_gives_exactly_the_figures_of_the_folders(folders, shards, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    wanted = evaluated(run, "--data", folders, "-b", 5)
    assert wanted[0]["images"] == 28 and 0 < wanted[0]["top1"]["value"] < 1
    for workers in (0, 2, 3):
        assert evaluated(run, "--data", shards, "-b", 5, "-j", workers) == wanted
    assert evaluated(run, "--data", folders, "-b", 5, "-j", 2) == wanted
    assert evaluated(run, "-b", 5) == wanted  # the set that it was trained on


def test_what_a_run_on_shards_says(shards, trained):
    assert read_args(trained)["dataset"] == "wds/"
    assert [row["epoch"] for row in read_summary(trained)] == [0, 1, 2]
    assert read_info(trained)["finished"] is True


@pytest.mark.parametrize("workers", [1, 2])
def test_loading_processes(shards, trainer, tmp_path, workers):
    assert train(shards, tmp_path / "run", "--epochs", 1, *trainer, "--workers", workers) == 0
    assert len(read_summary(tmp_path / "run")) == 1


@pytest.mark.script
def test_the_stand_in_equals_the_script(shards, tmp_path, monkeypatch):
    script = train_script()
    monkeypatch.delenv("TIMM_TRAIN_SCRIPT", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/nonexistent")
    assert train(shards, tmp_path / "script", "--epochs", 2, "--train-script", script) == 0
    assert train(shards, tmp_path / "stand-in", "--epochs", 2) == 0
    texts = [(tmp_path / name / "summary.csv").read_text() for name in ("script", "stand-in")]
    assert texts[0] == texts[1]


def test_a_resumed_run_ends_as_an_uninterrupted_one(shards, trainer, trained, tmp_path):
    run = tmp_path / "run"
    assert train(shards, run, "--epochs", 1, *trainer) == 0
    assert train(shards, run, "--epochs", 3, "--resume", *trainer) == 0
    assert (run / "summary.csv").read_bytes() == (trained / "summary.csv").read_bytes()


def test_a_run_does_not_go_on_with_the_other_form(folders, trainer, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    with pytest.raises(UserError, match=r"--data .*: the run was started with images in shards, now .* folders"):
        train(folders, run, "--epochs", 4, "--resume", *trainer)


def damage(data, how):
    """Breaks the last training shard; returns its name."""
    name = list(read_shard_info(data)["train"])[-1]
    content = (data / name).read_bytes()
    if how == "flipped":
        (data / name).write_bytes(content[:700] + bytes([content[700] ^ 1]) + content[701:])
    elif how == "cut between members":  # a tar reader takes this for the end
        (data / name).write_bytes(content[:1024])
    elif how == "no image":
        row = ManifestRow("0123456789abcdef", "0", "0000", "train", "", "")
        write_shard(data / name, [row], {"0000": 0}, lambda row: b"no image at all")
        write_sums(data)
    return name


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("how", "told"),
    [("flipped", "is damaged"), ("cut between members", "is damaged"), ("no image", "cannot be decoded")],
)
def test_a_broken_shard_ends_the_run(broken, trainer, tmp_path, capfd, how, told, workers):
    name = damage(broken, how)
    with pytest.raises(UserError, match=told) as caught:
        train(broken, tmp_path / "run", "--epochs", 1, *trainer, "--workers", workers)
    assert "\n" not in str(caught.value)
    assert how == "no image" or name in str(caught.value)
    assert not read_summary(tmp_path / "run")


def test_a_missing_shard_is_seen_before_the_run_starts(broken, trainer, tmp_path):
    name = list(read_shard_info(broken)["validation"])[-1]
    (broken / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        train(broken, tmp_path / "run", *trainer)
    assert not (tmp_path / "run").exists()


def edit_info(data, split="test", **change):
    info = json.loads((data / "_info.json").read_text())
    info["splits"][split].update(change)
    (data / "_info.json").write_text(json.dumps(info))
    write_sums(data)


def test_evaluate_fails_when_the_count_is_another(broken, trained, folders, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    lengths = list(read_shard_info(broken)["test"].values())
    edit_info(broken, num_samples=sum(lengths) + 1)
    with pytest.raises(UserError, match="num_samples is not the sum of shard_lengths"):
        evaluate([str(run), "--data", str(broken)])
    edit_info(broken, num_samples=sum(lengths) + 1, shard_lengths=[lengths[0] + 1, *lengths[1:]])
    with pytest.raises(UserError, match=r"_info\.json says 29 images in test, manifest\.csv has 28"):
        evaluate([str(run), "--data", str(broken)])
    edit_info(broken, num_samples=sum(lengths), shard_lengths=[lengths[0] + 1, lengths[1] - 1, *lengths[2:]])
    with pytest.raises(UserError, match=r"test-000000\.tar holds 1 images, _info\.json says 2"):
        evaluate([str(run), "--data", str(broken)])
    assert read_info(run).get("evaluation") is None


def test_evaluate_counts_every_image_once(broken, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    first, second = list(read_shard_info(broken)["test"])[:2]
    shutil.copy2(broken / first, broken / second)
    write_sums(broken)
    with pytest.raises(UserError, match="28 images of test were read, 27 different ones, of the 28 in manifest"):
        evaluate([str(run), "--data", str(broken)])


def test_a_name_in_info_json_is_that_of_a_shard(broken, trained):
    """With ``pipe:`` it becomes a part of a shell command."""
    names = list(read_shard_info(broken)["test"])
    edit_info(broken, filenames=["test-000000.tar; touch here", *names[1:]])
    with pytest.raises(UserError, match="not the name of a shard of test"):
        evaluate([str(trained), "--data", str(broken)])


@pytest.mark.parametrize("workers", [0, 2])
def test_an_address(server, shards, trainer, trained, tmp_path, workers):
    run = tmp_path / "run"
    assert train(server.url, run, "--epochs", 1, *trainer, "--workers", workers) == 0
    assert read_args(run)["data_dir"] == server.url
    assert evaluated(run, "-j", workers) == evaluated(run, "--data", shards)
    if not workers:
        assert read_summary(run) == read_summary(trained)[:1]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("fault", ["missing", "cut"])
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
                evaluate([str(trained), "--data", server.url, "-j", str(workers)])
        assert "\n" not in str(caught.value)


def test_a_command_gives_the_files(shards, trained, trainer, tmp_path):
    run = tmp_path / "run"
    assert train(f"pipe:cat {shards}", run, "--epochs", 1, *trainer) == 0
    assert read_summary(run) == read_summary(trained)[:1]
    assert load_run(run).data is None  # the command of a run that may come from somebody else
    assert evaluated(run, "--data", f"pipe:cat {shards}") == evaluated(run, "--data", shards)
    with pytest.raises(UserError, match=r"pipe:cat /nowhere/dataset\.json: the command ended with exit code 1"):
        train("pipe:cat /nowhere", tmp_path / "other", *trainer)


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
    with pytest.raises(UserError, match=r"_info\.json is missing; .* holds no shards"):
        train(server.url, tmp_path / "run")


def test_without_webdataset_the_extra_is_named(shards, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "webdataset", None)
    with pytest.raises(UserError, match=r"pip install 'timm-landmark\[webdataset\]'"):
        train(shards, tmp_path / "run")


def test_each_loading_process_needs_a_shard(shards, tmp_path):
    with pytest.raises(UserError, match=r"--workers 43: train has 42 shards"):
        train(shards, tmp_path / "run", "--workers", 43)


def test_export_tells_of_the_data(shards, trained, server, tmp_path):
    for number, options in enumerate(([], ["--data", str(server.url)])):
        folder = tmp_path / str(number)
        assert export([str(trained), "--output", str(folder), "--name", f"{MODEL}.x", *options]) == 0
        assert (folder / "README.md").read_text().count("7 classes") >= 1
    assert (tmp_path / "0" / "README.md").read_text() == (tmp_path / "1" / "README.md").read_text()


def test_results_are_collected(folders, shards, trained, server, tmp_path):
    run = shutil.copytree(trained, tmp_path / f"{MODEL}-s3")
    evaluated(run)
    for name, data in {"shards": shards, "address": address.place(server.url)}.items():
        collect.collect(data, [run], tmp_path / name)
        assert list(comparison.load(tmp_path / name).runs) == [MODEL]
    assert str(shards) not in (tmp_path / "shards" / run.name / "args.yaml").read_text()


def test_the_command_line_says_it_in_one_line(broken, trained, capfd):
    damage(broken, "flipped")
    assert cli.main(["evaluate", str(trained), "--data", str(broken), "--split", "train", "--device", "cpu"]) == 2
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("timm-landmark evaluate: error:") and "is damaged" in error
