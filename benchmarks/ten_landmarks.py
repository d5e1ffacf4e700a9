"""Prepares a data set of ten landmarks with 1,000 photos each from a clone of cadelau/NN_EECS_445 on GitHub.

Usage::

    git clone --mirror https://github.com/cadelau/NN_EECS_445      # about 430 MB; a clone with a work tree works too
    python -m benchmarks.ten_landmarks NN_EECS_445.git OUTPUT      # writes OUTPUT/photos and the data set OUTPUT/data

The repository has no licence, and its photos show private people. Use them for measurements only: results, file names,
classes and splits may be published, but no photos, no images made from them and no weights that were trained on them.

The labelled photos of data/landmarks.csv (both partitions; 2,500 more have no label) are written to a folder per class
and split again 3 : 2 : 5, keeping near duplicates together: 300, 200 and 500 photos of every class.
"""

import argparse
import csv
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath

from timm_landmark import cli
from timm_landmark.utils.errors import UserError

LABELS = "data/landmarks.csv"
COLUMNS = ("filename", "semantic_label")
PREPARE = ("--size", "128", "--split", "3", "2", "5")


def read_labels(repository: Path) -> dict[str, str]:
    """File name -> class of the labelled photos, in the order of the csv file.

    Raises:
        UserError: If the repository or its csv file is missing, or the file has another format.
    """
    text = dict(read_blobs(repository, [LABELS]))[LABELS].decode("utf-8")
    reader = csv.DictReader(text.splitlines())
    if not set(COLUMNS) <= set(reader.fieldnames or ()):
        raise UserError(f"REPOSITORY {repository}: {LABELS} has no columns {', '.join(COLUMNS)}; clone it again")
    labels = {row["filename"]: row["semantic_label"] for row in reader if row["semantic_label"]}
    for name in {*labels, *labels.values()}:
        if name != PurePath(name).name:
            raise UserError(f"REPOSITORY {repository}: {LABELS} contains {name!r}, which is not a plain file name")
    if not labels:
        raise UserError(f"REPOSITORY {repository}: {LABELS} has no row with a label; clone it again")
    return labels


def read_blobs(repository: Path, paths: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Yields path and content of files at HEAD, read from git's objects, so that no work tree is needed.

    Raises:
        UserError: If the repository or a file is missing.
    """
    git_dir = repository / ".git" if (repository / ".git").exists() else repository
    git_command = ["git", "--git-dir", str(git_dir)]
    probe = subprocess.run([*git_command, "rev-parse", "--verify", "HEAD"], capture_output=True, text=True)
    if probe.returncode:
        reason = probe.stderr.strip()
        raise UserError(f"REPOSITORY {repository}: not a git repository ({reason}); clone cadelau/NN_EECS_445")
    with subprocess.Popen([*git_command, "cat-file", "--batch"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as git:
        assert git.stdin is not None and git.stdout is not None  # both are pipes
        for path in paths:
            git.stdin.write(f"HEAD:{path}\n".encode())
            git.stdin.flush()
            answer = git.stdout.readline().split()
            if not answer:
                raise UserError(f"REPOSITORY {repository}: git stopped before it answered; run the command again")
            if answer[-1] == b"missing":
                raise UserError(f"REPOSITORY {repository}: {path} is missing; make a complete clone")
            yield path, git.stdout.read(int(answer[2]))
            git.stdout.read(1)  # the line break after the content


def write_photos(repository: Path, labels: Mapping[str, str], folder: Path) -> None:
    """Writes the photos as ``folder/<class>/<file name>``, replacing those of an earlier run."""
    for label in set(labels.values()):
        (folder / label).mkdir(parents=True, exist_ok=True)
    for path, content in read_blobs(repository, [f"data/images/{name}" for name in labels]):
        name = PurePath(path).name
        (folder / labels[name] / name).write_bytes(content)


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the photos and prepares the data set; returns the exit code."""
    parser = argparse.ArgumentParser(prog="ten_landmarks.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("repository", type=Path, metavar="REPOSITORY", help="the clone, with a work tree or bare")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="output folder for photos/ and data/")
    args = parser.parse_args(argv)
    photos, data = args.output / "photos", args.output / "data"
    try:
        write_photos(args.repository, read_labels(args.repository), photos)
    except UserError as error:
        print(f"ten_landmarks.py: error: {error}", file=sys.stderr)
        return 2
    return cli.main(["prepare", "--images", str(photos), "--output", str(data), *PREPARE])


if __name__ == "__main__":
    sys.exit(main())
