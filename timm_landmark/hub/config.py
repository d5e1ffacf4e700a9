"""config.json of an exported model: the class names that export writes, and reading it as untrusted input."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from timm_landmark.data.layout import ClassRow
from timm_landmark.runs.thresholds import KEY, Thresholds, read_thresholds
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.hub_files import CONFIG
from timm_landmark.utils.text import printable

MOST_PIXELS = 2048  # per side of the image before the centre crop; timm's own models stay below 1200
MOST_CLASSES = 1_000_000  # Google Landmarks v2 has 203,094
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
CROP_MODES = ("center", "squash", "border")
# timm also accepts these as model arguments; they would change the output, the weights or the device
NOT_OF_A_MODEL = ("features_only", "pretrained_strict", "device", "dtype")


@dataclass(frozen=True)
class ModelConfig:
    """The validated content of config.json.

    ``labels`` (``label_names``), ``names`` (their descriptions) and ``landmark_ids`` are in the order of the model's
    outputs. If config.json has no labels, names and ids are the output indices. ``transform`` contains the arguments
    of ``timm.data.create_transform``. ``thresholds`` are those for naming a landmark, if ``evaluate`` was run.
    """

    architecture: str
    num_classes: int
    labels: tuple[str, ...]
    names: tuple[str, ...]
    landmark_ids: tuple[str, ...]
    transform: dict[str, Any]
    pretrained: dict[str, Any]
    thresholds: Thresholds = field(default_factory=Thresholds)

    @property
    def name(self) -> str:
        """``architecture.tag``."""
        tag = self.pretrained.get("tag")
        return f"{self.architecture}.{tag}" if tag else self.architecture


def class_names(classes: Sequence[ClassRow]) -> dict[str, Any]:
    """The entries of config.json for the classes, in the order of the outputs.

    Returns:
        ``label_names``: unique labels, as printed by transformers' pipeline: the landmark's name, with its id appended
        if several landmarks share the name. ``label_descriptions``: label -> name. ``landmark_ids``.
    """
    ids, names = zip(*map(id_and_name, classes), strict=True)
    times = Counter(names)
    labels = [name if times[name] == 1 else f"{name} ({key})" for key, name in zip(ids, names, strict=True)]
    if len(set(labels)) < len(labels):  # two classes with the same name and id
        labels = [f"{name} ({row.folder})" for name, row in zip(names, classes, strict=True)]
    return {
        "label_names": labels,
        "label_descriptions": dict(zip(labels, names, strict=True)),
        "landmark_ids": list(ids),
    }


def id_and_name(row: ClassRow) -> tuple[str, str]:
    """The landmark's id (the class folder if it has none) and its name (the id if it has none)."""
    key = printable(row.landmark_id) or row.folder
    return key, printable(row.name) or key


def read_config(folder: Path) -> ModelConfig:
    """Reads and validates config.json of an exported model.

    Raises:
        UserError: If it is missing, names an unknown architecture, or is inconsistent.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{folder} is not an exported model ({CONFIG} is missing); create one with `timm-landmark export`"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({printable(str(error), 120)}); export the run again") from None
    try:
        return _checked(config)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: {printable(str(error), 200)}; export the run again") from None


def _checked(config: Any) -> ModelConfig:
    """Returns the validated config; raises ValueError with the reason if it is invalid."""
    import timm
    from timm.models import PretrainedCfg

    if not isinstance(config, dict) or not isinstance(config.get("pretrained_cfg"), dict):
        raise ValueError("not written by `timm-landmark export`")
    architecture, num_classes, stated = config.get("architecture"), config.get("num_classes"), config["pretrained_cfg"]
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise ValueError(f"unknown architecture {architecture!r}, neither in timm nor in timm_landmark")
    if not isinstance(num_classes, int) or isinstance(num_classes, bool) or not 0 <= num_classes <= MOST_CLASSES:
        raise ValueError(f"num_classes {num_classes!r} is not an integer from 0 (no classifier) to {MOST_CLASSES}")
    if not isinstance(tag := stated.get("tag") or "", str) or not re.fullmatch(r"[0-9A-Za-z_.-]{0,100}", tag):
        raise ValueError(f"tag {tag!r} may contain only letters, digits, '_', '.' and '-'")
    labels = _texts("label_names", config.get("label_names") or stated.get("label_names") or (), num_classes)
    texts = config.get("label_descriptions") or stated.get("label_descriptions") or {}
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise ValueError("label_descriptions is not an object with string values")
    indices = tuple(map(str, range(num_classes)))
    defaults = {name: value for name, value in stated.items() if value is not None}
    transform = _transform({**asdict(PretrainedCfg()), **defaults})
    _check_arguments(config.get("model_args") or {}, num_classes, transform["input_size"][0])
    return ModelConfig(
        architecture=architecture,
        num_classes=num_classes,
        labels=labels,
        names=tuple(printable(texts.get(label, label)) for label in labels or indices),
        landmark_ids=_texts("landmark_ids", config.get("landmark_ids") or (), num_classes) or labels or indices,
        transform=transform,
        pretrained=stated,
        thresholds=read_thresholds(config.get(KEY)),
    )


def _texts(key: str, values: Any, num_classes: int) -> tuple[str, ...]:
    """Returns one string per class, or an empty tuple."""
    values = list(values.values()) if isinstance(values, dict) else values
    if not isinstance(values, list | tuple) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{key} is not a list of strings")
    if values and len(values) != num_classes:
        raise ValueError(f"{len(values)} {key} for {num_classes} classes")
    return tuple(values)


def _transform(cfg: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments of the image transform if they are valid and need a bounded amount of memory."""
    size = cfg["input_size"]
    if not isinstance(size, list | tuple) or len(size) != 3 or not all(map(_is_count, size)) or size[0] not in (1, 3):
        raise ValueError(f"input_size {size!r} is not [1 or 3, height, width]")
    if not _is_number(crop_pct := cfg["crop_pct"], 1e-3, 2):
        raise ValueError(f"crop_pct {crop_pct!r} is not a number from 0.001 to 2, such as 0.875")
    if max(size) > MOST_PIXELS * crop_pct:
        raise ValueError(f"input_size {size!r} with crop_pct {crop_pct} needs more than {MOST_PIXELS} pixels per side")
    for key, least in (("mean", -1e3), ("std", 1e-3)):
        values = cfg[key]
        if not isinstance(values, list | tuple) or not all(_is_number(value, least, 1e3) for value in values):
            raise ValueError(f"{key} {values!r} is not a list of numbers from {least:g} to 1000")
        if len(values) != size[0]:
            raise ValueError(f"{key} has {len(values)} numbers for the {size[0]} channels of input_size")
    for key, known in (("interpolation", INTERPOLATIONS), ("crop_mode", CROP_MODES)):
        if cfg[key] not in known:
            raise ValueError(f"{key} {cfg[key]!r} is not one of {', '.join(known)}")
    lists = {key: tuple(cfg[key]) for key in ("input_size", "mean", "std")}
    return {**lists, **{key: cfg[key] for key in ("crop_pct", "interpolation", "crop_mode")}}


def _check_arguments(arguments: Any, num_classes: int, channels: int) -> None:
    """Compares the model's arguments with the other entries; the model itself rejects unknown arguments."""
    if not isinstance(arguments, dict):
        raise ValueError("model_args is not an object")
    for key, value in (("num_classes", num_classes), ("in_chans", channels)):
        if arguments.get(key, value) != value:
            raise ValueError(f"model_args has {key} {arguments[key]!r}, but the rest of the file has {value}")
    if found := [key for key in NOT_OF_A_MODEL if key in arguments]:
        raise ValueError(f"model_args has {found[0]}, which is not allowed in an exported model")
    pool = arguments.get("global_pool", "avg")
    if not isinstance(pool, str) or not pool:
        raise ValueError(f"model_args has global_pool {pool!r}, but a classifier needs pooling")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_number(value: Any, least: float, most: float) -> bool:
    """Whether ``value`` is a number in this range; False for NaN, infinity and integers too large for a float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most
