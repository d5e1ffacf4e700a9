"""``timm-landmark prepare``: Google Landmarks, or a person's own photos, made a training set by one command.

metadata -> selection -> photos (decoded, hashed, stored by id in a work folder) -> groups -> split -> placed by rename.
Each step is a module beside this one. Interrupted at any moment, the same command goes on.

Rules for what is left out. The draw (--ratio, --cap) is made before photos are read, and rejected photos are not
replaced. A class that ends with fewer than --min-per-class usable photos, or with fewer groups than there are splits,
is left out whole; its photos are listed in rejects.csv with that reason. The same bytes under two labels, and an id
under two labels, are rejected under both.
"""

import argparse
import sys
import time
from collections.abc import Iterator
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
    from timm_landmark.data.prepare.workfolder import WorkFolder

STALLED = 600.0  # seconds without an answer from a source or the disk, after which a run gives up


def main(argv: list[str]) -> int:
    """Runs the verb; see :func:`build_parser` for its arguments.

    Returns:
        0, or 130 after Ctrl-C.

    Raises:
        UserError: If an argument, a source or the target does not serve.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    splits = sum(weight > 0 for weight in args.split)
    if not splits:
        raise UserError("--split 0 0 0: at least one share must be above 0")
    if not args.images and not args.download:
        raise UserError("--images: name the folder, tars or zip with the photos (or --download GLDv2)")
    if (args.base_url or args.keep_shards) and not args.download:
        raise UserError("--base-url and --keep-shards belong to --download; add it or leave them out")
    args.min_per_class = args.min_per_class or splits
    settle_process()
    try:
        return _run(args)
    except KeyboardInterrupt:
        say("", f"interrupted; repeat the same command to go on with {args.output}", file=sys.stderr)
        return 130
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        raise UserError(
            f"--output {args.output}: {error.strerror or error}{place}; put that right and repeat the command to go on"
        ) from None


def _run(args: argparse.Namespace) -> int:
    from timm_landmark.data.layout import read_dataset_info
    from timm_landmark.data.prepare import workfolder
    from timm_landmark.data.prepare.place import place
    from timm_landmark.data.prepare.sources import find_sources

    find_sources(args.images)  # a misspelt path is said before anything is written
    options = options_of(args)
    finished = (args.output / "dataset.json").exists() and not (args.output / workfolder.NAME).exists()
    if finished:
        info = read_dataset_info(args.output)
        there = info.get("arguments", {}) | {"selection": info.get("selection")}
        workfolder.refuse_difference(args.output, there, options | {"selection": there["selection"]}, "finished")
    elif not (args.output / workfolder.NAME).exists():
        workfolder.refuse_foreign(args.output)
    if args.dry_run:
        return _dry_run(args)
    if finished:
        if args.metadata is not None or not args.download:  # the csv files of a release stay what they are
            options["selection"] = _select(args)[1].digest()
            workfolder.refuse_difference(args.output, there, options, "finished")
        return _say_finished(args)
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


def _say_finished(args: argparse.Namespace) -> int:
    import shutil

    from timm_landmark.data.check import SUMS, write_sums
    from timm_landmark.data.prepare.workfolder import FINISHED

    if not (args.output / SUMS).exists():  # killed in its last step
        shutil.rmtree(args.output / FINISHED, ignore_errors=True)
        write_sums(args.output)
    say(f"{args.output} is finished already, with these options; nothing to do")
    return 0


def _select(args: argparse.Namespace, folder: Path | None = None) -> tuple["Metadata", "Selection"]:
    """Reads the metadata, which --download fetches into ``folder``, and selects."""
    from timm_landmark.data.prepare.metadata import read_folders, read_metadata
    from timm_landmark.data.prepare.selection import select

    path = args.metadata
    if path is None and args.download:
        from timm_landmark.data.prepare.download import METADATA, fetch_metadata

        names = METADATA[:2] if args.dry_run else METADATA  # attribution, the largest, is of no use to a dry run
        path = fetch_metadata(folder, names=names, **_base_url(args))["train.csv"]
    if path is not None:
        metadata = read_metadata(path)
    elif len(args.images) == 1 and args.images[0].is_dir():
        metadata = read_folders(args.images[0])
    elif len(args.images) == 1 and not args.images[0].exists():
        raise UserError(f"--images {args.images[0]}: no such folder")
    else:
        raise UserError("--metadata: needed with archives or several --images; without it, one folder of class folders")
    return metadata, select(
        metadata, args.classes, args.min_per_class, args.ratio, args.cap, args.exclude, args.join_names, args.seed
    )


def _download_folder(args: argparse.Namespace, work: "WorkFolder") -> Path:
    """Where --download works: in the work folder, which goes when the set is finished, or beside the output."""
    return args.output.with_name(args.output.name + ".download") if args.keep_shards else work.download


def _base_url(args: argparse.Namespace) -> dict[str, str]:
    return {"base_url": args.base_url.rstrip("/")} if args.base_url else {}


def _sources(args: argparse.Namespace, work: "WorkFolder") -> Iterator[Path]:
    from timm_landmark.data.prepare.sources import find_sources

    yield from find_sources(args.images)
    if args.download:
        from timm_landmark.data.prepare.download import fetch_shards

        folder = _download_folder(args, work) / "shards"
        yield from fetch_shards(folder, work.shards, keep=args.keep_shards, **_base_url(args))


def _store_photos(
    args: argparse.Namespace, metadata: "Metadata", selection: "Selection", work: "WorkFolder"
) -> dict[str, dict[str, Any]]:
    """Reads every photo of the selection; one that an earlier run stored is not read again, a rejected one is."""
    from tqdm import tqdm

    from timm_landmark.data.names import unusable_ids
    from timm_landmark.data.prepare.pool import run_jobs
    from timm_landmark.data.prepare.sources import locate, verify_md5
    from timm_landmark.data.prepare.store import StorePhoto

    records, rejected = work.read_journal()
    done = work.read_shards()  # not fetched again, so what was rejected in them stays so
    records |= {name: record for name, record in rejected.items() if record.get("archive") in done}
    records |= {name: {"id": name, "reason": why} for name, why in unusable_ids(selection.landmark).items()}
    remaining = set(selection.landmark) - records.keys()
    store = StorePhoto(work.images, args.size, args.resize, args.max_pixels)

    def died(job: tuple[str, Any], how: str) -> dict[str, Any]:
        return {"id": job[0], "reason": f"decoder died: {how}"}

    def stalled(job: tuple[str, Any], seconds: float) -> None:
        where = f"--images {job[1].root} or --output {args.output}: no answer for {seconds:.0f} s"
        if seconds > STALLED:
            raise UserError(f"{where} at {job[1].name}; repeat the command to go on when they answer again")
        say(f"{where}; waiting", file=sys.stderr)

    found = len(records) + len(rejected)
    with tqdm(total=len(selection.landmark), initial=len(records), desc="photos", unit="img", disable=None) as bar:
        for source in _sources(args, work) if remaining else ():
            located = locate(source, remaining, metadata.paths)
            if located and source.suffix == ".tar" and source.is_file():
                verify_md5(source)
            jobs = sorted(located.items(), key=lambda item: (item[1].offset, item[1].name))
            for record in run_jobs(store, jobs, min(args.workers or available_cores(), len(jobs)), died, stalled):
                if "fatal" in record:
                    raise UserError(f"{record['fatal']} and repeat the command to go on")
                if "reason" in record:
                    record["archive"] = source.name
                work.keep(record)
                records[record["id"]] = record
                remaining.discard(record["id"])
                bar.update()
            found += len(located)
            if not remaining:
                break
    if not found:
        work.discard()
        raise UserError(
            f"--images {' '.join(map(str, args.images))}: none of the {len(remaining)} selected photos is there; "
            "looked for <id>.jpg and a/b/c/<id>.jpg in folders, .tar and .zip; or the metadata is of another release"
        )
    return records
