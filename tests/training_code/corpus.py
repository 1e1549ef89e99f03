"""A dataset made by an enemy: damaged images by deterministic mutation, bombs, impostors, and archives.

`make` writes it; every file in it has its own name, and those whose key begins with `good/` are whole.
"""

import gzip
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
SEEDS_OF_DAMAGE = 7
# Where a format's header holds the picture's width and height, and how.
DIMENSIONS = {"PNG": (16, ">II"), "GIF": (6, "<HH"), "BMP": (18, "<ii")}
BOMB_SIDE = 50_000


def make(folder: Path, escape_to: Path) -> None:
    """Writes the corpus below `folder`. Archives try to write a file at `escape_to`."""
    contents = dict(images())
    for name, content in contents.items():
        write(folder / "cat" / name, content)
    for number in range(12):
        write(folder / "good" / f"{number}.jpg", encoded("JPEG", 100 + number))
    for name, content in heavy():
        write(folder / "good" / name, content)
    for name, content in archives(escape_to):
        write(folder / name, content)


def write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def encoded(kind: str, seed: int = 0, side: int = 48, **options: object) -> bytes:
    small = np.random.default_rng(seed).integers(0, 255, (6, 6, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC).save(buffer, kind, **options)
    return buffer.getvalue()


def images() -> Iterator[tuple[str, bytes]]:
    for kind in FORMATS:
        whole = encoded(kind)
        suffix = kind.lower()
        for name, change in DAMAGES.items():
            for seed in range(SEEDS_OF_DAMAGE):
                content = change(whole, np.random.default_rng([seed, len(whole)]))
                yield f"{suffix}-{name}-{seed}.{suffix}", content
        for other in FORMATS:
            if other != kind:
                yield f"{suffix}-with-head-of-{other.lower()}.{suffix}", encoded(other)[:24] + whole[24:]
    for kind, (place, layout) in DIMENSIONS.items():
        for number, (width, height) in enumerate([(30_000, 30_000), (65_000, 1), (0, 0)]):
            yield f"{kind.lower()}-claims-{number}.{kind.lower()}", claiming(kind, place, layout, width, height)
    yield "empty.jpg", b""
    yield "one-byte.jpg", b"\xff"
    yield "bomb.png", png_bomb(BOMB_SIDE, rows=15_000)
    yield "whole-bomb.png", png_bomb(20_000, rows=20_000)
    yield "text-bomb.png", png_text_bomb()
    yield "frames.gif", gif_of_frames(10_000)
    yield "bomb.webp", webp_bomb()
    yield "bomb.tiff", tiff_claiming(60_000)
    yield "endless.tiff", tiff_with_endless_directory()
    yield "drawing.jpg", b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="9" height="9"/></svg>'
    yield "page.jpg", b"<!doctype html><title>404</title><p>Not found"
    yield "document.jpg", b"%PDF-1.7\n1 0 obj <</Type /Catalog>> endobj\n%%EOF\n"
    yield "script.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"
    yield "program.jpg", b"\x7fELF" + bytes(100)
    yield "archive.jpg", zip_of({"cat/1.jpg": encoded("JPEG")})


def heavy() -> Iterator[tuple[str, bytes]]:
    """Whole pictures that take nearly as much memory as one may."""
    yield "large.png", encoded("PNG", side=4800, compress_level=1)
    yield "large.webp", encoded("WEBP", side=2400, quality=10, method=0)
    yield "large.tiff", encoded("TIFF", side=3300, compression="tiff_deflate", strip_size=2**30)
    yield "large-progressive.jpg", encoded("JPEG", side=3600, progressive=True, subsampling=0, quality=20)
    yield "largest.jpg", encoded("JPEG", side=6000, quality=20)


def cut(data: bytes, random: np.random.Generator) -> bytes:
    return data[: int(random.integers(1, len(data)))]


def flip_bits(data: bytes, random: np.random.Generator) -> bytes:
    changed = np.frombuffer(data, dtype=np.uint8).copy()
    places = random.integers(0, len(data), size=6)
    changed[places] ^= (1 << random.integers(0, 8, size=6)).astype(np.uint8)
    return changed.tobytes()


def overwrite_head(data: bytes, random: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for place in random.integers(0, min(64, len(data)), size=4):
        changed[place] = int(random.integers(0, 256))
    return bytes(changed)


def blank(data: bytes, random: np.random.Generator) -> bytes:
    start = int(random.integers(0, len(data)))
    length = int(random.integers(1, 200))
    return data[:start] + bytes(len(data[start : start + length])) + data[start + length :]


def insert(data: bytes, random: np.random.Generator) -> bytes:
    start = int(random.integers(1, len(data)))
    return data[:start] + random.bytes(40) + data[start:]


DAMAGES: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    "cut": cut,
    "flipped": flip_bits,
    "head": overwrite_head,
    "blanked": blank,
    "inserted": insert,
}


def claiming(kind: str, place: int, layout: str, width: int, height: int) -> bytes:
    """An image whose header claims another size."""
    data = bytearray(encoded(kind))
    data[place : place + struct.calcsize(layout)] = struct.pack(layout, width, height)
    if kind == "PNG":
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def png_of(side: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of one bit a pixel."""
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    parts = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in ((b"IHDR", header), *chunks, (b"IEND", b""))
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def png_bomb(side: int, rows: int) -> bytes:
    """A PNG of `side` squared pixels, with data for `rows` rows.

    Deflate shrinks to 1:1032 at best, so that below 100 kB no PNG can hold all rows of 50,000 x 50,000 pixels.
    """
    compressor = zlib.compressobj(9)
    row = bytes(1 + side // 8)
    data = b"".join(compressor.compress(row) for _ in range(rows)) + compressor.flush()
    return png_of(side, (b"IDAT", data))


def png_text_bomb() -> bytes:
    text = b"comment\0\0" + zlib.compress(bytes(50_000_000), 1)
    return png_of(8, (b"zTXt", text), (b"IDAT", zlib.compress(bytes(16))))


def gif_of_frames(count: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (16, 16), 1).save(buffer, "GIF")
    data = buffer.getvalue()
    # The description of the screen, then a table of colours, the logarithm of whose length is in these bits.
    end_of_head = 13 + 3 * 2 ** ((data[10] & 7) + 1)
    return data[:end_of_head] + data[end_of_head:-1] * count + b"\x3b"


def webp_bomb() -> bytes:
    """A lossless WebP that claims the largest size there is: 16,383 squared."""
    data = bytearray(encoded("WEBP", lossless=True))
    place = data.index(b"VP8L") + 9
    old = int.from_bytes(data[place : place + 4], "little")
    data[place : place + 4] = (old | 0x0FFFFFFF).to_bytes(4, "little")
    return bytes(data)


def tiff_tags(data: bytes | bytearray) -> tuple[int, int]:
    """Where the tags of a little-endian TIFF begin, and how many there are."""
    place = int.from_bytes(data[4:8], "little")
    return place + 2, int.from_bytes(data[place : place + 2], "little")


def tiff_claiming(side: int) -> bytes:
    data = bytearray(encoded("TIFF"))
    place, count = tiff_tags(data)
    for start in range(place, place + 12 * count, 12):
        if int.from_bytes(data[start : start + 2], "little") in (256, 257):
            data[start + 2 : start + 12] = struct.pack("<HII", 4, 1, side)
    return bytes(data)


def tiff_with_endless_directory() -> bytes:
    """A TIFF whose list of pictures leads back to its first."""
    data = bytearray(encoded("TIFF"))
    place, count = tiff_tags(data)
    data[place + 12 * count : place + 12 * count + 4] = data[4:8]
    return bytes(data)


def archives(escape_to: Path) -> Iterator[tuple[str, bytes]]:
    good = encoded("JPEG", 200)
    up = "../" * 30 + escape_to.as_posix().lstrip("/")
    yield "absolute.zip", zip_of({"good/1.jpg": good, escape_to.as_posix(): good})
    yield "absolute.tar", tar_of(("good/1.jpg", good), (escape_to.as_posix(), good))
    yield "parent.zip", zip_of({"good/1.jpg": good, up: good})
    yield "parent.tar.gz", gzip.compress(tar_of(("good/1.jpg", good), (up, good)), 1)
    yield "symlink.tar", tar_of(link(tarfile.SYMTYPE, "out", escape_to.parent), (f"out/{escape_to.name}", good))
    yield "hardlink.tgz", gzip.compress(tar_of(link(tarfile.LNKTYPE, "passwd.jpg", Path("/etc/passwd"))), 1)
    yield "device.tar", tar_of(link(tarfile.CHRTYPE, "zero.jpg", Path()))
    yield "pipe.tar", tar_of(link(tarfile.FIFOTYPE, "pipe.jpg", Path()))
    yield "sparse.tar", sparse_giant()
    yield "overlapping-bomb.zip", overlapping_zip_bomb()
    yield "bomb.tar.gz", tar_bomb()
    yield "header-bomb.tar.gz", tar_header_bomb()
    yield "million.zip", zip_of_many(1_000_000, announced=1_000_000)
    yield "lying-number.zip", zip_of_many(400_000, announced=3)
    yield "million.tar.gz", gzip.compress(tarfile.TarInfo("cat/1.jpg").tobuf() * 1000, 1) * 1000
    yield "encrypted.zip", encrypted_zip()
    yield "cut.tar.gz", gzip.compress(tar_of(("good/1.jpg", good), ("good/2.jpg", good)), 1)[:-200]
    yield "no-archive.zip", b"not at all"
    yield "nested.zip", zip_of({"a.zip": zip_of({"b.zip": zip_of({"1.jpg": good})})})
    yield "lying-size.zip", lying_zip()
    yield "twice.tar", tar_of(("good/1.jpg", b"x"), ("good/1.jpg", encoded("JPEG", 201)))
    yield "deep.tar", tar_of(("/".join(["d"] * 300) + "/1.jpg", encoded("JPEG", 202)))
    yield "latin-1.tar", tar_of(("good/caf\u00e9.jpg", encoded("JPEG", 203)), encoding="latin-1")
    yield "good.zip", zip_of({"good/1.jpg": encoded("JPEG", 204), "good/2.jpg": encoded("JPEG", 205)})


GOOD_MEMBERS = (
    "twice.tar/good/1.jpg",
    f"deep.tar/{'d/' * 300}1.jpg",
    "latin-1.tar/good/caf\u00e9.jpg",
    "good.zip/good/1.jpg",
    "good.zip/good/2.jpg",
)
UNSAFE_ARCHIVES = (
    *("absolute.zip", "absolute.tar", "parent.zip", "parent.tar.gz"),
    *("symlink.tar", "hardlink.tgz", "device.tar", "pipe.tar"),
)


def zip_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return buffer.getvalue()


def tar_of(*members: tarfile.TarInfo | tuple[str, bytes], encoding: str = "utf-8") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT, encoding=encoding) as opened:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                opened.addfile(member)
            else:
                entry = tarfile.TarInfo(member[0])
                entry.size = len(member[1])
                opened.addfile(entry, io.BytesIO(member[1]))
    return buffer.getvalue()


def link(kind: bytes, name: str, target: Path) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type = kind
    entry.linkname = target.as_posix()
    return entry


def sparse_giant() -> bytes:
    """A tar of 2 kB with a file of 8 GiB, nearly all of it a hole (GNU's old format)."""
    entry = tarfile.TarInfo("cat/1.jpg")
    entry.type = tarfile.GNUTYPE_SPARSE
    entry.size = 512
    block = bytearray(entry.tobuf(tarfile.GNU_FORMAT))
    block[386:410] = b"00000000000\0" + b"00000001000\0"
    block[483:495] = b"77777777777\0"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + bytes(512) + bytes(1024)


def overlapping_zip_bomb() -> bytes:
    """A zip of 12 members, 95 MB each, that all are one and the same 90 kB."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as opened:
        opened.writestr("cat/1.bmp", bytes(95_000_000))
        opened.filelist *= 12
    return buffer.getvalue()


def tar_bomb() -> bytes:
    """A tar.gz of 12 members of 150 MiB of zeros."""
    entry = tarfile.TarInfo("cat/1.bmp")
    entry.size = 150 * 1024**2
    zeros = gzip.compress(bytes(2**20), 9) * 150
    return (gzip.compress(entry.tobuf(), 1) + zeros) * 12


def tar_header_bomb() -> bytes:
    """A tar.gz whose extended header is 1 GiB long, which readers take into memory."""
    entry = tarfile.TarInfo("././@PaxHeader")
    entry.type = tarfile.XHDTYPE
    entry.size = 2**30
    return gzip.compress(entry.tobuf(), 1) + gzip.compress(bytes(2**20), 9) * 1024


def zip_of_many(members: int, announced: int) -> bytes:
    """A zip whose directory names one member again and again, and announces a number of its own."""
    data = zip_of({"1.jpg": b"x"})
    directory, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    entries = data[directory:end] * members
    zip64_end = struct.pack(
        "<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, announced, announced, len(entries), directory
    )
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, directory + len(entries), 1)
    plain = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return data[:directory] + entries + zip64_end + locator + plain


def encrypted_zip() -> bytes:
    data = bytearray(zip_of({"cat/1.jpg": encoded("JPEG")}))
    data[data.index(b"PK\x03\x04") + 6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def lying_zip() -> bytes:
    """A zip whose directory says 10 bytes for a member of 10 MB."""
    data = bytearray(zip_of({"cat/1.bmp": bytes(10_000_000)}))
    directory = data.index(b"PK\x01\x02")
    data[directory + 24 : directory + 28] = (10).to_bytes(4, "little")
    return bytes(data)
