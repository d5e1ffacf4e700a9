"""What the pages share: their templates, and pictures inside the page."""

import base64
import io
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from jinja2 import Template


def template(name: str) -> "Template":
    """A template of this folder; what is filled in is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("timm_landmark.inference.pages", "."),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template(name)


def data_uri(picture: Image.Image, quality: int = 72) -> str:
    """A small JPEG of the picture as a data URI, so that no file is written for the page."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
