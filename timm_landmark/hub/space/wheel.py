"""A wheel of this package, rebuilt from its installed files, for a Space that cannot get it from PyPI."""

import base64
import hashlib
import zipfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import timm_landmark
from timm_landmark.utils.errors import UserError

NAME = "timm-landmark"
EXTRAS = ("demo", "explain")  # what the page of a Space needs
REINSTALL = "install the package again (pip install timm-landmark, or pip install --editable . in a checkout)"
_LEFT_OUT = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}  # written by pip, not part of a wheel


def build_wheel(folder: Path) -> Path:
    """Writes the wheel to ``folder``; the same installation gives the same bytes.

    The modules come from where they are imported from, so that this also works for an editable installation. The
    metadata come from the installed distribution.

    Raises:
        UserError: If the package is not installed, or its metadata are not those of its modules.
    """
    try:
        installed = distribution(NAME)
    except PackageNotFoundError:
        raise UserError(f"--space: {NAME} is imported from a folder but not installed; {REINSTALL}") from None
    version = timm_landmark.__version__
    missing = [extra for extra in EXTRAS if extra not in (installed.metadata.get_all("Provides-Extra") or ())]
    if installed.version != version or missing:
        raise UserError(
            f"--space: the modules are those of {NAME} {version}, the installed metadata are of another version "
            f"({installed.version}); {REINSTALL}"
        )
    stem = f"{NAME.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    contents = {**_modules(), **{f"{info}/{name}": data for name, data in _metadata(installed).items()}}
    record = "".join(f"{name},sha256={_digest(data)},{len(data)}\n" for name, data in sorted(contents.items()))
    contents[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            entry = zipfile.ZipInfo(name)  # dated 1980
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
    return path


def _modules() -> dict[str, bytes]:
    """The package's files and its entry point, by their path in the wheel."""
    package = Path(timm_landmark.__file__).parent
    files = [path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    files.append(package.with_name("timm_landmark_cli.py"))
    return {path.relative_to(package.parent).as_posix(): path.read_bytes() for path in sorted(files)}


def _metadata(installed: Distribution) -> dict[str, bytes]:
    """The files of the .dist-info folder that belong in a wheel, by their path in it."""
    found = {}
    for file in installed.files or ():
        folder, *parts = file.parts
        if folder.endswith(".dist-info") and parts and parts[0] not in _LEFT_OUT:
            found["/".join(parts)] = Path(str(file.locate())).read_bytes()
    return found


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
