"""Run in a fresh process by test_hub_faults.py: every fault against a loopback Hub, each followed by another try.

Prints JSON: fault -> {"error": class and message, "left": half-written files, "again": "equal" or what went wrong}.
Usage: hub_faults.py FOLDER OTHER SCRATCH   (two exported models: resneat50 of three classes, and another architecture)
"""

import json
import os
import pickle
import resource
import signal
import sys
import time
import warnings
from pathlib import Path

from loopback_hub import LoopbackHub

warnings.simplefilter("ignore")
time.sleep = lambda seconds: None  # huggingface_hub waits between its tries: 23 s for one fault

FOLDER, OTHER, SCRATCH = map(Path, sys.argv[1:4])
TINY = {"layers": json.loads((FOLDER / "config.json").read_text())["model_args"]["layers"]}
STATUS = (401, 403, 429, 500, 503)
DOWNLOADS = ("cut", "wrong length", "truncated", "garbage")


class Planted:
    """Creates a file when it is unpickled."""

    def __reduce__(self):
        return open, (str(SCRATCH / "pickle-was-run"), "w")


def main() -> None:
    with LoopbackHub() as hub:
        os.environ.update(hub.env(SCRATCH / "home"))
        for name in [name for name in os.environ if name.startswith(("HF_", "http_", "https_"))]:
            if name not in hub.env(SCRATCH / "home"):
                del os.environ[name]
        hub.add("org/m", FOLDER)
        results = run(hub)
    from huggingface_hub.utils import close_session

    close_session()  # otherwise an open connection would still be served
    results["loopback down"] = attempt(lambda: pull("org/m", "down"), "down")
    print(json.dumps(results))


def run(hub: LoopbackHub) -> dict:
    results = {}
    for kind in (*STATUS, *DOWNLOADS):
        for name, call in (("", pull), ("verb: ", pull_by_verb)):
            place = f"{name}{kind}".replace(": ", "-")
            hub.fail(kind, "model.safetensors")
            results[f"{name}{kind}"] = attempt(lambda call=call, place=place: call("org/m", place), place)
            hub.heal()
            results[f"{name}{kind}"]["again"] = again(call, place)
    hub.fail("cut", "model.safetensors", times=1)
    results["cut once"] = attempt(lambda: pull("org/m", "cut-once"), "cut-once")
    hub.heal()
    results["disk full"] = attempt(lambda: with_full_disk(lambda: pull("org/m", "full")), "full")
    results["disk full"]["again"] = again(pull, "full")

    evil = pickle.dumps({"fc.weight": Planted()})
    config = json.loads((FOLDER / "config.json").read_text())
    hub.add("org/pickle", {"config.json": json.dumps(config).encode(), "pytorch_model.bin": evil, "x.pth": evil})
    config["pretrained_cfg"].update(
        hf_hub_filename="x.pth", custom_load="hf", file="/etc/passwd", url="file:///etc/passwd"
    )
    hub.add(
        "org/asks", {**{p.name: p.read_bytes() for p in FOLDER.iterdir()}, "x.pth": evil, "pytorch_model.bin": evil}
    )
    hub.repos["org/asks"].commits[hub.repos["org/asks"].refs["main"]]["config.json"] = json.dumps(config).encode()
    hub.add("org/private", FOLDER, private=True)
    hub.add("org/gated", FOLDER, gated=True)
    hub.add("org/other", OTHER)
    for name, repo in {
        "no repository": "org/absent",
        "no revision": "org/m@absent",
        "no file": "org/pickle",
        "private": "org/private",
        "gated": "org/gated",
        "tensors of another model": "org/other",
        "a name that is none": "../../etc/passwd",
    }.items():
        results[name] = attempt(lambda repo=repo: pull(repo, "named"), "named")
        results[f"verb: {name}"] = attempt(lambda repo=repo: pull_by_verb(repo, "verb-named"), "verb-named")
    results["config asks for a pickle"] = attempt(lambda: hf_hub("org/asks", "asks"), "asks")
    results["verb: config asks for a pickle"] = attempt(lambda: pull_by_verb("org/asks", "asks-verb"), "asks-verb")
    results["not published"] = attempt(published, "published")
    results["another class count"] = attempt(lambda: pull("org/m", "classes", cfg_classes=10), "classes")
    results["another class count, mine"] = attempt(lambda: pull("org/m", "mine", cfg_classes=10, num_classes=3), "mine")
    return results


def attempt(call, place: str) -> dict:
    try:
        call()
        error = None
    except Exception as failure:
        error = f"{type(failure).__name__}: {failure}"
    left = [path.name for path in (SCRATCH / place).rglob("*") if path.name.endswith((".incomplete", ".tmp"))]
    return {"error": error, "left": left, "pickle": (SCRATCH / "pickle-was-run").exists()}


def again(call, place: str) -> str:
    try:
        return "equal" if equal(call("org/m", place)) else "other tensors"
    except Exception as failure:
        return f"{type(failure).__name__}: {failure}"


def pull(repo: str, place: str, cfg_classes: int = 3, **more):
    import timm

    import timm_landmark  # noqa: F401

    overlay = dict(hf_hub_id=repo, num_classes=cfg_classes)
    return timm.create_model(
        "resneat50", pretrained=True, pretrained_cfg_overlay=overlay, cache_dir=SCRATCH / place, **TINY, **more
    )


def hf_hub(repo: str, place: str):
    import timm

    import timm_landmark  # noqa: F401

    assert equal(timm.create_model(f"hf-hub:{repo}", pretrained=True, cache_dir=SCRATCH / place))


def pull_by_verb(repo: str, place: str):
    from timm_landmark.hub.exported import load_model

    model, config = load_model(f"hf-hub:{repo}", cache_dir=SCRATCH / place)
    assert config.architecture == "resneat50", f"built {config.architecture}"
    return model


def published():
    import timm

    import timm_landmark  # noqa: F401

    timm.create_model("resneat50", pretrained=True, cache_dir=SCRATCH / "published")


def with_full_disk(call):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        return call()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def equal(model) -> bool:
    from safetensors.torch import load_file

    stored, own = load_file(FOLDER / "model.safetensors"), model.state_dict()
    return stored.keys() == own.keys() and all(own[name].equal(value) for name, value in stored.items())


if __name__ == "__main__":
    main()
