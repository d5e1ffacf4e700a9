"""A Space: its files, its wheel, its upload, and its page in an environment with only its requirements."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import venv
import zipfile
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

import pytest
import yaml
from browser import browser_page, drop_files, needs_browser
from loopback_hub import LoopbackHub
from run_helpers import make_export, make_run
from train_data import make_data

import timm_landmark
from timm_landmark import cli
from timm_landmark.data.check import read_sums
from timm_landmark.hub.check import check_model
from timm_landmark.hub.export import main as export
from timm_landmark.hub.space.wheel import build_wheel
from timm_landmark.utils.errors import UserError

ROOT = Path(timm_landmark.__file__).parents[1]
WHEEL = f"timm_landmark-{timm_landmark.__version__}-py3-none-any.whl"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("space")
    return make_export(path, "--name", "test_resnet.mine", "--space", model="test_resnet")


def front_matter(text):
    return yaml.safe_load(text.split("---\n")[1])


def test_what_export_writes(folder, monkeypatch):
    space = folder / "space"
    assert sorted(path.name for path in space.iterdir()) == ["README.md", "app.py", "requirements.txt", WHEEL]
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in space.iterdir())
    metadata = front_matter((space / "README.md").read_text())
    expected = {"sdk": "gradio", "sdk_version": version("gradio"), "app_file": "app.py", "license": "apache-2.0"}
    assert expected.items() <= metadata.items() and metadata["models"] == ["ORG/test_resnet.mine"]
    assert 'os.environ.get("MODEL", "hf-hub:ORG/test_resnet.mine")' in (space / "app.py").read_text()
    compile((space / "app.py").read_text(), "app.py", "exec")
    lines = (space / "requirements.txt").read_text().splitlines()
    assert f"torch=={version('torch').partition('+')[0]}" in lines and f"./{WHEEL}[demo,explain]" in lines
    monkeypatch.setattr("timm_landmark.hub.check._vectors", lambda source, folder: [])
    assert {f"space/{path.name}" for path in space.iterdir()} <= set(read_sums(folder))
    assert check_model(str(folder)) == []


def test_check_and_overwrite_cover_it(folder, tmp_path, monkeypatch):
    copy = shutil.copytree(folder, tmp_path / "f")
    monkeypatch.setattr("timm_landmark.hub.check._vectors", lambda source, folder: [])
    with open(copy / "space" / "app.py", "a") as file:
        file.write("import os\n")
    (copy / "space" / "notes.txt").write_text("dear")
    found = "\n".join(check_model(str(copy)))
    assert "space/app.py: changed" in found and "space/notes.txt: unexpected" in found
    run = make_run(tmp_path / "run", model="test_resnet")
    with pytest.raises(UserError, match=r"contains space/notes\.txt, not written by an export"):
        export([str(run), "--output", str(copy), "--overwrite"])
    (copy / "space" / "notes.txt").unlink()
    assert export([str(run), "--output", str(copy), "--overwrite"]) == 0 and not (copy / "space").exists()


def test_the_wheel_is_complete_and_can_be_built_from_itself(folder, tmp_path):
    """From this checkout it is built of an editable installation; from where pip installs it, of a normal one."""
    wheel = folder / "space" / WHEEL
    names = set(zipfile.ZipFile(wheel).namelist())
    code = (ROOT / "timm_landmark").rglob("*")
    files = {path.relative_to(ROOT).as_posix() for path in code if path.is_file() and "__pycache__" not in path.parts}
    info = f"timm_landmark-{timm_landmark.__version__}.dist-info"
    metadata = {f"{info}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")}
    assert names == files | metadata | {"timm_landmark_cli.py"}

    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target"]
    subprocess.run([*pip, str(tmp_path / "site"), str(wheel)], check=True, capture_output=True)
    (tmp_path / "out").mkdir()
    script = (
        "import sys, pathlib, timm_landmark_cli; from timm_landmark.hub.space.wheel import build_wheel;"
        "print(build_wheel(pathlib.Path(sys.argv[1])), sys.modules['timm_landmark'].__file__)"
    )
    again = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(tmp_path / "site") in again.stdout.split()[1]
    assert (tmp_path / "out" / WHEEL).read_bytes() == wheel.read_bytes()


def test_a_wheel_of_other_metadata_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(timm_landmark, "__version__", "9.9.9")
    with pytest.raises(UserError, match=r"modules are those of timm-landmark 9\.9\.9.*install the package again"):
        build_wheel(tmp_path)

    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("timm_landmark.hub.space.wheel.distribution", absent)
    with pytest.raises(UserError, match="not installed"):
        build_wheel(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_gradio_nothing_is_written(tmp_path, monkeypatch, capsys):
    def absent(name):
        raise PackageNotFoundError(name)

    run = make_run(tmp_path / "run", model="test_resnet")
    monkeypatch.setattr("timm_landmark.hub.space.folder.version", absent)
    assert cli.main(["export", str(run), "--output", str(tmp_path / "f"), "--space"]) == 2
    assert "pip install 'timm-landmark[demo]'" in capsys.readouterr().err and not (tmp_path / "f").exists()


def latest(hub, name):
    repo = hub.repos[name]
    return repo.commits[repo.refs["main"]]


def test_the_model_and_its_space_are_two_repositories(folder, quick, tmp_path, capsys):
    with LoopbackHub() as hub:
        assert quick(hub, folder, "org/mine") == 0
        assert not [name for name in latest(hub, "org/mine") if name.startswith("space/")], "not in the model"
        assert b"space/" not in latest(hub, "org/mine")["sha256sums.txt"]
        assert quick(hub, folder, "org/mine", "--space", "org/try-it") == 0
        files = latest(hub, "spaces/org/try-it")
        assert set(files) == {".gitattributes", "README.md", "app.py", "requirements.txt", WHEEL}
        assert b'"hf-hub:org/mine"' in files["app.py"]
        assert all(b"ORG/" not in data for name, data in files.items() if name != WHEEL)
        assert front_matter(files["README.md"].decode())["models"] == ["org/mine"]
        assert files[WHEEL] == (folder / "space" / WHEEL).read_bytes()
        assert len(hub.repos["spaces/org/try-it"].commits) == 2, "created, then one commit"
        # the wheel is where requirements.txt says
        address = next(line for line in files["requirements.txt"].decode().splitlines() if "timm-landmark" in line)
        assert f"@ {hub.url}/spaces/org/try-it/resolve/main/{WHEEL}#sha256=" in address
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir", "--dest"]
        subprocess.run([*pip, str(tmp_path / "d"), address], check=True, capture_output=True)
        assert (tmp_path / "d" / WHEEL).read_bytes() == files[WHEEL]
        said = capsys.readouterr().out
        assert f"{hub.url}/spaces/org/try-it, which loads hf-hub:org/mine" in said and "is private" not in said
        assert quick(hub, folder, "org/mine", "--space", "org/try-it", "--revision", "main") == 0
        assert b'"hf-hub:org/mine@main"' in latest(hub, "spaces/org/try-it")["app.py"]


def test_dry_run_sends_nothing(folder, quick, capsys):
    with LoopbackHub() as hub:
        assert quick(hub, folder, "org/mine", "--space", "org/try-it", "--dry-run", token=None) == 0
        assert hub.requests == []
    said = capsys.readouterr().out
    for path in (folder / "space").iterdir():
        assert re.search(rf"[\d,]+ bytes  {re.escape(path.name)}\n", said)
    assert "model.safetensors" not in said and "dry run: nothing was uploaded" in said


def test_a_private_model_needs_a_secret(folder, quick, capsys):
    with LoopbackHub() as hub:
        assert quick(hub, folder, "org/mine", "--private") == 0
        assert quick(hub, folder, "org/mine", "--space", "org/try-it") == 0
        assert "secret HF_TOKEN" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options, words",
    [
        (["org/mine", "--space", "org/try-it"], ["org/mine", "does not exist", "push it first"]),
        (["org/mine", "--space", "tryit"], ["--space 'tryit'", "must be your user or organization"]),
        (["org/mine", "--space", "org/try-it", "--private"], ["--private", "wheel"]),
    ],
)
def test_what_is_refused(folder, quick, options, words, capsys):
    with LoopbackHub() as hub:
        assert quick(hub, folder, *options) == 2 and hub.repos == {}
    error = capsys.readouterr().err.splitlines()[-1]
    assert all(word in error for word in words)


def test_a_model_without_a_space(exported, quick, capsys):
    with LoopbackHub() as hub:
        assert quick(hub, exported, "org/mine", "--space", "org/try-it") == 2 and hub.repos == {}
    assert "export it again with --space" in capsys.readouterr().err


def with_linked_torch(folder):
    """A new environment in which only torch, torchvision and their CUDA libraries are links to the installed ones.

    They are 5 GB. Everything else has to be installed.
    """
    venv.create(folder, with_pip=True)
    (site,) = folder.glob("lib/python*/site-packages")
    installed, waiting = {}, ["torch", "torchvision"]
    while waiting:
        name = waiting.pop()
        try:
            found = distribution(name)
        except PackageNotFoundError:  # for another platform
            continue
        installed[name] = found
        needed = {re.split(r"[^\w.-]", each, maxsplit=1)[0] for each in found.requires or ()}
        waiting += [each for each in needed - set(installed) if each.startswith(("nvidia", "cuda", "triton"))]
    for found in installed.values():
        for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(found.locate_file(top))))
    return folder / "bin" / "python"


@pytest.mark.full
@needs_browser
def test_app_in_an_environment_with_only_its_requirements(folder, tmp_path):
    pip = ["-m", "pip", "--disable-pip-version-check"]
    probe = [sys.executable, *pip, "download", "--quiet", "--no-deps", "--dest", str(tmp_path / "probe"), "gradio"]
    if done := subprocess.run(probe, capture_output=True, text=True).returncode:
        pytest.skip(f"the requirements of the Space cannot be downloaded (pip download gradio: exit code {done})")
    python = with_linked_torch(tmp_path / "env")
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    env["PIP_RETRIES"] = "0"  # the index of CPU builds may be out of reach; torch is there already
    space = folder / "space"
    done = subprocess.run(
        [str(python), *pip, "install", "--quiet", "--no-compile", "-r", "requirements.txt"],
        cwd=space, env=env, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    env.update(MODEL=str(folder), GRADIO_SERVER_PORT=port, TMPDIR=str(tmp_path), PYTHONUNBUFFERED="1")
    with open(tmp_path / "log", "w+") as log:
        app = subprocess.Popen(
            [str(python), "app.py"], cwd=space, env=env, stdout=subprocess.PIPE, stderr=log, text=True,
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
        )  # fmt: skip
        try:
            line = next((line for line in app.stdout if "http://" in line), "")
            assert line, (tmp_path / "log").read_text()
            with browser_page() as (page, requests, problems):
                url = f"http://127.0.0.1:{port}"
                page.goto(url)
                photo = next((make_data(tmp_path / "data") / "test").rglob("*.jpg"))
                drop_files(page, {"mine.jpg": photo.read_bytes(), "notes.txt": b"hello"})
                page.wait_for_selector(".answer")
                assert page.locator(".answer li").count() == 3 and "Class" in page.inner_text(".answer .verdict")
                assert "not an image" in page.locator(".answer .verdict").nth(1).inner_text()
                assert all(each.startswith((url, "data:", "blob:")) for each in requests) and problems == []
        finally:
            app.send_signal(signal.SIGINT)
            app.wait(30)
    assert list(tmp_path.glob("timm-landmark-demo-*")) == []
