"""One photo: any common format to upright RGB by stated rules, and the exact squash that the paper trains on.

Rules: the bytes decide the format, not the name. EXIF orientation is honoured. Alpha is laid over white. Of an
animation or a multi-picture file the first picture counts. 16-bit grey keeps its upper 8 bits. CMYK is converted by
Pillow's formula. Colour profiles are not applied: pixel values are taken as sRGB, as timm and torchvision take them.
"""

import io
import warnings

from PIL import Image, ImageOps, features

FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")
MAX_PIXELS = 100_000_000  # the largest phone cameras; about 300 MB while it is decoded
QUALITY = 95
LONGEST = 65_500  # pixels of a side, JPEG's own limit


def settle_process() -> None:
    """Once at a command's entry or a worker's start: Pillow's limit is lifted, its warnings are silenced.

    :func:`decode_rgb` has a limit of its own, which is an option and may be the higher one. Both settings hold for the
    whole process, so a library must not touch them.
    """
    Image.MAX_IMAGE_PIXELS = None
    warnings.filterwarnings("ignore", module=r"PIL\.")


class RejectedImage(Exception):
    """A photo that cannot be used; the message is the reason, one line."""


def decode_rgb(content: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decodes a photo.

    Args:
        content: The file's bytes, of any format in ``FORMATS``.
        max_pixels: Limit on width * height, against decompression bombs; checked before any pixel is decoded.

    Returns:
        An upright picture of mode RGB.

    Raises:
        RejectedImage: With the reason: empty, html, truncated, too many pixels, format, undecodable.
    """
    if not content:
        raise RejectedImage("empty")
    if content[:512].lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<svg")):
        raise RejectedImage("html: a web page or XML under an image's name")
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.format not in FORMATS:  # also keeps EPS away from Ghostscript
                raise RejectedImage(f"format: {image.format} is none of {', '.join(FORMATS)}")
            if image.width * image.height > max_pixels:
                raise RejectedImage(f"too many pixels: {image.width} x {image.height}, the limit is {max_pixels}")
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _to_rgb(image)
    except RejectedImage:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own limit, where settle_process has not lifted it
        raise RejectedImage(f"too many pixels: {error}") from None
    except Exception as error:  # broken files raise nearly every type
        text = " ".join(str(error).split())
        kind = "truncated" if "truncated" in text else "undecodable"
        raise RejectedImage(f"{kind}: {_without_address(text) or type(error).__name__}") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I;16", "I;16B", "I;16L", "I;16N", "I"):
        image = image.convert("I").point(lambda value: value / 256).convert("L")
    elif image.mode == "F":
        raise RejectedImage("undecodable: floating-point pixels have no stated range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _without_address(text: str) -> str:
    """``cannot identify image file <_io.BytesIO object at 0x7f...>``: the same words on every run."""
    return text.partition(" <_io")[0][:120]


def resize(image: Image.Image, size: int, mode: str = "squash") -> Image.Image:
    """Scales with an antialiased bicubic filter.

    Args:
        image: Mode RGB.
        size: Pixels.
        mode: ``squash`` to exactly size x size (section 4.1), or ``short``: the short side to size, ratio kept.

    Returns:
        The scaled picture.

    Raises:
        RejectedImage: If with ``short`` the long side would be longer than a JPEG can be.
    """
    shape = (size, size)
    if mode == "short":
        scale = size / min(image.size)
        shape = tuple(max(size, round(side * scale)) for side in image.size)
        if max(shape) > LONGEST:
            raise RejectedImage(f"too long: {image.width} x {image.height} with a short side of {size} pixels")
    return image if image.size == shape else image.resize(shape, Image.Resampling.BICUBIC)


def encode_jpeg(image: Image.Image) -> bytes:
    """JPEG bytes at quality 95 without chroma subsampling and without metadata."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return buffer.getvalue()


def decoder_version() -> str:
    """Pillow's and its JPEG library's version: stored bytes are the same wherever these are."""
    import PIL

    turbo = features.version_feature("libjpeg_turbo") if features.check_feature("libjpeg_turbo") else None
    return f"Pillow {PIL.__version__}, " + (f"libjpeg-turbo {turbo}" if turbo else f"libjpeg {features.version('jpg')}")
