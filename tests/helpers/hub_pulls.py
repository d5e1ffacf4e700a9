"""Run in new processes by test_hub_pull.py: tries ways of loading; prints way -> "equal" or what is wrong.

Usage: hub_pulls.py FOLDER PUBLISHED CACHE WAY ...
"""

import json
import sys
import warnings
from pathlib import Path

warnings.simplefilter("ignore")

import timm  # noqa: E402
import torch  # noqa: E402
from run_helpers import TINY  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

import timm_landmark  # noqa: E402, F401

FOLDER, PUBLISHED, CACHE = map(Path, sys.argv[1:4])
STORED = load_file(FOLDER / "model.safetensors")
OVERLAY = dict(hf_hub_id="org/m", num_classes=3)
CONV, HEAD = "conv1.weight", ("fc.weight", "fc.bias")


def build(name: str = "resneat50", **arguments):
    return timm.create_model(name, pretrained=True, **arguments).eval()  # a forward pass must not change the statistics


def compare(model, stored=STORED, but: tuple[str, ...] = ()) -> str:
    """Compares all tensors bit by bit, except those in ``but``."""
    own = model.state_dict()
    if set(own) - set(but) != set(stored) - set(but):
        return f"other names: {set(own) ^ set(stored)}"
    unequal = [name for name in own if name not in but and not own[name].equal(stored[name])]
    return f"unequal: {unequal[:3]}" if unequal else "equal"


def registered():
    return compare(build(), load_file(PUBLISHED))


def registered_by_tag():
    return compare(build("resneat50.gld_1k"), load_file(PUBLISHED))


def by_name():
    model = build("hf-hub:org/m")
    assert model.pretrained_cfg["label_names"][1] == "Class 1" and model.num_classes == 3
    return compare(model)


def by_overlay():
    return compare(build(pretrained_cfg_overlay=OVERLAY, **TINY))


def other_class_count():
    model = build("hf-hub:org/m", num_classes=7)
    assert model.fc.weight.shape[0] == 7
    return compare(model, but=HEAD)


def no_classes():
    model = build("hf-hub:org/m", num_classes=0)
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 2048)
    return compare(model, but=HEAD)


def one_channel():
    model = build("hf-hub:org/m", in_chans=1)
    assert model(torch.zeros(1, 1, 64, 64)).shape == (1, 3)
    summed = STORED[CONV].sum(1, keepdim=True)  # timm's rule for one channel
    return compare(model, but=(CONV,)) if torch.allclose(model.conv1.weight, summed) else "conv1 is not the sum"


def four_channels():
    model = build("hf-hub:org/m", in_chans=4)
    assert model(torch.zeros(1, 4, 64, 64)).shape == (1, 3)
    return compare(model, but=(CONV,))


def features_only():
    model = build("hf-hub:org/m", features_only=True)
    assert [tuple(each.shape[1:]) for each in model(torch.zeros(1, 3, 64, 64))][-1] == (2048, 2, 2)
    return compare(model, but=HEAD)


def cache_dir():
    model = build("hf-hub:org/m", cache_dir=CACHE)
    assert list(CACHE.glob("models--org--m/snapshots/*/model.safetensors"))
    return compare(model)


def verbs():
    from timm_landmark.hub.exported import load_model

    model, config = load_model("hf-hub:org/m")
    assert config.names == ("Class 0", "Class 1", "Class 2")
    return compare(model)


def revision():
    return compare(build("hf-hub:org/m@v1"))


def commit():
    return compare(build(pretrained_cfg_overlay=OVERLAY | {"hf_hub_id": f"org/m@{sys.argv[-1]}"}, **TINY))


def main() -> None:
    results = {}
    for way in sys.argv[4:]:
        if way not in globals():
            continue
        try:
            results[way] = globals()[way]()
        except Exception as error:
            results[way] = f"{type(error).__name__}: {error}"
    print(json.dumps(results))


if __name__ == "__main__":
    main()
