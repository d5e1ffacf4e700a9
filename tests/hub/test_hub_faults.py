"""Every fault of a Hub gives an error with a remedy, leaves no partial files, and the next try works."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from run_helpers import TINY, make_run

from timm_landmark.hub.export import main as export

# fault -> reason and remedy, which must be in the message
SAYS = {
    "401": ("org/m: the repository does not exist on the Hub or is private", "hf auth login"),
    "403": ("denies access (403)", "token with the required permission"),
    "429": ("too many requests to the Hub (429)", "wait"),
    "500": ("unavailable (500)", "try again later"),
    "503": ("unavailable (503)", "try again later"),
    "cut": ("the connection was lost", "try again"),
    "wrong length": ("wrong size", "try again"),
    "truncated": ("is damaged", "try again"),
    "garbage": ("is damaged", "try again"),
}
NAMED = {
    "no repository": ("org/absent: the repository does not exist on the Hub", "check the spelling"),
    "no revision": ("org/m has no revision 'absent'", "branch, tag or commit"),
    "no file": ("org/pickle has no file model.safetensors", "timm-landmark export"),
    "private": ("org/private: the repository does not exist on the Hub or is private", "HF_TOKEN"),
    "gated": ("org/gated: access is gated", "request access"),
    "a name that is none": ("not a valid name of a Hub repository", "ORG/NAME"),
}
BUILT = {
    "tensors of another model": ("org/other: its tensors do not fit resneat50", "config.json"),
    "not published": ("timm-landmark/resneat50.gld_1k: these weights are not published", "pretrained_cfg_overlay"),
    "another class count": ("weights have 3 classes, but its configuration has 10", "num_classes=3"),
    "another class count, mine": ("weights have 3 classes, but its configuration has 10", "num_classes=3"),
    "loopback down": ("cannot connect to the Hub", "HF_ENDPOINT"),
    "disk full": ("cannot store model.safetensors", "free disk space"),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    path = tmp_path_factory.mktemp("faults")
    for name, model, more in (("m", "resneat50", TINY), ("other", "test_resnet", {})):
        export([str(make_run(path / f"run-{name}", model=model, **more)), "--output", str(path / name)])
    script = Path(__file__).parents[1] / "helpers" / "hub_faults.py"
    child = subprocess.run(
        [sys.executable, script, path / "m", path / "other", path / "scratch"], capture_output=True, text=True
    )
    assert child.returncode == 0, child.stderr[-3000:]
    return json.loads(child.stdout.splitlines()[-1])


def check(result, reason, remedy):
    assert result["error"] is not None
    kind, _, sentence = result["error"].partition(": ")
    assert kind in ("PretrainedError", "UserError")
    assert reason in sentence and remedy in sentence
    assert "\n" not in sentence and len(sentence) < 600
    assert result["left"] == [] and not result["pickle"]


@pytest.mark.parametrize("way", ["", "verb: "])
@pytest.mark.parametrize("fault", SAYS)
def test_a_fault_is_one_sentence_with_its_remedy_and_the_next_try_works(results, fault, way):
    check(results[way + fault], *SAYS[fault])
    assert results[way + fault]["again"] == "equal"


@pytest.mark.parametrize("way", ["", "verb: "])
@pytest.mark.parametrize("fault", NAMED)
def test_what_is_not_there_is_said_by_name(results, fault, way):
    check(results[way + fault], *NAMED[fault])


@pytest.mark.parametrize("fault", BUILT)
def test_what_does_not_fit_or_cannot_be_kept(results, fault):
    check(results[fault], *BUILT[fault])
    assert results[fault].get("again", "equal") == "equal"


def test_one_cut_is_taken_up_again_without_a_word(results):
    assert results["cut once"] == {"error": None, "left": [], "pickle": False}


@pytest.mark.parametrize("way", ["", "verb: "])
def test_no_pickle_is_read_whatever_the_config_asks_for(results, way):
    assert results[f"{way}config asks for a pickle"] == {"error": None, "left": [], "pickle": False}
