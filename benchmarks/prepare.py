"""What ``timm-landmark prepare`` costs at the size of Google Landmarks; writes benchmarks/results/prepare.json.

    python -m benchmarks.prepare [selection tar workers grouping quality ...]    (default: all; on an idle machine)

Everything is generated: a csv shaped like GLDv2's train.csv (4,132,914 rows, 203,094 classes, sizes of a power law with
the real extremes), tars of 100,000 members, 800-pixel photos of 55 to 70 KB. Figures of earlier calls are kept.
"""

import argparse
import io
import json
import math
import os
import shutil
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from timm_landmark.utils.files import write_json
from timm_landmark.utils.machine import machine_info

RESULTS = Path(__file__).parent / "results" / "prepare.json"
COMMAND = "import sys, timm_landmark_cli; sys.exit(timm_landmark_cli.main())"  # what the installed command does
ROWS, CLASSES, LARGEST = 4_132_914, 203_094, 10_247
_COUNT = 600  # photos timed


def class_sizes() -> np.ndarray:
    """Images of each class, largest first: largest * (1 + rank / b) ** -0.9, b solved for the number of rows."""
    rank, low, high = np.arange(CLASSES), 1e-3, float(CLASSES)
    for _ in range(100):
        middle = (low * high) ** 0.5
        sizes = np.maximum(1, (LARGEST * (1 + rank / middle) ** -0.9).astype(np.int64))
        low, high = (low, middle) if sizes.sum() > ROWS else (middle, high)
    short = ROWS - sizes.sum()
    sizes[1 : 1 + abs(short)] += np.sign(short)
    return sizes


def write_train_csv(path: Path) -> None:
    """A csv of GLDv2's shape, about 500 MB: 16 hex digits, a Commons address, a class id; rows shuffled."""
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


def photo(seed: int) -> Image.Image:
    """An 800x600 picture with detail at every scale and hard edges; as large as GLDv2's photos in JPEG quality 70."""
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
    return image


def jpeg(image: Image.Image, quality: int = 70) -> bytes:
    """The picture as JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def selection() -> dict[str, object]:
    """Seconds and peak memory of the whole command's dry run over a csv of GLDv2's size: start-up, csv, selection."""
    result: dict[str, object] = {"rows": ROWS, "classes": CLASSES}
    with tempfile.TemporaryDirectory() as folder:
        metadata = Path(folder) / "train.csv"
        write_train_csv(metadata)
        (Path(folder) / "photos").mkdir()
        result["csv_bytes"] = metadata.stat().st_size
        common = [
            "--metadata",
            str(metadata),
            "--images",
            f"{folder}/photos",
            "--output",
            f"{folder}/data",
            "--dry-run",
        ]
        for name, more in {
            "paper_1000_classes_ratio_0.1": ["--classes", "1000", "--ratio", "0.1"],
            "cap_200_of_1000_classes": ["--classes", "1000", "--cap", "200"],
            "all_203094_classes": ["--min-per-class", "1"],
        }.items():
            start = time.perf_counter()
            command = [sys.executable, "-c", COMMAND, "prepare", *common, *more]
            _, status, usage = os.wait4(os.posix_spawn(sys.executable, command, os.environ), 0)
            if status:
                sys.exit(f"prepare --dry-run failed with status {status}")
            result[name] = {"seconds": round(time.perf_counter() - start, 2), "peak_MB": round(usage.ru_maxrss / 1024)}
    return result


def tar() -> dict[str, object]:
    """Seconds to index a tar of 100,000 members, against a bare walk over its headers."""
    from timm_landmark.data.prepare.archives import walk_tar
    from timm_landmark.data.prepare.sources import locate

    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        path = Path(folder) / "images_000.tar"
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
            for index in range(100_000):
                member = tarfile.TarInfo(f"a/b/c/{index:016x}.jpg")
                member.size = 600
                archive.addfile(member, io.BytesIO(bytes(600)))

        def tarfile_walk() -> None:
            with tarfile.open(path) as archive:
                sum(1 for _ in archive)

        def fresh_index() -> None:
            shutil.rmtree(Path(folder) / "timm-landmark", ignore_errors=True)
            locate(path, {f"{0:016x}"})

        seconds = {
            "bare_header_walk": _best(lambda: _bare_walk(path), 5),
            "walk_tar": _best(lambda: list(walk_tar(path)), 5),
            "index_first_time": _best(fresh_index, 3),
            "index_kept": _best(lambda: locate(path, {f"{0:016x}"}), 3),
            "python_tarfile": _best(tarfile_walk, 2),
        }
    seconds = _rounded(seconds)
    ratios = {
        f"{name}_over_bare_walk": round(seconds[name] / seconds["bare_header_walk"], 2)
        for name in ("walk_tar", "index_first_time", "python_tarfile")
    }
    return {"members": 100_000, "seconds": seconds} | ratios


def _bare_walk(path: Path) -> int:
    """The least that any walk does: read each header, take the size, go to the next."""
    position = members = 0
    with open(path, "rb") as file:
        while (header := file.read(512))[:1] > b"\0":
            position += 512 + (int(header[124:135], 8) + 511 & ~511)
            file.seek(position)
            members += 1
    return members


def workers() -> dict[str, object]:
    """Photos a second: a bare loop of the same decode, resize and encode calls, one worker, two workers.

    A worker also makes a file a photo, which is the file system's time; so once on the disk and, where there is one,
    once on a file system in memory.
    """
    photos = [jpeg(photo(seed)) for seed in range(60)]
    result: dict[str, object] = {
        "photos": f"{_COUNT} of 800x600, {statistics.mean(map(len, photos)) / 1000:.0f} KB each",
        "on_disk": _rates(photos, None),
    }
    if Path("/dev/shm").is_dir():
        result["in_memory"] = _rates(photos, "/dev/shm")
    return result


def _rates(photos: list[bytes], place: str | None) -> dict[str, object]:
    from timm_landmark.data.images import decode_rgb, encode_jpeg, resize
    from timm_landmark.data.prepare.pool import run_jobs
    from timm_landmark.data.prepare.sources import Location
    from timm_landmark.data.prepare.store import Stored, StorePhoto
    from timm_landmark.data.prepare.workfolder import WorkFolder

    with tempfile.TemporaryDirectory(dir=place) as folder:
        root = Path(folder)
        for index in range(_COUNT):
            (root / f"{index}.jpg").write_bytes(photos[index % len(photos)])
        rounds = iter(range(100))

        def bare() -> None:
            for index in range(_COUNT):
                encode_jpeg(resize(decode_rgb((root / f"{index}.jpg").read_bytes()), 256))

        def pool(staff: int) -> None:
            work = WorkFolder(root / f"round-{next(rounds)}")  # a new one: ext4 is slow to make files where many went
            work.images.mkdir(parents=True)
            store = StorePhoto(work.images, 256, "squash", 100_000_000)
            jobs = [(str(index), Location(folder, f"{index}.jpg")) for index in range(_COUNT)]
            for record in run_jobs(store, jobs, staff, blame, blame):
                if isinstance(record, Stored):
                    work.keep(record)
            if len(work.read_journal()[0]) != _COUNT:
                sys.exit("a photo was not stored")

        def blame(job: tuple[str, Location], how: object) -> None:
            sys.exit(f"photo {job[0]}: {how}")

        rates: dict[str, list[float]] = {"bare_loop": [], "one_worker": [], "two_workers": []}
        for _ in range(5):  # in turn, so that a slow moment of the machine meets all three
            for name, call in zip(rates, (bare, lambda: pool(1), lambda: pool(2)), strict=True):
                rates[name].append(_COUNT / _best(call, 1))
    median = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "photos_per_second": _rounded(median, 1),
        "one_worker_over_bare_loop": round(median["one_worker"] / median["bare_loop"], 3),
        "two_workers_over_one": round(median["two_workers"] / median["one_worker"], 3),
    }


def quality() -> dict[str, object]:
    """PSNR of the squash to 256x256 against a Lanczos filter in floating point, before and after JPEG."""
    from timm_landmark.data.images import decode_rgb, encode_jpeg, resize

    errors: dict[str, list[float]] = {"scaled": [], "stored": [], "bilinear_without_antialiasing": []}
    sizes = []
    for seed in range(24):
        image = decode_rgb(jpeg(photo(seed)))
        channels = [
            np.asarray(channel.convert("F").resize((256, 256), Image.Resampling.LANCZOS)) for channel in image.split()
        ]
        reference = np.clip(np.stack(channels, axis=-1), 0, 255)
        scaled = resize(image, 256)
        stored = encode_jpeg(scaled)
        sizes.append(len(stored))
        naive = image.transform((256, 256), Image.Transform.EXTENT, (0, 0, *image.size), Image.Resampling.BILINEAR)
        for name, picture in zip(errors, (scaled, Image.open(io.BytesIO(stored)), naive), strict=True):
            errors[name].append(float(np.mean((np.asarray(picture, dtype=np.float64) - reference) ** 2)))
    psnr = {name: round(10 * math.log10(255**2 / statistics.mean(values)), 1) for name, values in errors.items()}
    return {"photos": 24, "psnr_dB_against_float_lanczos": psnr, "stored_KB": round(statistics.mean(sizes) / 1000, 1)}


def grouping() -> dict[str, object]:
    """Seconds to group the images of one class, by their number; hashes as of a class with many series."""
    from timm_landmark.data.prepare.grouping import group_images

    rng = np.random.default_rng(0)
    seconds = {}
    for count in (2_500, 5_000, 10_000, 20_000, 40_000):
        series = rng.integers(0, 2**63, count // 4, dtype=np.uint64)
        bits = series[rng.integers(0, len(series), count)]
        for _ in range(3):
            bits ^= np.uint64(1) << rng.integers(0, 64, count, dtype=np.uint64)
        hashes = {f"{index:016x}": value for index, value in enumerate(bits.tolist())}
        seconds[str(count)] = round(_best(lambda hashes=hashes: group_images(hashes), 3), 3)
    return {"seconds_by_images": seconds}


def _best(call: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def _rounded(values: dict[str, float], digits: int = 4) -> dict[str, float]:
    return {name: round(value, digits) for name, value in values.items()}


SECTIONS = {section.__name__: section for section in (selection, tar, workers, grouping, quality)}


def main() -> None:
    """Runs the sections named and merges their figures into the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    chosen = parser.parse_args().sections or list(SECTIONS)
    if unknown := set(chosen) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for name in chosen:
        results[name] = SECTIONS[name]()
        print(name, json.dumps(results[name], indent=2))
        write_json(RESULTS, results | {"machine": machine_info()})


if __name__ == "__main__":
    main()
