"""``push``: checked, announced, sent in one commit by huggingface_hub, and what came up is what was exported."""

import re
import subprocess
import sys

import pytest
from loopback_hub import TOKEN, LoopbackHub
from run_helpers import make_run
from timm.models import PretrainedCfg

from timm_landmark.errors import UserError
from timm_landmark.export import main as export
from timm_landmark.push import check_name


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("push")
    export(
        [str(make_run(path / "run", model="test_resnet")), "--output", str(path / "f"), "--name", "test_resnet.mine"]
    )
    return path / "f"


@pytest.fixture
def push(tmp_path):
    def run(hub, *arguments, token=TOKEN):
        return subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "timm_landmark.cli", "push", *map(str, arguments)],
            env=hub.env(tmp_path / "home", token=token), capture_output=True, text=True,
        )  # fmt: skip

    return run


def pasted(line):
    """The printed line, read as Python would."""
    found = {}
    exec(f"cfgs = {{{line.strip().rstrip(',')}}}", {"_cfg": lambda **values: PretrainedCfg(**values)}, found)
    return found["cfgs"]


def test_dry_run_says_what_goes_where_and_sends_nothing(folder, push):
    with LoopbackHub() as hub:
        child = push(hub, folder, "org/mine", "--dry-run", "--private", token=None)
        assert child.returncode == 0, child.stderr
        assert f"{folder} -> {hub.url}/org/mine, branch main" in child.stdout and "private" in child.stdout
        for path in folder.iterdir():
            assert re.search(rf"[\d,]+ bytes  {re.escape(path.name)}\n", child.stdout)
        assert "dry run: nothing was sent" in child.stdout and "settings/tokens" in child.stdout
        assert hub.requests == [] and hub.repos == {}


def test_push_pull_and_the_line_to_paste(folder, push, tmp_path):
    with LoopbackHub() as hub:
        child = push(hub, folder, "org/mine")
        assert child.returncode == 0, child.stderr
        (commit,) = [sha for sha, files in hub.repos["org/mine"].commits.items() if "config.json" in files]
        files = hub.repos["org/mine"].commits[commit]
        line = next(line for line in child.stdout.splitlines() if "_cfg(" in line)
        cfg = pasted(line)["test_resnet.mine"]
        assert cfg.hf_hub_id == f"org/mine@{commit}" and cfg.hf_hub_filename == "model.safetensors"
        assert (cfg.num_classes, cfg.input_size, cfg.crop_pct) == (3, (3, 64, 64), 0.875)
        for path in folder.iterdir():
            if path.name not in ("README.md", "sha256sums.txt"):
                assert files[path.name] == path.read_bytes()
        card = files["README.md"].decode()
        assert "hf-hub:org/mine" in card and "hf-hub:ORG/" not in card
        check = subprocess.run(
            [sys.executable, "-m", "timm_landmark.cli", "check", f"hf-hub:org/mine@{commit}"],
            env=hub.env(tmp_path / "cache"), capture_output=True, text=True,
        )  # fmt: skip
        assert check.returncode == 0, check.stdout + check.stderr

        again = push(hub, folder, "org/mine", "--revision", "v2", "--private")
        assert again.returncode == 0, again.stderr
        assert set(hub.repos["org/mine"].refs) == {"main", "v2"} and not hub.repos["org/mine"].private


def test_a_missing_token_says_how_to_get_one(folder, push):
    with LoopbackHub() as hub:
        child = push(hub, folder, "org/mine", token=None)
        assert child.returncode == 2 and hub.repos == {}
        (line,) = child.stderr.splitlines()
        assert "settings/tokens" in line and "hf auth login" in line


def test_a_token_that_the_hub_refuses(folder, push):
    with LoopbackHub() as hub:
        child = push(hub, folder, "org/mine", token="hf_other")
        (line,) = child.stderr.splitlines()
        assert child.returncode == 2 and "does not accept the token (401)" in line and hub.repos == {}


def test_a_damaged_folder_is_not_pushed(folder, push, tmp_path):
    import shutil

    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "README.md").write_text("hello")
    with LoopbackHub() as hub:
        child = push(hub, copy, "org/mine")
        assert child.returncode == 1 and "not pushed" in child.stdout and hub.requests == []


@pytest.mark.parametrize(
    "name", ["mine", "a/b/c", "../x", "org/na me", "org/-x", "https://huggingface.co/org/x", "org/x\x1b[m"]
)
def test_bad_names(name):
    with pytest.raises(UserError, match="write your user or organization") as caught:
        check_name(name)
    assert "\x1b" not in str(caught.value)


def test_what_is_no_export(push, tmp_path):
    (tmp_path / "x").mkdir()
    with LoopbackHub() as hub:
        for place in ("x", "absent"):
            child = push(hub, tmp_path / place, "org/mine")
            assert child.returncode == 2 and len(child.stderr.splitlines()) == 1
