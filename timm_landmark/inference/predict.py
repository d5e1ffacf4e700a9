"""``timm-landmark predict``: names the landmark in photos with a run, an exported folder or a Hub repository."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from timm_landmark.data.images import settle_process
from timm_landmark.inference.answers import Answer
from timm_landmark.inference.heat_maps import check_available
from timm_landmark.inference.namer import (
    Namer,
    add_threshold_options,
    check_threshold_options,
    load_namer,
    name_photos,
    with_thresholds,
)
from timm_landmark.inference.pages.gallery import check_page
from timm_landmark.inference.photos import find_photos
from timm_landmark.inference.rendering import CSV_COLUMNS, render_csv, render_json, render_table
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.parser import Parser, check_least
from timm_landmark.utils.text import escaped, printable, say


def main(argv: list[str]) -> int:
    """Runs the verb.

    Returns:
        0, or 1 if a photo cannot be read (it is reported and the others are still named).

    Raises:
        UserError: If the model or a photo does not exist, the model's output is not finite, the gallery cannot be
            written, or heat maps are asked for that cannot be drawn.
    """
    parser = Parser(
        prog="timm-landmark predict",
        description=(
            "Names the landmark in photos. A photo that is not square is first resized to a square, like the training "
            "data. Then the transform of the model's validation is applied. If `evaluate` has set thresholds, a photo "
            'may be "not certain" or show "none of the model\'s landmarks".'
        ),
        epilog="Exit code: 0 for success, 1 if a photo cannot be read (the others are named), 2 for a user error.",
    )
    parser.add_argument("model", metavar="RUN|FOLDER|hf-hub:ORG/NAME", help="output of train, export or push")
    parser.add_argument("photos", nargs="+", type=Path, metavar="PHOTO|FOLDER", help="files or folders")
    parser.add_argument("--top", type=int, default=5, metavar="K", help="guesses per photo (default: 5)")
    parser.add_argument("--format", choices=("table", "csv", "json"), default="table", help="default: table")
    parser.add_argument("--gallery", type=Path, metavar="OUT.html", help="also write an HTML page with thumbnails")
    parser.add_argument("--explain", action="store_true", help="with --gallery: show where the network looked")
    add_threshold_options(parser)
    parser.add_argument("--device", help="default: cuda if available, else mps, else cpu")
    parser.add_argument("-b", "--batch-size", type=int, default=32, help="photos per batch (default: 32)")
    parser.add_argument("-j", "--workers", type=int, default=4, help="decoding threads (default: 4)")
    options = parser.parse_args(argv)
    check_least(options, top=1, batch_size=1, workers=1)
    check_threshold_options(options)
    if options.gallery is not None:
        check_page(options.gallery)
    if options.explain:
        if options.gallery is None:
            raise UserError("--explain: the heat maps are shown on the page of --gallery; add --gallery OUT.html")
        check_available("--explain")
    settle_process()
    paths = find_photos(options.photos)
    namer = with_thresholds(load_namer(options.model, options.device), options)
    if options.explain:
        say(f"heat maps: Grad-CAM at {namer.explainer.layer}", file=sys.stderr)  # a model without maps is refused here
    thumbnails = options.gallery is not None
    answers = name_photos(
        namer, paths, options.top, options.batch_size, options.workers, thumbnails, explain=options.explain
    )
    return _report(namer, answers, len(paths), options.format, options.gallery)


def _report(namer: Namer, answers: Iterable[Answer], total: int, output: str, gallery: Path | None) -> int:
    """Prints each answer when it is ready; problems go to stderr, with their number at the end."""
    from tqdm import tqdm

    from timm_landmark.inference.pages.gallery import Gallery

    page = Gallery(namer.title, namer.labels) if gallery else None
    render = {"table": render_table, "csv": render_csv, "json": render_json}[output]
    head = {"table": [], "csv": [CSV_COLUMNS], "json": ["["]}[output]
    bad = 0
    with tqdm(total=total, desc="predict", unit=" photos", disable=None) as progress:

        def write(*lines: str, file: TextIO | None = None) -> None:
            if lines:
                with progress.external_write_mode(file):
                    say(*lines, file=file)

        write(*head)
        try:
            for number, answer in enumerate(answers):
                if answer.photo.problem:
                    bad += 1
                    write(f"{escaped(answer.photo.path)}: {printable(answer.photo.problem)}", file=sys.stderr)
                lines = render(answer, namer.labels, namer.thresholds)
                write(*(f"{',' if number else ' '}{line}" for line in lines) if output == "json" else lines)
                if page is not None:
                    page.add(answer)
                progress.update()
        finally:  # after an error or Ctrl-C, the output is still valid JSON
            if output == "json":
                write("]")
    if page is not None and gallery is not None:
        page.write(gallery)
        say(f"{gallery}: {page.summary()}", file=sys.stderr)
    if bad:
        say(f"{bad} of {total} photos cannot be read", file=sys.stderr)
    return 1 if bad else 0
