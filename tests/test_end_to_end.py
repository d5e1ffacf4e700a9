"""A model from start to finish with the verbs: generated data, training, export, the Hub, prediction."""

import csv
import io
import json
import re
import subprocess
import sys

import pytest
from loopback_hub import TOKEN, LoopbackHub

# One process for all verbs, so that torch is imported once, with only the loopback Hub. check and push start their own.
_VERBS = """
import contextlib, io, json, sys
from timm_landmark.cli import main
for line in sys.stdin:
    said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said[0]), contextlib.redirect_stderr(said[1]):
        code = main(json.loads(line))
    print(json.dumps([code, *(each.getvalue() for each in said)]), flush=True)
"""


class Shell:
    """Runs ``timm-landmark`` and returns its output."""

    def __init__(self, folder, env):
        self.child = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _VERBS], cwd=folder, env=env,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.stdin.close()
        self.child.wait()

    def __call__(self, *words, code=0):
        self.child.stdin.write(json.dumps([str(word) for word in words]) + "\n")
        self.child.stdin.flush()
        answer = self.child.stdout.readline()
        assert answer, f"{words}: a traceback"
        found, out, err = json.loads(answer)
        assert found == code, f"{words}: {found}\n{out[-2000:]}\n{err[-3000:]}"
        if code == 2:
            assert len(err.strip().splitlines()) == 1 and err.startswith(f"timm-landmark {words[0]}: error: "), err
        return out


@pytest.mark.parametrize("model", ["test_resnet", pytest.param("resneat50", marks=pytest.mark.full)])
def test_from_drawn_data_to_a_named_photo(model, tmp_path):
    env = dict(token=TOKEN, OMP_NUM_THREADS="1")
    with LoopbackHub() as hub, Shell(tmp_path, hub.env(tmp_path / "home", **env)) as run:
        run("synthesize", "--output", "data", "--classes", 3, "--images", 16, "--size", 64, "--seed", 1)
        assert "no problems found" in run("check", "data")
        small = ("--epochs", 2, "--img-size", 64, "-b", 12, "--workers", 0, "--device", "cpu")
        run("train", model, "--data", "data", "--output", "run", *small)
        assert "top-1" in run("evaluate", "run", "--split", "test")
        run("export", "run", "--output", "out", "--name", f"{model}.mine", "--onnx")
        assert run("check", "out") == "out: no problems found\n"
        assert "nothing was uploaded" in run("push", "out", "org/mine", "--dry-run") and hub.repos == {}
        pushed = run("push", "out", "org/mine")
        (pinned,) = re.findall(r'create_model\("(hf-hub:org/mine@[0-9a-f]{40})"', pushed)
        assert run("check", pinned).endswith("no problems found\n")

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

        # the same steps with wrong input: one line of error each, and no files
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
