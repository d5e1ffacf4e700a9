"""``timm-landmark synthesize``: a prepared data set of procedural landmarks, to try every command without a download.

Each class is one monument, and each image another view of it. The bytes of an image depend only on the seed, its class,
its number, its size, and the versions of this package, NumPy and Pillow (all recorded in dataset.json), but not on the
other images.
"""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from timm_landmark import __version__
from timm_landmark.data.check import stored_name, write_sums
from timm_landmark.data.images import decoder_version, encode_jpeg
from timm_landmark.data.layout import SPLITS, ClassRow, ManifestRow, RejectRow, data_digest, folder_name, write_rows
from timm_landmark.data.synthetic.forms import Look, draw_look
from timm_landmark.data.synthetic.forms_tall import KINDS
from timm_landmark.data.synthetic.geometry import Model
from timm_landmark.data.synthetic.scene import render, render_mask
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.files import temporary_folder, write_atomic, write_json
from timm_landmark.utils.parser import Parser
from timm_landmark.utils.text import say

RATIO = (6, 1, 1)
SMALLEST, LARGEST = 32, 2048
_KIND, _LOOK, _VIEW = range(3)  # independent streams of random numbers
_STARTS = ("Al", "Bel", "Cor", "Drag", "El", "Fen", "Gal", "Hol", "Is", "Jor", "Kar", "Lum", "Mor", "Nar", "Or", "Pel")
_MIDDLES = ("a", "e", "i", "o", "u", "an", "ar", "en", "il", "or")
_ENDS = ("burg", "dale", "dor", "ford", "mar", "mont", "nia", "ra", "stad", "tal", "ton", "vik", "ville", "wen")


def main(argv: list[str]) -> int:
    """Runs the command.

    Raises:
        UserError: If a value is out of range, or the output folder is not empty.
    """
    parser = Parser(
        prog="timm-landmark synthesize",
        description=(
            "Renders a data set of procedural landmarks in the format of `timm-landmark prepare`. Each class is one "
            "monument, and each image another view of it. The same arguments and versions give the same bytes."
        ),
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DATA", help="folder to write; must be new or empty"
    )
    parser.add_argument("--classes", type=int, default=12, metavar="C", help="number of landmarks (default: 12)")
    parser.add_argument(
        "--images", type=int, default=80, metavar="N", help="images per landmark, at least 3, split 6:1:1 (default: 80)"
    )
    parser.add_argument(
        "--size", type=int, default=256, metavar="P", help="size of the images in pixels (default: 256)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="seed of the landmarks and their views (default: 0)"
    )
    options = parser.parse_args(argv)
    synthesize(options.output, options.classes, options.images, options.size, options.seed)
    say(
        f"{options.output}: {options.classes} classes with {options.images} images each, {options.size}x{options.size} "
        f"pixels; train on it with `timm-landmark train resneat50 --data {options.output} --output RUN`"
    )
    return 0


def synthesize(output: Path, classes: int, images: int, size: int = 256, seed: int = 0) -> None:
    """Writes a data set of ``classes`` landmarks with ``images`` views each; a final rename puts it at ``output``.

    Args:
        output: A folder that does not exist or is empty.
        classes: Number of landmarks, at least 2.
        images: Images per landmark, at least one per split.
        size: Pixels per side.
        seed: Seed of the landmarks and their views.

    Raises:
        UserError: If a value is out of range, ``output`` is not empty, or the disk is full.
    """
    from tqdm import tqdm

    _check(output, classes, images, size, seed)
    parts = split_counts(images)
    work = None
    try:
        work = temporary_folder(output)
        folders = [folder_name(index, classes) for index in range(classes)]
        names = class_names(seed, classes)
        manifest: list[ManifestRow] = []
        with tqdm(total=classes * images, desc="synthesize", unit=" images", disable=None) as progress:
            for index, folder in enumerate(folders):
                for split in SPLITS:
                    (work / split / folder).mkdir(parents=True)
                model = landmark(seed, index)
                for number in range(images):
                    content = view(model, seed, index, number, size)
                    row = ManifestRow(
                        image_id=hashlib.sha256(f"{seed} {index} {number}".encode()).hexdigest()[:16],
                        landmark_id=str(index),
                        folder=folder,
                        split=SPLITS[int(np.searchsorted(np.cumsum(parts), number, side="right"))],
                        sha256=hashlib.sha256(content).hexdigest(),
                        source=f"synthetic/{seed}/{index}/{number}",
                    )
                    (work / stored_name(row)).write_bytes(content)
                    manifest.append(row)
                    progress.update()
        manifest.sort(key=lambda row: row.image_id)
        write_rows(work, ClassRow, [ClassRow(f, str(i), names[i], *parts) for i, f in enumerate(folders)])
        write_atomic(work / "class_map.txt", "".join(f"{folder}\n" for folder in folders))
        write_rows(work, ManifestRow, manifest)
        write_rows(work, RejectRow, [])
        write_json(work / "dataset.json", _info(work, classes, images, size, seed))
        write_sums(work, {stored_name(row): row.sha256 for row in manifest})
        if output.exists():
            output.rmdir()  # empty, as checked
        os.replace(work, output)
    except OSError as error:
        raise UserError(f"--output {output}: {error.strerror or error}; free space or choose another folder") from None
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)


def landmark(seed: int, index: int) -> Model:
    """The monument of class ``index``: kinds come in an order drawn from the seed, proportions are the class's own."""
    _, build = _kind(seed, index)
    return build(draw_look(np.random.default_rng([_LOOK, seed, index])))


def view(model: Model, seed: int, index: int, number: int, size: int) -> bytes:
    """View ``number`` of the monument of class ``index`` as a JPEG (quality 95, no chroma subsampling)."""
    return encode_jpeg(render(model, np.random.default_rng([_VIEW, seed, index, number]), size))


def view_mask(model: Model, seed: int, index: int, number: int, size: int) -> Image.Image:
    """Where :func:`view` of the same arguments shows the monument: a grey image, 255 on it and 0 elsewhere."""
    return render_mask(model, np.random.default_rng([_VIEW, seed, index, number]), size)


def class_names(seed: int, classes: int) -> list[str]:
    """Unique class names, an invented place and the kind, such as "Belamar Lighthouse"."""
    names: list[str] = []
    for index in range(classes):
        rng = np.random.default_rng([_KIND, seed, index + 1])
        while True:
            place = "".join(part[rng.integers(len(part))] for part in (_STARTS, _MIDDLES, _ENDS))
            if (name := f"{place} {_kind(seed, index)[0]}") not in names:
                names.append(name)
                break
    return names


def split_counts(images: int) -> tuple[int, int, int]:
    """Images of a class in train, validation and test: about 6:1:1, at least one each."""
    side = max(1, round(images * RATIO[1] / sum(RATIO)))
    return images - 2 * side, side, side


def _kind(seed: int, index: int) -> tuple[str, Callable[[Look], Model]]:
    turn, place = divmod(index, len(KINDS))
    return KINDS[np.random.default_rng([_KIND, seed, 0, turn]).permutation(len(KINDS))[place]]


def _check(output: Path, classes: int, images: int, size: int, seed: int) -> None:
    if not 2 <= classes <= 10_000:
        raise UserError(f"--classes {classes}: must be 2 to 10000")
    if images < len(SPLITS):
        raise UserError(f"--images {images}: must be at least 3, so that every class is in every split")
    if not SMALLEST <= size <= LARGEST:
        raise UserError(f"--size {size}: must be {SMALLEST} to {LARGEST} pixels")
    if seed < 0:
        raise UserError(f"--seed {seed}: must be at least 0")
    if output.resolve() == Path.cwd():
        raise UserError(f"--output {output}: the current folder cannot be replaced; give the name of a new folder")
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise UserError(f"--output {output}: is not a folder; choose a new one")
    if output.exists() and any(output.iterdir()):
        raise UserError(f"--output {output}: is not empty; choose a new folder, or delete this one first")


def _info(data: Path, classes: int, images: int, size: int, seed: int) -> dict[str, object]:
    parts = split_counts(images)
    return {
        "release": "synthetic",
        "arguments": {"classes": classes, "images": images, "size": size, "seed": seed},
        "seed": seed,
        "size": size,
        "split": list(RATIO),
        "counts": {split: classes * count for split, count in zip(SPLITS, parts, strict=True)},
        "digest": data_digest(data),
        "decoder": decoder_version(),
        "numpy": np.__version__,
        "version": __version__,
    }
