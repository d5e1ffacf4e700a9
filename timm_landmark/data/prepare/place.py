"""The last steps of ``prepare``: rejecting, splitting, moving pictures into place, and writing the tables."""

import argparse
import os
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from timm_landmark.data.card import ATTRIBUTION, write_attribution, write_card
from timm_landmark.data.check import stored_name, write_sums
from timm_landmark.data.images import decoder_version
from timm_landmark.data.layout import SPLITS, ClassRow, ManifestRow, RejectRow, data_digest, folder_name, write_rows
from timm_landmark.data.prepare.grouping import crossing_groups, describe_groups, group_images
from timm_landmark.data.prepare.metadata import Metadata
from timm_landmark.data.prepare.options import command_line, options_of
from timm_landmark.data.prepare.selection import SelectedClass, Selection
from timm_landmark.data.prepare.split import image_groups, split_class
from timm_landmark.data.prepare.store import Records, Rejected, Stored
from timm_landmark.data.prepare.workfolder import WorkFolder
from timm_landmark.data.shards import plan_shards, shard_holds, write_shard, write_shard_info
from timm_landmark.data.sheets import class_sheet, reject_sheet
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.files import write_atomic, write_json
from timm_landmark.utils.text import escaped


def place(
    args: argparse.Namespace,
    metadata: Metadata,
    selection: Selection,
    work: WorkFolder,
    records: Records,
    begun: float,
) -> list[str]:
    """Finishes the data set.

    Args:
        args: The command's arguments.
        metadata: The metadata.
        selection: The selected classes and images.
        work: The work folder, with every photo's picture.
        records: The record of each photo that was read, by id.
        begun: ``time.monotonic()`` when reading photos began.

    Returns:
        The lines of the summary.

    Raises:
        UserError: With --strict, if any photo was rejected; or if fewer than two classes remain.
    """
    rejects = _reject(metadata, selection, records)
    stored = {name: record for name, record in records.items() if isinstance(record, Stored)}
    classes, manifest, groups, random_split = _split(args, selection, stored, rejects)
    if args.strict and rejects:
        listed = "; ".join(f"{row.image_id}: {row.reason}" for row in rejects[:3])
        raise UserError(f"--strict: {len(rejects)} photos rejected ({listed}); fix them or omit --strict")
    if len(classes) < 2:
        sums = _in_words(_reject_sums(row.reason for row in rejects))
        raise UserError(f"{len(classes)} class(es) remain after rejects ({sums}); check --images and --min-per-class")
    rejects.sort(key=lambda row: (row.image_id, row.reason))
    pictures = _place_pictures(args, work, manifest, classes)
    write_rows(work.data, ClassRow, classes)
    write_rows(work.data, ManifestRow, manifest)
    write_rows(work.data, RejectRow, rejects)
    write_atomic(work.data / "class_map.txt", "".join(f"{row.folder}\n" for row in classes))
    _write_sheets(work, classes, manifest, groups, rejects, pictures)
    divided, divided_images = crossing_groups(groups, random_split)
    counts = {split: sum(row.split == split for row in manifest) for split in SPLITS}
    from timm_landmark import __version__

    info = {
        "release": metadata.release,
        "version": __version__,
        "decoder": decoder_version(),
        "seed": args.seed,
        "image_size": args.size,
        "arguments": options_of(args),
        "selection": selection.digest(),
        "counts": {
            "classes": len(classes),
            "images": counts,
            "rejects": _reject_sums(row.reason for row in rejects),
            "metadata_rows_without_label": metadata.unlabelled,
            "metadata_rows_repeated": metadata.repeated,
        },
        "groups": {
            "near_duplicates": describe_groups(groups),
            "groups_torn_by_a_random_split": divided,
            "images_in_those_groups": divided_images,
        },
        "digest": data_digest(work.data),
    }
    without = _attribute(args.attribution or metadata.attribution, work.data, manifest)
    write_json(work.data / "dataset.json", info)
    write_card(work.data, command_line(args), _facts(args, info))
    work.finish()
    known = {stored_name(row): stored[row.image_id].stored for row in manifest} if args.format == "folder" else None
    write_sums(work.data, known)
    return _summary(work.data, info, without, time.monotonic() - begun)


def _reject(metadata: Metadata, selection: Selection, records: Records) -> list[RejectRow]:
    """Every photo that cannot be used because of the metadata, its source or its bytes."""
    rejects = []
    chosen = {landmark for selected in selection.classes for landmark in selected.landmarks}
    for name, landmarks in metadata.contradictory.items():
        if chosen & set(landmarks):
            rejects.append(RejectRow(name, " ".join(landmarks), "two labels: the metadata lists the id under both"))
    class_of = {name: number for number, selected in enumerate(selection.classes) for name in selected.ids}
    owners: dict[str, set[int]] = {}
    for name, record in records.items():
        if name in class_of and isinstance(record, Stored):
            owners.setdefault(record.sha256, set()).add(class_of[name])
    for name, landmark in selection.landmark.items():
        record = records.get(name)
        if record is None:
            rejects.append(RejectRow(name, landmark, "missing"))
        elif isinstance(record, Rejected):
            rejects.append(RejectRow(name, landmark, record.reason))
        elif len(numbers := owners[record.sha256]) > 1:
            others = " and ".join(sorted(selection.classes[number].landmarks[0] for number in numbers))
            rejects.append(RejectRow(name, landmark, f"same bytes under two labels: {others}"))
    return rejects


def _split(
    args: argparse.Namespace, selection: Selection, stored: dict[str, Stored], rejects: list[RejectRow]
) -> tuple[list[ClassRow], list[ManifestRow], dict[str, str], dict[str, str]]:
    """The classes that are kept, their images, all groups of near duplicates, and a random split for comparison."""
    weights = tuple(args.split)
    gone = {row.image_id for row in rejects}
    kept: list[tuple[SelectedClass, dict[str, str]]] = []
    groups: dict[str, str] = {}
    random_split: dict[str, str] = {}
    for selected in selection.classes:
        usable = [name for name in selected.ids if name not in gone]
        near = group_images({name: stored[name].hash for name in usable}) if usable else {}
        random = split_class(image_groups(usable), weights, args.seed)
        splits = split_class(near, weights, args.seed) if args.split_by == "group" else random
        if len(usable) < args.min_per_class:
            reason = f"class left out: {len(usable)} usable photos, fewer than --min-per-class {args.min_per_class}"
        elif splits is None or random is None:
            reason = f"class left out: its {len(usable)} usable photos make fewer groups than there are splits"
        else:
            kept.append((selected, splits))
            groups |= near
            random_split |= random
            continue
        rejects += [RejectRow(name, selection.landmark[name], reason) for name in usable]
    classes, manifest = [], []
    for index, (selected, splits) in enumerate(kept):
        folder = folder_name(index, len(kept))
        counts = Counter(splits.values())
        landmarks = " ".join(selected.landmarks)
        classes.append(ClassRow(folder, landmarks, selected.name, *(counts[split] for split in SPLITS)))
        for name, split in splits.items():
            photo = stored[name]
            manifest.append(
                ManifestRow(name, selection.landmark[name], folder, split, photo.sha256, escaped(photo.source))
            )
    return classes, sorted(manifest, key=lambda row: row.image_id), groups, random_split


def _place_pictures(
    args: argparse.Namespace, work: WorkFolder, manifest: list[ManifestRow], classes: list[ClassRow]
) -> dict[str, Path]:
    """Moves every picture into place or writes the shards; returns the path of each picture from then on."""
    where = work.pictures()
    if args.format == "webdataset":
        index = {row.folder: number for number, row in enumerate(classes)}
        plan = plan_shards(manifest, args.seed)
        for name, rows in plan.items():
            if not shard_holds(work.data / name, rows, index):
                write_shard(work.data / name, rows, index, lambda row: where[row.image_id].read_bytes())
        write_shard_info(work.data, plan)
        return where
    for folder in {Path(stored_name(row)).parent for row in manifest}:
        (work.data / folder).mkdir(parents=True, exist_ok=True)
    for row in manifest:
        target = work.data / stored_name(row)
        if where[row.image_id] != target:
            os.replace(where[row.image_id], target)
            where[row.image_id] = target
    wanted = {work.data / stored_name(row) for row in manifest}
    placed = [path for split in SPLITS for path in (work.data / split).glob("*/*.jpg")]
    for path in placed:
        if path not in wanted:  # placed by an interrupted run, before its sources changed
            where[path.stem] = path.replace(work.images / path.name)
            if not any(path.parent.iterdir()):
                path.parent.rmdir()
    return where


def _write_sheets(
    work: WorkFolder,
    classes: list[ClassRow],
    manifest: list[ManifestRow],
    groups: dict[str, str],
    rejects: list[RejectRow],
    pictures: dict[str, Path],
) -> None:
    def picture(name: str) -> bytes | None:
        """Stored pictures only: a rejected photo may crash a decoder, so this process never decodes one."""
        return pictures[name].read_bytes() if name in pictures else None

    class_sheet(work.data / "classes.png", classes, manifest, lambda row: pictures[row.image_id].read_bytes())
    reject_sheet(work.data / "rejects.png", groups, rejects, picture)


def _attribute(source: Path | None, data: Path, manifest: list[ManifestRow]) -> int | None:
    if source is None:
        (data / ATTRIBUTION).unlink(missing_ok=True)
        return None
    return write_attribution(data, source, [row.image_id for row in manifest])


def _facts(args: argparse.Namespace, info: dict[str, Any]) -> dict[str, object]:
    groups = info["groups"]
    return {
        "split": f"{' : '.join(map(str, args.split))} by {args.split_by}, seed {args.seed}",
        "pictures": f"{args.size} pixels, {args.resize}, JPEG quality 95 4:4:4, {info['decoder']}",
        "near duplicates": groups["near_duplicates"],
        "a random split would have divided": f"{groups['groups_torn_by_a_random_split']} groups "
        f"({groups['images_in_those_groups']} images)",
    }


def _summary(data: Path, info: dict[str, Any], without: int | None, seconds: float) -> list[str]:
    counts, groups = info["counts"], info["groups"]
    images = counts["images"]
    lines = [
        f"{data}: {counts['classes']} classes, {sum(images.values())} photos "
        f"({', '.join(f'{split} {number}' for split, number in images.items())}) in {seconds:.0f} s",
        f"rejected: {_in_words(counts['rejects'])} (listed in rejects.csv)",
        f"near duplicates: {groups['near_duplicates']}; a random split would have divided "
        f"{groups['groups_torn_by_a_random_split']} groups ({groups['images_in_those_groups']} images)",
        f"digest {info['digest']}; see README.md, classes.png and rejects.png in the folder",
    ]
    if without:
        lines.insert(2, f"attribution: {without} photos have no row in train_attribution.csv")
    if counts["metadata_rows_without_label"] or counts["metadata_rows_repeated"]:
        lines.insert(
            1,
            f"metadata: {counts['metadata_rows_without_label']} rows without id or label skipped, "
            f"{counts['metadata_rows_repeated']} rows repeat an id",
        )
    return lines


def _reject_sums(reasons: Iterable[str]) -> dict[str, int]:
    """Number of rejects per category (the part of the reason before the colon), most frequent first."""
    return dict(Counter(reason.partition(":")[0] for reason in reasons).most_common())


def _in_words(sums: dict[str, int]) -> str:
    return ", ".join(f"{number} {reason}" for reason, number in sums.items()) or "none"
