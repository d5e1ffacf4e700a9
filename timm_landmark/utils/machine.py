"""Hardware and software versions, which are recorded in every result file."""

import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path

PACKAGE = "timm_landmark"
ROOT = Path(__file__).resolve().parents[2]  # the checkout, or site-packages


def machine_info() -> dict[str, object]:
    """Returns processor, cores, system and library versions, but no host name, user or path."""
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
    """The commit of this project, and whether its files have changes; None if it is unknown.

    It is known if the package is used from its git checkout, or was installed by pip from a repository.

    Args:
        root: The folder that contains the package's folder.
    """
    if (root / ".git").exists():
        return _checked_out(root)
    for installed in importlib.metadata.distributions(name=PACKAGE, path=[str(root)]):
        source = json.loads(installed.read_text("direct_url.json") or "{}")
        if commit := source.get("vcs_info", {}).get("commit_id"):
            return {"commit": commit, "dirty": False}
    return None


def _checked_out(root: Path) -> dict[str, object] | None:
    # variables such as GIT_DIR, which git sets for hooks, would select another repository
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), "--no-optional-locks", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=30).stdout

    try:
        git("ls-files", "--error-unmatch", f"{PACKAGE}/__init__.py")  # fails in the repository of another project
        changed = git("status", "--porcelain", "--untracked-files=no")
        return {"commit": git("rev-parse", "HEAD").strip(), "dirty": bool(changed.strip())}
    except (OSError, subprocess.SubprocessError):  # git is missing or does not trust the repository
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
