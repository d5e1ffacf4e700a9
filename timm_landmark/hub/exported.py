"""Downloading and loading of exported models from a folder or the Hugging Face Hub.

Their files are listed in ``timm_landmark.utils.hub_files``.
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
# Only these files are downloaded, so never a pickle.
PATTERNS = ["*.safetensors", "*.json", "*.csv", "*.txt", "*.md", LICENSE, "*.onnx"]


def fetch(source: str, cache_dir: str | Path | None = None) -> Path:
    """Returns the folder of a model: ``source`` itself, or the downloaded copy of a Hub repository in the cache.

    Args:
        source: A folder, or ``hf-hub:ORG/NAME`` or ``hf-hub:ORG/NAME@REVISION``.
        cache_dir: Where to store downloads; by default the cache of huggingface_hub.

    Raises:
        UserError: If the folder does not exist or the repository cannot be downloaded; the message names the remedy.
    """
    if not source.startswith(PREFIX):
        folder = Path(source)
        if not folder.is_dir():
            raise UserError(f"{source}: no such folder; write a repository on the Hub as hf-hub:ORG/NAME")
        return folder
    from huggingface_hub import hf_hub_download, snapshot_download

    repo = source.removeprefix(PREFIX)
    name, revision = split_revision(repo)
    file = CONFIG
    try:
        for file in (CONFIG, WEIGHTS):  # by name, so that a missing file is an error
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
                f"{repo}: {path.name} is damaged (its SHA-256 differs from the one stated by the Hub) and was removed "
                "from the cache; try again"
            )
    return folder


def load_model(source: str, cache_dir: str | Path | None = None) -> "tuple[nn.Module, ModelConfig]":
    """Loads an exported model in eval mode, and its configuration.

    The model is run on one blank image to make sure that it returns one logit per class.

    Args:
        source: A folder, or ``hf-hub:ORG/NAME[@REVISION]``; only safetensors are read.
        cache_dir: Where to store downloads; by default the cache of huggingface_hub.

    Raises:
        UserError: If it cannot be downloaded, is damaged, or its tensors do not fit its config.json.
    """
    import timm
    import torch
    from safetensors import SafetensorError

    from timm_landmark.models.pretrained import explain_misfit

    folder = fetch(source, cache_dir)
    config = read_config(folder)
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{source} has no {WEIGHTS}, and pickles are not read; create it with `timm-landmark export`")
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
        raise UserError(f"{source}: {WEIGHTS} is damaged ({error}); download or export it again") from None
    except Exception as error:  # config.json is untrusted: its arguments may be anything
        reason = explain_misfit(error, source, config.architecture) if isinstance(error, RuntimeError) else None
        raise UserError(
            reason
            or f"{source}: {config.architecture} cannot be built from its {CONFIG} "
            f"({type(error).__name__}: {printable(str(error), 160)}); export the run again"
        ) from None
    if config.num_classes and shape != (1, config.num_classes):
        raise UserError(
            f"{source}: its output has the shape {shape}, not (1, {config.num_classes}); export the run again"
        )
    return model, config


def read_tensors(path: Path) -> "tuple[dict[str, torch.Tensor], dict[str, str]]":
    """Reads the tensors and metadata of a safetensors file.

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
        raise UserError(f"{path} is damaged or not a safetensors file ({printable(str(error), 120)})") from None
