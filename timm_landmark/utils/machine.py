"""What a measurement ran on: the metadata that every result file carries."""

import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path

PACKAGE = "timm_landmark"
ROOT = Path(__file__).resolve().parents[2]  # of a checkout, or site-packages


def machine_info() -> dict[str, object]:
    """Processor, cores, system and library versions; no host name, no user, no path."""
    packages = {}
    for name in ("timm", "torch", "torchvision", "fvcore", "numpy", "pillow", "timm-landmark"):
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            packages[name] = None
    return {
        "cpu": _cpu_name(),
        "cores": available_cores(),
        "machine": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": packages,
    }


def project_commit(root: Path = ROOT) -> dict[str, object] | None:
    """The commit of this project that runs, and whether its files were changed since; None where it is not known.

    It is known for a package that is run from its git checkout, and for one that pip installed from a repository.

    Args:
        root: The folder that holds the package's folder.
    """
    if (root / ".git").exists():
        return _checked_out(root)
    for installed in importlib.metadata.distributions(name=PACKAGE, path=[str(root)]):
        source = json.loads(installed.read_text("direct_url.json") or "{}")
        if commit := source.get("vcs_info", {}).get("commit_id"):
            return {"commit": commit, "dirty": False}
    return None


def _checked_out(root: Path) -> dict[str, object] | None:
    # a variable such as GIT_DIR, which git sets for hooks, would lead to another repository
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), "--no-optional-locks", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=30).stdout

    try:
        git("ls-files", "--error-unmatch", f"{PACKAGE}/__init__.py")  # not somebody else's repository
        changed = git("status", "--porcelain", "--untracked-files=no")
        return {"commit": git("rev-parse", "HEAD").strip(), "dirty": bool(changed.strip())}
    except (OSError, subprocess.SubprocessError):  # no git, or a repository that it does not trust
        return None


def available_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
