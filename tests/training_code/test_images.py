"""Decoding: every kind of file, and the limits."""

import io
import struct
import zlib

import facts
import imagehash
import images
import network_inputs
import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import v2


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def gradient(width: int, height: int) -> Image.Image:
    """Red grows from left to right, green from top to bottom."""
    across = np.linspace(0, 255, width)[None, :].repeat(height, axis=0)
    down = np.linspace(0, 255, height)[:, None].repeat(width, axis=1)
    return Image.fromarray(np.stack([across, down, np.full_like(across, 90)], axis=2).astype(np.uint8))


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "PNG"), ("RGBA", "PNG"), ("LA", "PNG"),
        ("P", "PNG"), ("1", "PNG"), ("RGB", "WEBP"), ("RGBA", "WEBP"), ("P", "GIF"), ("RGB", "BMP"),
        ("RGB", "TIFF"), ("CMYK", "TIFF"), ("F", "TIFF"), ("I", "TIFF"),
    ],
)  # fmt: skip
def test_every_mode_and_format_becomes_an_rgb_square(mode: str, kind: str) -> None:
    # GIVEN a picture in one of the colour modes and formats people have
    data = encode(gradient(60, 40).convert(mode), kind)

    # WHEN it is decoded
    square = images.decode_square(data, 32)

    # THEN it is an 8-bit RGB square that is not blank
    assert square.shape == (32, 32, 3)
    assert square.dtype == np.uint8
    assert square.max() > square.min()


def test_16_bit_grey_keeps_its_brightness() -> None:
    # GIVEN a 16-bit picture of middle grey, as scanners make them
    data = encode(Image.fromarray(np.full((40, 40), 0x8000, dtype=np.uint16)), "PNG")

    # WHEN it is decoded
    square = images.decode_square(data, 32)

    # THEN it is middle grey, not clipped to white
    assert np.all(square == 0x80)


def test_transparent_parts_become_white() -> None:
    # GIVEN a picture that is wholly transparent over black
    data = encode(Image.new("RGBA", (40, 40), (0, 0, 0, 0)), "PNG")

    # WHEN it is decoded, THEN it is white paper
    assert np.all(images.decode_square(data, 32) == 255)


def test_exif_orientation_is_applied() -> None:
    # GIVEN a photo whose camera was turned: stored sideways, with orientation 6 (turn right by 90°)
    upright = gradient(64, 64)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encode(upright.rotate(90), "JPEG", exif=exif, quality=95)

    # WHEN it is decoded, THEN it is upright again
    difference = images.decode_square(turned, 64).astype(int) - np.asarray(upright).astype(int)
    assert np.abs(difference).mean() < 3


def test_damaged_exif_costs_only_the_orientation() -> None:
    # GIVEN a whole photo with rubbish in place of its EXIF block
    data = encode(gradient(60, 40), "JPEG", exif=b"Exif\0\0" + b"\x07" * 40)

    # WHEN it is decoded, THEN its pixels are there
    assert images.decode_square(data, 32).shape == (32, 32, 3)


def test_first_frame_of_an_animation_is_taken() -> None:
    # GIVEN an animation that begins red
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])

    # WHEN it is decoded, THEN it is red
    assert np.all(images.decode_square(data, 32) == (255, 0, 0))


@pytest.mark.parametrize(("width", "height"), [(300, 200), (200, 300), (50, 20)])
def test_the_whole_picture_is_scaled_as_by_torchvision_and_centred(width: int, height: int) -> None:
    # GIVEN a picture that is no square, and torchvision's resize of it, longer side to 96
    picture = gradient(width, height)
    long, short = 96, round(96 * min(width, height) / max(width, height))
    shape = (short, long) if width > height else (long, short)
    theirs = np.asarray(v2.Resize(shape, antialias=True)(picture))

    # WHEN it is decoded onto a square of 96
    square = images.decode_square(encode(picture, "PNG"), 96)

    # THEN the middle is the whole picture but for rounding, and the rest is ground that normalises to zero
    first = (96 - short) // 2
    middle = slice(first, first + short)
    shown = square[middle] if width > height else square[:, middle]
    ground = np.delete(square, middle, axis=0 if width > height else 1)
    assert np.abs(shown.astype(int) - theirs.astype(int)).mean() < 1
    assert network_inputs.network_input(ground[None]).abs().max() < 0.01


def test_extreme_aspect_ratio() -> None:
    # GIVEN a strip 400 times as wide as high
    data = encode(gradient(4000, 10), "PNG")

    # WHEN it is decoded, THEN one line of the square shows it from end to end
    square = images.decode_square(data, 32)
    (line,) = np.flatnonzero((square != images.GROUND).any(axis=(1, 2)))
    assert square[line, 0, 0] < 16
    assert square[line, -1, 0] > 240


@pytest.mark.parametrize("size", [(1600, 1200), (3000, 2000)])
def test_big_jpegs_decoded_at_reduced_size_keep_their_pixels(size: tuple[int, int]) -> None:
    # GIVEN a big JPEG with detail, and the same pixels as PNG, which has no reduced decoding
    detail = np.random.default_rng(0).integers(0, 255, (size[1] // 8, size[0] // 8, 3)).astype(np.uint8)
    jpeg = encode(Image.fromarray(detail).resize(size, Image.Resampling.BICUBIC), "JPEG", quality=90)
    whole = encode(Image.open(io.BytesIO(jpeg)), "PNG")

    # WHEN both are decoded
    reduced, full = images.decode_square(jpeg, 256), images.decode_square(whole, 256)

    # THEN they agree within the tolerance that the module documents
    assert np.abs(reduced.astype(int) - full.astype(int)).mean() < 2


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to no data."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


WHOLE = encode(gradient(60, 40), "JPEG")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"dear diary", "no image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image"),
        (WHOLE[: len(WHOLE) // 2], "truncated"),
        (WHOLE[:-200], "truncated"),
        (png_of_size(60, 40), "truncated"),
    ],
)
def test_bad_files_say_why(data: bytes, reason: str) -> None:
    # GIVEN bytes that are no usable image
    # WHEN they are decoded, THEN the error says why, and what to do
    with pytest.raises(images.BadImage) as caught:
        images.decode_square(data, 32)
    assert reason in caught.value.reason
    assert caught.value.hint
    assert not caught.value.too_large


@pytest.mark.parametrize("size", [(10_001, 10_000), (60_000, 60_000)])
def test_decompression_bombs_are_refused_by_their_header(size: tuple[int, int]) -> None:
    # GIVEN a file of a few bytes that claims more than 100 megapixels
    # WHEN it is decoded, THEN it is refused as too large
    with pytest.raises(images.BadImage) as caught:
        images.decode_square(png_of_size(*size), 32)
    assert caught.value.too_large


def test_random_damage_never_escapes_as_another_error() -> None:
    # GIVEN a photo with bytes overwritten at random, in many ways
    generator = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"):
        data = np.frombuffer(encode(gradient(60, 40), kind), dtype=np.uint8)
        for _ in range(40):
            damaged = data.copy()
            places = generator.integers(0, len(data), size=8)
            damaged[places] = generator.integers(0, 256, size=8)

            # WHEN it is decoded, THEN it is a square or a BadImage
            try:
                square = images.decode_square(damaged.tobytes(), 32)
            except images.BadImage:
                continue
            assert square.shape == (32, 32, 3)


def test_network_input_is_normalised() -> None:
    # GIVEN a white square
    squares = np.full((2, 32, 32, 3), 255, dtype=np.uint8)

    # WHEN it becomes a network's input
    inputs = network_inputs.network_input(squares)

    # THEN its values are (1 - mean) / std of each channel, channels first
    assert inputs.shape == (2, 3, 32, 32)
    expected = (1 - np.array(images.MEAN)) / np.array(images.STD)
    assert np.allclose(inputs[:, :, 0, 0].numpy(), expected, atol=1e-5)


def picture(data: bytes, size: int = 32) -> images.Picture:
    return images.decode(io.BytesIO(data), size)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
@pytest.mark.parametrize(
    ("inks", "colour"),
    [
        ((255, 0, 0, 0), (0, 255, 255)),
        ((0, 255, 0, 0), (255, 0, 255)),
        ((0, 0, 0, 255), (0, 0, 0)),
        ((0, 0, 0, 0), (255, 255, 255)),
    ],
    ids=["cyan", "magenta", "black", "paper"],
)
def test_cmyk_keeps_its_colours(kind: str, inks: tuple[int, ...], colour: tuple[int, ...]) -> None:
    # GIVEN a picture of one printing ink; JPEGs hold the inks inverted, as Adobe's programs write them
    data = encode(Image.new("CMYK", (40, 40), inks), kind)
    assert kind == "TIFF" or b"Adobe" in data

    # WHEN it is decoded, THEN the ink has its colour on the screen
    assert np.abs(images.decode_square(data, 32).astype(int) - colour).max() <= 3
    assert picture(data).remarks == (images.CMYK,)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_orientation_of_every_format_becomes_upright(orientation: int, kind: str) -> None:
    # GIVEN a picture, stored as a camera in this position would store it
    upright = gradient(60, 40)
    turn_back = {
        1: [], 2: [Image.Transpose.FLIP_LEFT_RIGHT], 3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM], 5: [Image.Transpose.TRANSPOSE], 6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE], 8: [Image.Transpose.ROTATE_270],
    }[orientation]  # fmt: skip
    stored = upright
    for step in turn_back:
        stored = stored.transpose(step)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(stored, kind, exif=exif, **({"quality": 95} if kind in ("JPEG", "WEBP") else {}))

    # WHEN it is decoded
    found = picture(data, 60)

    # THEN it stands upright, and says what was done
    scaled = np.asarray(found.scaled(60)).astype(int)
    assert scaled.shape == (40, 60, 3)
    assert np.abs(scaled - np.asarray(upright).astype(int)).mean() < 4
    assert (found.width, found.height) == (60, 40)
    assert found.remarks == (() if orientation == 1 else (images.TURNED,))


def png_16_bit_rgb() -> bytes:
    """A PNG of 16 bits a channel, which Pillow cannot write: red 0x8000, green 0xffff, blue 0."""
    rows = (b"\0" + struct.pack(">HHH", 0x8000, 0xFFFF, 0) * 40) * 40
    header = struct.pack(">IIBBBBB", 40, 40, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_16_bit_colour_keeps_its_colour_and_says_so() -> None:
    assert np.all(images.decode_square(png_16_bit_rgb(), 32) == (0x80, 0xFF, 0))
    assert picture(png_16_bit_rgb()).remarks == (images.DEEP,)


def animation() -> list[Image.Image]:
    return [gradient(40, 40), Image.new("RGB", (40, 40), "blue")]


@pytest.mark.parametrize(
    ("data", "mode", "remarks"),
    [
        (encode(gradient(40, 40), "PNG"), "RGB", ()),
        (encode(Image.new("RGBA", (40, 40)), "PNG"), "RGBA", (images.TRANSPARENT,)),
        (encode(Image.new("P", (40, 40)), "PNG", transparency=0), "P", (images.TRANSPARENT,)),
        (encode(Image.new("I;16", (40, 40)), "PNG"), "I;16", (images.DEEP,)),
        (encode(Image.new("F", (40, 40)), "TIFF"), "F", (images.DEEP,)),
        (encode(animation()[0], "GIF", save_all=True, append_images=animation()[1:]), "P", (images.ANIMATED,)),
        (encode(animation()[0], "PNG", save_all=True, append_images=animation()[1:]), "RGB", (images.ANIMATED,)),
        (encode(animation()[0], "WEBP", save_all=True, append_images=animation()[1:]), "RGB", (images.ANIMATED,)),
        (encode(animation()[0], "TIFF", save_all=True, append_images=animation()[1:]), "RGB", (images.ANIMATED,)),
        (encode(animation()[0], "MPO", save_all=True, append_images=animation()[1:]), "RGB", ()),
    ],
    ids=["plain", "alpha", "palette", "grey-16", "float", "gif", "apng", "webp", "tiff", "mpo"],
)
def test_what_is_unusual_is_remarked(data: bytes, mode: str, remarks: tuple[str, ...]) -> None:
    found = picture(data)
    assert found.remarks == remarks
    assert found.mode == mode


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "TIFF"])
def test_the_first_frame_of_every_kind_of_animation_is_taken(kind: str) -> None:
    data = encode(animation()[0], kind, save_all=True, append_images=animation()[1:])
    difference = images.decode_square(data, 40).astype(int) - np.asarray(animation()[0]).astype(int)
    assert np.abs(difference).mean() < 6


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "I;16", "F", "CMYK"])
def test_big_pictures_of_any_mode_look_like_small_ones(mode: str) -> None:
    # GIVEN a picture of this mode that is averaged in strips, and the same one small
    big = gradient(1500, 1000)
    deep = Image.fromarray(np.asarray(big.convert("L")).astype(np.uint16) << 8)
    found = []
    for side in (1500, 60):
        picture = (deep if mode == "I;16" else big.convert(mode)).resize((side, side * 2 // 3))
        found.append(images.decode_square(encode(picture, "TIFF" if mode in ("F", "CMYK") else "PNG"), 32).astype(int))

    # WHEN both are decoded, THEN they agree
    assert np.abs(found[0] - found[1]).mean() < 6


def test_modes_without_a_conversion_say_so() -> None:
    with pytest.raises(images.BadImage, match="LAB") as caught:
        images.decode_square(encode(Image.new("LAB", (40, 40)), "TIFF"), 32)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("kind", "width", "options"),
    [("PNG", 5100, {}), ("WEBP", 2600, {}), ("TIFF", 3700, {"compression": "tiff_deflate", "strip_size": 2**30})],
    ids=["png", "webp", "tiff"],
)
def test_pictures_that_take_too_much_memory_are_refused_unread(
    kind: str, width: int, options: dict[str, object]
) -> None:
    # GIVEN a picture within the limit of pixels, of a format that takes too much memory for so many
    data = encode(Image.new("RGB", (width, width)), kind, **options)

    # WHEN it is decoded, THEN it is refused as too large
    with pytest.raises(images.BadImage, match=f"as {kind}") as caught:
        images.decode_square(data, 32)
    assert caught.value.too_large


def test_a_big_jpeg_is_refused_if_progressive_only() -> None:
    # GIVEN a picture of 36 megapixels as JPEG, once in scans that add up to it
    big = Image.new("RGB", (6000, 6000), "red")
    assert images.decode_square(encode(big, "JPEG"), 32)[16, 16, 0] > 250

    # WHEN it is decoded, THEN only that one is refused
    with pytest.raises(images.BadImage, match="not progressive"):
        images.decode_square(encode(big, "JPEG", progressive=True, subsampling=0), 32)


@pytest.mark.parametrize(
    "hidden",
    [b"", b"\xff\xfe\x00\x10\xff\xda\x00\x0c\x03" + bytes(9), b"\xff" * 3],
    ids=["plainly", "behind a comment like a scan", "behind filling"],
)
def test_a_big_jpeg_is_refused_if_its_components_come_one_after_the_other(hidden: bytes) -> None:
    # GIVEN a JPEG of 36 megapixels whose first scan has one of three components, plainly or behind something unusual
    data = encode(Image.new("RGB", (6000, 6000), "red"), "JPEG", subsampling=0)
    scan = data.index(b"\xff\xda")
    first = b"\xff\xda\x00\x08\x01" + data[scan + 5 : scan + 7] + data[scan + 11 : scan + 14]
    crafted = data[:scan] + hidden + first + data[scan + 14 :]

    # WHEN it is decoded, THEN it is refused: libjpeg would keep all of its coefficients
    with pytest.raises(images.BadImage, match="too large to decode"):
        images.decode_square(crafted, 32)


def test_memory_beyond_the_callers_allowance_is_its_own_error() -> None:
    data = encode(gradient(600, 400), "PNG")
    with pytest.raises(images.NeedsMoreMemory):
        images.decode(io.BytesIO(data), 32, allowance=600 * 400)
    assert images.decode(io.BytesIO(data), 32, allowance=600 * 400 * 8).width == 600


def test_facts_of_a_picture() -> None:
    # GIVEN a picture, half white and half red
    half = Image.new("RGB", (40, 20), "white")
    half.paste("red", (0, 0, 20, 20))

    # WHEN its facts are taken, THEN the ground of the square around it does not count
    found = facts.of_picture(picture(encode(half, "PNG")), picture(encode(half, "PNG")).scaled(40))
    assert (found["width"], found["height"], found["format"], found["mode"]) == (40, 20, "PNG", "RGB")
    assert found["brightness"] == pytest.approx((1 + 0.299) / 2, abs=0.01)
    assert found["contrast"] == pytest.approx(1 - 0.299, abs=0.01)
    assert found["saturation"] == pytest.approx(0.5, abs=0.01)


def test_perceptual_hash_is_imagehashs() -> None:
    # GIVEN a picture that is its own thumbnail
    shown = gradient(90, 60)
    shown.paste("blue", (10, 10, 50, 30))
    small = facts.small(picture(encode(shown, "PNG")))
    assert small.size == (90, 60)

    # WHEN it is hashed, THEN the hash is that of the library, of the picture without ground
    assert facts.perceptual_hash(facts.hashed_pixels(small)) == str(imagehash.phash(shown))


@pytest.mark.parametrize(("name", "wrong"), [("a.jpg", True), ("a.PNG", False), ("a", False), ("a.dat", False)])
def test_extension_of_another_format(name: str, wrong: bool) -> None:
    assert facts.remarks_on_name(f"cat/{name}", "PNG") == ([facts.OTHER_EXTENSION] if wrong else [])
