"""The files of a Space: an app.py of a few lines, its requirements, this package's wheel and a README."""

import hashlib
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import timm_landmark
from timm_landmark.hub.config import read_config
from timm_landmark.hub.model_card import placeholder
from timm_landmark.hub.space.wheel import EXTRAS, NAME, build_wheel
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.text import markdown

SPACE = "space"  # subfolder of an exported model
APP, REQUIREMENTS, README = "app.py", "requirements.txt", "README.md"


def write_space(folder: Path) -> None:
    """Writes FOLDER/space/ for the exported model in ``folder``.

    Until ``push`` inserts the real ones, the model is the placeholder of its model card and the wheel a local file.

    Raises:
        UserError: If gradio is missing or the wheel cannot be built.
    """
    space = folder / SPACE
    space.mkdir()
    wheel = build_wheel(space)
    config = read_config(folder)
    values = dict(
        model=placeholder(config.name),
        package=f"./{wheel.name}[{','.join(EXTRAS)}]",
        title=markdown(config.name),
        metadata=_front_matter(config.name, config.pretrained.get("license")),
        version=timm_landmark.__version__,
        torch=_public("torch"),
        torchvision=_public("torchvision"),
    )
    for name in (APP, REQUIREMENTS, README):
        (space / name).write_text(_text(f"{name}.jinja", **values), encoding="utf-8")


def staged_space(folder: Path, model: str, space: str, endpoint: str) -> dict[str, Path | bytes]:
    """Returns the files to upload to a Space: those of FOLDER/space/ with the names of the model and the wheel.

    When a Space is built, pip sees requirements.txt but no other file of the repository. So the wheel is given by its
    address in the Space, with its checksum.

    Args:
        folder: An exported model with a Space.
        model: ``ORG/NAME`` or ``ORG/NAME@REVISION`` of the model on the Hub.
        space: ``ORG/NAME`` of the Space.
        endpoint: Address of the Hub.

    Raises:
        UserError: If the model was exported without ``--space``.
    """
    source = folder / SPACE
    wheels = sorted(source.glob("*.whl"))
    if not (source / APP).is_file() or len(wheels) != 1:
        raise UserError(f"{folder} has no {SPACE}/; export it again with --space")
    wheel, old = wheels[0], placeholder(read_config(folder).name)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    address = f"{endpoint}/spaces/{space}/resolve/main/{wheel.name}#sha256={digest}"
    extras = f"[{','.join(EXTRAS)}]"
    changes = {
        APP: (f"hf-hub:{old}", f"hf-hub:{model}"),
        README: (old, model.partition("@")[0]),
        REQUIREMENTS: (f"./{wheel.name}{extras}", f"{NAME}{extras} @ {address}"),
    }
    contents: dict[str, Path | bytes] = {wheel.name: wheel}
    for name, (before, after) in changes.items():
        text = (source / name).read_text(encoding="utf-8")
        if before not in text:
            raise UserError(f"{source / name} was changed: {before} is missing; export it again with --space")
        contents[name] = text.replace(before, after).encode()
    return contents


def _front_matter(name: str, licence: str | None) -> str:
    """The metadata that the Hub reads; the versions are those at the export."""
    import yaml

    values: dict[str, Any] = {
        "title": name,
        "sdk": "gradio",
        "sdk_version": _public("gradio"),
        "python_version": ".".join(map(str, sys.version_info[:2])),
        "app_file": APP,
        "models": [placeholder(name)],
        "pinned": False,
        **({"license": licence} if licence else {}),
    }
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True).strip()


def _public(package: str) -> str:
    """The installed version, without its local part (``+cu128``), which is not on PyPI.

    Raises:
        UserError: If it is not installed.
    """
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError:
        raise UserError(f"--space needs the package {package}; run pip install 'timm-landmark[demo]'") from None


def _text(template: str, **values: Any) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("timm_landmark.hub.space", "."), undefined=StrictUndefined, keep_trailing_newline=True
    )
    return environment.get_template(template).render(**values)
