"""Decodes a photo of any common format to upright RGB, and resizes it to the square that the paper trains on.

The bytes determine the format, not the name. EXIF orientation is applied. Transparent pixels are blended with white.
Of an animation or a multi-picture file, the first picture is used. 16-bit greyscale keeps its upper 8 bits. CMYK is
converted by Pillow's formula. Colour profiles are ignored: pixel values are taken as sRGB, as in timm and torchvision.
"""

import io
import warnings

from PIL import Image, ImageOps, features

FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")
# How the files of photos are called; a file that is given by name is read whatever it is called. Formats of the second
# line are not supported. They count as photos, so that each file is reported with a reason.
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".mpo")
SUFFIXES += (".heic", ".heif", ".jxl", ".jp2", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf")
MAX_PIXELS = 100_000_000  # the largest phone cameras; decoding takes about 300 MB
QUALITY = 95
LONGEST = 65_500  # pixels per side, the limit of JPEG


def settle_process() -> None:
    """Lifts Pillow's pixel limit and silences its warnings; called once when a command or a worker starts.

    :func:`decode_rgb` has its own limit, which is an option and may be higher. Both settings affect the whole process,
    so code that is used as a library must not change them.
    """
    Image.MAX_IMAGE_PIXELS = None
    warnings.filterwarnings("ignore", module=r"PIL\.")


class RejectedImage(Exception):
    """A photo that cannot be used; the message is the reason, on one line."""


def decode_rgb(content: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decodes a photo.

    Args:
        content: The file's bytes, of any format in ``FORMATS``.
        max_pixels: Limit on width * height, against decompression bombs; checked before decoding.

    Returns:
        An upright image of mode RGB.

    Raises:
        RejectedImage: With the reason, which begins with empty, html, truncated, too many pixels, format or
            undecodable.
    """
    if not content:
        raise RejectedImage("empty")
    if content[:512].lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<svg")):
        raise RejectedImage("html: a web page or XML with the name of an image")
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.format not in FORMATS:  # also keeps EPS away from Ghostscript
                raise RejectedImage(f"format: {image.format} is not one of {', '.join(FORMATS)}")
            if image.width * image.height > max_pixels:
                raise RejectedImage(f"too many pixels: {image.width} x {image.height}, the limit is {max_pixels}")
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _to_rgb(image)
    except RejectedImage:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own limit, where settle_process has not lifted it
        raise RejectedImage(f"too many pixels: {error}") from None
    except Exception as error:  # damaged files raise almost any type
        text = " ".join(str(error).split())
        category = "truncated" if "truncated" in text else "undecodable"
        raise RejectedImage(f"{category}: {_without_address(text) or type(error).__name__}") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I;16", "I;16B", "I;16L", "I;16N", "I"):
        image = image.convert("I").point(lambda value: value / 256).convert("L")
    elif image.mode == "F":
        raise RejectedImage("undecodable: floating-point pixels have no defined range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _without_address(text: str) -> str:
    """Cuts ``<_io.BytesIO object at 0x7f...>`` from a message, so that it is the same on every run."""
    return text.partition(" <_io")[0][:120]


def resize(image: Image.Image, size: int, mode: str = "squash") -> Image.Image:
    """Resizes with an antialiased bicubic filter.

    Args:
        image: Mode RGB.
        size: Pixels.
        mode: ``squash`` to exactly size x size (section 4.1 of the paper), or ``short`` to resize the short side to
            size and keep the aspect ratio.

    Returns:
        The resized image.

    Raises:
        RejectedImage: If the long side would exceed the limit of JPEG, with ``short``.
    """
    shape = (size, size)
    if mode == "short":
        scale = size / min(image.size)
        shape = (max(size, round(image.width * scale)), max(size, round(image.height * scale)))
        if max(shape) > LONGEST:
            raise RejectedImage(f"too long: {image.width} x {image.height} with a short side of {size} pixels")
    return image if image.size == shape else image.resize(shape, Image.Resampling.BICUBIC)


def encode_jpeg(image: Image.Image) -> bytes:
    """JPEG bytes at quality 95 without chroma subsampling and without metadata."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return buffer.getvalue()


def decoder_version() -> str:
    """Versions of Pillow and its JPEG library, which determine the stored bytes."""
    import PIL

    turbo = features.version_feature("libjpeg_turbo") if features.check_feature("libjpeg_turbo") else None
    return f"Pillow {PIL.__version__}, " + (f"libjpeg-turbo {turbo}" if turbo else f"libjpeg {features.version('jpg')}")
