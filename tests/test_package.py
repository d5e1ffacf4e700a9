"""The installed package: a silent and light import, three new models, a complete wheel, and the command line."""

import ast
import errno
import importlib
import json
import re
import statistics
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import timm_landmark
from timm_landmark import cli

ROOT = Path(__file__).parent.parent
NEW = {"resneat50", "resneat101", "inception_resnet_pa"}
HEAVY = ("fvcore", "jinja2", "matplotlib", "onnx", "pandas", "pyarrow", "timm_landmark.data", "webdataset")


def python(code: str, *options: str, path: Path | None = None) -> subprocess.CompletedProcess:
    """Runs code in a fresh interpreter outside the repository; with ``path`` first on its search path."""
    before = f"import sys; sys.path.insert(0, {str(path)!r}); " if path else ""
    return subprocess.run([sys.executable, *options, "-c", before + code], capture_output=True, text=True, cwd="/")


def test_import_is_silent_light_and_quick():
    """No warnings, no output, no optional libraries, and little time compared with the import of timm."""
    code = """
import sys, time
start = time.perf_counter()
import timm
middle = time.perf_counter()
import timm_landmark
ratio = (time.perf_counter() - middle) / (middle - start)
known = [name for name in {} if name in sys.modules]
print(ratio, known)
"""
    ratios = []
    for _ in range(3):
        done = python(code.format(HEAVY), "-W", "error")
        assert (done.returncode, done.stderr) == (0, "")
        ratio, _, known = done.stdout.partition(" ")
        assert known == "[]\n"
        ratios.append(float(ratio))
    assert statistics.median(ratios) < 0.1, ratios  # about 0.01 when this was written


def test_registers_the_new_names_and_no_other():
    code = """
import json, timm
def known(): return {name: timm.models.model_entrypoint(name).__module__ for name in timm.list_models()}
before, tags = known(), set(timm.list_models(include_tags=True))
try:
    timm.create_model("resneat50")
except RuntimeError as error:
    unknown = str(error)
import timm_landmark
tags = sorted(set(timm.list_models(include_tags=True)) - tags)
print(json.dumps([before, known(), tags, timm.list_modules(), unknown]))
"""
    before, after, tags, modules, unknown = json.loads(python(code).stdout)
    assert unknown.startswith("Unknown model (resneat50)"), "the error of timm if the import is missing"
    assert after.keys() - before.keys() == NEW
    assert {name: after[name] for name in before} == before, "no name of timm's is overwritten"
    assert set(tags) == {f"{name}.gld_1k" for name in NEW}
    assert {after[name] for name in NEW} == {
        "timm_landmark.models.resneat",
        "timm_landmark.models.inception_resnet_pa",
    }
    assert {"resneat", "inception_resnet_pa"} <= set(modules), "families of their own, not timm's resnet"


def test_timms_private_modules_are_not_imported():
    """They may change in any release."""
    private = re.compile(r"^timm(\.\w+)*\._")
    found = []
    for file in (ROOT / "timm_landmark").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [f"{names[0]}.{alias.name}" for alias in node.names] if names else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found += [f"{file.relative_to(ROOT)}:{node.lineno}: {name}" for name in names if private.match(name)]
    assert not found


def test_no_module_needs_another_system_than_windows():
    """Every module can be imported without the modules that only Unix has."""
    code = """
import builtins, importlib, pkgutil, sys
unix = {"curses", "fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"}
real = builtins.__import__
def without_unix(name, globals=None, locals=None, fromlist=(), level=0):
    importer = (globals or {}).get("__name__", "")
    if importer.startswith("timm_landmark") and name.partition(".")[0] in unix:
        raise ModuleNotFoundError(f"No module named {name!r}, which {importer} imports")
    return real(name, globals, locals, fromlist, level)
builtins.__import__ = without_unix
import timm_landmark, timm_landmark_cli
names = [module.name for module in pkgutil.walk_packages(timm_landmark.__path__, "timm_landmark.")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""
    done = python(code)
    assert done.returncode == 0, done.stderr.splitlines()[-1]
    assert int(done.stdout) == len(list((ROOT / "timm_landmark").rglob("*.py"))) - 1


# the wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel that ``pip install .`` builds."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder)]
    isolation = ["--no-build-isolation"] if _has_hatchling() else []
    done = subprocess.run([*pip, *isolation, str(ROOT)], capture_output=True, text=True)
    if done.returncode and re.search("No matching distribution|No module named pip|connection", done.stderr):
        pytest.skip(f"the wheel's builder, hatchling, is not available: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


def _has_hatchling() -> bool:
    try:
        import hatchling  # noqa: F401
    except ImportError:
        return False
    return True


def test_wheel_is_complete(wheel):
    """The wheel has all files of the package, its entry point and the licence, and nothing else."""
    assert wheel.name == f"timm_landmark-{timm_landmark.__version__}-py3-none-any.whl"
    files = {info.filename for info in zipfile.ZipFile(wheel).infolist() if not info.is_dir()}
    package = {name for name in files if name.startswith("timm_landmark/")}
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "timm_landmark").rglob("*") if path.is_file()}
    assert package == {name for name in sources if "__pycache__" not in name}
    assert {f"timm_landmark/training/recipes/{name}.yaml" for name in ("paper", "finetune")} <= set(package)
    assert "timm_landmark/py.typed" in package
    rest = files - package
    assert {name for name in rest if ".dist-info/" not in name} == {"timm_landmark_cli.py"}
    assert any(name.endswith("/LICENSE") for name in rest)
    metadata = zipfile.ZipFile(wheel).read(next(name for name in rest if name.endswith("METADATA"))).decode()
    assert "License-Expression: Apache-2.0" in metadata
    scripts = zipfile.ZipFile(wheel).read(next(name for name in rest if name.endswith("entry_points.txt"))).decode()
    assert "timm-landmark = timm_landmark_cli:main" in scripts


def test_wheel_works_where_it_is_unpacked(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = """
import sys, timm, timm_landmark
from importlib.resources import files
from timm_landmark.cli import main
print(timm_landmark.__file__)
recipes = files("timm_landmark") / "training" / "recipes"
print(timm.create_model("resneat50", device="meta").num_features, recipes.is_dir())
sys.exit(main(["fly"]))
"""
    done = python(code, path=tmp_path)
    assert done.stdout.splitlines() == [str(tmp_path / "timm_landmark" / "__init__.py"), "2048 True"], done.stderr
    assert done.returncode == 2 and done.stderr.startswith("timm-landmark: error: unknown verb 'fly'")


# the command line


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_answers_help(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([verb, "--help"])
    assert ended.value.code == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"usage: timm-landmark {verb}") and not err


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_refuses_an_unknown_option(verb, capsys):
    """Exit code 2 with one line that names the option."""
    try:
        code = cli.main([verb, "--no-such-option"])
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    out, err = capsys.readouterr()
    assert not out and "Traceback" not in err
    assert err.splitlines()[-1].startswith(f"timm-landmark {verb}: error:")


COMMAND = """
import sys, timm_landmark_cli
sys.argv = {argv}
try:
    timm_landmark_cli.main()
finally:
    print([name in sys.modules for name in ("torch", "timm", "timm_landmark.models.resneat")])
"""


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["prepare", "--help"], ["synthesize", "--help"]])
def test_the_command_imports_torch_only_for_models(argv):
    done = python(COMMAND.format(argv=["timm-landmark", *argv]))
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "[False, False, False]", done.stderr


def test_the_command_registers_the_models_for_the_other_verbs():
    done = python(COMMAND.format(argv=["timm-landmark", "predict", "--help"]))
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "[True, True, True]", done.stderr


def test_a_full_disk_is_no_traceback(monkeypatch, capsys):
    def fails(argv):
        raise OSError(errno.ENOSPC, "No space left on device", "RUN/run.json")

    monkeypatch.setattr(importlib.import_module(cli.VERBS["evaluate"][0]), "main", fails)
    assert cli.main(["evaluate", "RUN"]) == 2
    error = "timm-landmark evaluate: error: RUN/run.json: No space left on device; fix this and repeat\n"
    assert capsys.readouterr().err == error


def test_unknown_verb_and_no_verb(capsys):
    assert cli.main(["fly"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "'fly'" in err and all(verb in err for verb in cli.VERBS)
    for arguments, code in (([], 2), (["--help"], 0)):
        assert cli.main(arguments) == code
        out = capsys.readouterr().out
        assert out.startswith("usage: timm-landmark VERB") and all(verb in out for verb in cli.VERBS)
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.endswith(f"timm-landmark {timm_landmark.__version__}\n")
