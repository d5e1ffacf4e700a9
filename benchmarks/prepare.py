"""Measures ``timm-landmark prepare`` at the size of Google Landmarks; writes benchmarks/results/prepare.json.

Usage: python -m benchmarks.prepare [selection tar workers]      # default: all; run it on an idle machine

All inputs are generated: a csv like GLDv2's train.csv (4,132,914 rows, 203,094 classes whose sizes follow a power law
with the real extremes), a tar of 100,000 members, and 800-pixel photos of 55 to 70 KB.
"""

import argparse
import io
import json
import os
import shutil
import statistics
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from timm_landmark.utils.files import write_json
from timm_landmark.utils.machine import machine_info

RESULTS = Path(__file__).parent / "results" / "prepare.json"
COMMAND = "import sys, timm_landmark_cli; sys.exit(timm_landmark_cli.main())"  # what the installed command does
ROWS, CLASSES, LARGEST = 4_132_914, 203_094, 10_247
MEMBERS = 100_000  # of the tar
PHOTOS, WORKERS = 600, 2


def class_sizes() -> np.ndarray:
    """Images of each class, largest first: largest * (1 + rank / b) ** -0.9, with b solved for the number of rows."""
    rank, low, high = np.arange(CLASSES), 1e-3, float(CLASSES)
    sizes = np.ones_like(rank)
    for _ in range(100):
        middle = (low * high) ** 0.5
        sizes = np.maximum(1, (LARGEST * (1 + rank / middle) ** -0.9).astype(np.int64))
        low, high = (low, middle) if sizes.sum() > ROWS else (middle, high)
    short = ROWS - sizes.sum()
    sizes[1 : 1 + abs(short)] += np.sign(short)
    return sizes


def write_train_csv(path: Path) -> None:
    """Writes a csv like GLDv2's, about 500 MB: 16 hex digits, a Commons address and a class id; rows shuffled."""
    rng = np.random.default_rng(0)
    labels = np.repeat(rng.permutation(CLASSES), class_sizes())
    rng.shuffle(labels)
    ids = rng.integers(0, 2**63, ROWS, dtype=np.uint64) * 2 + rng.integers(0, 2, ROWS, dtype=np.uint64)
    address = "https://upload.wikimedia.org/wikipedia/commons/{0:x}/{0:x}{1:x}/Some_place_by_a_photographer_{2}.jpg"
    with open(path, "w", encoding="ascii") as file:
        file.write("id,url,landmark_id\n")
        for start in range(0, ROWS, 100_000):
            block = zip(ids[start : start + 100_000].tolist(), labels[start : start + 100_000].tolist(), strict=True)
            file.writelines(f"{i:016x},{address.format(i & 15, i >> 4 & 15, i)},{label}\n" for i, label in block)


def photo(seed: int) -> bytes:
    """An 800x600 JPEG with detail at every scale and hard edges, about as large as GLDv2's photos."""
    rng = np.random.default_rng(seed)
    total = np.zeros((600, 800, 3), dtype=np.float32)
    for cells in (4, 8, 16, 32, 64, 128, 256, 512):
        noise = Image.fromarray(rng.integers(0, 256, (cells * 3 // 4, cells, 3), dtype=np.uint8))
        total += np.asarray(noise.resize((800, 600), Image.Resampling.BICUBIC), dtype=np.float32) * (4 / cells) ** 0.55
    image = Image.fromarray((255 * (total - total.min()) / np.ptp(total)).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for x, y, width, height, *colour in rng.integers(0, 256, (250, 7)).tolist():  # windows, posts and wires
        box = (x * 3, y * 2, x * 3 + width // 8 + 2, y * 2 + height // 4 + 2)
        draw.line(box, tuple(colour), 1 + width % 3) if height % 2 else draw.rectangle(box, tuple(colour))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=70)
    return buffer.getvalue()


def selection() -> dict[str, object]:
    """Seconds and peak memory of a dry run over a csv of GLDv2's size: start-up, reading and selection."""
    result: dict[str, object] = {"rows": ROWS, "classes": CLASSES}
    with tempfile.TemporaryDirectory() as folder:
        metadata, photos = Path(folder) / "train.csv", Path(folder) / "photos"
        write_train_csv(metadata)
        photos.mkdir()
        paths = ["--metadata", str(metadata), "--images", str(photos), "--output", f"{folder}/data"]
        for name, options in {
            "paper_1000_classes_ratio_0.1": ["--classes", "1000", "--ratio", "0.1"],
            "all_203094_classes": ["--min-per-class", "1"],
        }.items():
            start = time.perf_counter()
            command = [sys.executable, "-c", COMMAND, "prepare", *paths, "--dry-run", *options]
            _, status, usage = os.wait4(os.posix_spawn(sys.executable, command, os.environ), 0)
            if status:
                sys.exit(f"prepare --dry-run failed with status {status}")
            result[name] = {"seconds": round(time.perf_counter() - start, 2), "peak_MB": round(usage.ru_maxrss / 1024)}
    return result


def tar() -> dict[str, object]:
    """Seconds to index a large tar for the first time; the best of three."""
    from timm_landmark.data.prepare.sources import locate

    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        path = Path(folder) / "images_000.tar"
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
            for index in range(MEMBERS):
                member = tarfile.TarInfo(f"a/b/c/{index:016x}.jpg")
                member.size = 600
                archive.addfile(member, io.BytesIO(bytes(600)))
        for _ in range(3):
            shutil.rmtree(Path(folder) / "timm-landmark", ignore_errors=True)
            start = time.perf_counter()
            locate(path, {f"{0:016x}"})
            seconds.append(time.perf_counter() - start)
    return {"members": MEMBERS, "index_seconds": round(min(seconds), 4)}


def workers() -> dict[str, object]:
    """Photos per second that two workers read, scale and store; the median of five rounds."""
    from timm_landmark.data.prepare.pool import run_jobs
    from timm_landmark.data.prepare.sources import Location
    from timm_landmark.data.prepare.store import Stored, StorePhoto
    from timm_landmark.data.prepare.workfolder import WorkFolder

    def failed(job: tuple[str, Location], reason: object) -> None:
        sys.exit(f"photo {job[0]}: {reason}")

    photos, rates = [photo(seed) for seed in range(60)], []
    with tempfile.TemporaryDirectory() as folder:
        for index in range(PHOTOS):
            (Path(folder) / f"{index}.jpg").write_bytes(photos[index % len(photos)])
        jobs = [(str(index), Location(folder, f"{index}.jpg")) for index in range(PHOTOS)]
        for number in range(5):
            work = WorkFolder(Path(folder) / f"round-{number}")  # ext4 creates files slowly in a folder that had many
            work.images.mkdir(parents=True)
            store = StorePhoto(work.images, 256, "squash", 100_000_000)
            start = time.perf_counter()
            for record in run_jobs(store, jobs, WORKERS, failed, failed):
                if isinstance(record, Stored):
                    work.keep(record)
            rates.append(PHOTOS / (time.perf_counter() - start))
            if len(work.read_journal()[0]) != PHOTOS:
                sys.exit("a photo was not stored")
    size = statistics.mean(map(len, photos)) / 1000
    return {
        "photos": f"{PHOTOS} of 800x600, {size:.0f} KB each",
        "photos_per_second": round(statistics.median(rates), 1),
    }


SECTIONS = {section.__name__: section for section in (selection, tar, workers)}


def main() -> None:
    """Runs the chosen sections and merges their figures into the result file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"default: {' '.join(SECTIONS)}")
    chosen = parser.parse_args().sections or list(SECTIONS)
    if unknown := set(chosen) - set(SECTIONS):
        parser.error(f"unknown section {', '.join(sorted(unknown))}; choose from {', '.join(SECTIONS)}")
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for name in chosen:
        results[name] = SECTIONS[name]()
        print(name, json.dumps(results[name], indent=2))
        write_json(RESULTS, results | {"machine": machine_info()})


if __name__ == "__main__":
    main()
