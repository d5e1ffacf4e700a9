"""What a measurement ran on: the metadata that every result file carries."""

import importlib.metadata
import os
import platform


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
