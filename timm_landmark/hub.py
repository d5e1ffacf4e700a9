"""Exported models, in a folder or on the Hugging Face Hub: fetched whole, read as data, loaded as timm does.

FOLDER/model.safetensors  config.json  README.md  LICENSE  run.json  summary.csv  classes.csv
FOLDER/test_vectors.safetensors   a seeded input and its logits     FOLDER/model.onnx   with --onnx
FOLDER/sha256sums.txt             of all the others
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timm_landmark.errors import UserError
from timm_landmark.hub_cache import drop, is_sound
from timm_landmark.hub_errors import CONFIG, WEIGHTS, explain, split_revision
from timm_landmark.text import printable

if TYPE_CHECKING:
    import torch
    from torch import nn

PREFIX = "hf-hub:"
# All that is ever fetched; a pickle in a repository stays there.
PATTERNS = ["*.safetensors", "*.json", "*.csv", "*.txt", "*.md", "LICENSE", "*.onnx"]


@dataclass(frozen=True)
class ModelConfig:
    """What config.json says; ``labels`` and ``names`` are in the order of the model's outputs (empty if not stated)."""

    architecture: str
    num_classes: int
    labels: tuple[str, ...]
    names: tuple[str, ...]
    pretrained: dict[str, Any]


def fetch(source: str, cache_dir: str | Path | None = None) -> Path:
    """The folder that ``source`` means: itself, or the copy of a Hub repository in the cache.

    Args:
        source: A folder, or ``hf-hub:ORG/NAME`` or ``hf-hub:ORG/NAME@REVISION``.
        cache_dir: Where to keep downloads, if not in huggingface_hub's own place.

    Raises:
        UserError: If there is no such folder, or the repository cannot be had; the message names the remedy.
    """
    if not source.startswith(PREFIX):
        folder = Path(source)
        if not folder.is_dir():
            raise UserError(f"{source}: no such folder; a repository on the Hub is written hf-hub:ORG/NAME")
        return folder
    from huggingface_hub import hf_hub_download, snapshot_download

    repo = source.removeprefix(PREFIX)
    name, revision = split_revision(repo)
    file = CONFIG
    try:
        for file in (CONFIG, WEIGHTS):  # by name, so that a missing one is missed
            hf_hub_download(name, file, revision=revision, cache_dir=cache_dir)
        file = "its files"
        folder = Path(snapshot_download(name, revision=revision, cache_dir=cache_dir, allow_patterns=PATTERNS))
    except Exception as error:
        if (reason := explain(error, repo, file, cache_dir)) is None:
            raise
        raise UserError(reason) from None
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not is_sound(path):
            drop(path)
            raise UserError(
                f"{repo}: {path.name} is damaged (its SHA-256 is not the one that the Hub states) and was taken out of "
                "the cache; try again"
            )
    return folder


def read_config(folder: Path) -> ModelConfig:
    """Reads config.json of an exported model as data; nothing that it asks for is done.

    Raises:
        UserError: If it is missing, is not what timm writes, or names no architecture known here.
    """
    import timm

    import timm_landmark  # noqa: F401  (registers the models)

    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        labels = config.get("label_names") or config["pretrained_cfg"].get("label_names") or ()
        texts = config.get("label_descriptions") or config["pretrained_cfg"].get("label_descriptions") or {}
        labels = tuple(str(label) for label in (labels.values() if isinstance(labels, dict) else labels))
        found = ModelConfig(
            architecture=str(config["architecture"]),
            num_classes=int(config["num_classes"]),
            labels=labels,
            names=tuple(printable(str(texts.get(label, label))) for label in labels),
            pretrained=dict(config["pretrained_cfg"]),
        )
    except FileNotFoundError:
        raise UserError(
            f"{folder} is no exported model ({CONFIG} is missing); make one with `timm-landmark export`"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not what `timm-landmark export` writes ({type(error).__name__}: {printable(str(error), 100)})"
        ) from None
    if not timm.is_model(found.architecture):
        raise UserError(f"{path}: no architecture {printable(found.architecture, 60)!r} in timm or timm_landmark")
    if labels and len(labels) != found.num_classes:
        raise UserError(f"{path}: {len(labels)} label names for {found.num_classes} classes; export the run again")
    return found


def load_model(source: str, cache_dir: str | Path | None = None) -> "tuple[nn.Module, ModelConfig]":
    """The exported model in eval mode, with its weights, and what config.json says of it.

    Args:
        source: A folder, or ``hf-hub:ORG/NAME[@REVISION]``; of either only safetensors are read.
        cache_dir: Where to keep downloads, if not in huggingface_hub's own place.

    Raises:
        UserError: If it cannot be had, is damaged, or its tensors do not fit its config.json.
    """
    import timm
    from safetensors import SafetensorError

    from timm_landmark.models.pretrained import explain_misfit

    folder = fetch(source, cache_dir)
    config = read_config(folder)
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{source} has no {WEIGHTS}; pickles are not read: make it with `timm-landmark export`")
    overlay = {"custom_load": False}
    try:
        model = timm.create_model(f"local-dir:{folder}", pretrained=True, pretrained_cfg_overlay=overlay)
    except UserError as error:
        raise UserError(str(error)) from None
    except SafetensorError as error:
        if source.startswith(PREFIX):
            drop(folder / WEIGHTS)
        raise UserError(f"{source}: {WEIGHTS} is damaged ({error}); fetch or export it anew") from None
    except Exception as error:  # config.json is anyone's: its arguments may be anything
        reason = explain_misfit(error, source, config.architecture) if isinstance(error, RuntimeError) else None
        raise UserError(
            reason
            or f"{source}: {config.architecture} cannot be built from its {CONFIG} "
            f"({type(error).__name__}: {printable(str(error), 160)}); export the run again"
        ) from None
    return model.eval(), config


def read_tensors(path: Path) -> "tuple[dict[str, torch.Tensor], dict[str, str]]":
    """Tensors and metadata of a safetensors file.

    Raises:
        UserError: If it is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged or no safetensors file ({printable(str(error), 120)})") from None
