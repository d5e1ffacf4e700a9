"""Hundreds of damaged images: no crash, no hang, and each rejected one has a line in rejects.csv."""

import io
import os
import random

import numpy as np
import pytest
from PIL import Image
from prepare_helpers import command, encode, image_id, read_csv, run_prepare, scene, write_csv, write_folder

from timm_landmark.cli import main

HEADERS = [
    b"\xff\xd8\xff\xe0\x00\x10JFIF\x00",
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
    b"GIF89a",
    b"RIFF\x00\x01\x00\x00WEBPVP8 ",
    b"BM\x36\x00\x0c\x00",
    b"II*\x00\x08\x00\x00\x00",
    b"8BPS\x00\x01",
    b"<!DOCTYPE html><html>",
    b"%!PS-Adobe-3.0 EPSF-3.0\n",
    b"\x00\x00\x00\x0cjP  \r\n\x87\n",
]


def good_image(seed: int) -> bytes:
    """An intact image of one of the formats found in files named .jpg."""
    image = scene(seed)
    kind = seed % 10
    if kind == 0:
        return encode(image, quality=70, progressive=True)
    if kind == 1:
        return encode(image.convert("L"), quality=80)
    if kind == 2:
        return encode(image.convert("CMYK"), quality=80)
    if kind == 3:
        return encode(image, "PNG")
    if kind == 4:
        return encode(image.quantize(64), "PNG")
    if kind == 5:
        return encode(image.convert("RGBA"), "PNG")
    if kind == 6:
        return encode(image.quantize(64), "GIF")
    if kind == 7:
        return encode(image, "WEBP", quality=80)
    if kind == 8:
        grey = np.asarray(image.convert("L")).astype(np.uint16) * 257
        return encode(Image.fromarray(grey), "PNG")
    return encode(image, quality=85)


def mutated(content: bytes, rng: random.Random) -> bytes:
    kind = rng.randrange(6)
    broken = bytearray(content)
    if kind == 0:
        for _ in range(rng.choice([1, 3, 30])):
            broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
    elif kind == 1:  # near the start, where sizes and tables are
        for _ in range(rng.randint(1, 8)):
            broken[rng.randrange(min(200, len(broken)))] = rng.randrange(256)
    elif kind == 2:
        broken = broken[: rng.randrange(len(broken))]
    elif kind == 3:
        header = rng.choice(HEADERS)
        broken[: len(header)] = header
    elif kind == 4:
        start = rng.randrange(len(broken))
        broken[start : start + rng.randint(1, 2000)] = bytes(rng.randint(0, 2000))
    else:
        middle = rng.randrange(len(broken))
        broken = broken[middle:] + broken[:middle]
    return bytes(broken)


def check_mutations(tmp_path, count: int, classes: int) -> None:
    rng = random.Random(count)
    images, untouched = {}, set()
    for index in range(count):
        content = good_image(index)
        name = image_id(index)
        if index % 4 == 0:
            untouched.add(name)
        else:
            content = mutated(content, rng)
        images[name] = content
    labels = {image_id(index): index // 4 % classes for index in range(count)}
    csv, folder = write_csv(tmp_path / "train.csv", labels), write_folder(tmp_path / "train", images)
    assert main(["prepare", *command(csv, folder, tmp_path / "data", "--workers", "2")]) == 0

    kept = {row["image_id"] for row in read_csv(tmp_path / "data/manifest.csv")}
    rejects = {row["image_id"]: row["reason"] for row in read_csv(tmp_path / "data/rejects.csv")}
    assert kept.isdisjoint(rejects)
    assert kept | set(rejects) == set(images), "an image was lost without a line"
    assert all(rejects.values())
    assert untouched <= kept, {name: rejects[name] for name in untouched - kept}
    assert len(rejects) > count / 4
    stored = sorted((tmp_path / "data").glob("*/*/*.jpg"))
    assert {path.stem for path in stored} == kept
    for path in stored:
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            image.load()
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (256, 256))


def test_three_hundred_mutated_images(tmp_path):
    check_mutations(tmp_path, 400, classes=5)  # a quarter of them stays intact


@pytest.mark.full
def test_ten_thousand_mutated_images(tmp_path):
    check_mutations(tmp_path, 13_336, classes=20)


CRASHING_DECODER = '''
import ctypes, os, signal, sys
from PIL import Image, ImageFile

class Crashing(ImageFile.ImageFile):
    """A decoder with a bug that ends the whole process."""
    format = "CRASH"

    def _open(self):
        how = self.fp.read(16)[6:10]
        if how == b"SEGV":
            ctypes.string_at(0)
        elif how == b"KILL":
            os.kill(os.getpid(), signal.SIGKILL)
        elif how == b"EXIT":
            os._exit(3)
        raise SyntaxError("unknown")

Image.preinit()
Image.register_open("CRASH", Crashing, lambda prefix: prefix[:6] == b"CRASH:")
'''


@pytest.mark.parametrize("how", ["SEGV", *(pytest.param(how, marks=pytest.mark.full) for how in ("KILL", "EXIT"))])
def test_a_decoder_that_dies_takes_neither_the_run_nor_other_images(tmp_path, how):
    """The decoder is registered with Pillow in every process of the run, and really dies."""
    images = {image_id(index): good_image(index) for index in range(48)}
    deadly = {image_id(index) for index in (3, 21)}
    for name in deadly:
        images[name] = b"CRASH:" + how.encode() + bytes(100)
    labels = {image_id(index): index % 3 for index in range(48)}
    csv, folder = write_csv(tmp_path / "train.csv", labels), write_folder(tmp_path / "train", images)
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(CRASHING_DECODER)
    result = run_prepare(
        *command(csv, folder, tmp_path / "data", "--workers", "2"),
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
    )
    assert result.returncode == 0, result.stderr
    rejects = {row["image_id"]: row["reason"] for row in read_csv(tmp_path / "data/rejects.csv")}
    assert set(rejects) == deadly, "others were taken with it"
    assert {row["image_id"] for row in read_csv(tmp_path / "data/manifest.csv")} == set(images) - deadly
