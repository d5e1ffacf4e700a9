"""Photos of every format and those that are rejected, by the rules of data/images.py."""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from prepare_helpers import command, encode, scene, small_source

from timm_landmark.cli import main
from timm_landmark.data.images import RejectedImage, decode_rgb, encode_jpeg, resize, settle_process
from timm_landmark.data.prepare.pool import run_jobs


def close(image: Image.Image, wanted: Image.Image, within: float = 12) -> bool:
    difference = np.abs(np.asarray(image, dtype=int) - np.asarray(wanted.convert("RGB"), dtype=int))
    return image.mode == "RGB" and image.size == wanted.size and difference.mean() < within


SCENE = scene(3)
PILLOWS_LIMIT = 89_478_485


@pytest.mark.parametrize(
    "content",
    [
        encode(SCENE, quality=90),
        encode(SCENE, quality=90, progressive=True),
        encode(SCENE, "PNG"),
        encode(SCENE.quantize(256), "PNG"),
        encode(SCENE.quantize(256), "GIF"),
        encode(SCENE, "WEBP", quality=90),
        encode(SCENE.convert("CMYK"), quality=95),
        encode(SCENE.convert("RGBA"), "PNG"),
        encode(SCENE, "MPO", save_all=True, append_images=[scene(4)]),
        encode(SCENE, "TIFF"),
        encode(SCENE, "BMP"),
    ],
    ids=["jpeg", "progressive", "png", "palette", "gif", "webp", "cmyk", "rgba", "mpo", "tiff", "bmp"],
)
def test_a_good_photo_of_any_kind_is_kept(content):
    assert close(decode_rgb(content), SCENE)


def test_sixteen_bit_grey_keeps_its_upper_bits():
    grey = np.asarray(SCENE.convert("L")).astype(np.uint16) * 257
    assert np.array_equal(np.asarray(decode_rgb(encode(Image.fromarray(grey), "PNG")))[..., 0], grey >> 8)


def test_transparent_is_white():
    image = Image.new("RGBA", (8, 8), (10, 20, 30, 0))
    assert np.all(np.asarray(decode_rgb(encode(image, "PNG"))) == 255)
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 9, 9, 9, 200, 0, 0])
    assert np.all(np.asarray(decode_rgb(encode(palette, "PNG", transparency=1))) == 255)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_honoured(orientation):
    marked = Image.new("RGB", (40, 24))
    marked.paste((255, 0, 0), (0, 0, 20, 12))  # red in the upper left of the upright picture
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's transpositions that give the stored picture
    stored = marked if orientation == 1 else marked.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = decode_rgb(encode(stored, "PNG", exif=exif))
    assert upright.size == (40, 24)
    assert upright.getpixel((2, 2)) == (255, 0, 0) and upright.getpixel((38, 22)) == (0, 0, 0)


def eps() -> bytes:
    return encode(SCENE, "EPS")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"  <!DOCTYPE html><html>not found</html>", "html"),
        (b"<?xml version='1.0'?><Error/>", "html"),
        (encode(SCENE, quality=90)[:2000], "truncated"),
        (encode(SCENE, "PNG")[:3000], "truncated"),
        (b"no picture at all", "undecodable"),
        (encode(SCENE.convert("F"), "TIFF"), "undecodable"),
        (eps(), "format"),
    ],
    ids=["empty", "html", "xml", "cut jpeg", "cut png", "text", "float", "eps"],
)
def test_what_cannot_be_used_has_its_reason(content, reason):
    with pytest.raises(RejectedImage) as caught:
        decode_rgb(content)
    assert str(caught.value).partition(":")[0] == reason
    assert "0x" not in str(caught.value), "an address differs from run to run"


def test_a_decompression_bomb_is_refused_before_it_is_decoded(monkeypatch):
    size = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0)  # 3.6 billion pixels
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + size + struct.pack(">I", zlib.crc32(size))
    bomb += encode(Image.new("1", (8, 8)), "PNG")[33:]
    for limit, said in ((None, "60000 x 60000, the limit is 100000000"), (PILLOWS_LIMIT, "Image size")):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(RejectedImage, match=f"^too many pixels: {said}"):
            decode_rgb(bomb)
    assert decode_rgb(encode(SCENE), max_pixels=SCENE.width * SCENE.height).size == SCENE.size
    with pytest.raises(RejectedImage, match="the limit is 100"):
        decode_rgb(encode(SCENE), max_pixels=100)


def test_squash_is_exact_and_short_keeps_the_ratio():
    assert resize(SCENE, 256).size == (256, 256)
    assert resize(SCENE, 60, "short").size == (80, 60)
    assert resize(SCENE.transpose(Image.Transpose.ROTATE_90), 60, "short").size == (60, 80)


def test_a_strip_too_long_for_a_jpeg_is_rejected_when_it_keeps_its_ratio():
    strip = Image.new("RGB", (3000, 2))
    assert resize(strip, 256).size == (256, 256)
    with pytest.raises(RejectedImage, match="too long: 3000 x 2"):
        resize(strip, 256, "short")


def test_squash_is_antialiased():
    """Lines finer than the target's pixels become their mean instead of stripes."""
    stripes = np.zeros((512, 512, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    assert np.ptp(np.asarray(resize(Image.fromarray(stripes), 64))[8:-8, 8:-8].astype(int)) <= 4


def test_squash_is_near_lanczos_in_float():
    photo = scene(5, 800, 600)
    bands = [band.convert("F").resize((256, 256), Image.Resampling.LANCZOS) for band in photo.split()]
    wanted = np.stack([np.asarray(band) for band in bands], axis=-1)
    error = np.mean((np.asarray(resize(photo, 256), dtype=float) - wanted) ** 2)
    assert 10 * np.log10(255**2 / error) > 40


def test_stored_jpeg_is_full_chroma_and_repeats():
    stored = encode_jpeg(SCENE)
    assert stored == encode_jpeg(SCENE)
    with Image.open(io.BytesIO(stored)) as image:
        assert image.format == "JPEG" and [layer[1:3] for layer in image.layer] == [(1, 1)] * 3


def test_a_library_leaves_the_process_as_it_is(monkeypatch):
    """Pillow's limit and the warning filters are global; threads that save and restore them would interfere."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", PILLOWS_LIMIT)
    content = encode(SCENE, quality=90)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        before = list(warnings.filters)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(decode_rgb, [content] * 400))
        assert warnings.filters == before
    assert Image.MAX_IMAGE_PIXELS == PILLOWS_LIMIT


def pillows_limit(_job) -> Iterator[int | None]:
    yield Image.MAX_IMAGE_PIXELS


def test_commands_and_workers_settle_their_process_once(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow warns above this and refuses above twice as much
    with pytest.raises(RejectedImage, match="too many pixels: Image size"):
        decode_rgb(encode(SCENE))
    assert list(run_jobs(pillows_limit, [1], 1, lambda job, how: how, lambda job, seconds: None)) == [None]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = small_source(tmp_path / "source", classes=2, per_class=3)
        assert main(["prepare", *command(*source, tmp_path / "data", "--dry-run")]) == 0
        assert "estimate from 6 photos" in capsys.readouterr().out
        count = len(warnings.filters)
        settle_process()
        assert len(warnings.filters) == count
        warnings.warn_explicit("tag", UserWarning, "TiffImagePlugin.py", 1, "PIL.TiffImagePlugin")
        with pytest.raises(UserWarning, match="mine"):
            warnings.warn_explicit("mine", UserWarning, "own.py", 1, "own")
