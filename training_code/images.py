"""From the bytes of a file to the pixels a network sees: the one path for Decode, Evaluate and Serve.

Every image becomes one square of 8-bit RGB, which is the network's input: EXIF orientation applied, other
colour modes converted, the whole picture scaled with an antialiased bilinear filter until its longer side
fits, and centred on a neutral ground ("letterbox"). Cutting out the centre instead, as torchvision's
evaluation does, loses what long things are known by: on the example photos it costs 3 points of accuracy
(docs/decisions/0008-whole-pictures-and-a-refit.md).

Big pictures are first made smaller, never below twice the size that they are scaled to: JPEGs while they
are decoded, to a half, a quarter or an eighth ("draft" of libjpeg), all others by averaging whole blocks of
pixels right after. Against scaling in one step the pixels of a photo differ by less than 2 of 255 levels on
average; since every caller goes through this module, training and serving see the same ones.

Two limits, both known from the header before anything is decoded: `MAX_PIXELS` bounds the time, and
`MAX_DECODING_BYTES` the memory, of which Pillow's decoders need very different amounts for a pixel
(`_decoding_bytes`).

No torch here: workers that decode, and the serving image, do without it (`network_inputs` holds its part).
"""

from __future__ import annotations

import io
import math
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, JpegImagePlugin, TiffImagePlugin, UnidentifiedImageError

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
# 25 megapixels of PNG, 8 to 25 of TIFF, 6 of WebP, 16 to 33 of progressive JPEG. With it two workers beside a process
# that holds torch and a backbone (0.8 GiB) stay below 1 GiB (tests/training_code/test_corpus.py).
MAX_DECODING_BYTES = 96 * 1024**2
# Formats that Pillow decodes in process from one stream: no Ghostscript (EPS), no external files.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
# What a picture keeps in any case, so that thumbnails can be made of it.
SMALLEST_DETAIL = 96
STRIP_PIXELS = 2**18
# Bytes of a pixel in Pillow's memory; all other modes take 4.
PIXEL_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}
SUPPORTED_MODES = (*PIXEL_BYTES, "LA", "PA", "RGB", "RGBA", "RGBX", "RGBa", "La", "CMYK", "YCbCr", "I", "F")
# TIFF 6.0 and Exif 2.3, tag 0x0112: how the stored pixels have to be turned to stand upright.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (UPRIGHT[5], UPRIGHT[6], UPRIGHT[7], UPRIGHT[8])
# What was done to an unusual file, told in these words so that equal remarks can be counted.
ANIMATED = "animated, first frame taken"
CMYK = "CMYK"
DEEP = "16 bits"
TRANSPARENT = "transparency"
TURNED = "turned by EXIF"

# Pillow's own guard against decompression bombs, behind ours: it also covers images inside images.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS


class BadImage(ValueError):  # noqa: N818 - the file is bad; the program is not in error
    """The bytes are no image that can be used. `reason` begins "The file …"; `hint` is the next step."""

    def __init__(self, reason: str, hint: str, too_large: bool = False) -> None:
        super().__init__(f"{reason} {hint}")
        self.reason = reason
        self.hint = hint
        self.too_large = too_large


class NeedsMoreMemory(Exception):  # noqa: N818 - not before its turn, when it gets more
    """Decoding takes more than the caller allows now, but not more than `MAX_DECODING_BYTES`."""


@dataclass(frozen=True)
class Picture:
    """A decoded file.

    `image` is RGB and not yet upright: `transpose` is still to be applied, at a smaller size. The picture is
    its part from the corner to `extent`, which may end within a pixel. `width` and `height` are those of the
    upright picture before any scaling; `mode` is the file's own.
    """

    image: Image.Image
    extent: tuple[float, float]
    transpose: Image.Transpose | None
    width: int
    height: int
    format: str
    mode: str
    remarks: tuple[str, ...]

    def scaled(self, size: int) -> Image.Image:
        """The upright picture, RGB, its longer side `size`."""
        scale = size / max(self.extent)
        width, height = (max(1, round(side * scale)) for side in self.extent)
        scaled = self.image.resize((width, height), Image.Resampling.BILINEAR, box=(0, 0, *self.extent))
        return scaled if self.transpose is None else scaled.transpose(self.transpose)


def decode_square(data: bytes, size: int) -> NDArray[np.uint8]:
    """Decodes an image file wholly and returns it on a square, `size` x `size` x 3, RGB.

    Raises BadImage for bytes that are no image, are truncated or broken, or exceed a limit. Of an animation
    the first frame is taken.
    """
    return letterbox(decode(io.BytesIO(data), size).scaled(size), size)


def decode(file: BinaryIO, size: int, allowance: int = MAX_DECODING_BYTES) -> Picture:
    """Decodes an image file wholly, for a square of `size` pixels or a thumbnail of it.

    Raises BadImage like `decode_square`, and NeedsMoreMemory when the decoder would take more than
    `allowance` bytes.
    """
    length = file.seek(0, io.SEEK_END)
    file.seek(0)
    if not length:
        raise BadImage("The file is empty (0 bytes).", "Upload it again.")
    try:
        # Pillow warns of oddities that it then handles; those that it does not handle are errors.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _decoded(Image.open(file, formats=FORMATS), length, max(size, SMALLEST_DETAIL), allowance)
    except (BadImage, MemoryError, NeedsMoreMemory):
        raise
    except Image.DecompressionBombError as error:
        # Pillow raises it at twice the limit that it is given.
        raise _too_many_pixels(f"over {2 * MAX_PIXELS // 1_000_000} megapixels") from error
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


def letterbox(scaled: Image.Image, size: int) -> NDArray[np.uint8]:
    """An RGB image of at most `size` pixels, centred on the ground, as a writable array."""
    square = Image.new("RGB", (size, size), GROUND)
    square.paste(scaled, ((size - scaled.width) // 2, (size - scaled.height) // 2))
    # A copy, since Pillow gives a read-only view, which torch takes with a warning.
    return np.array(square)


def _decoded(image: Image.Image, file_bytes: int, size: int, allowance: int) -> Picture:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _too_many_pixels(f"{width} x {height} pixels")
    if image.mode not in SUPPORTED_MODES:
        raise BadImage(f"The file's colour mode, {image.mode}, is not supported.", "Save it as RGB.")
    remarks = [CMYK] if image.mode == "CMYK" else []
    if _is_deep(image):
        remarks.append(DEEP)
    image.draft(image.mode, _draft_size(image.size, size))
    _check_memory(image, (width, height), file_bytes, size, allowance)
    # Only now: looking for EXIF loads a PNG that has none.
    transpose = UPRIGHT.get(_orientation(image))
    if transpose is not None:
        remarks.append(TURNED)
    mode, kind = image.mode, "JPEG" if image.format == "MPO" else str(image.format)
    image.load()
    if image.format == "TIFF":
        # The one format that Pillow turns upright itself, while loading.
        transpose = None
    if image.has_transparency_data:
        remarks.append(TRANSPARENT)
    # The later pictures of an MPO (a JPEG of several) are no frames, but depth maps and other views.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        remarks.append(ANIMATED)
    factor = _reduction(image.size, size)
    small, extent = _small_rgb(image, factor), (image.width / factor, image.height / factor)
    if transpose in SIDEWAYS:
        width, height = height, width
    return Picture(small, extent, transpose, width, height, kind, mode, tuple(sorted(remarks)))


def _is_deep(image: Image.Image) -> bool:
    # Pillow keeps 16-bit colour as 8 bits; only the decoder's raw mode still tells.
    tiles = image.tile if isinstance(image, ImageFile.ImageFile) else []
    return image.mode in ("I", "F") or ";16" in image.mode or any(";16" in str(tile.args) for tile in tiles[:1])


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (SyntaxError, struct.error, ValueError, KeyError, TypeError, OSError):
        # A damaged EXIF block says nothing about orientation, and the pixels beside it are whole.
        return 1


def _too_many_pixels(found: str) -> BadImage:
    return BadImage(
        f"The file is too large to decode ({found}; the limit is {MAX_PIXELS // 1_000_000} megapixels).",
        "Scale it down.",
        too_large=True,
    )


def _check_memory(image: Image.Image, full: tuple[int, int], file_bytes: int, size: int, allowance: int) -> None:
    needed = _decoding_bytes(image, full, file_bytes)
    factor = _reduction(image.size, size)
    if factor > 1 or image.mode != "RGB":
        needed += 4 * math.ceil(image.width / factor) * math.ceil(image.height / factor)
    if needed > MAX_DECODING_BYTES:
        raise BadImage(
            f"The file is too large to decode ({full[0]} x {full[1]} pixels take {needed // 1024**2} MiB as "
            f"{image.format}; the limit is {MAX_DECODING_BYTES // 1024**2} MiB).",
            "Scale it down, or save it as JPEG (not progressive), which needs least.",
            too_large=True,
        )
    if needed > allowance:
        raise NeedsMoreMemory


def _decoding_bytes(image: Image.Image, full: tuple[int, int], file_bytes: int) -> int:
    """Memory that Pillow's decoder takes at its peak, as measured with Pillow 13 on pictures of 12 megapixels.

    `image` is open and drafted, but not loaded; `full` is its size before the draft.
    """
    pixels = image.width * image.height
    loaded = pixels * PIXEL_BYTES.get(image.mode, 4)
    if image.format == "WEBP":
        # Two canvases, the frame taken from them and the image, 4 bytes each; the file is copied.
        return 16 * pixels + 2 * file_bytes
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        copies = 1 if UPRIGHT.get(_orientation(image)) is None else 2
        if not any(tile.codec_name == "libtiff" for tile in image.tile):
            return loaded * copies
        # libtiff maps the file, and holds one strip, of which there may be only one.
        rows = min(image.height, int(image.tag_v2.get(TiffImagePlugin.ROWSPERSTRIP, image.height)))
        return loaded * copies + file_bytes + loaded * rows // image.height
    if isinstance(image, JpegImagePlugin.JpegImageFile) and _in_several_scans(image):
        # They build up all coefficients, 2 bytes each, at full size whatever the draft.
        samples = [(horizontal, vertical) for _, horizontal, vertical, *_ in image.layer]
        most = max(h for h, _ in samples) * max(v for _, v in samples)
        return loaded + 2 * full[0] * full[1] * sum(h * v for h, v in samples) // most
    return loaded


def _in_several_scans(image: JpegImagePlugin.JpegImageFile) -> bool:
    """Whether a JPEG is progressive, or brings its components one after the other (ITU-T T.81, B.2.3).

    Pillow has read it up to the end of the first scan's header. A file with anything unusual before that counts
    as one of several scans: what is not understood must not be underestimated.
    """
    if image.info.get("progressive"):
        return True
    file = image.fp
    assert file is not None
    end = file.tell()
    file.seek(len(b"\xff\xd8"))
    while True:
        prefix, marker, length, components = struct.unpack(">BBHB", file.read(5))
        if prefix != 0xFF or marker in (0xFF, 0x01, *range(0xD0, 0xD8)):
            return True
        file.seek(length - 3, io.SEEK_CUR)
        if marker == 0xDA:
            return components < len(image.layer) or file.tell() != end


def _draft_size(original: tuple[int, int], size: int) -> tuple[int, int]:
    scale = 2 * size / max(original)
    width, height = (math.ceil(side * scale) for side in original)
    return width, height


def _reduction(original: tuple[int, int], size: int) -> int:
    return max(1, max(original) // (2 * size))


def _small_rgb(image: Image.Image, factor: int) -> Image.Image:
    """8-bit RGB of a loaded image, each block of `factor` x `factor` pixels averaged into one.

    Strip by strip: the conversions take several copies, which of a whole big picture would not fit.
    """
    if factor == 1 and image.mode == "RGB" and not image.has_transparency_data:
        return image
    black, white = _range(image)
    small = Image.new("RGB", (math.ceil(image.width / factor), math.ceil(image.height / factor)))
    for top, strip in _strips(image, factor):
        small.paste(_rgb(strip, black, white).reduce(factor), (0, top // factor))
    return small


def _strips(image: Image.Image, factor: int) -> Iterator[tuple[int, Image.Image]]:
    rows = factor * max(1, STRIP_PIXELS // (image.width * factor))
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _range(image: Image.Image) -> tuple[float, float]:
    """What is black and what is white. 32-bit modes have no fixed white point: the image's own range is taken."""
    if image.mode not in ("I", "F"):
        return 0, 255
    pixels = (np.nan_to_num(np.asarray(strip, dtype=np.float64)) for _, strip in _strips(image, 1))
    lowest, highest = zip(*((float(strip.min()), float(strip.max())) for strip in pixels), strict=True)
    return min(lowest), max(highest)


def _rgb(image: Image.Image, black: float, white: float) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips 16-bit grey at 255 and so turns nearly all of it white.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        pixels = np.nan_to_num(np.asarray(image, dtype=np.float64))
        return Image.fromarray(((pixels - black) * (255 / max(white - black, 1e-12))).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        paper = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(paper, layer).convert("RGB")
    return image.convert("RGB")


def blank_square(size: int) -> NDArray[np.uint8]:
    """A black square, `size` x `size` x 3."""
    return np.zeros((size, size, 3), dtype=np.uint8)
