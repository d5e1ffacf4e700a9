"""The timing script: parts, merging, refusals. Not the timings themselves."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import speed


def test_every_part_has_a_name_and_an_unknown_one_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert speed.main(["--list"]) == 0
    names = capsys.readouterr().out.split()
    assert {
        "goals/memory-onnxruntime",
        "goals/torch.export-resneat50-inference-224",
        "breakdown/training-96-32",
        "peers/densenet121",
        "sizes/training-96-32",
    } <= set(names)
    assert speed.main(["--only", "nothing"]) == 2
    assert "--list" in capsys.readouterr().err


def test_times_of_another_number_of_threads_are_not_mixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "speed.json"
    head = dict(machine=speed.machine_info(), device="cpu", threads=7)
    output.write_text(json.dumps(head), encoding="utf-8")
    assert speed.main(["--only", "breakdown", "--threads", "1", "--output", str(output)]) == 2
    assert "threads" in capsys.readouterr().err


def test_a_second_measurement_replaces_the_first_and_keeps_the_rest() -> None:
    result: dict = {}
    args = SimpleNamespace(device="cpu", seconds=0.0, pause=0.0)
    for _ in range(2):
        speed.measure_rates(result, args, ("resnet18",), "inference", 32, 1)
    speed.measure_rates(result, args, ("resnet18",), "training", 32, 2)
    assert [(row["mode"], row["batch"]) for row in result["throughput"]] == [("inference", 1), ("training", 2)]
    assert all(0 < row["low"] <= row["img_per_s"] <= row["high"] for row in result["throughput"])


def test_a_breakdown_finds_the_stages_in_both_passes() -> None:
    net = speed.make_net("resneat50", "training", "cpu")
    cells = speed.breakdown(speed.make_step("eager", net, 32, 2, "cpu"), net)
    of = {(cell["stage"], cell["part"]): cell["ms"] for cell in cells}
    assert all(of[stage, part] > 0 for stage in ("layer1", "layer4") for part in ("convolutions", "exponentials"))
    assert of["stem, head", "exponentials"] == 0  # the attention units of both passes lie in the stages
    assert of["stem, head", "convolutions"] > 0


@pytest.mark.parametrize("form", speed.GRAPHS)
def test_a_graph_in_a_file_is_a_step(form: str, tmp_path: Path) -> None:
    net = speed.make_net("resnet18", "inference", "cpu")
    speed.write_graph(form, net, 32, tmp_path / "graph")
    speed.read_graph(form, tmp_path / "graph", 32, 3)()
