"""The parquet file of ``embed``, and the parts of it that an interrupted run leaves.

    FILE.parquet          columns path, sha256, embedding (float32, fixed size); the job in the metadata, as JSON
    FILE.parquet.parts/   of an unfinished run: job.json, .lock, 000000.parquet, 000001.parquet, ...

A parquet file cannot be read before its last bytes are written. So the vectors of every ``ROWS`` photos become a part
of their own, and at the end the parts are joined, one after the other: they are the row groups of the file.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from timm_landmark.utils.errors import UserError, first_line
from timm_landmark.utils.files import atomic_path, write_json

if TYPE_CHECKING:
    import numpy as np
    import pyarrow

ROWS = 1024  # photos in a part, 8 MB of vectors with 2048 numbers; a kill loses at most these
FORMAT: dict[str, Any] = {"use_dictionary": False, "compression": "none"}  # neither makes vectors smaller
KEY = b"timm_landmark"
JOB, LOCK = "job.json", ".lock"


@dataclass(frozen=True)
class Job:
    """What determines the vectors, and the version that wrote them; a run is continued only with the same job.

    Attributes:
        model: Architecture.
        weights: Digest of the model's tensors, the same for a run and its export.
        transform: Description of the preprocessing.
        width: Numbers in a vector.
        photos: Number of photos.
        listing: Digest of their paths, sizes and times of modification.
        version: Version of this package; another one may continue.
    """

    model: str
    weights: str
    transform: str
    width: int
    photos: int
    listing: str
    version: str

    def difference(self, other: dict[str, Any]) -> str | None:
        """What makes another job different, for messages; None if the two have the same vectors."""
        own = asdict(self)
        if any(other.get(key) != own[key] for key in ("photos", "listing")):
            return "other photos (some were added, removed or changed)"
        texts = {"model": "another model", "weights": "other weights", "transform": "another transform"}
        texts["width"] = "vectors of another length"
        return next((text for key, text in texts.items() if other.get(key) != own[key]), None)


@dataclass(frozen=True)
class Problem:
    """A photo without a vector, and the reason."""

    path: str
    reason: str


def problems_of(about: dict[str, Any] | None) -> list[Problem]:
    """The problems in the metadata of a file or a part."""
    return [Problem(*problem) for problem in (about or {}).get("left_out", [])]


@dataclass(frozen=True)
class Row:
    """A photo with its vector of unit length, shape (width,), float32."""

    path: str
    sha256: str
    embedding: "np.ndarray"


def parts_folder(output: Path) -> Path:
    """The folder of the parts of an unfinished file."""
    return output.with_name(f"{output.name}.parts")


def read_about(file: Path) -> dict[str, Any] | None:
    """The metadata of a file or a part, a job with ``left_out``; None if it is missing or was not written by embed."""
    from pyarrow import ArrowException, parquet

    try:
        found = json.loads((parquet.read_schema(file).metadata or {})[KEY])
    except (OSError, ArrowException, KeyError, ValueError):
        return None
    return found if isinstance(found, dict) else None


class Store:
    """The parts of one file, from :func:`opened`."""

    def __init__(self, output: Path, job: Job) -> None:
        self._output, self._job, self._folder = output, job, parts_folder(output)
        self._count = -(-job.photos // ROWS)

    def _part(self, number: int) -> Path:
        return self._folder / f"{number:06d}.parquet"

    def missing(self) -> list[tuple[int, slice]]:
        """Number and photos of the parts that are not written yet."""
        return [
            (number, slice(number * ROWS, min((number + 1) * ROWS, self._job.photos)))
            for number in range(self._count)
            if read_about(self._part(number)) is None
        ]

    def problems(self) -> list[Problem]:
        """The photos without a vector in the parts that are written."""
        return [problem for number in range(self._count) for problem in problems_of(read_about(self._part(number)))]

    def write_part(self, number: int, rows: Sequence[Row], problems: Sequence[Problem]) -> None:
        """Writes one part atomically."""
        import numpy as np
        import pyarrow as pa
        from pyarrow import parquet

        values = np.concatenate([row.embedding for row in rows]) if rows else np.empty(0, np.float32)
        arrays = [
            pa.array([row.path for row in rows], pa.string()),
            pa.array([row.sha256 for row in rows], pa.string()),
            pa.FixedSizeListArray.from_arrays(pa.array(values, pa.float32()), self._job.width),
        ]
        with atomic_path(self._part(number)) as temporary:
            parquet.write_table(pa.Table.from_arrays(arrays, schema=self._schema(problems)), temporary, **FORMAT)

    def _schema(self, problems: Sequence[Problem]) -> "pyarrow.Schema":
        import pyarrow as pa

        left_out = [[problem.path, problem.reason] for problem in problems]
        about = json.dumps({**asdict(self._job), "left_out": left_out})
        vector = pa.list_(pa.float32(), self._job.width)
        return pa.schema(
            [("path", pa.string()), ("sha256", pa.string()), ("embedding", vector)], metadata={KEY: about.encode()}
        )

    def join(self) -> None:
        """Writes the file from the parts, atomically and one part at a time, and removes them.

        Raises:
            UserError: If a part is damaged.
        """
        from pyarrow import ArrowException, parquet

        schema = self._schema(self.problems())
        with atomic_path(self._output) as temporary, parquet.ParquetWriter(temporary, schema, **FORMAT) as writer:
            for number in range(self._count):
                try:
                    with parquet.ParquetFile(self._part(number)) as part:
                        table = part.read()
                except (OSError, ArrowException) as error:
                    raise UserError(
                        f"{self._part(number)} is damaged ({first_line(error, 80)}); delete it and repeat the command"
                    ) from None
                if table.num_rows:
                    writer.write_table(table.replace_schema_metadata(schema.metadata), row_group_size=ROWS)
        self.remove()

    def remove(self) -> None:
        """Removes the parts, the job last, so that a kill leaves no parts without it."""
        for file in [*_parts(self._folder), *self._folder.glob(".*.tmp"), self._folder / JOB]:
            file.unlink(missing_ok=True)


@contextmanager
def opened(output: Path, job: Job, overwrite: bool = False) -> Iterator[Store]:
    """Opens the parts of a file in one process: new ones, or those of an interrupted run of the same job.

    Args:
        output: The file.
        job: What is computed.
        overwrite: Whether parts of another job are removed.

    Raises:
        UserError: If they are of another job, another process uses them, or they cannot be written.
    """
    folder = parts_folder(output)
    _check_folder(output, job, overwrite)
    lock = FileLock(folder / LOCK, fallback_to_soft=False)
    try:
        folder.mkdir(exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(f"--output {output}: another process is writing it; wait for it or give another file") from None
    except OSError as error:
        raise UserError(
            f"--output {output}: cannot be written ({error.strerror or error}); give another file"
        ) from None
    try:
        _check_folder(output, job, overwrite)  # another process may have been faster
        store = Store(output, job)
        if _difference(folder, job):
            store.remove()
        for stale in output.parent.glob(f".{escape(output.name)}.*.tmp"):  # of a process that was killed while joining
            stale.unlink()
        write_json(folder / JOB, asdict(job))
        yield store
    except BrokenPipeError:  # of the terminal
        raise
    except OSError as error:
        raise UserError(
            f"--output {output}: cannot be written ({error.strerror or error}); fix the cause and repeat the command, "
            "it goes on from there"
        ) from None
    finally:
        lock.release()
        if not _parts(folder) and not (folder / JOB).exists():
            (folder / LOCK).unlink(missing_ok=True)
            folder.rmdir()


def _check_folder(output: Path, job: Job, overwrite: bool) -> None:
    folder = parts_folder(output)
    if not folder.exists():
        return
    if not folder.is_dir() or any(not _is_ours(file) for file in folder.iterdir()):
        raise UserError(f"{folder} was not written by embed; move it away or give another --output")
    if (difference := _difference(folder, job)) and not overwrite:
        raise UserError(
            f"--output {output}: the interrupted run in {folder} has {difference}; repeat its command, give another "
            "file, or start again with --overwrite"
        )


def _difference(folder: Path, job: Job) -> str | None:
    """How the job of the parts differs, if there are any; one without a job, which is written first, is not known."""
    if not _parts(folder):
        return None
    try:
        found = json.loads((folder / JOB).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"no readable {JOB}"
    return job.difference(found if isinstance(found, dict) else {})


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9]*.parquet"))


def _is_ours(file: Path) -> bool:
    hidden = file.name.startswith(".") and file.suffix == ".tmp"  # left by a kill while a file was written
    return hidden or file.name in (JOB, LOCK) or (file.stem.isdigit() and file.suffix == ".parquet")
