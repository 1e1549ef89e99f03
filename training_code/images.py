"""From the bytes of a file to the pixels a network sees: the one path for Prepare, Evaluate and Serve.

Every image becomes one square of 8-bit RGB: EXIF orientation applied, other colour modes converted, the
centre square cut out and scaled with an antialiased bilinear filter. The network's input is the square's
centre crop.

Big JPEGs are decoded at a half, a quarter or an eighth of their size ("draft" of libjpeg), never below
twice the size of the square. Against a full decode the pixels of a photo differ by less than 2 of 255
levels on average; since every caller goes through this module, training and serving see the same ones.
"""

from __future__ import annotations

import io
import struct

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torchvision.transforms import v2

# The share of the resized square that the network sees is that of torchvision's classic evaluation
# transform, 224 of 256: https://github.com/pytorch/vision/tree/main/references/classification
RESIZE_NUMERATOR, RESIZE_DENOMINATOR = 256, 224

# Mean and standard deviation of ImageNet's RGB channels on a scale of 0 to 1; all of torchvision's
# classification weights were trained with them.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

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


def resize_size(image_size: int) -> int:
    """Side of the stored square, in pixels, for a network input of `image_size` pixels."""
    return round(image_size * RESIZE_NUMERATOR / RESIZE_DENOMINATOR)


def decode_square(data: bytes, size: int) -> NDArray[np.uint8]:
    """Decodes an image file wholly and returns its centre square, `size` x `size` x 3, RGB.

    Raises BadImage for bytes that are no image, are truncated or broken, or hold over `MAX_PIXELS` pixels.
    Of an animation the first frame is taken.
    """
    if not data:
        raise BadImage("The file is empty (0 bytes).", "Upload it again.")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_pixels(image)
            image.draft(image.mode, (2 * size, 2 * size))
            image.load()
            return np.asarray(_square(_rgb(_upright(image)), size))
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


def _square(image: Image.Image, size: int) -> Image.Image:
    # Cutting before scaling gives the pixels of "shorter side to size, centre crop", without the huge
    # intermediate that a 100,000 x 100 pixel image would make.
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))


def centre_crop(squares: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Centre crops of `size` x `size` pixels from squares of shape … x S x S x 3 (a view, no copy).

    Raises ValueError when the squares are smaller than the crop.
    """
    side = squares.shape[-2]
    if side < size:
        raise ValueError(f"A crop of {size} pixels does not fit into a square of {side} pixels.")
    first = (side - size) // 2
    return squares[..., first : first + size, first : first + size, :]


def normalise(pixels: torch.Tensor, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD) -> torch.Tensor:
    """uint8 pixels N x H x W x 3 to the float32 input N x 3 x H x W of a network (channels-last memory)."""
    scaled = pixels.permute(0, 3, 1, 2).to(torch.float32).div_(255)
    shape = (1, 3, 1, 1)
    offset = torch.tensor(mean, device=pixels.device).view(shape)
    scale = torch.tensor(std, device=pixels.device).view(shape)
    return scaled.sub_(offset).div_(scale)


def network_input(squares: NDArray[np.uint8], image_size: int) -> torch.Tensor:
    """Stored squares N x S x S x 3 to the network's input: centre crop, then `normalise`."""
    return normalise(torch.from_numpy(np.ascontiguousarray(centre_crop(squares, image_size))))


def blank_square(size: int) -> NDArray[np.uint8]:
    """A black square, `size` x `size` x 3."""
    return np.zeros((size, size, 3), dtype=np.uint8)


def augmentation(image_size: int) -> v2.Transform:
    """Random crop of 35 to 100 % of the area and random mirroring, on uint8 images 3 x S x S.

    Draws from torch's global random state.
    """
    return v2.Compose(
        [
            v2.RandomResizedCrop(image_size, scale=(0.35, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
        ]
    )
