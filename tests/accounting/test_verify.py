"""``timm-landmark verify``: verdicts on all twelve claims, pure JSON, exit code 1 if a count differs."""

import copy
import json

import pytest

from timm_landmark.accounting import verify
from timm_landmark.accounting.claims import (
    CLAIMS,
    DOES_NOT_HOLD,
    HOLDS,
    HOLDS_ONLY,
    NOT_DECIDABLE,
    Verdict,
    judge_by_count,
)
from timm_landmark.cli import main


@pytest.fixture(scope="module")
def stated():
    return json.loads(verify.STATED_COUNTS.read_text())


@pytest.fixture
def counted(monkeypatch, stated):
    """Replaces ten seconds of counting, which other tests cover, with the committed counts."""
    from timm_landmark.accounting import units as paper_counts

    value = copy.deepcopy(stated)
    monkeypatch.setattr(paper_counts, "paper_counts", lambda: value)
    return value


def test_whole_verb_on_live_models_writes_pure_json_and_finds_what_is_stated(capsys):
    assert main(["verify", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["units"] == {"resnet": 212_992, "resnext": 70_144, "resneat": 41_472}
    assert result["models"]["resneat50"]["params"] == 16_226_600
    assert result["models"]["resnext50_32x4d"]["macs"] == 4_230_479_872
    assert result["models"]["resneat50"]["macs"] == 6_100_287_488
    assert [claim["number"] for claim in result["claims"]] == list(range(1, 13))
    assert {check["equal"] for check in result["checks"]} == {True}
    assert f"{result['ratios']['unit']:.3f}" == "0.591"
    assert f"{result['ratios']['network']:.3f}" == "0.648"
    assert f"{result['ratios']['network without classifier']:.3f}" == "0.617"


def test_text_has_a_verdict_for_each_claim(counted, capsys):
    assert main(["verify"]) == 0
    text = capsys.readouterr().out
    for claim in CLAIMS:
        assert f"{claim.number}. {claim.text}" in text
    assert text.count("judged by:") == 12
    assert "64.8%" in text and "61.7%" in text and "59.1%" in text
    assert "benchmarks/results" in text


@pytest.mark.parametrize(
    "path", ["models.resneat50.params", "models.inception_resnet_pa.macs", "units.resneat", "table_1.resneat50.conv3"]
)
def test_a_changed_count_exits_with_1_and_is_named(counted, capsys, path):
    *parents, leaf = path.split(".")
    value = counted
    for parent in parents:
        value = value[parent]
    value[leaf] = value[leaf] + (1 if isinstance(value[leaf], int) else " x")
    assert main(["verify"]) == 1
    text = capsys.readouterr().out
    assert "DIFFERS" in text and f"stated {path}" in text


def test_nothing_stated_is_a_difference_too(counted, monkeypatch, tmp_path):
    monkeypatch.setattr(verify, "STATED_COUNTS", tmp_path / "none.json")
    assert main(["verify"]) == 1


def test_operator_nobody_counts_fails_the_check(counted, capsys):
    counted["models"]["resneat50"]["uncounted"] = {"aten::mystery": 16}
    assert main(["verify"]) == 1
    assert "resneat50: not counted: aten::mystery (16x)" in capsys.readouterr().out


def test_stated_file_is_what_write_stated_writes(counted, tmp_path):
    main(["verify", "--write-stated", str(tmp_path / "counts.json")])
    assert (tmp_path / "counts.json").read_text() == verify.STATED_COUNTS.read_text()


def test_named_models_get_a_table_of_their_own(capsys):
    assert main(["verify", "resnet18", "vit_tiny_patch16_224", "--img-size", "96", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["models"]
    assert [(row["model"], row["img_size"]) for row in rows] == [("resnet18", 96), ("vit_tiny_patch16_224", 96)]
    assert main(["verify", "resnet18"]) == 0
    assert "11.690" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["resneat5"], ["resneat5", "resneat50"]),
        (["resnet18.no_such_tag"], ["resnet18.no_such_tag"]),
        (["hf-hub:a/b"], ["hf-hub:a/b"]),
        (["--img-size", "96"], ["--img-size 96"]),
        (["resnet18", "--img-size", "wide"], ["--img-size", "wide"]),
        (["--no-such-option"], ["--no-such-option"]),
        (["resnet18", "--img-size", "0"], ["--img-size 0"]),
        (["inception_resnet_v2", "--img-size", "20"], ["inception_resnet_v2", "20", "--img-size"]),
        (["resnet18", "--write-stated", "x.json"], ["--write-stated"]),
        (["--write-stated", "no/such/folder/x.json"], ["--write-stated", "no/such/folder"]),
    ],
)
def test_mistakes_end_in_one_line_and_2(argv, words, capsys, counted):
    assert main(["verify", *argv]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("timm-landmark verify: error:")
    assert all(word in error for word in words)


def test_claim_2_is_false_for_the_network_and_would_be_told_true(stated):
    assert judge_by_count(stated, {})[1].verdict == HOLDS
    assert judge_by_count(stated, {})[2].verdict.startswith(DOES_NOT_HOLD)
    lighter = copy.deepcopy(stated)
    lighter["models"]["resneat50"]["params"] = round(0.59 * lighter["models"]["resnext50_32x4d"]["params"])
    assert judge_by_count(lighter, {})[2].verdict == f"{HOLDS_ONLY} the network"


def test_claim_3_is_judged_by_the_multiply_adds_as_written_and_names_the_rest(stated):
    costs = copy.deepcopy(stated)
    at, xt = costs["models"]["resneat50"], costs["models"]["resnext50_32x4d"]
    at["macs_spent"] = xt["macs"] // 2
    found = judge_by_count(costs, {"inference": 1.2})[3]
    assert found.verdict == DOES_NOT_HOLD
    assert "on the fast path that computes the same 2.12 G (x0.50); img/s relative to ResNeXt: inference x1.20" in (
        found.evidence
    )
    at["macs"] = xt["macs"]
    assert judge_by_count(costs, {})[3].verdict == DOES_NOT_HOLD
    at["macs"] -= 1
    assert judge_by_count(costs, {"inference": 0.9})[3].verdict == HOLDS


def test_claims_that_need_training_take_the_committed_verdicts(stated):
    runs = {"claims": {"5": {"verdict": "does not hold", "evidence": "-2.0 points"}}, "speed": {}}
    verdicts = verify.judge(stated, runs)
    assert verdicts[5] == Verdict("does not hold", "-2.0 points")
    assert verdicts[8].verdict == NOT_DECIDABLE
    assert verdicts[1].verdict == HOLDS
