"""``timm-landmark embed``: a vector of unit length for each photo, in a parquet file for search and clustering."""

import argparse
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from timm_landmark import __version__
from timm_landmark.data.images import settle_process
from timm_landmark.inference.embedding import store
from timm_landmark.inference.namer import Namer, load_namer
from timm_landmark.inference.photos import Photo, find_photos, read_photos
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.parser import Parser, check_least
from timm_landmark.utils.text import escaped, printable, say

if TYPE_CHECKING:
    import numpy as np
    import torch

SUFFIX = ".parquet"


def main(argv: list[str]) -> int:
    """Runs the verb.

    Returns:
        0, or 1 if a photo cannot be read (it is reported and left out).

    Raises:
        UserError: If the model or a photo does not exist, the model's features are not finite, or the file cannot be
            written.
    """
    options = _parser().parse_args(argv)
    check_least(options, batch_size=1, workers=1)
    output: Path = options.output
    _check_output(output)
    settle_process()
    paths = find_photos(options.photos)
    namer = load_namer(options.model, options.device)
    job = make_job(namer, paths)
    if not options.overwrite and output.exists():
        return _finished(output, job)
    return _run(namer, paths, job, options)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="timm-landmark embed",
        description=(
            "Writes a vector of unit length for each photo, from the input of the model's classifier. The dot product "
            "of two vectors is their cosine similarity. After an interruption, repeat the command."
        ),
        epilog="Exit code: 0 for success, 1 if a photo cannot be read (it is left out), 2 for a user error.",
    )
    parser.add_argument("model", metavar="RUN|FOLDER|hf-hub:ORG/NAME", help="output of train, export or push")
    parser.add_argument("photos", nargs="+", type=Path, metavar="PHOTO|FOLDER", help="files or folders")
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FILE.parquet",
        help="columns path, sha256 (of the file's bytes) and embedding (float32)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace FILE.parquet, and an interrupted run with other photos"
    )
    parser.add_argument("--device", help="default: cuda if available, else mps, else cpu")
    parser.add_argument("-b", "--batch-size", type=int, default=32, help="photos per batch (default: 32)")
    parser.add_argument("-j", "--workers", type=int, default=4, help="decoding threads (default: 4)")
    return parser


def _check_output(output: Path) -> None:
    if output.suffix.lower() != SUFFIX:
        raise UserError(f"--output {output}: its name must end in {SUFFIX}")
    if not output.parent.is_dir():
        raise UserError(f"--output {output}: no such folder {output.parent}; create it first")
    if output.exists() and not output.is_file():
        raise UserError(f"--output {output}: not a file; give another name")


def make_job(namer: Namer, paths: Sequence[Path]) -> store.Job:
    """Describes a run of the verb: the model and the photos.

    Raises:
        UserError: If the model has no pooled features, or they are not finite.
    """
    import torch

    weights = hashlib.sha256()
    for name, value in sorted(namer.model.state_dict().items()):
        weights.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        weights.update(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    listing = hashlib.sha256()
    for path in paths:
        listing.update(os.fsencode(path) + _state(path))
    cfg = getattr(namer.model, "pretrained_cfg", {})
    blank = namer.pixels(Image.new("RGB", (namer.side, namer.side)))
    return store.Job(
        model=cfg.get("architecture") or type(namer.model).__name__,
        weights=weights.hexdigest(),
        transform=" ".join(f"{namer.mode} {namer.side} {namer.transform}".split()),
        width=unit_vectors(namer, [blank])[0].shape[1],
        photos=len(paths),
        listing=listing.hexdigest(),
        version=__version__,
    )


def _state(path: Path) -> bytes:
    try:
        found = path.stat()
    except OSError:  # removed since it was found; reported when it is read
        return b"\0\n"
    return f"\0{found.st_size} {found.st_mtime_ns}\n".encode()


def unit_vectors(namer: Namer, images: "Sequence[torch.Tensor]") -> "tuple[np.ndarray, np.ndarray]":
    """Computes the pooled features of some images, scaled to unit length.

    Args:
        namer: The model.
        images: B tensors of shape (channels, P, P).

    Returns:
        Vectors (B, width), float32, and whether each has a direction (B,): features that are all zero have none.

    Raises:
        UserError: If the model has no pooled features, or they are not finite.
    """
    import torch

    model: Any = namer.model  # timm's models have more methods than nn.Module
    device = next(model.parameters()).device
    with torch.inference_mode():
        pooled = model.forward_head(model.forward_features(torch.stack(list(images)).to(device)), pre_logits=True)
    if pooled.ndim != 2:
        raise UserError(f"{namer.title}: its features have the shape {tuple(pooled.shape)}; use a model with pooling")
    if not pooled.isfinite().all():
        raise UserError(
            f"{namer.title}: the model's features are not finite (NaN or infinity), so its weights are damaged or the "
            "training diverged; download or export it again, or train again with a lower --lr"
        )
    values = pooled.cpu().double()
    length = torch.linalg.vector_norm(values, dim=1, keepdim=True)
    return (values / length).float().numpy(), (length[:, 0] > 0).numpy()


def _finished(output: Path, job: store.Job) -> int:
    """Reports a file that exists: it must be what this command would write."""
    about = store.read_about(output)
    if about is None:
        raise UserError(f"--output {output} exists and was not written by embed; give another file, or --overwrite")
    if difference := job.difference(about):
        raise UserError(f"--output {output} exists, with {difference}; give another file, or --overwrite to replace it")
    if store.parts_folder(output).exists():  # killed after the file was finished
        with store.opened(output, job) as parts:
            parts.remove()
    say(f"{output} is finished")
    problems = store.problems_of(about)
    for problem in problems:
        _report(problem)
    return _summary(output, job, len(problems))


def _run(namer: Namer, paths: Sequence[Path], job: store.Job, options: argparse.Namespace) -> int:
    from tqdm import tqdm

    with store.opened(options.output, job, options.overwrite) as parts:
        missing, problems = parts.missing(), parts.problems()
        left = sum(photos.stop - photos.start for _, photos in missing)
        if left < len(paths):
            say(f"going on after {len(paths) - left} of {len(paths)} photos")
        for problem in problems:
            _report(problem)
        with tqdm(total=len(paths), initial=len(paths) - left, desc="embed", unit=" photos", disable=None) as progress:

            def reported(problem: store.Problem) -> store.Problem:
                with progress.external_write_mode(sys.stderr):
                    _report(problem)
                return problem

            for number, photos in missing:
                rows, bad = [], []
                for found in embed_photos(namer, paths[photos], options.batch_size, options.workers):
                    if isinstance(found, store.Row):
                        rows.append(found)
                    else:
                        bad.append(reported(found))
                    progress.update()
                parts.write_part(number, rows, bad)
                problems += bad
        parts.join()
    return _summary(options.output, job, len(problems))


def embed_photos(
    namer: Namer, paths: Iterable[Path], batch_size: int, workers: int
) -> "Iterator[store.Row | store.Problem]":
    """Yields the vector of each photo, or why it has none, in order; arguments as for ``name_photos``."""
    photos = read_photos(paths, namer.pixels, 0, workers, 2 * batch_size)
    while batch := list(islice(photos, batch_size)):
        good = [photo for photo in batch if photo.pixels is not None]
        rows = {}
        if good:
            vectors, directed = unit_vectors(namer, [photo.pixels for photo in good])
            rows = dict(zip((photo.path for photo in good), zip(vectors, directed, strict=True), strict=True))
        for photo in batch:
            yield _outcome(photo, *rows.get(photo.path, (None, False)))


def _outcome(photo: Photo, vector: "np.ndarray | None", directed: bool) -> "store.Row | store.Problem":
    path = os.fsencode(photo.path).decode("utf-8", "backslashreplace")  # parquet stores UTF-8 only
    if photo.problem or vector is None or photo.sha256 is None:
        return store.Problem(path, photo.problem or "not read")
    if not directed:
        return store.Problem(path, "its features are all zero, so they have no direction")
    return store.Row(path, photo.sha256, vector)


def _report(problem: store.Problem) -> None:
    say(f"{escaped(problem.path)}: {printable(problem.reason)}", file=sys.stderr)


def _summary(output: Path, job: store.Job, bad: int) -> int:
    vectors = job.photos - bad
    say(f"{output}: {vectors} vector{'s' * (vectors != 1)} of {job.width} numbers, from {job.model}")
    if bad:
        say(f"{bad} of {job.photos} photos have no vector", file=sys.stderr)
    return 1 if bad else 0
