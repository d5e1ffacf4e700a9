"""timm's own tests/test_models.py on this package's networks, from the sdist of the installed timm, in a fresh process.

Its pretrained tests load from a Hub on the loopback interface that serves seeded weights. TIMM_SDIST may name a local
copy of the sdist; otherwise pip downloads it once into pytest's cache.
"""

import importlib.metadata
import io
import os
import re
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from loopback_hub import LoopbackHub

MODELS = ("resneat50", "resneat101", "inception_resnet_pa")
# tests that apply to every timm model and must all run; the 4th and 5th use pretrained weights
APPLICABLE = (
    "test_model_forward",
    "test_model_backward",
    "test_model_default_cfgs",
    "test_model_load_pretrained",
    "test_model_features_pretrained",
    "test_model_forward_torchscript",
    "test_model_forward_features",
    "test_model_forward_fx",
    "test_model_backward_fx",
    "test_model_forward_fx_torchscript",
)
HELPERS = Path(__file__).parents[1] / "helpers"


def sdist(cache: Path) -> Path:
    """The sdist of the installed timm; skips with pip's message if it is not available."""
    if named := os.environ.get("TIMM_SDIST"):
        assert Path(named).is_file(), f"TIMM_SDIST={named}: no such file"
        return Path(named)
    version = importlib.metadata.version("timm")
    if not (archive := cache / f"timm-{version}.tar.gz").exists():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "timm"]
        done = subprocess.run([*pip, f"timm=={version}", "--dest", cache], capture_output=True, text=True)
        if not archive.exists():
            reason = (done.stderr.strip() or "pip saved another file").splitlines()[-1]
            pytest.skip(f"timm {version}'s sdist cannot be had (TIMM_SDIST may name a copy): {reason}")
    return archive


@pytest.fixture
def suite(pytestconfig, tmp_path, tmp_path_factory) -> Path:
    """A folder with timm's ``tests`` and pytest settings, but without timm itself: the installed one is tested."""
    cached = pytestconfig.pluginmanager.hasplugin("cacheprovider")
    folder = pytestconfig.cache.mkdir("timm-sdist") if cached else tmp_path_factory.mktemp("timm-sdist")
    with tarfile.open(sdist(folder)) as archive:
        for member in archive:
            member.name = member.name.partition("/")[2]  # without timm-X.Y.Z
            if member.name == "pyproject.toml" or member.name.startswith("tests/"):
                archive.extract(member, tmp_path / "timm", filter="data")
    return tmp_path / "timm"


def repositories(name: str) -> dict[str, dict[str, bytes]]:
    """Seeded weights where the pretrained cfg points to, and frozen tensors where timm's inference test needs them."""
    import safetensors.torch
    import timm
    import torch
    from model_cases import lively
    from PIL import Image

    torch.manual_seed(0)
    model = lively(timm.create_model(name))
    with torch.no_grad():
        model.get_classifier().bias[24] += 100  # that test expects the class of an owl
    picture = io.BytesIO()
    noise = torch.randint(0, 256, (8, 8, 3), dtype=torch.uint8).numpy()
    Image.fromarray(noise).resize((300, 260)).save(picture, "jpeg", quality=95)
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))

    def frozen(images: torch.Tensor) -> bytes:
        with torch.no_grad():
            features = model.forward_features(images)
            pre_logits = model.forward_head(features, pre_logits=True)
            tensors = dict(input=images, output=model(images), features=features, pre_logits=pre_logits)
        return safetensors.torch.save(tensors)

    return {
        f"timm-landmark/{name}.gld_1k": {"model.safetensors": safetensors.torch.save(model.state_dict())},
        f"timm/{name}.gld_1k": {
            "test/test_owl.jpg": picture.getvalue(),
            "test/owl_tensors.safetensors": frozen(transform(Image.open(picture))[None]),
            "test/rand_tensors.safetensors": frozen(torch.randn(1, 3, 224, 224)),
        },
    }


def run(
    suite: Path, files: list[Path], models: tuple[str, ...], tmp_path: Path, path: str | None
) -> dict[str, tuple[str, str]]:
    """Outcome and message of each test in the files that names one of the models; ``path`` is conftest's option."""
    report = tmp_path / "report.xml"
    with LoopbackHub() as hub:
        for name in models:
            for repository, contents in repositories(name).items():
                hub.add(repository, contents)
        backend = {"TORCH_BACKEND": "forced_path", "FORCED_PATH": path} if path else {"TORCH_BACKEND": "timm_landmark"}
        env = hub.env(tmp_path / "hub", PYTHONPATH=f"{suite}{os.pathsep}{HELPERS}", **backend)
        for name in ("GITHUB_ACTIONS", "TORCH_DEVICE", "TIMEOUT", "PYTEST_ADDOPTS"):
            env.pop(name, None)  # the first one removes tests from timm's suite
        options = ["-c", suite / "pyproject.toml", "-k", " or ".join(models), f"--junitxml={report}"]
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, *files]
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-6000:]}{done.stderr[-2000:]}"
    outcomes = {}
    for case in ElementTree.parse(report).iter("testcase"):
        found = next(((kind, note.get("message")) for note in case if (kind := note.tag) != "system-out"), None)
        outcomes[case.get("name")] = found or ("passed", "")
    return outcomes


@pytest.mark.parametrize("models", [MODELS[:1], pytest.param(MODELS, marks=pytest.mark.full)], ids=["one", "all"])
def test_timms_own_suite(suite, models, tmp_path, pytestconfig):
    """All tests that apply ran and passed; none was skipped."""
    outcomes = run(suite, [suite / "tests" / "test_models.py"], models, tmp_path, pytestconfig.getoption("path"))
    others = [f"{name}: {outcome} {message}" for name, (outcome, message) in outcomes.items() if outcome != "passed"]
    print(f"\ntimm {importlib.metadata.version('timm')}: {len(outcomes) - len(others)} passed", *others, sep="\n")
    assert not others
    for model in models:
        ran = {name.partition("[")[0] for name in outcomes if re.search(rf"-{model}\b", name)}
        assert ran >= set(APPLICABLE), f"{model}: {set(APPLICABLE) - ran} did not run"


@pytest.mark.full
def test_timms_tests_of_its_families(suite, tmp_path, pytestconfig):
    """Tests that timm runs on models it knows by name, called with ours; tests missing from timm are skipped."""
    outcomes = run(suite, [HELPERS / "timm_family_cases.py"], MODELS, tmp_path, pytestconfig.getoption("path"))
    skips = [f"{name}: {message}" for name, (outcome, message) in outcomes.items() if outcome == "skipped"]
    print(f"\ntimm {importlib.metadata.version('timm')}: {len(outcomes) - len(skips)} passed", *skips, sep="\n")
    assert all(outcome in ("passed", "skipped") for outcome, _ in outcomes.values())
    assert all("this timm's suite has no" in skip for skip in skips)
    assert len(outcomes) == 6 * 3 + 4 * 2 + 3
