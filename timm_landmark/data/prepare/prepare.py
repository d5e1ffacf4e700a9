"""``timm-landmark prepare``: turns Google Landmarks, or your own photos, into a training set with one command.

metadata -> selection -> photos (decoded, hashed, stored by id in a work folder) -> groups -> split -> moved into place.
Each step is a module of this package. The same command continues a run that was interrupted at any moment.

What is left out: photos are drawn (--ratio, --cap) before any is read, and rejected photos are not replaced. A class
with fewer than --min-per-class usable photos, or with fewer groups than there are splits, is left out as a whole; its
photos are listed in rejects.csv with that reason. The same bytes under two labels, and an id under two labels, are
rejected under both.
"""

import argparse
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timm_landmark.data.images import settle_process
from timm_landmark.data.prepare.options import build_parser, options_of
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.machine import available_cores
from timm_landmark.utils.text import say

if TYPE_CHECKING:
    from timm_landmark.data.prepare.metadata import Metadata
    from timm_landmark.data.prepare.selection import Selection
    from timm_landmark.data.prepare.sources import Location
    from timm_landmark.data.prepare.store import Records
    from timm_landmark.data.prepare.workfolder import WorkFolder

STALLED = 600.0  # seconds without an answer from a source or the disk before a run gives up


def main(argv: list[str]) -> int:
    """Runs the command; see :func:`build_parser` for its arguments.

    Returns:
        0, or 130 after Ctrl-C.

    Raises:
        UserError: If an argument, a source or the output folder is unusable.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    splits = sum(weight > 0 for weight in args.split)
    if not splits:
        raise UserError("--split 0 0 0: at least one share must be above 0")
    if not args.images and not args.download:
        raise UserError("--images is missing: pass the folder, tars or zip with the photos, or --download for GLDv2")
    if (args.base_url or args.keep_shards) and not args.download:
        raise UserError("--base-url and --keep-shards are only valid with --download")
    if args.base_url and not re.fullmatch(r"https?://[^\s/]\S*", args.base_url):
        raise UserError(f"--base-url {args.base_url}: not an address; pass http://HOST/... or https://HOST/...")
    args.min_per_class = args.min_per_class or splits
    settle_process()
    try:
        return _run(args)
    except KeyboardInterrupt:
        say("", f"interrupted; repeat the same command to continue {args.output}", file=sys.stderr)
        return 130
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        raise UserError(
            f"--output {args.output}: {error.strerror or error}{place}; fix this and repeat the command to continue"
        ) from None


def _run(args: argparse.Namespace) -> int:
    from timm_landmark.data.card import check_attribution
    from timm_landmark.data.layout import read_dataset_info
    from timm_landmark.data.prepare import workfolder
    from timm_landmark.data.prepare.place import place
    from timm_landmark.data.prepare.sources import find_sources

    find_sources(args.images)  # a misspelt path is reported before anything is written
    if args.attribution is not None:
        check_attribution(args.attribution)
    options = options_of(args)
    finished: dict[str, Any] | None = None  # the options of a finished data set
    if not (args.output / workfolder.NAME).exists():
        if (args.output / "dataset.json").exists():
            info = read_dataset_info(args.output)
            recorded = {"selection": info.get("selection")}
            finished = {**info.get("arguments", {}), **recorded}
            workfolder.refuse_difference(args.output, finished, options | recorded, "finished")
        else:
            workfolder.refuse_foreign(args.output)
    if args.dry_run:
        return _dry_run(args)
    if finished is not None:
        if args.metadata is not None or not args.download:  # the csv files of a release do not change
            options["selection"] = _select(args)[1].digest()
            workfolder.refuse_difference(args.output, finished, options, "finished")
        return _report_finished(args)
    with workfolder.WorkFolder(args.output) as work:
        metadata, selection = _select(args, _download_folder(args, work))
        work.begin(options | {"selection": selection.digest()})
        begun = time.monotonic()
        records = _store_photos(args, metadata, selection, work)
        say(*place(args, metadata, selection, work, records, begun))
    return 0


def _dry_run(args: argparse.Namespace) -> int:
    from tempfile import TemporaryDirectory

    from timm_landmark.data.prepare.dry_run import describe

    with TemporaryDirectory() as folder:
        metadata, selection = _select(args, Path(folder))
    say(*describe(args, metadata, selection))
    return 0


def _report_finished(args: argparse.Namespace) -> int:
    import shutil

    from timm_landmark.data.check import SUMS, write_sums
    from timm_landmark.data.prepare.workfolder import FINISHED

    if not (args.output / SUMS).exists():  # interrupted in its last step
        shutil.rmtree(args.output / FINISHED, ignore_errors=True)
        write_sums(args.output)
    say(f"{args.output} is already finished with these options; nothing to do")
    return 0


def _select(args: argparse.Namespace, folder: Path | None = None) -> tuple["Metadata", "Selection"]:
    """Reads the metadata, which --download fetches into ``folder``, and selects classes and images."""
    from timm_landmark.data.prepare.metadata import read_folders, read_metadata
    from timm_landmark.data.prepare.selection import select

    path = args.metadata
    if path is None and args.download:
        from timm_landmark.data.prepare.download import METADATA, fetch_metadata

        assert folder is not None  # a finished download is never selected again
        names = METADATA[:2] if args.dry_run else METADATA  # a dry run does not need attribution, the largest file
        path = fetch_metadata(folder, _base_url(args), names=names)["train.csv"]
    if path is not None:
        metadata = read_metadata(path)
    elif len(args.images) == 1 and args.images[0].is_dir():
        metadata = read_folders(args.images[0])
    elif len(args.images) == 1 and not args.images[0].exists():
        raise UserError(f"--images {args.images[0]}: no such folder")
    else:
        raise UserError(
            "--metadata is required with archives or several --images; without it, pass one folder with a subfolder "
            "per class"
        )
    return metadata, select(
        metadata, args.classes, args.min_per_class, args.ratio, args.cap, args.exclude, args.join_names, args.seed
    )


def _download_folder(args: argparse.Namespace, work: "WorkFolder") -> Path:
    """Where --download keeps its files: in the work folder, which is removed at the end, or next to the output."""
    output = args.output.resolve()  # has a name even if --output is "."
    return output.with_name(output.name + ".download") if args.keep_shards else work.download


def _base_url(args: argparse.Namespace) -> str:
    from timm_landmark.data.prepare.download import BASE_URL

    return args.base_url.rstrip("/") if args.base_url else BASE_URL


def _sources(args: argparse.Namespace, work: "WorkFolder") -> Iterator[Path]:
    from timm_landmark.data.prepare.sources import find_sources

    yield from find_sources(args.images)
    if args.download:
        from timm_landmark.data.prepare.download import fetch_shards

        folder = _download_folder(args, work) / "shards"
        yield from fetch_shards(folder, work.shards, _base_url(args), keep=args.keep_shards)


def _store_photos(
    args: argparse.Namespace, metadata: "Metadata", selection: "Selection", work: "WorkFolder"
) -> "Records":
    """Reads every selected photo, except those that an earlier run stored; photos it rejected are read again."""
    from tqdm import tqdm

    from timm_landmark.data.names import unusable_ids
    from timm_landmark.data.prepare.pool import run_jobs
    from timm_landmark.data.prepare.sources import locate, verify_md5
    from timm_landmark.data.prepare.store import Fatal, Rejected, StorePhoto

    stored, rejected = work.read_journal()
    done = work.read_shards()  # not fetched again, so their rejects are final
    records: Records = {**stored}
    records |= {name: record for name, record in rejected.items() if record.archive in done}
    records |= {name: Rejected(name, why) for name, why in unusable_ids(selection.landmark).items()}
    remaining = set(selection.landmark) - records.keys()
    store = StorePhoto(work.images, args.size, args.resize, args.max_pixels)

    def died(job: "tuple[str, Location]", how: str) -> Rejected:
        return Rejected(job[0], f"decoder died: {how}")

    def stalled(job: "tuple[str, Location]", seconds: float) -> None:
        where = f"--images {job[1].root} or --output {args.output}: no answer for {seconds:.0f} s"
        if seconds > STALLED:
            raise UserError(f"{where} at {job[1].name}; repeat the command to continue once they are available again")
        say(f"{where}; waiting", file=sys.stderr)

    found = len(records) + len(rejected)
    with tqdm(total=len(selection.landmark), initial=len(records), desc="photos", unit="img", disable=None) as bar:
        for source in _sources(args, work) if remaining else ():
            located = locate(source, remaining, metadata.paths)
            if located and source.suffix == ".tar" and source.is_file():
                verify_md5(source)
            jobs = sorted(located.items(), key=lambda item: (item[1].offset, item[1].name))
            for record in run_jobs(store, jobs, min(args.workers or available_cores(), len(jobs)), died, stalled):
                if isinstance(record, Fatal):
                    raise UserError(f"{record.message} and repeat the command to continue")
                if isinstance(record, Rejected):
                    record = replace(record, archive=source.name)
                work.keep(record)
                records[record.id] = record
                remaining.discard(record.id)
                bar.update()
            found += len(located)
            if not remaining:
                break
    if not found:
        work.discard()
        raise UserError(
            f"--images {' '.join(map(str, args.images))}: found none of the {len(remaining)} selected photos, as "
            "<id>.jpg or a/b/c/<id>.jpg in folders, .tar and .zip; check the paths, or whether --metadata is of "
            "another release"
        )
    return records
