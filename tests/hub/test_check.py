"""``check`` finds every flipped byte in a data set, an exported folder, or a repository on the Hub."""

import json
import re
import subprocess
import sys

import pytest
from loopback_hub import LoopbackHub
from run_helpers import TINY, make_export
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from timm_landmark import cli
from timm_landmark.data.check import write_sums
from timm_landmark.data.synthetic.synthesize import synthesize
from timm_landmark.hub.check import check_model, main
from timm_landmark.utils.errors import UserError


@pytest.fixture
def no_process(monkeypatch):
    """Skips the new process that loads the model."""
    monkeypatch.setattr("timm_landmark.hub.check._vectors", lambda source, folder: [])


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_sound_folder(folder, capsys):
    assert main([str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder}: no problems found\n"


def test_a_flipped_byte_anywhere_is_found(folder, no_process):
    for path in sorted(folder.iterdir()):
        before = path.read_bytes()
        for at in {0, len(before) // 2, len(before) - 1}:
            flip(path, at)
            problems = check_model(str(folder))
            name = path.name
            assert any(name in problem or "sha256sums.txt" in problem or "missing" in problem for problem in problems)
            path.write_bytes(before)
    assert check_model(str(folder)) == []


def test_missing_and_foreign_files(folder, no_process):
    (folder / "summary.csv").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"x")
    problems = "\n".join(check_model(str(folder)))
    assert "summary.csv: missing" in problems and "pytorch_model.bin: unexpected" in problems
    (folder / "sha256sums.txt").unlink()
    assert "sha256sums.txt is missing" in check_model(str(folder))[0]


def edited(folder, name, change):
    config = json.loads((folder / name).read_text())
    change(config)
    (folder / name).write_text(json.dumps(config))
    write_sums(folder)  # as if it had been exported like this


def test_other_weights_are_found_by_their_logits(folder):
    weights = load_file(folder / "model.safetensors")
    key = next(name for name, value in weights.items() if value.ndim == 4)
    weights[key] = weights[key] * 1.5
    save_file(weights, folder / "model.safetensors")
    write_sums(folder)
    (problem,) = check_model(str(folder))
    assert re.match(r"model.safetensors: logits differ from test_vectors.safetensors by .*, allowed 0.0001", problem)


def test_weights_whose_answers_are_no_numbers_are_found(folder, capsys):
    weights = load_file(folder / "model.safetensors")
    weights["fc.weight"][0] = float("nan")
    save_file(weights, folder / "model.safetensors")
    vectors = load_file(folder / "test_vectors.safetensors")
    with safe_open(folder / "test_vectors.safetensors", "pt") as file:
        facts = file.metadata()
    vectors["logits"][:, 0] = float("nan")  # NaN does not equal NaN
    save_file(vectors, folder / "test_vectors.safetensors", metadata=facts)
    write_sums(folder)
    assert main([str(folder)]) == 1
    assert "model.safetensors: logits differ from test_vectors.safetensors by nan" in capsys.readouterr().out


def test_weights_that_do_not_load_are_said(folder):
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])
    problems = "\n".join(check_model(str(folder)))
    assert "cannot be loaded with timm in a new process" in problems and "model.safetensors: changed" in problems


def test_python_files_in_the_folder_never_run(folder, tmp_path, monkeypatch):
    """A cloned repository may contain anything, and may be the current folder of ``check`` and ``push``."""
    for name in ("json", "safetensors", "sitecustomize", "timm", "timm_landmark", "torch"):
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write('{name} ')\nraise SystemExit\n")
    write_sums(folder)  # else the unexpected files would only be reported
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend("")  # as in an interactive session
    assert cli.main(["push", ".", "org/mine", "--dry-run"]) == 0
    assert not (tmp_path / "ran").exists()


def test_a_process_that_says_nothing_is_a_problem(folder, monkeypatch):
    monkeypatch.setattr("timm_landmark.hub.check._LOAD", "pass")
    (problem,) = check_model(str(folder))
    assert problem == "model.safetensors: cannot be loaded with timm in a new process (no message)"


def test_class_count_and_labels(folder, no_process):
    edited(folder, "config.json", lambda config: config["label_names"].pop())
    assert any("2 label_names for 3 classes" in problem for problem in check_model(str(folder)))
    edited(folder, "config.json", lambda config: config.update(label_names=["Class 0", "Class 2", "Class 1"]))
    assert any("differ from classes.csv" in problem for problem in check_model(str(folder)))
    edited(folder, "config.json", lambda config: config.update(label_names=["0", "1"], num_classes=2, landmark_ids=[]))
    assert any("2 classes, but classes.csv has 3" in problem for problem in check_model(str(folder)))


def test_a_config_that_asks_for_a_pickle_is_said(folder, no_process):
    edited(folder, "config.json", lambda config: config["pretrained_cfg"].update(hf_hub_filename="x.bin"))
    assert any(
        "names 'x.bin' as weights instead of model.safetensors" in problem for problem in check_model(str(folder))
    )


def test_figures_of_the_card_against_the_runs(folder, no_process):
    edited(folder, "run.json", lambda info: info["evaluation"]["test"]["top1"].update(value=0.9))
    (problem,) = check_model(str(folder))
    assert problem == "README.md: top-1 on test is 0.6666666666666666, but 0.9 in run.json"
    card = (folder / "README.md").read_text()
    (folder / "README.md").write_text(card.replace("model-index:", "model_index:"))
    write_sums(folder)
    assert any(problem.startswith("README.md: top-1 on test is None") for problem in check_model(str(folder)))


@pytest.mark.parametrize(
    "name, content",
    [
        ("run.json", b"[" * 100_000),
        ("run.json", b'{"evaluation": 1e999}'),
        ("README.md", b"---\na: " + b"[" * 5000 + b"\n---\n"),
        ("README.md", b"---\na: [1\n---\n"),
        ("README.md", b"no metadata"),
        ("README.md", b"\xff"),
        ("classes.csv", b"\xff"),
        ("classes.csv", b'"\x00'),
        ("test_vectors.safetensors", b"x"),
    ],
)
def test_files_that_may_be_anything(folder, capsys, name, content):
    """``config.json`` has its own tests in test_config.py."""
    if name != "test_vectors.safetensors":
        (folder / "test_vectors.safetensors").unlink()  # skips the new process
    (folder / name).write_bytes(content)
    write_sums(folder)
    assert main([str(folder)]) == 1
    assert name in capsys.readouterr().out


def test_a_tolerance_that_is_no_number(folder):
    vectors = load_file(folder / "test_vectors.safetensors")
    save_file(vectors, folder / "test_vectors.safetensors", metadata={"tolerance": "inf"})
    write_sums(folder)
    assert check_model(str(folder)) == ["test_vectors.safetensors: must contain an input, its logits and a tolerance"]


def test_a_prepared_data_set_is_seen(tmp_path, capsys):
    synthesize(tmp_path / "data", 2, 4, 32, 0)
    assert main([str(tmp_path / "data")]) == 0
    image = next((tmp_path / "data" / "train").rglob("*.jpg"))
    flip(image, 100)
    assert main([str(tmp_path / "data")]) == 1
    assert f"{image.name}: changed" in capsys.readouterr().out


def test_what_is_neither(tmp_path):
    with pytest.raises(UserError, match=r"neither a prepared data set .* nor an exported model"):
        main([str(tmp_path)])
    with pytest.raises(UserError, match="hf-hub:ORG/NAME"):
        main(["org/name"])


@pytest.mark.full  # the good one is also checked in test_end_to_end.py
def test_a_repository_on_the_hub(tmp_path):
    """In a new process: no problems in a good repository; a pickle and a changed card are reported."""
    make_export(tmp_path, **TINY)
    files = {path.name: path.read_bytes() for path in (tmp_path / "f").iterdir()}
    with LoopbackHub() as hub:
        hub.add("org/good", files)
        hub.add("org/bad", {**files, "README.md": files["README.md"] + b".", "x.pth": b"x", ".gitattributes": b""})
        for repo, code, says in (
            ("good", 0, ["no problems found"]),
            ("bad", 1, ["README.md: changed", "x.pth: unexpected"]),
        ):
            child = subprocess.run(
                [sys.executable, "-m", "timm_landmark.cli", "check", f"hf-hub:org/{repo}"],
                env=hub.env(tmp_path / "cache"), capture_output=True, text=True,
            )  # fmt: skip
            assert child.returncode == code, child.stderr
            assert all(words in child.stdout for words in says), child.stdout
        assert ("GET", "/org/bad/resolve/main/x.pth") not in hub.requests
        assert not any(path.endswith(".pth") for _, path in hub.requests)
