"""What the data doctor wants to know of a picture, beside its pixels for the network."""

from __future__ import annotations

import io
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from images import SMALLEST_DETAIL, Picture
from PIL import Image, ImageStat

THUMBNAIL_SIZE = SMALLEST_DETAIL
THUMBNAIL_QUALITY = 85
# What imagehash.phash scales a picture to: four times its 8 x 8 bits.
HASHED_SIZE = 32
SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
}
OTHER_EXTENSION = "extension of another format"


def of_picture(picture: Picture, scaled: Image.Image) -> dict[str, Any]:
    """The part of a record that follows from the content alone, without its perceptual hash.

    `scaled` is the picture as the network sees it, without the ground around it. Of it, on scales of 0 to 1:
    `brightness` is the mean of ITU-R 601 luma, `contrast` its standard deviation over the largest possible
    one (half of all pixels black, half white), and `saturation` the mean of HSV's.
    """
    luma = ImageStat.Stat(scaled.convert("L"))
    saturation = ImageStat.Stat(scaled.convert("HSV").getchannel("S"))
    return {
        "width": picture.width,
        "height": picture.height,
        "format": picture.format,
        "mode": picture.mode,
        "brightness": round(luma.mean[0] / 255, 4),
        "contrast": round(luma.stddev[0] / 127.5, 4),
        "saturation": round(saturation.mean[0] / 255, 4),
        "remarks": list(picture.remarks),
    }


def small(picture: Picture) -> Image.Image:
    """The whole upright picture in at most `THUMBNAIL_SIZE` pixels; a smaller one stays as it is."""
    return picture.scaled(min(THUMBNAIL_SIZE, max(picture.width, picture.height)))


def thumbnail(image: Image.Image) -> bytes:
    """An image of `small` as JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=THUMBNAIL_QUALITY)
    return buffer.getvalue()


def hashed_pixels(image: Image.Image) -> bytes:
    """The luma of an image of `small`, scaled as imagehash.phash does it: `HASHED_SIZE` squared bytes."""
    scaled = image.convert("L").resize((HASHED_SIZE, HASHED_SIZE), Image.Resampling.LANCZOS)
    return scaled.tobytes()


def perceptual_hash(pixels: bytes) -> str:
    """Of `hashed_pixels`: imagehash.phash's 64 bits as 16 hex digits."""
    # Here, since only one process needs it: it brings SciPy, 30 MB that each worker would hold too.
    import imagehash

    square = np.frombuffer(pixels, dtype=np.uint8).reshape(HASHED_SIZE, HASHED_SIZE)
    return str(imagehash.phash(Image.fromarray(square)))


def remarks_on_name(key: str, kind: str) -> list[str]:
    """What the name of a file of the format `kind` says wrongly."""
    suffix = PurePosixPath(key).suffix.lower()
    wrong = any(suffix in suffixes for other, suffixes in SUFFIXES.items() if other != kind)
    return [OTHER_EXTENSION] if wrong else []
