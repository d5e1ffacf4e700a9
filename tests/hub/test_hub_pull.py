"""Loading from a loopback Hub in new processes: all of timm's ways give bit-equal tensors, also offline."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
from loopback_hub import LoopbackHub
from run_helpers import TINY, make_export
from safetensors.torch import save_file

WAYS = (
    *("registered", "registered_by_tag", "by_name", "by_overlay", "other_class_count", "no_classes", "one_channel"),
    *("four_channels", "features_only", "cache_dir", "verbs", "revision", "commit"),
)


def pull(hub, path, *ways, **env):
    script = Path(__file__).parents[1] / "helpers" / "hub_pulls.py"
    child = subprocess.run(
        [sys.executable, script, path / "m", path / "published", path / "own", *ways],
        env=hub.env(path / "home", **env), capture_output=True, text=True,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-3000:]
    return json.loads(child.stdout.splitlines()[-1]), child.stderr


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    path = tmp_path_factory.mktemp("pull")
    exported = make_export(path, **TINY)
    exported.rename(path / "m")
    net = timm.create_model("resneat50")
    save_file(net.state_dict(), path / "published")
    with LoopbackHub() as hub:
        hub.add("timm-landmark/resneat50.gld_1k", {"model.safetensors": (path / "published").read_bytes()})
        commit = hub.add("org/m", path / "m")
        hub.add("org/m", path / "m", revision="v1")
        found, _ = pull(hub, path, *WAYS, commit)
        asked = [path for _, path in hub.requests]
        hub.requests.clear()
        warm, _ = pull(hub, path, "registered", "by_name", "by_overlay", "verbs", HF_HUB_OFFLINE="1")
        cold, _ = pull(hub, path.joinpath("."), "four_channels", HF_HUB_OFFLINE="1", HF_HOME=str(path / "cold"))
        offline = list(hub.requests)
    return {"found": found, "asked": asked, "warm": warm, "cold": cold, "offline": offline}


@pytest.mark.parametrize("way", WAYS)
def test_tensors_are_bit_equal(results, way):
    assert results["found"][way] == "equal"


def test_only_safetensors_and_config_are_asked_for(results):
    before = results["asked"].index("/api/models/org/m/revision/main")  # the verb also downloads the card
    files = {path.rsplit("/", 1)[-1] for path in results["asked"][:before]}
    assert files == {"model.safetensors", "config.json"}
    assert not any(path.endswith((".bin", ".pth", ".pt")) for path in results["asked"])


def test_offline_with_a_warm_cache(results):
    assert results["warm"] == dict.fromkeys(("registered", "by_name", "by_overlay", "verbs"), "equal")
    assert results["offline"] == []


def test_offline_with_a_cold_cache_names_the_file(results):
    assert "config.json" in results["cold"]["four_channels"] or "cannot find" in results["cold"]["four_channels"]


def test_offline_with_a_cold_cache_by_the_models_and_by_the_verbs(tmp_path):
    code = """
import timm, timm_landmark
from timm_landmark.hub.exported import fetch
for call in (lambda: timm.create_model("resneat50", pretrained=True), lambda: fetch("hf-hub:org/m")):
    try:
        call()
    except Exception as error:
        print(type(error).__name__, error)
"""
    with LoopbackHub() as hub:
        child = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            env=hub.env(tmp_path, HF_HUB_OFFLINE="1"), capture_output=True, text=True,
        )  # fmt: skip
    first, second = child.stdout.splitlines()
    assert first.startswith("PretrainedError timm-landmark/resneat50.gld_1k: model.safetensors is not in the cache")
    assert second.startswith("UserError org/m: config.json is not in the cache and HF_HUB_OFFLINE prevents")
    assert "HF_HUB_OFFLINE=0" in first and "HF_HUB_OFFLINE=0" in second
