"""The statistics of Scale: by unit, in both directions, of variants too, and over a run's checkpoints."""

import json
import shutil

import pytest
import run_helpers
import timm
import torch
from train_data import make_data

from benchmarks import scale
from benchmarks.comparison import consistency


def small(name):
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=5, **run_helpers.TINY)


@pytest.fixture(scope="module")
def batches():
    torch.manual_seed(0)
    return [torch.randn(3, 3, 64, 64), torch.randn(2, 3, 64, 64)]


def test_untrained_units_weigh_nothing_and_larger_projections_do(batches):
    torch.manual_seed(0)
    net = timm.create_model("resneat50", num_classes=5)
    before = scale.scale_statistics(net, batches, training=True)
    assert [row["channels"] for row in before] == [256] * 3 + [512] * 4 + [1024] * 6 + [2048] * 3
    assert all(abs(row["mean"] - 0.5) < 0.01 and row["over_channels"] < 2e-3 for row in before)
    with torch.no_grad():
        for unit in net.modules():
            if isinstance(unit, scale.ChannelAttention2d):
                for projection in (unit.query, unit.key, unit.value):
                    projection.weight.mul_(300)
    after = scale.scale_statistics(net, batches, training=True)
    assert all(row["over_channels"] > 0.01 and row["over_photos"] > 0.01 for row in after)
    assert all(new["logits"] > 1e4 * old["logits"] for old, new in zip(before, after, strict=True))
    assert net.training  # the mode is restored


def test_before_training_the_maps_do_not_fade(batches):
    """The running statistics of an untrained network do not match its maps, which would fade from block to block."""
    torch.manual_seed(0)
    net = timm.create_model("resneat50", num_classes=5).eval()
    batch, running = (scale.scale_statistics(net, batches, training=training) for training in (True, False))
    assert batch[-1]["logits"] > 3 * running[-1]["logits"]
    assert not net.training


def test_statistics_by_hand():
    unit = scale.ChannelAttention2d(8, 16, 4).double()
    x = torch.rand(6, 8, 5, 5, dtype=torch.float64)
    with torch.no_grad():
        for projection in (unit.query, unit.key, unit.value):
            projection.weight.mul_(20)
    (row,) = scale.scale_statistics(torch.nn.Sequential(unit, torch.nn.Flatten()), x.split(3))
    expected = scale.attention_scale(x, unit.query.weight, unit.key.weight, unit.value.weight, 4)
    assert (row["unit"], row["channels"]) == ("0", 16)
    assert row["mean"] == pytest.approx(expected.mean().item())
    assert row["over_channels"] == pytest.approx(expected.std(1).mean().item())
    assert row["over_photos"] == pytest.approx(expected.std(0).mean().item())
    q, k = (part(x[[0, 3]]).flatten(2) for part in (unit.query, unit.key))  # the first photo of each batch
    assert row["logits"] == pytest.approx((torch.einsum("bis,bjs->bij", q, k) / 5).std(2).mean().item())


def test_variants_are_measured(batches):
    assert scale.scale_statistics(small("resneat50_scale1"), batches) == []
    mean = scale.scale_statistics(small("resneat50_mean"), batches)
    assert all(row["over_channels"] < 1e-9 and "logits" not in row for row in mean)
    for name in ("resneat50_cosine", "resneat50_cosine_shuffle", "resneat50_large"):
        rows = scale.scale_statistics(small(name), batches, training=True)
        assert len(rows) == 4 and all(0.03 < row["over_channels"] < 0.3 for row in rows), name
        assert all(row["logits"] > 1 for row in rows), name


def test_constant_scale_takes_the_mean_for_the_time_of_the_block(batches):
    net = small("resneat50_cosine").eval()
    unit, x = net.layer1[0].attn, torch.rand(2, 128, 8, 8)
    torch.nn.init.ones_(unit.norm.weight)
    rows, predicted = scale.statistics_and_answers(net, batches)
    assert torch.equal(predicted, scale.answers(net, batches))
    before = unit(x)
    with scale.constant_scale(net, rows):
        held = unit(x)
    torch.testing.assert_close(held, rows[0]["mean"] * unit.norm(unit.output(x)))
    assert not torch.equal(held, before) and torch.equal(unit(x), before)


def test_a_run_is_measured_with_all_its_checkpoints(tmp_path):
    data = make_data(tmp_path / "data")
    run = run_helpers.make_run(tmp_path / "resneat50_cosine-s1", data, "resneat50_cosine", **run_helpers.TINY)
    state = torch.load(run / "model_best.pth.tar", weights_only=False)
    torch.save(state, run / "checkpoint-1.pth.tar")
    for key in state["state_dict"]:
        if key.endswith("query.weight"):
            state["state_dict"][key] = state["state_dict"][key] * 0  # Q = 0: a uniform softmax
    torch.save({**state, "epoch": 0}, run / "checkpoint-0.pth.tar")
    results = tmp_path / "results" / run.name
    words = [str(run), "--data", str(data), "--results", str(results.parent)]
    assert scale.main(words) == 2  # not collected
    results.mkdir(parents=True)
    assert scale.main(words) == 0
    found = json.loads((results / "scale.json").read_text())
    consistency.check_paths(results / "scale.json", found)
    assert list(found["epochs"]) == ["1", "2"] and found["epochs"]["2"] == found["trained"]
    assert all(row["over_channels"] < 1e-6 for row in found["epochs"]["1"])
    assert all(row["over_channels"] > 1e-4 for row in found["trained"])
    assert (found["split"], found["photos"], found["params"]) == ("validation", 18, 16_226_600 + 16)
    assert 0 <= found["changed"] <= 1 and found["macs"] > found["macs_spent"] > 4e9
    assert scale.main([*words, "--batch-statistics"]) == 0
    by_batch = json.loads((results / "scale.json").read_text())
    assert by_batch["batch_statistics"] is True and found["batch_statistics"] is False
    assert by_batch["untrained"] == found["untrained"] and by_batch["trained"] != found["trained"]
    shutil.rmtree(results)


def test_a_folder_that_is_no_run_is_told(tmp_path, capsys):
    assert scale.main([str(tmp_path), "--data", str(tmp_path), "--output", str(tmp_path / "scale.json")]) == 2
    assert "run.json" in capsys.readouterr().err
