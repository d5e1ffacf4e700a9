"""Report: intervals, verdict rules, tables between marks, figures; and the repository's own files are up to date."""

import json
import shutil
import subprocess
import sys

import pytest
from results_helpers import MACHINE, make_comparison

from benchmarks import report
from benchmarks.comparison import results_schema
from benchmarks.comparison import sets as comparison
from benchmarks.comparison.sets import claims, metrics

SEVEN = claims.SEVEN


def all_models(value, **others):
    return {model: others.get(model, value) for model in SEVEN}


def test_load_refuses_predictions_of_other_images(tmp_path):
    folder = make_comparison(tmp_path / "c", {"resnet50": 0.5})
    text = (folder / "resnet50-s0" / "predictions-test.csv").read_text()
    (folder / "resnet50-s0" / "predictions-test.csv").write_text(text.replace("00007,", "x0007,"))
    with pytest.raises(ValueError, match=r"predictions-test.csv is not of the 200 test images"):
        comparison.load(folder)


def test_report_of_a_comparison(tmp_path):
    folder = make_comparison(tmp_path / "c", all_models(0.5, seresnet50=0.75), n=100)
    assert report.main(["--comparison", str(folder), "--output", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.md").read_text()
    low, high = metrics.wilson(75, 100)
    assert f"75.0 [{100 * low:.1f}, {100 * high:.1f}]" in text
    row = next(line for line in text.splitlines() if "`seresnet50`" in line)
    assert "| 80.9 |" in row and "| 86.0 |" in row  # the paper's top-1 and top-5
    assert "10 classes, 30 photos to train, 20 to validate, 100 to test" in text
    assert "guessing the largest class gives 10.0 %" in text
    assert "Trained by stand-in with timm 1.0" in text and "Not trained" not in text
    for name in ("figure-10", "figure-11"):
        assert (tmp_path / "out" / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (tmp_path / "out" / "figures" / f"{name}.svg").read_text()


def test_a_folder_that_is_no_comparison_is_told(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        report.main(["--comparison", str(tmp_path), "--output", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert f"--comparison {tmp_path} is no whole comparison" in capsys.readouterr().err


def test_quick_report_says_that_it_ranks_nothing(tmp_path):
    folder = make_comparison(tmp_path / "c", all_models(0.5))
    report.write_report([folder], tmp_path / "out", quick=True)
    assert "proves the path and ranks nothing" in (tmp_path / "out" / "report.md").read_text()


def test_figures_are_the_same_bytes_for_the_same_runs(tmp_path):
    from benchmarks.rendering.figures import draw

    runs = comparison.load(make_comparison(tmp_path / "c", all_models(0.5), seeds=(0, 1)))
    draw(runs, tmp_path / "a")
    draw(runs, tmp_path / "b")
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_blocks_are_replaced_between_their_marks_only():
    text = "a\n<!-- table: x -->\nold\n<!-- /table -->\nb\n<!-- table: y -->\n<!-- /table -->\n"
    new = report.replace_blocks(text, {"x": "X", "y": "Y"})
    assert new == "a\n<!-- table: x -->\nX\n<!-- /table -->\nb\n<!-- table: y -->\nY\n<!-- /table -->\n"
    assert report.replace_blocks(new, {"x": "X", "y": "Y"}) == new
    with pytest.raises(ValueError, match="marks x, y"):
        report.replace_blocks(text, {"x": "X"})


def test_readme_and_stated_runs_equal_a_fresh_render():
    assert report.main(["--check"]) == 0, "run python -m benchmarks.report and commit what it changes"


def test_a_figure_changed_by_hand_is_found(tmp_path, monkeypatch, capsys):
    copy = tmp_path / "README.md"
    text = report.README.read_text()
    changed = text.replace("16.227", "16.2", 1)
    assert changed != text
    copy.write_text(changed)
    monkeypatch.setattr(report, "README", copy)
    monkeypatch.setattr(report, "REPOSITORY", tmp_path)
    monkeypatch.setattr(report, "RUNS", tmp_path / "runs.json")
    assert report.main(["--check"]) == 1
    assert "README.md is out of date" in capsys.readouterr().err


def test_committed_results_keep_the_schema():
    results_schema.check_all()


BREAKS = {
    "missing field": (lambda info: info.pop("machine"), "'machine' is a required property"),
    "wrong type": (lambda info: info.update(seed="0"), "seed"),
    "not finished": (lambda info: info.update(finished=False), "finished"),
    "other rule": (lambda info: info.update(rate_rule="timm plateau"), "rate_rule"),
    "a path": (lambda info: info["trainer"].update(script="/home/me/train.py"), "is a path of one machine"),
    "another accuracy": (lambda info: info["evaluation"]["test"]["top1"].update(correct=102), "give 100 right"),
    "another seed": (lambda info: info.update(seed=1), "is of resnet50, seed 1"),
    "another length": (lambda info: info.update(epochs=5), "summary.csv has epochs"),
}


@pytest.mark.parametrize("case", BREAKS)
def test_schema_check_finds(case, tmp_path):
    change, words = BREAKS[case]
    folder = make_comparison(tmp_path / "c", {"resnet50": 0.5})
    results_schema.check_comparison(folder)
    path = folder / "resnet50-s0" / "run.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))
    with pytest.raises(ValueError, match=words):
        results_schema.check_comparison(folder)


def test_report_imports_no_torch(tmp_path):
    folder = make_comparison(tmp_path / "c", all_models(0.5))
    code = (
        "import sys; from benchmarks import report; "
        f"report.main(['--comparison', {str(folder)!r}, '--output', {str(tmp_path / 'out')!r}]); "
        "assert not {'torch', 'timm', 'timm_landmark'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=comparison.REPOSITORY, check=True)
    shutil.rmtree(tmp_path / "out")


def test_cards_hold_counts_and_committed_results(tmp_path, monkeypatch):
    assert report.card_blocks("resneat50")["details"].startswith("- Params (M): 16.2\n- GMACs: ")
    monkeypatch.setattr(report, "SETS", {make_comparison(tmp_path / "photos", {"resneat50": 0.5}, n=100): "photos"})
    low, high = metrics.wilson(50, 100)
    assert f"50.0 [{100 * low:.1f}, {100 * high:.1f}]" in report.card_blocks("resneat50")["results"]
    assert report.card_blocks("resneat101")["results"] == "Nothing has been measured yet."


def speed_file():
    rows = [("resneat50", 9.0), ("resnext50_32x4d", 10.0), ("densenet121", 11.0)]
    where = {"mode": "inference", "img_size": 224, "batch": 8}
    goal = {"what": "inference, 224, batch 8", "model": "resneat50", "against": "resnext50_32x4d", "low": 0.8}
    goal |= {"ratio": 0.9, "high": 1.0, "at_least": 0.8, "aim": 1.0, "lower_is_better": False}
    memory = {**goal, "what": "peak memory", "ratio": 1.2, "at_least": 1.0, "aim": 0.8, "lower_is_better": True}
    return {
        "machine": {**MACHINE, "packages": {"torch": "2.14"}},
        "threads": 2,
        "goals": [goal, memory],
        "throughput": [{**where, "model": model, "img_per_s": n, "low": n - 1, "high": n + 1} for model, n in rows],
        "memory": [
            {
                "form": "eager",
                "model": "resneat50",
                "mode": "training",
                "img_size": 224,
                "batch": 16,
                "peak_mib": 2345.6,
            }
        ],
        "breakdown": [
            {
                **where,
                "model": model,
                "parts": [
                    {"stage": "layer1", "part": "convolutions", "ms": 20.0},
                    {"stage": "layer1", "part": "rest", "ms": 5.0},
                    {"stage": "layer2", "part": "convolutions", "ms": ms},
                    {"stage": "layer2", "part": "rest", "ms": 1.0},
                ],
            }
            for model, ms in (("resneat50", 70.0), ("resnext50_32x4d", 40.0))
        ],
        "paths": [
            {**where, "out_chs": 256, "side": 56, "product_ms": 3.0, "gram_ms": gram, "chosen": "gram"}
            | {"img_size": size}
            for size, gram in ((96, 4.0), (224, 2.0))
        ],
    }


def test_speed_tables_show_losses_as_wins(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    (tmp_path / "speed.json").write_text(json.dumps(speed_file()))
    results_schema.check_file(tmp_path / "speed.json", tmp_path)
    runs = report.stated_runs()
    assert runs["speed"] == {"inference, 224, batch 8": 0.9}  # memory is no speed
    block = report.blocks(runs)["speed"]
    assert "| 0.90 [0.80, 1.00] | 0.80 | 1.00 | reached, below the aim |" in block
    assert "| 1.20 [0.80, 1.00] | 1.00 | 0.80 | **missed** |" in block
    assert block.index("densenet121") < block.index("`resneat50` | 16.2")  # peers by speed, ours not first
    assert "| layer2 | 70 | 1 | 71 | 41 |" in block and "| all | 90 | 6 | 96 | 66 |" in block
    assert "| inference, 256 channels | **gram 4.0 (3.0)** | gram 2.0 (3.0) |" in block
    assert "2,346" in block
    assert "inference, 224, batch 8 x0.90" in report.blocks(runs)["claims"]


def test_speed_file_without_a_part_is_refused(tmp_path):
    speed = speed_file()
    del speed["throughput"][0]["low"]
    (tmp_path / "speed.json").write_text(json.dumps(speed))
    with pytest.raises(ValueError, match=r"throughput\.0: 'low' is a required property"):
        results_schema.check_file(tmp_path / "speed.json", tmp_path)


def test_pictures_that_the_readme_shows_are_there():
    import re

    for place in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", report.README.read_text()):
        assert (report.REPOSITORY / place).is_file(), place
