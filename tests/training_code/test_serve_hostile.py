"""Serve against files that are made to break it."""

import base64
import collections
import concurrent.futures
import itertools
import json
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import psutil
import pytest
import serving_requests
from PIL import Image

from .serving import check_error_document, encoded, invoke, make_model, picture, serving

KINDS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif", "TIFF": "image/tiff"}
SINGLE, IN_BATCHES = 1500, 9000
MAX_MEMORY = 512 * 1024**2


def mutated(whole: bytes, draw: np.random.Generator) -> bytes:
    """The file with some bytes changed, cut, doubled or put in; often in its header, where the structure is."""
    data = bytearray(whole)
    for _ in range(int(draw.integers(1, 5))):
        place = int(draw.integers(0, len(data) if draw.random() < 0.5 else min(64, len(data))))
        match int(draw.integers(0, 6)):
            case 0 | 1:
                data[place] = int(draw.integers(0, 256))
            case 2:
                data[place] = 0xFF
            case 3:
                del data[place : place + int(draw.integers(1, 16))]
            case 4:
                data[place:place] = data[place // 2 : place // 2 + int(draw.integers(1, 32))]
            case _:
                del data[max(1, place) :]
        if not data:
            break
    return bytes(data)


def png_of(width: int, height: int) -> bytes:
    """A PNG of one bit a pixel that is as large as its header says, and tiny."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    pixels = b"".join(packer.compress(row * 1000) for _ in range(height // 1000)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels[:90_000]) + chunk(b"IEND", b"")


def bombs() -> dict[str, tuple[bytes, int]]:
    """Files that ask for more than they look like, and the status that each gets."""
    frames = [Image.new("P", (16, 16), number % 256) for number in range(10_000)]
    gif = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], optimize=False)
    png = png_of(50_000, 50_000)
    assert len(png) < 100_000
    return {
        "PNG of 50,000 x 50,000": (png, 413),
        "GIF of 10,000 frames": (gif, 200),
        "PNG of 64 megapixels": (encoded(Image.new("RGB", (8000, 8000), "red"), "PNG"), 413),
        "PNG of 25 megapixels": (encoded(Image.new("RGB", (5000, 5000), "red"), "PNG"), 200),
        "JPEG of 64 megapixels": (encoded(Image.new("RGB", (8000, 8000), "red"), "JPEG"), 200),
        "progressive JPEG of 64 megapixels": (
            encoded(Image.new("RGB", (8000, 8000), "red"), "JPEG", progressive=True),
            413,
        ),
    }


class Memory(threading.Thread):
    """Watches how much memory a process holds, in bytes; `highest` is the most that was seen."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._process = psutil.Process(pid)
        self._end = threading.Event()
        self.highest = 0

    def run(self) -> None:
        while not self._end.wait(0.02):
            self.highest = max(self.highest, self._process.memory_info().rss)

    def __enter__(self) -> "Memory":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()


@pytest.mark.slow
def test_nothing_that_is_sent_ends_the_server(tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    # GIVEN 10,500 files made of whole ones by mutation, and bombs
    draw = np.random.default_rng(0)
    whole = {kind: [encoded(picture(seed), kind) for seed in range(4)] for kind in KINDS}
    corpus = [
        (kind, mutated(whole[kind][number % 4], draw))
        for number, kind in zip(range(SINGLE + IN_BATCHES), itertools.cycle(KINDS), strict=False)
    ]
    statuses: collections.Counter[int] = collections.Counter()
    with serving(tmp_path) as (client, process), Memory(process.pid) as memory:
        # WHEN they are sent one by one
        for kind, data in corpus[:SINGLE]:
            answer = invoke(client, data, KINDS[kind])
            statuses[answer.status_code] += 1
            if answer.status_code != 200:
                check_error_document(answer.json(), "InvalidImage", "ImageTooLarge")
        # AND in batches
        for start in range(SINGLE, len(corpus), serving_requests.MAX_LINES):
            batch = corpus[start : start + serving_requests.MAX_LINES]
            lines = [json.dumps({"image": base64.b64encode(data).decode()}) for _, data in batch]
            answer = invoke(client, "\n".join(lines).encode(), "application/jsonlines")
            documents = [json.loads(line) for line in answer.text.splitlines()]
            assert (answer.status_code, len(documents)) == (200, len(batch))
            for document in documents:
                if "predictions" not in document:
                    check_error_document(document, "InvalidImage", "ImageTooLarge")
        # AND the bombs, several at a time
        with concurrent.futures.ThreadPoolExecutor(4) as callers:
            for name, (data, status) in bombs().items():
                answers = callers.map(lambda data: invoke(client, data, "application/x-image"), [data] * 4)
                assert {answer.status_code for answer in answers} == {status}, name
        # THEN all is answered with 200 or 4xx in the contract's shape, the server lives, and its memory is bounded
        assert statuses.keys() <= {200, 400, 413}
        assert min(statuses[200], statuses[400]) > SINGLE / 20
        assert invoke(client, whole["PNG"][0], "image/png").status_code == 200
    assert memory.highest < MAX_MEMORY
