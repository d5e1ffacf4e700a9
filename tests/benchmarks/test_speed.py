"""The timing script: names, merging and errors, but not the timings themselves."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import speed


def test_every_measurement_has_a_name_and_an_unknown_one_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert speed.main(["--list"]) == 0
    names = capsys.readouterr().out.split()
    assert {
        "ratios/memory-onnxruntime",
        "ratios/torch.export-resneat50-inference-224",
        "ratios/bf16-autocast-resneat50-training-224",
        "ratios/compiled-training-96-32",
        "peers/densenet121",
        "sizes/training-96-32",
    } <= set(names)
    assert speed.main(["--only", "nothing"]) == 2
    assert "--list" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "there", "told"),
    [
        ("threads", 7, "threads of its timings is 7, here it is 1"),
        ("cpu_capability", "VSX", "cpu_capability of its timings is VSX, here it is"),
        ("cpu_capability", None, "cpu_capability of its timings is unknown, here it is"),
    ],
)
def test_times_of_different_settings_are_not_mixed(
    key: str, there: object, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, head = tmp_path / "speed.json", speed._head("cpu", 1)
    head[key] = there
    text = json.dumps({name: value for name, value in head.items() if value is not None})
    output.write_text(text, encoding="utf-8")
    assert speed.main(["--only", "peers", "--threads", "1", "--output", str(output)]) == 2
    assert told in capsys.readouterr().err and output.read_text(encoding="utf-8") == text


def test_a_new_file_states_the_cpu_capability(tmp_path: Path) -> None:
    assert speed._load(tmp_path / "none.json", speed._head("cpu", 1))["cpu_capability"]


def test_a_second_measurement_replaces_the_first_and_keeps_the_rest() -> None:
    result: dict = {}
    args = SimpleNamespace(device="cpu", seconds=0.0, pause=0.0)
    for _ in range(2):
        speed.measure_rates(result, args, ("resnet18",), "inference", 32, 1)
    speed.measure_rates(result, args, ("resnet18",), "training", 32, 2)
    assert [(row["mode"], row["batch"]) for row in result["throughput"]] == [("inference", 1), ("training", 2)]
    assert all(0 < row["low"] <= row["img_per_s"] <= row["high"] for row in result["throughput"])


@pytest.mark.parametrize("form", speed.GRAPHS)
def test_a_graph_in_a_file_is_a_step(form: str, tmp_path: Path) -> None:
    net = speed.make_net("resnet18", "inference", "cpu")
    speed.write_graph(form, net, 32, tmp_path / "graph")
    speed.read_graph(form, tmp_path / "graph", 32, 3)()
