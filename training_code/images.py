"""From the bytes of a file to the pixels a network sees: the one path for Prepare, Evaluate and Serve.

Every image becomes one square of 8-bit RGB, which is the network's input: EXIF orientation applied, other
colour modes converted, the whole picture scaled with an antialiased bilinear filter until its longer side
fits, and centred on a neutral ground ("letterbox"). Cutting out the centre instead, as torchvision's
evaluation does, loses what long things are known by: on the example photos it costs 3 points of accuracy
(docs/decisions/0008-whole-pictures-and-a-refit.md).

Big JPEGs are decoded at a half, a quarter or an eighth of their size ("draft" of libjpeg), never below
twice the size that they are scaled to. Against a full decode the pixels of a photo differ by less than 2
of 255 levels on average; since every caller goes through this module, training and serving see the same
ones.

No torch here: workers that decode, and the serving image, do without it (`network_inputs` holds its part).
"""

from __future__ import annotations

import io
import math
import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

# Mean and standard deviation of ImageNet's RGB channels on a scale of 0 to 1; all of torchvision's
# classification weights were trained with them.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
# The ground around a picture: normalised it is zero, like the padding of the network's own convolutions.
GROUND = tuple(round(255 * channel) for channel in MEAN)
# What a model's manifest says about the two, so that a loader can refuse a model of other pixels.
RESIZE = "letterbox"
INTERPOLATION = "bilinear"

MAX_PIXELS = 100_000_000
# Formats that Pillow decodes in process from one stream: no Ghostscript (EPS), no external files.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

# Pillow's own guard against decompression bombs, behind ours: it also covers images inside images.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS


class BadImage(ValueError):  # noqa: N818 - the file is bad; the program is not in error
    """The bytes are no image that can be used. `reason` ends "The file …"; `hint` is the next step."""

    def __init__(self, reason: str, hint: str, too_large: bool = False) -> None:
        super().__init__(f"{reason} {hint}")
        self.reason = reason
        self.hint = hint
        self.too_large = too_large


def decode_square(data: bytes, size: int) -> NDArray[np.uint8]:
    """Decodes an image file wholly and returns it on a square, `size` x `size` x 3, RGB.

    Raises BadImage for bytes that are no image, are truncated or broken, or hold over `MAX_PIXELS` pixels.
    Of an animation the first frame is taken.
    """
    if not data:
        raise BadImage("The file is empty (0 bytes).", "Upload it again.")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_pixels(image)
            image.draft(image.mode, _draft_size(image.size, size))
            image.load()
            # A copy, since Pillow gives a read-only view, which torch takes with a warning.
            return np.array(_square(_rgb(_upright(image)), size))
    except (BadImage, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_many_pixels(str(error)) from error
    except UnidentifiedImageError as error:
        raise BadImage(
            "The file is no image, or of a kind that is not supported.",
            "Save it as JPEG, PNG or WebP.",
        ) from error
    # Pillow's decoders raise nearly anything on crafted bytes: SyntaxError, struct.error, IndexError, …
    except Exception as error:
        raise BadImage(
            f"The file is truncated or damaged ({error}).",
            "Open it in an image program, save it again and upload it.",
        ) from error


def _check_pixels(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise _too_many_pixels(f"{image.width} x {image.height} pixels")


def _too_many_pixels(found: str) -> BadImage:
    return BadImage(
        f"The image is too large ({found}; the limit is {MAX_PIXELS // 1_000_000} megapixels).",
        "Scale it down.",
        too_large=True,
    )


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except (SyntaxError, struct.error, ValueError, KeyError, TypeError, OSError):
        # A damaged EXIF block says nothing about orientation, and the pixels beside it are whole.
        return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips 16-bit grey at 255 and so turns nearly all of it white.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        # 32-bit modes have no fixed white point: the image's own range becomes black to white.
        pixels = np.nan_to_num(np.asarray(image, dtype=np.float64))
        span = max(float(pixels.max() - pixels.min()), 1e-12)
        return Image.fromarray(((pixels - pixels.min()) * (255 / span)).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        paper = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(paper, layer).convert("RGB")
    return image.convert("RGB")


def _draft_size(original: tuple[int, int], size: int) -> tuple[int, int]:
    scale = 2 * size / max(original)
    width, height = (math.ceil(side * scale) for side in original)
    return width, height


def _square(image: Image.Image, size: int) -> Image.Image:
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    square = Image.new("RGB", (size, size), GROUND)
    scaled = image.resize((width, height), Image.Resampling.BILINEAR)
    square.paste(scaled, ((size - width) // 2, (size - height) // 2))
    return square


def blank_square(size: int) -> NDArray[np.uint8]:
    """A black square, `size` x `size` x 3."""
    return np.zeros((size, size, 3), dtype=np.uint8)
