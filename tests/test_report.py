"""Report: intervals, verdict rules, tables between marks, figures; and the repository's own files are up to date."""

import json
import math
import shutil
import subprocess
import sys

import comparison
import pytest
import report
import results_schema
from comparison import claims, metrics
from intervals import mcnemar, paired_difference
from results_helpers import MACHINE, make_comparison
from verdicts import judge

SEVEN = claims.SEVEN


def all_models(value, **others):
    return {model: others.get(model, value) for model in SEVEN}


def test_paired_difference_is_narrow_where_the_same_photos_are_wrong():
    a, b = [True] * 75 + [False] * 25, [True] * 70 + [False] * 30
    nested = paired_difference([a], [b])
    crossed = paired_difference([a], [b[::-1]])
    assert nested.estimate == crossed.estimate == pytest.approx(0.05)
    assert nested.high - nested.low < crossed.high - crossed.low
    assert nested.low > 0 > crossed.low
    assert nested.p_value == pytest.approx(2 / 32)


def test_paired_difference_is_agresti_and_mins():
    # 12 only ours, 5 only theirs, of 100: (12 - 5) / 102 +- z sqrt((18 - 49 / 102)) / 102, half a photo in each cell
    ours = [True] * 12 + [False] * 5 + [True] * 83
    other = [False] * 12 + [True] * 5 + [True] * 83
    d = paired_difference([ours], [other])
    half = 1.959964 * math.sqrt(18 - 49 / 102) / 102
    assert (d.low, d.high) == pytest.approx((7 / 102 - half, 7 / 102 + half))
    assert d.p_value == mcnemar(12, 5) == pytest.approx(2 * sum(math.comb(17, i) for i in range(6)) / 2**17)


def test_seeds_that_disagree_widen_the_interval():
    n = 100
    row = lambda right: [True] * right + [False] * (n - right)  # noqa: E731
    agree = paired_difference([row(80), row(80)], [row(70), row(70)])
    disagree = paired_difference([row(95), row(65)], [row(70), row(70)])
    assert agree.low > 0 > disagree.low
    assert agree.p_value is None


def test_load_refuses_predictions_of_other_images(tmp_path):
    folder = make_comparison(tmp_path / "c", {"resnet50": 0.5})
    text = (folder / "resnet50-s0" / "predictions-test.csv").read_text()
    (folder / "resnet50-s0" / "predictions-test.csv").write_text(text.replace("00007,", "x0007,"))
    with pytest.raises(ValueError, match=r"predictions-test.csv is not of the 200 test images"):
        comparison.load(folder)


def verdicts(tmp_path, top1, **options):
    return judge(comparison.load(make_comparison(tmp_path / "c", top1, **options)))


def test_small_differences_are_not_decidable(tmp_path):
    shown = verdicts(tmp_path, all_models(0.6, inception_resnet_pa=0.605, resneat50=0.585), n=200)
    assert set(shown) == set(range(4, 13))
    for number in (5, 8, 10, 11):
        assert shown[number].verdict.startswith(claims.NOT_DECIDABLE), number
    assert "n = 200" in shown[5].evidence and "+0.5 points [" in shown[5].evidence


def test_clear_differences_hold_for_this_run_only_or_not_at_all(tmp_path):
    models = all_models(0.6, inception_resnet_pa=0.7, resneat50=0.4, seresnet50=0.8)
    shown = verdicts(tmp_path, models, n=400)
    assert shown[5].verdict == f"{claims.HOLDS_ONLY} this run (one seed)"
    assert shown[8].verdict == f"{claims.DOES_NOT_HOLD} in this run (one seed)"
    assert shown[10].verdict == f"{claims.HOLDS_ONLY} Inception-Res-PA"
    assert shown[11].verdict == f"{claims.DOES_NOT_HOLD} in this run (one seed)"
    assert "below the baseline: resneat50" in shown[11].evidence


def test_what_the_paper_says_would_be_seen_to_hold(tmp_path):
    ranking = dict(zip(SEVEN, (0.4, 0.55, 0.56, 0.45, 0.8, 0.6, 0.57), strict=True))
    shown = verdicts(tmp_path, ranking, n=1000, seeds=(0, 1, 2))
    assert shown[4].verdict == claims.HOLDS
    assert shown[5].verdict == claims.HOLDS
    assert shown[9].verdict == claims.HOLDS
    assert shown[10].verdict == claims.HOLDS
    assert shown[11].verdict == claims.HOLDS


def test_equal_within_the_margin(tmp_path):
    assert verdicts(tmp_path, all_models(0.6), n=3000, seeds=(0, 1))[8].verdict == claims.HOLDS


def test_curves_of_one_seed_decide_nothing(tmp_path):
    shown = verdicts(tmp_path, all_models(0.4, inception_resnet_pa=0.9, resneat50=0.9))
    for number in (4, 6, 9, 12):
        assert shown[number].verdict == f"{claims.NOT_DECIDABLE} (one seed)"


def test_claim_of_untrained_models_is_not_decidable(tmp_path):
    shown = verdicts(tmp_path, {"resnet50": 0.5, "resneat50": 0.5})
    assert shown[5].verdict == claims.NOT_DECIDABLE
    assert "inception_resnet_pa" in shown[5].evidence


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
    report.write_report(folder, tmp_path / "out", quick=True)
    assert "proves the path and ranks nothing" in (tmp_path / "out" / "report.md").read_text()


def test_figures_are_the_same_bytes_for_the_same_runs(tmp_path):
    from figures import draw

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
    assert report.main(["--check"]) == 0, "run python benchmarks/report.py and commit what it changes"


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
        "import sys; import report; "
        f"report.main(['--comparison', {str(folder)!r}, '--output', {str(tmp_path / 'out')!r}]); "
        "assert not {'torch', 'timm', 'timm_landmark'} & set(sys.modules)"
    )
    where = comparison.REPOSITORY / "benchmarks"
    subprocess.run([sys.executable, "-c", code], cwd=where, check=True)
    shutil.rmtree(tmp_path / "out")


def test_cards_hold_counts_and_committed_results(tmp_path, monkeypatch):
    assert report.card_blocks("resneat50")["details"].startswith("- Params (M): 16.2\n- GMACs: ")
    monkeypatch.setattr(report, "PHOTOS", make_comparison(tmp_path / "photos", {"resneat50": 0.5}, n=100))
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
