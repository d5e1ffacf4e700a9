"""Finding and downloading timm's train script, and running it with the models but without this package's verb."""

import hashlib
import http.server
import json
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import timm
import yaml
from train_cases import train, train_script
from train_data import make_data

from timm_landmark import cli
from timm_landmark.accounting.claims import SEVEN
from timm_landmark.runs.folder import read_run_info
from timm_landmark.training import timm_script as script
from timm_landmark.training.train import main, recipe_path
from timm_landmark.utils.errors import UserError

CONTENT = b"# create_scheduler_v2, config_parser: as good as timm's for a download\n"
SUM = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """A user without the script; returns its path in the cache."""
    monkeypatch.delenv("TIMM_TRAIN_SCRIPT", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(timm, "__file__", str(tmp_path / "site-packages" / "timm" / "__init__.py"))
    return tmp_path / "cache" / "timm_landmark" / f"train-{SUM}.py"


def put(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(CONTENT)
    return path


def test_the_order_of_the_search(nowhere, monkeypatch, tmp_path):
    assert script.find_script() is None
    assert script.find_script() != put(tmp_path / "site-packages" / "train.py")  # of another project
    assert script.find_script() is None
    put(nowhere)
    assert script.find_script() == nowhere
    put(tmp_path / "site-packages" / "pyproject.toml")  # an editable checkout of timm
    assert script.find_script() == tmp_path / "site-packages" / "train.py"
    named = put(tmp_path / "named.py")
    monkeypatch.setenv("TIMM_TRAIN_SCRIPT", str(named))
    assert script.find_script() == named
    given = put(tmp_path / "given.py")
    assert script.find_script(str(given)) == given


def test_a_script_that_is_named_and_not_there(nowhere, monkeypatch):
    with pytest.raises(UserError, match=r"--train-script absent\.py: no such file"):
        script.find_script("absent.py")
    monkeypatch.setenv("TIMM_TRAIN_SCRIPT", "gone.py")
    with pytest.raises(UserError, match=r"TIMM_TRAIN_SCRIPT gone\.py: no such file"):
        script.find_script()


@pytest.fixture
def server(monkeypatch):
    """A local server instead of GitHub, with a script at the tested commit and at a tag; yields the requested paths."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            found = self.path in (f"/{script.COMMIT}/train.py", "/v9.9.9/train.py")
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(CONTENT if found else b"")

        def log_message(self, *_):
            pass

    host = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=host.serve_forever, daemon=True).start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(script, "BASE_URL", f"http://127.0.0.1:{host.server_port}")
    yield asked
    host.shutdown()


def test_the_listed_sum_is_of_a_script_that_gave_committed_results():
    results = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
    runs = [json.loads(file.read_text()) for file in results.glob("*/*/run.json")]
    assert script.SHA256 in {run["trainer"]["script_sha256"] for run in runs}


def test_fetch_puts_the_listed_script_into_the_cache(nowhere, server, monkeypatch, capsys):
    monkeypatch.setattr(script, "SHA256", SUM)
    assert cli.main(["train", "--fetch-script"]) == 0
    assert server == [f"/{script.COMMIT}/train.py"]
    assert nowhere.read_bytes() == CONTENT
    assert script.find_script() == nowhere
    output = capsys.readouterr().out
    assert f"/{script.COMMIT}/train.py" in output
    assert SUM in output


def test_another_revision_takes_two_steps(nowhere, server, capsys):
    other = nowhere.with_name(f"train-{'0' * 64}.py")
    put(other)
    assert cli.main(["train", "--fetch-script", "v9.9.9"]) == 1
    assert not nowhere.exists()
    output = capsys.readouterr().out
    assert "/v9.9.9/train.py" in output and f"{len(CONTENT)} bytes, sha256 {SUM}" in output
    command = shlex.split(output.splitlines()[-1])
    assert command == ["timm-landmark", "train", "--fetch-script", "v9.9.9", "--sha256", SUM]
    assert cli.main(command[1:]) == 0
    assert nowhere.read_bytes() == CONTENT
    assert not other.exists()  # one is kept, so that it is clear which one runs


def test_a_fetched_script_that_changed_is_not_run(nowhere, tmp_path, capfd):
    data = make_data(tmp_path / "data", images=(4, 2, 2), size=32)
    put(nowhere).write_bytes(CONTENT + b"raise SystemExit('was run')\n")
    assert cli.main(["train", "test_resnet", "--data", str(data), "--output", str(tmp_path / "run")]) == 2
    error = capfd.readouterr().err
    assert f"{nowhere} was changed after the download" in error and "--fetch-script" in error
    assert not (tmp_path / "run").exists()


def test_fetch_refuses_another_sum_and_keeps_nothing(nowhere, server):
    with pytest.raises(UserError, match=f"has sha256 {SUM}, expected {'0' * 64}; it was not stored"):
        script.fetch_script("v9.9.9", "0" * 64)
    with pytest.raises(UserError, match=f"has sha256 {SUM}, expected {script.SHA256}"):
        script.fetch_script(script.COMMIT, None)
    with pytest.raises(UserError, match=r"--sha256 .* is not the known checksum"):
        script.fetch_script(script.COMMIT, SUM)
    assert not nowhere.parent.exists()


def test_a_sum_without_a_fetch_is_refused(nowhere):
    with pytest.raises(UserError, match=f"--sha256 {SUM}: only valid with --fetch-script"):
        main(["test_resnet", "--sha256", SUM])


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "no address"])
def test_fetch_without_a_network(nowhere, monkeypatch, address):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(script, "BASE_URL", address)
    with pytest.raises(UserError, match=r"cannot be downloaded .* --train-script"):
        script.fetch_script(script.COMMIT, None)
    assert not nowhere.parent.exists()


@pytest.mark.parametrize("revision", ["v0.0.0", "", "a b\n"])
def test_fetch_of_a_revision_that_is_not_there(nowhere, server, revision):
    with pytest.raises(UserError, match=r"/train\.py cannot be downloaded .*404"):
        script.fetch_script(revision, None)


@pytest.mark.parametrize("text", ["raise SystemExit('was run')", "import timm", b"\xff\xfe\x00", ""])
def test_what_is_not_timms_script_is_not_run(tmp_path, text):
    path = tmp_path / "train.py"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=r"not timm's train script|cannot be read"):
        script.load_script(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "import no_such_module  # create_scheduler_v2 config_parser",
            "does not run with the installed timm .*no_such",
        ),
        ("create_scheduler_v2 = config_parser = parser = None", "does not get its scheduler from"),
        ("from timm.scheduler import create_scheduler_v2\nconfig_parser = parser = 1", "does not get its scheduler"),
    ],
)
def test_a_script_that_the_hook_cannot_reach(tmp_path, text, message):
    (tmp_path / "train.py").write_text(text)
    with pytest.raises(UserError, match=message):
        script.load_script(tmp_path / "train.py")


@pytest.mark.script
def test_run_json_names_the_script_that_was_run(tmp_path):
    data = make_data(tmp_path / "data", images=(4, 2, 2), size=32)
    path = train_script()
    assert train(data, tmp_path / "run", "--epochs", 1, "--train-script", path) == 0
    trainer = read_run_info(tmp_path / "run")["trainer"]
    assert trainer["script_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert trainer["script_commit"] == (script.COMMIT if trainer["script_sha256"] == script.SHA256 else None)
    assert trainer["timm"] == timm.__version__


def bare(path, model, data, *options):
    """``python train.py -c paper.yaml`` without this package; with no epoch, only the model is created."""
    command = [
        sys.executable,
        str(path),
        "-c",
        str(recipe_path()),
        "--model",
        model,
        "--data-dir",
        str(data),
        "--num-classes",
        "3",
    ]
    command += ["--class-map", str(data / "class_map.txt"), "--device", "cpu", "--workers", "0", "--epochs", "0"]
    command += ["--img-size", "96", "--batch-size", "4", "--output", str(data.parent / "bare"), "--experiment", "x"]
    return subprocess.run([*command, *options], capture_output=True, text=True, cwd=data.parent)


@pytest.mark.script
@pytest.mark.parametrize(
    "model",
    ["resneat50", *(pytest.param(name, marks=pytest.mark.full) for name in SEVEN if name != "resneat50")],
)
def test_a_bare_script_takes_the_recipe_and_device_modules_registers_the_models(tmp_path, model):
    data = make_data(tmp_path / "data", images=(4, 2, 2), size=32)
    path = tmp_path / "train.py"  # not in timm's checkout, whose timm it would import
    path.write_bytes(train_script().read_bytes())
    done = bare(path, model, data, "--device-modules", "timm_landmark")
    assert done.returncode == 0, done.stderr[-2000:]
    args = yaml.safe_load((tmp_path / "bare" / "x" / "args.yaml").read_text())
    assert args["model"] == model
    recipe = yaml.safe_load(recipe_path().read_text())
    assert {key: args[key] for key in recipe} == {**recipe, "epochs": 0, "img_size": 96, "batch_size": 4}


@pytest.mark.script
@pytest.mark.full
def test_a_bare_script_does_not_know_the_models_without(tmp_path):
    data = make_data(tmp_path / "data", images=(4, 2, 2), size=32)
    path = tmp_path / "train.py"
    path.write_bytes(train_script().read_bytes())
    done = bare(path, "resneat50", data)
    assert done.returncode != 0
    assert "Unknown model (resneat50)" in done.stderr
