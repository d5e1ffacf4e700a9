"""Exported models, in a folder or on the Hugging Face Hub: fetched whole, read as data, loaded as timm does.

FOLDER/model.safetensors  config.json  README.md  LICENSE  run.json  summary.csv  classes.csv
FOLDER/test_vectors.safetensors   a seeded input and its logits     FOLDER/model.onnx   with --onnx
FOLDER/sha256sums.txt             of all the others
"""

from pathlib import Path
from typing import TYPE_CHECKING

from timm_landmark.hub.config import ModelConfig, read_config
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.hub_cache import drop, is_sound
from timm_landmark.utils.hub_errors import explain, split_revision
from timm_landmark.utils.hub_files import CONFIG, LICENSE, WEIGHTS
from timm_landmark.utils.text import printable

if TYPE_CHECKING:
    import torch
    from torch import nn

PREFIX = "hf-hub:"
# All that is ever fetched; a pickle in a repository stays there.
PATTERNS = ["*.safetensors", "*.json", "*.csv", "*.txt", "*.md", LICENSE, "*.onnx"]


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


def load_model(source: str, cache_dir: str | Path | None = None) -> "tuple[nn.Module, ModelConfig]":
    """The exported model in eval mode, with its weights, and what config.json says of it.

    One blank image goes through it, so that what this returns gives a logit for each class.

    Args:
        source: A folder, or ``hf-hub:ORG/NAME[@REVISION]``; of either only safetensors are read.
        cache_dir: Where to keep downloads, if not in huggingface_hub's own place.

    Raises:
        UserError: If it cannot be had, is damaged, or its tensors do not fit its config.json.
    """
    import timm
    import torch
    from safetensors import SafetensorError

    from timm_landmark.models.pretrained import explain_misfit

    folder = fetch(source, cache_dir)
    config = read_config(folder)
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{source} has no {WEIGHTS}; pickles are not read: make it with `timm-landmark export`")
    overlay = {"custom_load": False}
    try:
        model = timm.create_model(f"local-dir:{folder}", pretrained=True, pretrained_cfg_overlay=overlay).eval()
        with torch.inference_mode():
            shape = tuple(model(torch.zeros(1, *config.transform["input_size"])).shape)
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
            or f"{source}: {config.architecture} does not work as its {CONFIG} says "
            f"({type(error).__name__}: {printable(str(error), 160)}); export the run again"
        ) from None
    if config.num_classes and shape != (1, config.num_classes):
        raise UserError(
            f"{source}: its output has the shape {shape}, not (1, {config.num_classes}); export the run again"
        )
    return model, config


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
