"""config.json of an exported model: how it words the classes, and the one reading of what anyone may have written."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from timm_landmark.data.layout import ClassRow
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.hub_files import CONFIG
from timm_landmark.utils.text import printable

MOST_PIXELS = 2048  # a side of the picture before its centre crop; timm's own models stay below 1200
MOST_CLASSES = 1_000_000  # Google Landmarks v2 has 203,094
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
CROP_MODES = ("center", "squash", "border")
# timm takes these for arguments of the model too: they would give it another output, other weights or another place
NOT_OF_A_MODEL = ("features_only", "pretrained_strict", "device", "dtype")


@dataclass(frozen=True)
class ModelConfig:
    """What config.json says, all of it checked.

    ``labels`` (``label_names``), ``names`` (their descriptions) and ``landmark_ids`` are in the order of the model's
    outputs; where config.json has no labels, names and ids are the outputs' indices. ``transform`` holds the
    arguments of ``timm.data.create_transform``.
    """

    architecture: str
    num_classes: int
    labels: tuple[str, ...]
    names: tuple[str, ...]
    landmark_ids: tuple[str, ...]
    transform: dict[str, Any]
    pretrained: dict[str, Any]

    @property
    def name(self) -> str:
        """``architecture.tag``."""
        tag = self.pretrained.get("tag")
        return f"{self.architecture}.{tag}" if tag else self.architecture


def class_names(classes: Sequence[ClassRow]) -> dict[str, Any]:
    """What config.json says of the classes, in the order of the outputs.

    Returns:
        ``label_names``: what transformers' pipeline prints, no two alike: the landmark's name, with its id where
        several have one name. ``label_descriptions``: label -> name. ``landmark_ids``.
    """
    ids, names = zip(*map(id_and_name, classes), strict=True)
    times = Counter(names)
    labels = [name if times[name] == 1 else f"{name} ({key})" for key, name in zip(ids, names, strict=True)]
    if len(set(labels)) < len(labels):  # two classes of one name and id
        labels = [f"{name} ({row.folder})" for name, row in zip(names, classes, strict=True)]
    return {
        "label_names": labels,
        "label_descriptions": dict(zip(labels, names, strict=True)),
        "landmark_ids": list(ids),
    }


def id_and_name(row: ClassRow) -> tuple[str, str]:
    """The landmark's id, or the class's folder where it has none, and its name, or the id where it has none."""
    key = printable(row.landmark_id) or row.folder
    return key, printable(row.name) or key


def read_config(folder: Path) -> ModelConfig:
    """Reads config.json of an exported model as data; nothing that it asks for is done.

    Raises:
        UserError: If it is missing, names no architecture known here, or contradicts itself.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{folder} is no exported model ({CONFIG} is missing); make one with `timm-landmark export`"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({printable(str(error), 120)}); export the run again") from None
    try:
        return _checked(config)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: {printable(str(error), 200)}; export the run again") from None


def _checked(config: Any) -> ModelConfig:
    """The config, or a ValueError that says what is wrong with it."""
    import timm
    from timm.models import PretrainedCfg

    import timm_landmark  # noqa: F401  (registers the models)

    if not isinstance(config, dict) or not isinstance(config.get("pretrained_cfg"), dict):
        raise ValueError("not what `timm-landmark export` writes")
    architecture, num_classes, stated = config.get("architecture"), config.get("num_classes"), config["pretrained_cfg"]
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise ValueError(f"no architecture {architecture!r} in timm or timm_landmark")
    if num_classes != 0 and not (_is_count(num_classes) and num_classes <= MOST_CLASSES):  # 0: without a classifier
        raise ValueError(f"num_classes {num_classes!r} is no number of classes (up to {MOST_CLASSES})")
    if not isinstance(tag := stated.get("tag") or "", str) or not re.fullmatch(r"[0-9A-Za-z_.-]{0,100}", tag):
        raise ValueError(f"tag {tag!r} has other than letters, digits, '_', '.' and '-'")
    labels = _texts("label_names", config.get("label_names") or stated.get("label_names") or (), num_classes)
    texts = config.get("label_descriptions") or stated.get("label_descriptions") or {}
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise ValueError("label_descriptions does not give each label a text")
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
    )


def _texts(key: str, values: Any, num_classes: int) -> tuple[str, ...]:
    """A text for each class, or none at all."""
    values = list(values.values()) if isinstance(values, dict) else values
    if not isinstance(values, list | tuple) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{key} is no list of texts")
    if values and len(values) != num_classes:
        raise ValueError(f"{len(values)} {key} for {num_classes} classes")
    return tuple(values)


def _transform(cfg: dict[str, Any]) -> dict[str, Any]:
    """What stands between a photo and the model, where timm and Pillow can do it in bounded memory."""
    size = cfg["input_size"]
    if not isinstance(size, list | tuple) or len(size) != 3 or not all(map(_is_count, size)) or size[0] not in (1, 3):
        raise ValueError(f"input_size {size!r} is not [1 or 3, height, width]")
    if not _is_number(crop_pct := cfg["crop_pct"], 1e-3, 2):
        raise ValueError(f"crop_pct {crop_pct!r} is not a share of the picture, such as 0.875")
    if max(size) > MOST_PIXELS * crop_pct:
        raise ValueError(f"input_size {size!r} with crop_pct {crop_pct} asks for more than {MOST_PIXELS} pixels a side")
    for key, least in (("mean", -1e3), ("std", 1e-3)):
        values = cfg[key]
        if not isinstance(values, list | tuple) or not all(_is_number(value, least, 1e3) for value in values):
            raise ValueError(f"{key} {values!r} is not a list of numbers from {least:g} to 1000")
        if len(values) != size[0]:
            raise ValueError(f"{key} has {len(values)} numbers for the {size[0]} channels of input_size")
    for key, known in (("interpolation", INTERPOLATIONS), ("crop_mode", CROP_MODES)):
        if cfg[key] not in known:
            raise ValueError(f"{key} {cfg[key]!r} is none of {', '.join(known)}")
    lists = {key: tuple(cfg[key]) for key in ("input_size", "mean", "std")}
    return {**lists, **{key: cfg[key] for key in ("crop_pct", "interpolation", "crop_mode")}}


def _check_arguments(arguments: Any, num_classes: int, channels: int) -> None:
    """Holds the arguments that timm builds the model with against the rest; the model itself refuses unknown ones."""
    if not isinstance(arguments, dict):
        raise ValueError("model_args is no object")
    for key, value in (("num_classes", num_classes), ("in_chans", channels)):
        if arguments.get(key, value) != value:
            raise ValueError(f"model_args has {key} {arguments[key]!r}, the rest of the file {value}")
    if found := [key for key in NOT_OF_A_MODEL if key in arguments]:
        raise ValueError(f"model_args has {found[0]}, which an exported model does not need")
    pool = arguments.get("global_pool", "avg")
    if not isinstance(pool, str) or not pool:
        raise ValueError(f"model_args has global_pool {pool!r}: a classifier needs one")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_number(value: Any, least: float, most: float) -> bool:
    """Also False for NaN, infinity and an int that no float can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most
