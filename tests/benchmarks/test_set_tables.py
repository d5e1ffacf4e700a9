"""Several comparisons side by side, and the variants of the attention unit: tables, choice, confirmation, figures."""

import csv
import json
import re
import shutil

import pytest
from results_helpers import add_scale, make_comparison, write_csv

from benchmarks import ablations, report
from benchmarks.comparison import consistency
from benchmarks.comparison import sets as comparison
from benchmarks.comparison.sets import claims
from benchmarks.rendering import set_tables
from benchmarks.rendering.sentences import verdict_summary
from benchmarks.rendering.set_tables import VARIANTS, ablation_tables

SEVEN = dict.fromkeys(claims.SEVEN, 0.5)


def test_a_figure_names_the_networks_that_it_shows():
    names = ["inception_resnet_pa", "inception_resnet_v2", "resnet50"]
    assert comparison.figure_title(names) == "Inception-Res-PA, Inception-Res and the baseline"
    assert comparison.figure_title(["resneat50", "resnext50_32x4d"]) == "ResNeAt and ResNeXt"


def cells(text, start):
    """The cells of the table line that begins with this text."""
    line = next(line for line in text.splitlines() if line.startswith(start))
    return [cell.strip() for cell in line.strip("|").split("|")]


def set_curve(run, values, column="eval_top1"):
    """Replaces a column of a run's summary, epoch by epoch; by default validation top-1."""
    with open(run / "summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row, value in zip(rows, values, strict=True):
        row[column] = str(value)
    write_csv(run / "summary.csv", rows[0].keys(), [row.values() for row in rows])


def test_every_variant_has_its_row_and_is_known_as_one():
    assert set(VARIANTS) == {"resneat50", *ablations.VARIANTS}
    assert sorted(number for number, _ in VARIANTS.values()) == list("123456789")
    assert all(comparison.is_variant(model) for model in ablations.VARIANTS)
    assert not any(map(comparison.is_variant, claims.SEVEN))
    contrasts = [contrast for _, each in set_tables.CONTRASTS for contrast in each]
    assert {name for contrast in contrasts for name in contrast.split(" - ")} == set(set_tables.NAMES)
    assert {f"ResNeXt - {number}" for number, _ in VARIANTS.values()} <= set(contrasts)


def test_two_sets_stand_side_by_side(tmp_path):
    few = make_comparison(tmp_path / "few", SEVEN | {"seresnet50": 0.7}, n=100)
    many = make_comparison(tmp_path / "many", {"resnet50": [0.5, 0.6], "resneat50_mean": 0.9}, n=400, seeds=(0, 1))
    assert report.main(["--comparison", str(many), str(few), "--output", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.md").read_text()
    assert cells(text, "| model |")[2:] == ["many: top-1 [95 %]", "each seed", "few: top-1 [95 %]"]
    row = cells(text, "| ResNet (`resnet50`)")
    assert row[1] == "77.4" and row[2].startswith("55.0 [") and row[3] == "50.0 60.0" and row[4].startswith("50.0 [")
    assert cells(text, "| SE-Net")[2:4] == ["", ""]  # not trained on the larger set
    assert "* **many**: 10 classes" in text and "and 400 test images" in text and "and 100 test images" in text
    assert cells(text, "|  | claim")[2:] == ["few"], "one network alone decides no claim"
    assert "about equal: within 2" in cells(text, "| 8 |")[2]
    assert (tmp_path / "out" / "figures" / "few" / "figure-10.png").is_file()
    assert "](figures/few/figure-10.png)" in text


def test_variants_do_not_stand_among_the_networks(tmp_path):
    folder = make_comparison(tmp_path / "c", {"resnet50": 0.5, "resneat50": 0.5, "resneat50_mean": 0.6})
    assert report.main(["--comparison", str(folder), "--output", str(tmp_path / "out")]) == 0
    table, rest = (tmp_path / "out" / "report.md").read_text().split("## The paper's claims")
    assert "resneat50_mean" not in table and "| 3 | one number per photo (`resneat50_mean`)" in rest


def test_seeds_of_each_model_are_counted(tmp_path):
    runs = comparison.load(make_comparison(tmp_path / "c", {"resnet50": [0.5, 0.6]}, seeds=(0, 1)))
    text = report.table_3(runs, {"models": {}})
    row = cells(text, "| ResNet")
    assert row[2].startswith("55.0") and row[3] == "50.0 60.0" and "4 epochs, 2 seeds. " in text


def test_networks_are_compared_at_the_seeds_that_all_have(tmp_path):
    """Seeds of one network differ by more than networks do: a mean over two seeds is not set against one run."""
    folder = make_comparison(tmp_path / "c", SEVEN | {"resnext50_32x4d": [0.5, 0.6]}, seeds=(0, 1))
    for path in folder.glob("*-s1"):
        if path.name != "resnext50_32x4d-s1":
            shutil.rmtree(path)
    runs = comparison.load(folder)
    text = report.table_3(runs, {"models": {}})
    assert cells(text, "| ResNeXt")[2].startswith("50.0 [") and cells(text, "| ResNeXt")[3] == "50.0 60.0"
    assert cells(text, "| ResNet")[2:4] == [cells(text, "| ResNeXt")[2], "50.0"]
    assert "1 seed (0; the column *each seed* also shows further ones)" in text
    assert cells(set_tables.sets_table({"c": runs}), "| ResNeXt")[2:] == cells(text, "| ResNeXt")[2:4]
    verdicts = {claim.number: claims.Verdict(claims.HOLDS, "") for claim in claims.CLAIMS}
    assert "and 1 seed per network" in verdict_summary(verdicts, runs, "c")


@pytest.fixture
def ablated(tmp_path):
    """Test top-1: paper's unit 50 %, cosine 60, Scale = 1 55, dense 70; on validation only dense beats Scale = 1."""
    top1 = {"resneat50": 0.5, "resnext50_32x4d": 0.62, "resneat50_cosine": 0.6, "resneat50_scale1": 0.55}
    folder = make_comparison(tmp_path / "c", top1 | {"resneat50_dense": 0.7}, n=400, seeds=(0, 1, 2))
    values = {"resneat50": 40, "resneat50_cosine": 58, "resneat50_scale1": 60, "resneat50_dense": 70}
    for model, value in values.items():
        set_curve(folder / f"{model}-s0", [90, value - 1, value, value + 1])
    return folder


def test_the_choice_is_made_on_validation_with_seed_0(ablated):
    scale1 = "Best so far on validation, seed 0, of 2, 5: 2, Scale = 1 (`resneat50_scale1`)."
    assert scale1 in ablation_tables(comparison.load(ablated))  # dense has more parameters; epoch 1 does not count
    set_curve(ablated / "resneat50_cosine-s1", [99] * 4)
    assert scale1 in ablation_tables(comparison.load(ablated))
    set_curve(ablated / "resneat50_cosine-s0", [0, 62, 62, 62])
    assert "of 2, 5: 5, cosine attention (`resneat50_cosine`)." in ablation_tables(comparison.load(ablated))


def test_tables_say_on_which_machine_each_run_was_trained(ablated):
    file = ablated / "resneat50_cosine-s0" / "run.json"
    info = json.loads(file.read_text())
    file.write_text(json.dumps(info | {"machine": {"cpu": "Another"}}))
    file = ablated / "resneat50_scale1-s0" / "args.yaml"
    file.write_text(file.read_text().replace("device: cpu", "device: cuda"))
    runs = comparison.load(ablated)
    assert "First seed of each, trained on A CPU (1, 6), cuda (A CPU) (2), Another (5). " in ablation_tables(runs)
    assert " on A CPU. " in report.table_3(runs, {"models": {}}), "the table of the networks shows no variant"


def test_contrasts_of_runs_with_other_learning_rates_are_marked(ablated):
    text = ablation_tables(comparison.load(ablated))
    assert "†" not in text and cells(text, "| 5 |")[7] == "none"
    set_curve(ablated / "resneat50_cosine-s0", [5e-4, 2.5e-4, 2.5e-4, 1.25e-4], "lr")
    set_curve(ablated / "resneat50_cosine-s1", [5e-4, 5e-4, 5e-4, 2.5e-4], "lr")
    text = ablation_tables(comparison.load(ablated))
    assert cells(text, "| 5 |")[7] == "2, 4"
    assert cells(text, "| cosine attention instead of none")[1] == "5 - 2 †" and " †: the learning rate" in text
    assert cells(text, "| gain from the paper's attention")[1] == "1 - 2"


def test_sets_say_when_each_run_was_halved(tmp_path):
    folder = make_comparison(tmp_path / "c", {"resnet50": [0.5, 0.6], "seresnet50": 0.5}, seeds=(0, 1))
    set_curve(folder / "resnet50-s1", [5e-4, 5e-4, 2.5e-4, 2.5e-4], "lr")
    text = set_tables.sets_table({"c": comparison.load(folder)})
    none = "none for `resnet50` (seed 0), `seresnet50` (seeds 0, 1)"
    assert f"before these epochs: {none}; 3 for `resnet50` (seed 1)." in text
    file = folder / "resnet50-s0" / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"rate_rule": "schedule"}))
    assert "halved" not in set_tables.sets_table({"c": comparison.load(folder)})


def benchmarks_page():
    """The text of docs/benchmarks.md without its line breaks."""
    return " ".join((comparison.REPOSITORY / "docs" / "benchmarks.md").read_text().split())


def test_what_the_docs_say_about_halving_the_learning_rate():
    runs = comparison.load(comparison.RESULTS / "ten").runs
    best = []
    for run in (run for each in runs.values() for run in each):
        top1 = run.curve("eval_top1")
        best += [top1[epoch - 1] > max(top1[: epoch - 1]) for epoch in run.halvings]
    text = benchmarks_page()
    assert f"{sum(best)} of the {len(best)} epochs after a halving reached a new best validation top-1" in text
    alike = ["resneat50", "resnext50_32x4d", *(set_tables.NAMES[number] for number in "257")]
    assert {tuple(runs[model][0].halvings) for model in alike} == {(5, 9)}
    assert [run.halvings for model in alike[:2] for run in runs[model] if run.seed == 2] == [[], []]


def test_the_docs_name_what_was_not_run():
    runs = comparison.load(comparison.RESULTS / "ten").runs
    three = ("resnet50", "resnext50_32x4d", "inception_resnet_v2", "inception_resnet_pa", "resneat50")
    missing = [(model, seed) for model in three for seed in range(3) if seed not in [run.seed for run in runs[model]]]
    *numbers, last = sorted(number for model, (number, _) in VARIANTS.items() if model not in runs)
    text = benchmarks_page()
    networks = "".join(f"`{model}` with seed {seed}; " for model, seed in missing)
    variants = f"the [variants](#variants-of-the-attention-unit) {', '.join(numbers)} and {last};"
    assert f"planned but not run: {networks}{variants}" in text


def test_the_choice_is_final_when_all_that_may_be_chosen_are_in(tmp_path):
    models = [model for model in VARIANTS if model != set_tables.DENSE]
    text = ablation_tables(comparison.load(make_comparison(tmp_path / "c", dict.fromkeys(models, 0.5))))
    assert "\nChosen on validation, seed 0, of 2, 3, 4, 5, 7, 8, 9: " in text and "Not trained: 6 (" in text


def test_one_variant_is_no_choice(tmp_path):
    for model in ("resneat50_scale1", set_tables.DENSE):
        text = ablation_tables(comparison.load(make_comparison(tmp_path / model, {"resneat50": 0.5, model: 0.6})))
        assert f"(`{model}`)" in text and "on validation, seed 0" not in text


def test_confirmation_is_on_test_with_new_seeds(ablated):
    text = ablation_tables(comparison.load(ablated))
    better = (
        "`{}` on test with seeds 1, 2: *better than the paper's unit*: **holds only for these runs**; {:+.1f} points"
    )
    assert better.format("resneat50_scale1", 5) in text and better.format("resneat50_cosine", 10) in text
    assert "*about as accurate as ResNeXt*: **does not hold**; -7.0 points" in text
    rates = "none for `resneat50_scale1` (seeds 1, 2), `resneat50` (seeds 1, 2), `resnext50_32x4d` (seeds 1, 2)."
    assert f"halved the learning rate before these epochs: {rates}" in text
    assert cells(text, "| 2 |")[6] == "55.0 55.0 55.0"
    assert "Not trained: 3 (one number per photo), 4 (" in text
    for path in ablated.glob("*-s2"):
        shutil.rmtree(path)
    assert "`resneat50_scale1` on test with seed 1: *better" in ablation_tables(comparison.load(ablated))
    for path in ablated.glob("*-s1"):
        shutil.rmtree(path)
    assert "on test with" not in ablation_tables(comparison.load(ablated))


def test_three_new_seeds_confirm_the_method(tmp_path):
    top1 = {"resneat50": 0.5, "resneat50_cosine": [0.4, 0.6, 0.61, 0.62]}
    text = ablation_tables(comparison.load(make_comparison(tmp_path / "c", top1, n=400, seeds=(0, 1, 2, 3))))
    assert "on test with seeds 1, 2, 3: *better than the paper's unit*: **holds**; +11.0 points" in text


def test_new_seeds_of_unlike_sign_confirm_nothing(ablated):
    text = (ablated / "resneat50-s0" / "predictions-test.csv").read_text()
    (ablated / "resneat50_scale1-s1" / "predictions-test.csv").write_text(text.replace(",1", ",2", 8))  # 2 % less
    shown = ablation_tables(comparison.load(ablated))
    assert "*better than the paper's unit*: **not decidable here (the seeds disagree in sign)**" in shown
    assert "*better than the paper's unit*: not decidable here (the seeds disagree in sign), +" in shown


def test_tables_of_variants(ablated):
    add_scale(ablated / "resneat50_cosine-s0")
    text = ablation_tables(comparison.load(ablated))
    row = cells(text, "| 5 |")
    assert row[1:4] == ["cosine attention (`resneat50_cosine`)", "1.50", "2.50"]
    assert row[4] == "58.0" and row[5].startswith("60.0 [")
    assert row[8:] == ["0.01..0.01 > 0.05..0.05", "0.02..0.02 > 0.1..0.1", "0.5..0.5 > 0.5..0.5", "25.0 %"]
    assert cells(text, "| 2 |")[8:] == [""] * 4
    assert cells(text, "| gain from the paper's attention |")[1:] == ["1 - 2", "-5.0 [-7.2, -3.0]"]
    assert cells(text, "| cost of the groups in the last 1x1 |")[2].startswith("+20.0 [")
    assert "9 - 5" not in text  # not trained


@pytest.mark.parametrize(
    ("with_attention", "changed", "said"),
    [
        (0.60, 0.02, "comes with a higher accuracy: +5.0 ["),
        (0.50, 0.02, "comes with a lower accuracy: -5.0 ["),
        (0.55, 0.02, "contributes nothing that can be measured: +0.0 ["),
        (0.55, 0.009, "is inert and contributes nothing that can be measured: +0.0 ["),
        (None, 0.0, "may raise or lower the accuracy; this is not decidable here: "),  # 3 % won and lost
    ],
)
def test_what_the_attention_contributes(tmp_path, with_attention, changed, said):
    top1 = {"resneat50": with_attention or 0.55, "resneat50_scale1": 0.55, "resnext50_32x4d": 0.6}
    folder = make_comparison(tmp_path / "c", top1, n=400)
    add_scale(folder / "resneat50-s0", changed=changed)
    if with_attention is None:
        path = folder / "resneat50-s0" / "predictions-test.csv"
        rows = [line.split(",") for line in path.read_text().splitlines()]
        for index in (*range(1, 13), *range(301, 313)):
            rows[index][1] = "2" if rows[index][1] == "1" else "1"
        path.write_text("\n".join(map(",".join, rows)) + "\n")
    runs = comparison.load(folder)
    text = set_tables.attention(runs)
    assert f"With seed 0, the paper's attention {said}" in text
    verdicts = {claim.number: claims.Verdict(claims.HOLDS, "") for claim in claims.CLAIMS}
    summary = verdict_summary(verdicts, runs, "c")
    assert f"\n* **The attention itself**: with seed 0, the paper's attention {said}" in summary
    assert "relative to ResNeXt, it has -5.0 [" in text and text.endswith("n = 400.")


def test_which_variant_wins_the_lost_points_back(ablated):
    """Cosine attention has 60 %, ResNeXt 62, in the same photos: 2 points of 400 photos are decidably fewer."""
    text = set_tables.attention(comparison.load(ablated))
    trained = "Scale = 1; cosine attention"  # the dense last 1x1 has more parameters
    said = f" With seed 0, no variant trained so far ({trained}) is as accurate as ResNeXt; the closest is cosine"
    assert f"{said} attention." in text
    best = (
        " The best variant on validation is Scale = 1; on test with seeds 1, 2: *better than the paper's unit*: holds "
    )
    assert f"{best}only for these runs, +5.0 [+3.0, +7.2] (2 seeds); *about as accurate as ResNeXt*: does not" in text
    shutil.copy(ablated / "resnext50_32x4d-s0" / "predictions-test.csv", ablated / "resneat50_cosine-s0")
    text = set_tables.attention(comparison.load(ablated))
    assert " With seed 0, not less accurate than ResNeXt, within the interval: cosine attention. " in text


def test_nothing_is_said_of_the_attention_without_scale_1(tmp_path):
    folder = make_comparison(tmp_path / "c", {"resneat50": 0.5, "resneat50_mean": 0.5, "resnext50_32x4d": 0.6})
    runs = comparison.load(folder)
    assert set_tables.attention(runs) == ""
    verdicts = {claim.number: claims.Verdict(claims.HOLDS, "") for claim in claims.CLAIMS}
    assert "The attention itself" not in verdict_summary(verdicts, runs, "c")


def test_figure_of_scale(ablated):
    from benchmarks.rendering.figures import draw

    add_scale(ablated / "resneat50_cosine-s0")
    add_scale(ablated / "resneat50-s0")
    consistency.check_comparison(ablated)
    runs = comparison.load(ablated)
    assert [run.model for run in comparison.measured(runs)] == ["resneat50", "resneat50_cosine"]
    assert draw(runs, ablated / "figures")[-1].name == "scale.png"
    svg = (ablated / "figures" / "scale.svg").read_text()
    assert svg.count("<!-- resneat50") == 2 and svg.count("stage 1") == 1


def test_a_table_begins_on_a_line_of_its_own(ablated):
    text = report.set_blocks({"photos": comparison.load(ablated)})["ablations"]
    heads = [line for line in text.splitlines() if re.search(r"\|  \| (unit|variants) \|", line)]
    assert len(heads) == 2 and all(line.startswith("|") for line in heads)


def test_links_of_the_pages_lead_to_files():
    for page in report.PAGES:
        places = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
        assert all((page.parent / place).exists() for place in places), page
