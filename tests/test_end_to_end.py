"""The whole way of a model, each step the verb that a user calls, in a fresh process: drawn data to a named photo."""

import csv
import io
import json
import re
import subprocess
import sys

import pytest
from loopback_hub import TOKEN, LoopbackHub


class Shell:
    """Runs ``timm-landmark`` and keeps what it said."""

    def __init__(self, folder, env):
        self.folder, self.env = folder, env

    def __call__(self, *words, code=0):
        child = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "timm_landmark.cli", *map(str, words)],
            cwd=self.folder, env=self.env, capture_output=True, text=True,
        )  # fmt: skip
        assert child.returncode == code, f"{words}: {child.returncode}\n{child.stdout[-2000:]}\n{child.stderr[-3000:]}"
        assert "Traceback" not in child.stderr
        return child.stdout


@pytest.mark.parametrize("model", ["test_resnet", pytest.param("resneat50", marks=pytest.mark.full)])
def test_from_drawn_data_to_a_named_photo(model, tmp_path):
    with LoopbackHub() as hub:
        run = Shell(tmp_path, hub.env(tmp_path / "home", token=TOKEN, OMP_NUM_THREADS="1"))
        run("synthesize", "--output", "data", "--classes", 3, "--images", 16, "--size", 64, "--seed", 1)
        assert "sound" in run("check", "data")
        small = ("--epochs", 2, "--img-size", 64, "-b", 12, "--workers", 0, "--device", "cpu")
        run("train", model, "--data", "data", "--output", "run", *small)
        assert "top-1" in run("evaluate", "run", "--split", "test")
        run("export", "run", "--output", "out", "--name", f"{model}.mine", "--onnx")
        assert run("check", "out") == "out: sound\n"
        assert "nothing was sent" in run("push", "out", "org/mine", "--dry-run") and hub.repos == {}
        pushed = run("push", "out", "org/mine")
        (pinned,) = re.findall(r'create_model\("(hf-hub:org/mine@[0-9a-f]{40})"', pushed)
        assert run("check", pinned).endswith("sound\n")

        measured = json.loads((tmp_path / "run" / "run.json").read_text())["evaluation"]["test"]
        photos = tmp_path / "data" / "test"
        said = {}
        for source in ("run", "out", pinned):
            table = run("predict", source, photos, "--top", 1, "--format", "csv", "--device", "cpu")
            said[source] = list(csv.reader(io.StringIO(table)))
        assert said["out"] == said[pinned] and len(said["out"]) == 1 + measured["images"]
        assert [row[1:3] for row in said["run"]] == [row[1:3] for row in said["out"]]
        run("predict", pinned, photos, "--gallery", tmp_path / "gallery.html", "--device", "cpu")
        page = (tmp_path / "gallery.html").read_text(encoding="utf-8")
        assert page.count("<img") >= measured["images"] and not re.search(r'(src|href)="https?:', page)

        # the same steps with wrong input: one line each, and nothing made
        for words in (
            ("synthesize", "--output", "data", "--classes", 3),
            ("train", "resnet51", "--data", "data", "--output", "run2"),
            ("evaluate", "run", "--split", "tset"),
            ("export", "data", "--output", "out2"),
            ("export", "run", "--output", "out"),
            ("check", "nowhere"),
            ("push", "run", "org/mine"),
            ("push", "out", "mine"),
            ("predict", "hf-hub:org/absent", photos),
            ("predict", "out", "nowhere.jpg"),
        ):
            run(*words, code=2)
        assert not (tmp_path / "run2").exists() and not (tmp_path / "out2").exists()
