"""The folder that ``export`` writes: complete or not at all, and never in place of other files."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from timm_landmark.data.check import SUMS, read_sums
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.files import temporary_folder
from timm_landmark.utils.hub_files import CONFIG, VECTORS, WEIGHTS
from timm_landmark.utils.text import printable


@contextmanager
def new_folder(output: Path, overwrite: bool) -> Iterator[Path]:
    """Yields a temporary folder beside ``output`` that replaces it at the end; on an error nothing changes.

    An existing ``output`` is named ``output.old`` between two renames. If the process is killed at that moment, the
    complete old folder stays under this name, and the next export reports it.

    Raises:
        UserError: If ``output`` exists and may not be replaced, or cannot be written.
    """
    place = output.resolve()  # a link is followed, and "." gets a name
    old = place.with_name(f"{place.name}.old")
    if old.exists() and (overwrite or not place.exists()):
        raise UserError(
            f"--output {output}: {old} already exists, perhaps the old model of an export that was killed; rename or "
            "delete it"
        )
    if place.exists():
        if not overwrite:
            raise UserError(f"--output {output} already exists; add --overwrite or choose another folder")
        check_replaceable(output)
    temporary = None
    try:
        temporary = temporary_folder(place)
        yield temporary
        if place.exists():
            place.rename(old)
            try:
                temporary.rename(place)
            except OSError:
                old.rename(place)
                raise
            shutil.rmtree(old)
        else:
            temporary.rename(place)
    except OSError as error:
        file = f": {error.filename}" if error.filename else ""
        raise UserError(
            f"--output {output} cannot be written ({error.strerror or error}{file}); nothing changed"
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def check_replaceable(folder: Path) -> None:
    """Checks that a folder is an exported model without any other files.

    Raises:
        UserError: If replacing the folder would delete a file that was not written by an export.
    """
    try:
        own = {SUMS, *read_sums(folder)}
    except (UserError, OSError):
        own = set()
    if not {CONFIG, WEIGHTS, VECTORS} <= own:
        raise UserError(
            f"--output {folder} is not an exported model, so --overwrite does not replace it; choose another folder"
        )
    inside = (path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir())
    if foreign := [name for path in inside if (name := path.relative_to(folder).as_posix()) not in own]:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise UserError(
            f"--output {folder} contains {printable(foreign[0])}{more}, not written by an export; move it away first "
            "or choose another folder"
        )
