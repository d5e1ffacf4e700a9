"""``push`` checks the folder, lists its files, and uploads exactly these in one commit."""

import hashlib
import re
import shutil

import pytest
from loopback_hub import LoopbackHub
from run_helpers import make_export
from timm.models import PretrainedCfg

from timm_landmark.hub.push import check_name
from timm_landmark.utils.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_export(tmp_path_factory.mktemp("push"), "--name", "test_resnet.mine", model="test_resnet")


def pasted(line):
    """Evaluates the printed line as Python."""
    found = {}
    exec(f"cfgs = {{{line.strip().rstrip(',')}}}", {"_cfg": lambda **values: PretrainedCfg(**values)}, found)
    return found["cfgs"]


def test_dry_run_says_what_goes_where_and_sends_nothing(folder, quick, capsys):
    with LoopbackHub() as hub:
        assert quick(hub, folder, "org/mine", "--dry-run", "--private", token=None) == 0
        said = capsys.readouterr().out
        assert f"{folder} -> {hub.url}/org/mine, branch main" in said and "private" in said
        for path in folder.iterdir():
            assert re.search(rf"[\d,]+ bytes  {re.escape(path.name)}\n", said)
        assert "dry run: nothing was uploaded" in said and "settings/tokens" in said
        assert hub.requests == [] and hub.repos == {}


def test_what_came_up_and_the_line_to_paste(folder, quick, capsys):
    with LoopbackHub() as hub:
        assert quick(hub, folder, "org/mine") == 0
        (commit,) = [sha for sha, files in hub.repos["org/mine"].commits.items() if "config.json" in files]
        files = hub.repos["org/mine"].commits[commit]
        line = next(line for line in capsys.readouterr().out.splitlines() if "_cfg(" in line)
        cfg = pasted(line)["test_resnet.mine"]
        assert cfg.hf_hub_id == f"org/mine@{commit}" and cfg.hf_hub_filename == "model.safetensors"
        assert (cfg.num_classes, cfg.input_size, cfg.crop_pct) == (3, (3, 64, 64), 0.875)
        for path in folder.iterdir():
            if path.name not in ("README.md", "sha256sums.txt"):
                assert files[path.name] == path.read_bytes()
        card = files["README.md"].decode()
        assert "hf-hub:org/mine" in card and "hf-hub:ORG/" not in card
        sums = dict(line.split("  ")[::-1] for line in files["sha256sums.txt"].decode().splitlines())
        assert sums == {
            name: hashlib.sha256(data).hexdigest()
            for name, data in files.items()
            if name not in ("sha256sums.txt", ".gitattributes")
        }


def test_a_branch_of_a_repository_that_is_there(folder, quick, capsys):
    with LoopbackHub() as hub:
        hub.add("org/mine", {"notes.txt": b"dear"})
        assert quick(hub, folder, "org/mine", "--revision", "v2") == 0
        repo = hub.repos["org/mine"]
        assert set(repo.refs) == {"main", "v2"}
        assert set(repo.commits[repo.refs["main"]]) == {"notes.txt"}
        assert repo.commits[repo.refs["v2"]]["notes.txt"] == b"dear"
        assert "left unchanged, not part of the export: notes.txt" in capsys.readouterr().out


def test_a_new_repository_can_be_private_and_pushed_to_again(folder, quick):
    with LoopbackHub() as hub:
        for _ in range(2):
            assert quick(hub, folder, "org/secret", "--private") == 0
        repo = hub.repos["org/secret"]
        assert repo.private and "config.json" in repo.commits[repo.refs["main"]]


def test_private_never_means_a_public_repository(folder, quick, capsys):
    with LoopbackHub() as hub:
        hub.add("org/open", {"notes.txt": b"dear"})
        for more in ([], ["--revision", "v2"]):
            assert quick(hub, folder, "org/open", "--private", *more) == 2
            assert "--private: org/open is public" in capsys.readouterr().err
        (files,) = hub.repos["org/open"].commits.values()
        assert files == {"notes.txt": b"dear"} and set(hub.repos["org/open"].refs) == {"main"}


def test_a_missing_token_says_how_to_get_one(folder, quick, capsys):
    with LoopbackHub() as hub:
        assert quick(hub, folder, "org/mine", token=None) == 2 and hub.repos == {}
    (line,) = capsys.readouterr().err.splitlines()
    assert "settings/tokens" in line and "hf auth login" in line


def test_a_token_that_the_hub_refuses(folder, quick, capsys):
    with LoopbackHub() as hub:
        assert quick(hub, folder, "org/mine", token="hf_other") == 2 and hub.repos == {}
    assert "rejects the token (401)" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "status, says", [(403, "denies access (403)"), (429, "too many requests"), (500, "unavailable")]
)
def test_a_hub_that_fails(folder, quick, capsys, monkeypatch, status, says):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    with LoopbackHub() as hub:
        hub.fail(status)
        assert quick(hub, folder, "org/mine") == 2 and hub.repos == {}
        hub.heal()
        assert says in capsys.readouterr().err.splitlines()[-1]
        assert quick(hub, folder, "org/mine") == 0


def test_a_card_that_the_hub_refuses(folder, quick, capsys):
    with LoopbackHub() as hub:
        hub.card_errors = ['"license" must be one of apache-2.0, mit, ...']
        assert quick(hub, folder, "org/mine") == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "rejects the metadata" in line and '"license" must be one of' in line and "export --license" in line
        hub.card_errors = []
        assert quick(hub, folder, "org/mine") == 0


def test_a_damaged_folder_is_not_pushed(folder, quick, tmp_path, capsys):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "README.md").write_text("hello")
    with LoopbackHub() as hub:
        assert quick(hub, copy, "org/mine") == 1 and hub.requests == []
    assert "not pushed" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["x", "absent", "hf-hub:org/mine"])
def test_what_is_no_export(quick, tmp_path, place, capsys):
    (tmp_path / "x").mkdir()
    with LoopbackHub() as hub:
        assert quick(hub, tmp_path / place, "org/mine") == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    "name", ["mine", "a/b/c", "../x", "org/na me", "org/-x", "https://huggingface.co/org/x", "org/x\x1b[m"]
)
def test_bad_names(name):
    with pytest.raises(UserError, match="must be your user or organization") as caught:
        check_name(name)
    assert "\x1b" not in str(caught.value)
