"""The body of Decode: from a folder of files to blocks and records. No torch: the backbone is handed in."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import facts
import files
import numpy as np
from blocks import MAX_ROWS, Block
from decoding import Decoded
from files import File
from numpy.typing import NDArray
from prepared import RECORDS, existing
from workers import Started, Workers

if TYPE_CHECKING:
    from features import FrozenBackbone

# Files that the workers are ahead of the backbone, and the pixels of them that may wait in memory.
MAX_AHEAD = 32
MAX_AHEAD_BYTES = 8 * 1024**2
# Images that go through the backbone together. On CPUs small batches are faster by half: their buffers stay
# small enough for malloc to reuse them.
BATCH_IMAGES = 8
# Lines of progress over the whole job.
PROGRESS_LINES = 10
# What a record says of its content alone, whatever the file is called and wherever it lies.
CONTENT_FACTS = (
    *("width", "height", "format", "mode", "phash", "brightness", "contrast", "saturation", "remarks"),
    *("block", "row"),
)
# Remarks that a file owes to its name or place; another file of its content may have others.
PLACE_REMARKS = (facts.OTHER_EXTENSION, files.REPEATED_NAME)

Facts = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """The job's parameters."""

    backbone: str
    image_size: int
    seed: int
    augmented_views: int
    pretrained: bool

    @property
    def ahead(self) -> int:
        """How many files the workers may be ahead."""
        return max(2, min(MAX_AHEAD, MAX_AHEAD_BYTES // (3 * self.image_size**2)))


@dataclass(frozen=True)
class Outputs:
    """Where records and blocks go, a folder for what is temporary, and the host that the records are named after."""

    decoded: Path
    blocks: Path
    scratch: Path
    host: str


class OpenBlock:
    """The block that is being filled: its images, and the files that wait for its name."""

    def __init__(self, settings: Settings, backbone: FrozenBackbone, outputs: Outputs) -> None:
        self._settings = settings
        self._backbone = backbone
        self._outputs = outputs
        self._block = Block(outputs.scratch, settings.image_size, 1 + settings.augmented_views, backbone.feature_size)
        self._facts: dict[bytes, Facts] = {}
        self._batch: list[tuple[bytes, NDArray[np.uint8]]] = []
        self.files: list[tuple[File, bytes]] = []

    @property
    def is_full(self) -> bool:
        return len(self._facts) >= MAX_ROWS

    def __bool__(self) -> bool:
        return bool(self._facts)

    def add(self, digest: bytes, image: Decoded) -> None:
        row = self._block.add(digest.hex(), image.square, image.thumbnail)
        self._facts[digest] = {**image.facts, "phash": facts.perceptual_hash(image.hashed_pixels), "row": row}
        self._batch.append((digest, image.square))
        if len(self._batch) >= BATCH_IMAGES:
            self._add_features()

    def close(self) -> dict[bytes, Facts]:
        """Writes the block; returns the facts of its images, by content."""
        if self._batch:
            self._add_features()
        name = self._block.close(self._outputs.blocks)
        return {digest: {**known, "block": name} for digest, known in self._facts.items()}

    def discard(self) -> None:
        self._block.discard()

    def _add_features(self) -> None:
        squares = np.stack([square for _, square in self._batch])
        # Of content and SEED, so that an image's augmented views do not hang on what it comes with.
        seeds = [int.from_bytes(digest[:4], "big") ^ self._settings.seed for digest, _ in self._batch]
        self._block.add_features(self._backbone.features(squares, 1 + self._settings.augmented_views, seeds))
        self._batch.clear()


class Progress:
    """Lines on standard output."""

    def __init__(self, started: float) -> None:
        self.total = 0
        self.done = 0
        self._job_started = started
        self._started = time.monotonic()

    def say(self, line: str) -> None:
        print(f"[{time.monotonic() - self._job_started:6.1f} s] {line}", flush=True)

    def advance(self) -> None:
        """Counts a file, and speaks when another of `PROGRESS_LINES` equal parts of the work is done."""
        before, self.done = self.done, self.done + 1
        if before * PROGRESS_LINES // self.total != self.done * PROGRESS_LINES // self.total:
            left = (time.monotonic() - self._started) / self.done * (self.total - self.done)
            self.say(f"{self.done} of {self.total} files, about {left:.0f} s left.")


class Job:
    """One pass over a dataset's new files."""

    def __init__(
        self, settings: Settings, workers: Workers, backbone: FrozenBackbone, outputs: Outputs, started: float
    ) -> None:
        self._settings = settings
        self._workers = workers
        self._backbone = backbone
        self._outputs = outputs
        self._progress = Progress(started)
        self._block = OpenBlock(settings, backbone, outputs)
        # By content: what a record says of it (as JSON, which takes a fifth of the memory), or why it is bad.
        self._known: dict[bytes, str] = {}
        self._bad: dict[bytes, tuple[str, str]] = {}
        # Contents that workers have, or that the open block has.
        self._on_their_way: set[bytes] = set()
        # Keys and lines.
        self._lines: list[tuple[str, str]] = []
        self._labels = self._blocks = 0
        self._decoded = self._reused = self._quarantined = 0

    def run(self, dataset: Path, base: Path) -> None:
        """Decodes what lies below `dataset` and is not known in `base`, if there is one; writes all outputs.

        Raises JobError `MissingInput` when `base` is there without its records.
        """
        try:
            self._read_base(base)
            self._decode(dataset)
            self._write()
        finally:
            self._block.discard()

    def _read_base(self, folder: Path) -> None:
        if not folder.is_dir():
            return
        with existing(folder / RECORDS).open(encoding="utf-8") as file:
            for line in file:
                record = json.loads(line)
                if "block" in record:
                    self._known[bytes.fromhex(record["sha256"])] = _content_facts(record)

    def _decode(self, dataset: Path) -> None:
        found = files.in_folder(dataset)
        self._progress.total = len(found)
        self._progress.say(f"Found {len(found)} files; {self._workers.count} workers.")
        plain: list[File] = []
        for file in found:
            if not files.is_archive(file):
                plain.append(file)
                continue
            self._add_all(plain)
            plain = []
            self._add_archive(file)
        self._add_all(plain)
        # Even an empty one if it is the only one: SageMaker takes no empty folder as the next job's input.
        if self._block or not self._blocks:
            self._close_block()
        self._progress.say(
            f"Done: decoded {self._decoded}, reused {self._reused}, quarantined {self._quarantined} "
            f"of {self._progress.total} files."
        )

    def _add_archive(self, archive: File) -> None:
        folder = self._outputs.scratch / "archive"
        folder.mkdir()
        refused = self._workers.unpack(archive.path, folder)
        if refused is not None:
            self._quarantine(archive, _sha256(archive.path), refused.reason, refused.hint, unsafe=refused.unsafe)
            self._progress.advance()
        else:
            count = sum(1 for _ in files.in_archive(archive, folder))
            self._progress.total += count - 1
            self._progress.say(f"Unpacked {archive.key}: {count} files.")
            self._add_all(files.in_archive(archive, folder))
        shutil.rmtree(folder)

    def _add_all(self, found: Iterable[File]) -> None:
        """Takes files in the order of their keys; the workers are some files ahead."""
        waiting: deque[tuple[File, bytes, Started | None]] = deque()
        for file in found:
            if (begun := self._begin(file)) is not None:
                waiting.append(begun)
            else:
                self._progress.advance()
            if len(waiting) > self._settings.ahead:
                self._finish(*waiting.popleft())
        while waiting:
            self._finish(*waiting.popleft())

    def _begin(self, file: File) -> tuple[File, bytes, Started | None] | None:
        """Hands a file to the workers, unless there is nothing to decode (None) or its content is known."""
        if files.is_ignored(file.key):
            self._add_record(file, None, ignored=True)
        elif file.problem:
            self._quarantine(file, None, *file.problem)
        elif file.holds_labels:
            name = f"{self._labels}-{self._outputs.host}.txt"
            self._labels += 1
            shutil.copyfile(file.path, self._outputs.decoded / name)
            self._add_record(file, _sha256(file.path), size=file.size, labels=name)
        else:
            digest = _sha256(file.path)
            if digest in self._known or digest in self._bad or digest in self._on_their_way:
                return file, digest, None
            self._on_their_way.add(digest)
            return file, digest, self._workers.start_decoding(file.path, self._settings.image_size)
        return None

    def _finish(self, file: File, digest: bytes, started: Started | None) -> None:
        if started is not None:
            outcome = self._workers.decoded(started)
            if isinstance(outcome, Decoded):
                self._block.add(digest, outcome)
                self._decoded += 1
            else:
                self._bad[digest] = outcome.reason, outcome.hint
        elif digest not in self._bad:
            self._reused += 1
        self._progress.advance()
        if digest in self._bad:
            self._quarantine(file, digest, *self._bad[digest])
        elif digest in self._known:
            self._add_usable(file, digest)
        else:
            self._block.files.append((file, digest))
            if self._block.is_full:
                self._close_block()
                self._block = OpenBlock(self._settings, self._backbone, self._outputs)

    def _close_block(self) -> None:
        for digest, known in self._block.close().items():
            self._known[digest] = _content_facts(known)
            self._on_their_way.discard(digest)
        self._blocks += 1
        for file, digest in self._block.files:
            self._add_usable(file, digest)

    def _add_usable(self, file: File, digest: bytes) -> None:
        known = json.loads(self._known[digest])
        remarks = [*known["remarks"], *facts.remarks_on_name(file.key, known["format"]), *file.remarks]
        self._add_record(file, digest, **{**known, "size": file.size, "remarks": sorted(remarks)})

    def _quarantine(self, file: File, digest: bytes | None, reason: str, hint: str, unsafe: bool = False) -> None:
        self._quarantined += 1
        self._add_record(file, digest, size=file.size, reason=reason, hint=hint, unsafe=unsafe)

    def _add_record(self, file: File, digest: bytes | None, **content: Any) -> None:
        record = {"key": file.key, "source": file.source, **content}
        if "ignored" not in content:
            record["sha256"] = digest.hex() if digest else None
        self._lines.append((file.key, json.dumps(record, ensure_ascii=False, sort_keys=True)))

    def _write(self) -> None:
        outputs = self._outputs
        self._lines.sort()
        with (outputs.decoded / f"records-{outputs.host}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for _, line in self._lines)
        summary = {"weights_sha256": self._backbone.weights_sha256}
        # Last, so that a folder with it is a whole one.
        (outputs.decoded / f"decode-{outputs.host}.json").write_text(json.dumps(summary) + "\n", "utf-8")


def _content_facts(record: Facts) -> str:
    known = {name: record[name] for name in CONTENT_FACTS}
    known["remarks"] = [remark for remark in known["remarks"] if remark not in PLACE_REMARKS]
    return json.dumps(known)


def _sha256(file: Path) -> bytes:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").digest()
