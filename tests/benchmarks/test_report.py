"""Report: intervals, verdict rules, tables between marks, figures; and the repository's own files are up to date."""

import json
import shutil
import subprocess
import sys

import pytest
from browser import WIDTHS, browser_page, needs_browser, overflow
from results_helpers import make_comparison

from benchmarks import report
from benchmarks.comparison import consistency
from benchmarks.comparison import sets as comparison
from benchmarks.comparison.sets import claims, metrics
from benchmarks.rendering.sentences import scale_sentence, verdict_summary

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
    assert "10 classes; 30 training, 20 validation and 100 test images" in text
    assert "guessing the largest class gives 10.0 %" in text
    assert "Trained with stand-in (timm 1.0) on A CPU. " in text and "Not trained" not in text
    for name in ("figure-10", "figure-11"):
        assert (tmp_path / "out" / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (tmp_path / "out" / "figures" / f"{name}.svg").read_text()


def test_page_of_a_comparison(tmp_path):
    folder = make_comparison(tmp_path / "c", all_models(0.5, seresnet50=0.75), n=100, seeds=(0, 1))
    output = tmp_path / "out"
    (output / "runs" / "seresnet50-s1").mkdir(parents=True)
    (output / "runs" / "seresnet50-s1" / "evaluation.html").touch()
    report.write_report([folder], output, quick=True)
    text = (output / "report.html").read_text()
    low, high = metrics.wilson(75, 100)
    assert text.count(f"<td>75.0 [{100 * low:.1f}, {100 * high:.1f}]</td>") == 2
    assert text.count('<a href="runs/') == 1 and 'href="runs/seresnet50-s1/evaluation.html"' in text
    assert text.count("<polyline") == 2 * 2 * len(SEVEN)  # two charts, two seeds
    assert "the accuracies mean nothing" in text and "**" not in text and "<script" not in text
    assert all(claim.text.replace('"', "&#34;").replace("'", "&#39;") in text for claim in claims.CLAIMS)


def test_the_page_charts_as_many_models_as_it_has_lines(tmp_path):
    folder = make_comparison(tmp_path / "c", all_models(0.5) | {"resneat50_scale1": 0.6}, n=100)
    report.write_report([folder], tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text()
    assert text.count("<polyline") == 2 * len(SEVEN) and "</svg>seresnet50</td>" in text
    assert "<td>resneat50_scale1</td>" in text and "</svg>resneat50_scale1" not in text


def test_a_folder_that_is_no_comparison_is_told(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        report.main(["--comparison", str(tmp_path), "--output", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert f"--comparison {tmp_path} is not a complete comparison" in capsys.readouterr().err


def test_quick_report_says_that_its_accuracies_mean_nothing(tmp_path):
    folder = make_comparison(tmp_path / "c", all_models(0.5))
    report.write_report([folder], tmp_path / "out", quick=True)
    assert "the accuracies mean nothing" in (tmp_path / "out" / "report.md").read_text()


def test_figures_are_the_same_bytes_for_the_same_runs(tmp_path):
    from benchmarks.rendering.figures import draw

    runs = comparison.load(make_comparison(tmp_path / "c", all_models(0.5), seeds=(0, 1)))
    draw(runs, tmp_path / "a")
    draw(runs, tmp_path / "b")
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    assert (tmp_path / "a" / "figure-10.svg").read_text().count(", 2 seeds -->") == 3  # in the legend


def test_blocks_are_replaced_between_their_marks_only():
    text = "a\n<!-- table: x -->\nold\n<!-- /table -->\nb\n<!-- table: y -->\n<!-- /table -->\n"
    new = report.replace_blocks(text, {"x": "X", "y": "Y"})
    assert new == "a\n<!-- table: x -->\nX\n<!-- /table -->\nb\n<!-- table: y -->\nY\n<!-- /table -->\n"
    assert report.replace_blocks(new, {"x": "X", "y": "Y"}) == new
    with pytest.raises(ValueError, match="unknown block y; choose from x"):
        report.replace_blocks(text, {"x": "X"})


def test_links_of_a_block_are_relative_to_its_page():
    text = "<!-- table: x -->\n<!-- /table -->\n"
    block = {"x": "![a](benchmarks/a.png) [b](https://b.org)"}
    assert "](benchmarks/a.png)" in report.replace_blocks(text, block)
    moved = report.replace_blocks(text, block, report.REPOSITORY / "docs")
    assert "](../benchmarks/a.png)" in moved and "](https://b.org)" in moved


def test_a_block_that_no_page_shows_is_an_error(monkeypatch):
    monkeypatch.setattr(report, "PAGES", report.PAGES[:1])
    with pytest.raises(ValueError, match=r"no page shows the block .*claims"):
        report.rendered()


def test_readme_and_stated_runs_equal_a_fresh_render():
    assert report.main(["--check"]) == 0, "run python -m benchmarks.report and commit what it changes"


def test_the_readme_shows_the_largest_set_with_all_seven_networks(tmp_path, monkeypatch):
    large, small = tmp_path / "large", tmp_path / "small"
    make_comparison(large, {"resnet50": 0.5, "resneat50": 0.5})
    monkeypatch.setattr(report, "SETS", {large: "large", small: "small"})
    assert report._main_comparison()[0] == "large", "the only one"
    make_comparison(small, all_models(0.5))
    assert report._main_comparison()[0] == "small"
    shutil.rmtree(large)
    make_comparison(large, all_models(0.5))
    assert report._main_comparison()[0] == "large"


def test_a_number_changed_by_hand_is_found(monkeypatch, capsys):
    read, readme = report._read, report.PAGES[0]
    changed = readme.read_text(encoding="utf-8").replace("| 16.2 |", "| 16.3 |", 1)
    monkeypatch.setattr(report, "_read", lambda path: changed if path == readme else read(path))
    assert report.main(["--check"]) == 1
    assert "README.md is out of date" in capsys.readouterr().err


def test_committed_results_are_consistent():
    consistency.check_all()


BREAKS = {
    "missing field": (lambda info: info.pop("rate_rule"), "'rate_rule' is missing"),
    "wrong type": (lambda info: info.update(seed="0"), "is of resnet50, seed '0'"),
    "not finished": (lambda info: info.update(finished=False), "the run is not finished"),
    "other rule": (lambda info: info.update(rate_rule="timm plateau"), "rate_rule is 'timm plateau'"),
    "a path": (lambda info: info["trainer"].update(script="/home/me/train.py"), "is a path of one machine"),
    "another accuracy": (lambda info: info["evaluation"]["test"]["top1"].update(correct=102), "give 100 right"),
    "another seed": (lambda info: info.update(seed=1), "is of resnet50, seed 1"),
    "another length": (lambda info: info.update(epochs=5), "summary.csv has the epochs"),
}


@pytest.mark.parametrize("case", BREAKS)
def test_inconsistent_results_are_found(case, tmp_path):
    change, words = BREAKS[case]
    folder = make_comparison(tmp_path / "c", {"resnet50": 0.5})
    consistency.check_comparison(folder)
    path = folder / "resnet50-s0" / "run.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))
    with pytest.raises(ValueError, match=words):
        consistency.check_comparison(folder)


def test_runs_with_unlike_options_are_found(tmp_path):
    folder = make_comparison(tmp_path / "c", {"resnet50": 0.5, "seresnet50": 0.5})
    path = folder / "seresnet50-s0" / "args.yaml"
    path.write_text(path.read_text() + "checkpoint_hist: 10\n")
    consistency.check_comparison(folder)
    path.write_text(path.read_text().replace("img_size: 96", "img_size: 112"))
    with pytest.raises(ValueError, match=r"seresnet50-s0/args\.yaml: not trained as resnet50-s0: img_size"):
        consistency.check_comparison(folder)


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
    assert report.card_blocks("resneat50.x.md")["details"].startswith("- Params (M): 16.2\n- GMACs: ")
    monkeypatch.setattr(report, "SETS", {make_comparison(tmp_path / "photos", {"resneat50": 0.5}, n=100): "photos"})
    low, high = metrics.wilson(50, 100)
    assert f"50.0 [{100 * low:.1f}, {100 * high:.1f}]" in report.card_blocks("resneat50.x.md")["results"]
    assert report.card_blocks("resneat101.x.md")["results"] == "Nothing has been measured yet."


def speed_file():
    rows = [("resneat50", 9.0), ("resnext50_32x4d", 10.0), ("densenet121", 11.0)]
    where = {"mode": "inference", "img_size": 224, "batch": 8}
    pair = {"model": "resneat50", "against": "resnext50_32x4d", "low": 0.8, "high": 1.0}
    ratios = [
        ("inference, 224 pixels, batch 8", 0.9),
        ("training step, 96 pixels, batch 32", 0.7),
        ("peak memory", 1.2),
    ]
    memory = {"form": "eager", "model": "resneat50", "mode": "training", "img_size": 224, "batch": 16}
    unit = {**where, "out_chs": 256, "side": 56, "product_ms": 3.0, "chosen": "gram"}
    return {
        "machine": {"cpu": "a", "packages": {"torch": "2.14"}},
        "cpu_capability": "AVX2",
        "threads": 2,
        "ratios": [
            {**pair, "what": what, "ratio": ratio, "lower_is_better": what == "peak memory"} for what, ratio in ratios
        ],
        "throughput": [{**where, "model": model, "img_per_s": n, "low": n - 1, "high": n + 1} for model, n in rows],
        "memory": [{**memory, "peak_mib": 2345.6}],
        "paths": [{**unit, "img_size": size, "gram_ms": gram} for size, gram in ((96, 4.0), (224, 2.0))],
    }


def test_speed_tables_show_losses_as_wins(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "SPEED", tmp_path / "speed.json")
    report.SPEED.write_text(json.dumps(speed_file()))
    runs = report.stated_runs()
    assert list(runs["speed"].values()) == [0.9, 0.7]  # memory is not a speed
    blocks = report.blocks(runs)
    pair = "| `resneat50` | `resnext50_32x4d` |"
    assert f"{pair} inference, 224 pixels, batch 8 | 0.90 [0.80, 1.00] |" in blocks["speed"]
    assert f"{pair} peak memory (lower is better) | 1.20 [0.80, 1.00] |" in blocks["speed"]
    assert "a (AVX2), 2 threads, torch 2.14" in blocks["speed"]
    peers = blocks["peers"]
    assert peers.index("densenet121") < peers.index("resnext50_32x4d") < peers.index("resneat50")  # by speed
    assert "| inference, 256 channels | **gram 4.0 (3.0)** | gram 2.0 (3.0) |" in blocks["paths"]
    assert "2,346" in blocks["memory"]
    assert "inference, 224 pixels, batch 8 x0.90" in blocks["claims"]
    assert "| 0.90 [0.80, 1.00] x `resnext50_32x4d` | not published yet |" in blocks["models"]
    assert "| 1 (reference) | timm |" in blocks["models"] and "| not measured |" in blocks["models"]
    assert "in training relative to `resnext50_32x4d`: 0.70 (training step, 96 pixels, batch 32)" in blocks["models"]


def test_summary_lists_every_claim_once_below_its_verdict(tmp_path):
    numbers = {claim.number: claims.NOT_DECIDABLE for claim in claims.CLAIMS}
    numbers |= {1: claims.HOLDS, 2: f"{claims.DOES_NOT_HOLD} for the network", 3: f"{claims.HOLDS_ONLY} the trunk"}
    numbers |= {8: f"{claims.DOES_NOT_HOLD} in this run (one seed)", 9: f"{claims.NOT_DECIDABLE} (one seed)"}
    verdicts = {number: claims.Verdict(verdict, "") for number, verdict in numbers.items()}
    runs = comparison.load(make_comparison(tmp_path / "c", all_models(0.5), n=100))
    lines = verdict_summary(verdicts, runs, "ten landmarks").splitlines()
    starts = ["Holds", "Holds in part", "Does not hold", "Not decidable here"]
    assert [line.split("**")[1] for line in lines[:-1]] == starts
    assert all("\n".join(lines).count(f"*{claim.text}*") == 1 for claim in claims.CLAIMS)
    assert lines[0].endswith("(1).") and lines[1].endswith("(3: only for the trunk).")
    assert "(2: for the network)" in lines[2] and "(8: in this run)" in lines[2] and "(9: one seed)" in lines[3]
    assert "photos of ten landmarks (100 test photos) and 1 seed per network, trained for 4 epochs" in lines[4]
    assert "[docs/paper.md](docs/paper.md)" in lines[4]


def test_the_readme_is_short():
    assert report.PAGES[0].read_text(encoding="utf-8").count("\n") < 150


def test_scale_at_224_pixels_is_stated_by_its_largest_unit(tmp_path, monkeypatch):
    def units(*rows):
        return [dict(over_channels=channels, over_photos=photos) for channels, photos in rows]

    result = dict(untrained=units((0.0004, 0.001), (0.0002, 0.002)), trained=units((0.03, 0.01), (0.05, 0.04)))
    file = tmp_path / "scale_224.json"
    file.write_text(json.dumps(result | dict(photos=450, split="validation", changed=0.0125)))
    monkeypatch.setattr(report, "SCALE_224", file)
    text = report._scales({}).splitlines()[-1]
    assert "at most 0.0004 over the channels and 0.002 over the photos before training" in text
    assert "at most 0.05 over the channels and 0.04 over the photos after one epoch" in text
    assert "(450 validation photos)" in text and text.endswith("1.2 % of the predictions.")
    file.write_text(json.dumps(result | dict(photos=450, split="validation", changed=0.0, batch_statistics=True)))
    assert "BatchNorm uses the statistics of the batch" in report._scales({})
    file.unlink()
    assert "224" not in report._scales({}) and report._scales({}).startswith("* **twelve landmarks**: ")


@pytest.mark.parametrize(("deviation", "said"), [(0.0099, "is constant"), (0.01, "is not constant")])
@pytest.mark.parametrize("key", ["over_channels", "over_photos"])
def test_scale_is_constant_below_one_hundredth_in_every_unit(deviation, said, key):
    still = dict(mean=0.5, over_channels=0.001, over_photos=0.001)
    result = dict(run="resneat50-s0", photos=20, split="validation", untrained=[still, still])
    text = scale_sentence(result | dict(trained=[still, still | {key: deviation}]))
    assert "Before training, Scale is constant: its mean is 0.500" in text
    assert f"(`resneat50-s0`, 20 validation photos), it {said}: its standard deviation over the channels is" in text


@needs_browser
@pytest.mark.parametrize("width", WIDTHS)
def test_page_of_a_comparison_in_a_browser(tmp_path, width):
    report.write_report([make_comparison(tmp_path / "c", all_models(0.5), n=100)], tmp_path / "out", quick=True)
    address = (tmp_path / "out" / "report.html").as_uri()
    with browser_page(width) as (page, requests, problems):
        page.goto(address)
        assert problems == [] and requests == [address] and overflow(page) == 0
        drawn = "all => all.map(e => getComputedStyle(e).stroke + getComputedStyle(e).strokeDasharray)"
        lines, keys = (
            page.eval_on_selector_all(f"{place} .line", drawn) for place in (".charts figure:first-child", "#runs")
        )
        assert len(set(keys)) == len(SEVEN) and sorted(lines) == sorted(keys)
