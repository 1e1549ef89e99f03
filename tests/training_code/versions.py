"""Sealed and decoded versions of datasets, made by hand, as Prepare finds them.

Facts, thumbnails and hashes come from Decode's own functions; features are what a test says they are, so
that no network runs.
"""

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import contract
import facts
import images
import numpy as np
import prepare
import pytest
from numpy.typing import NDArray
from PIL import Image

DATASET = "shapes"
IMAGE_SIZE = 32
FEATURES = 16
ENVIRONMENT = {
    "DATASET": DATASET,
    "BACKBONE": "regnet_x_400mf",
    "IMAGE_SIZE": str(IMAGE_SIZE),
    "SEED": "0",
    "BLOCKS_URI": "s3://bucket/prepared/shapes/recipe/blocks/",
}


@dataclass(frozen=True)
class Usable:
    """An image file; without features it has some of its own."""

    content: bytes
    features: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Bad:
    """A file that Decode has quarantined."""

    reason: str = "The file is truncated or damaged."
    unsafe: bool = False


@dataclass(frozen=True)
class Labels:
    """A labels file."""

    content: bytes


@dataclass(frozen=True)
class Ignored:
    """A file that is none of the user's data."""


File = Usable | Bad | Labels | Ignored
# By key. A member of an archive has the key `<archive>/<member>`.
Files = dict[str, File]


def jpeg(seed: int, size: tuple[int, int] = (48, 40), colour: tuple[int, int, int] = (128, 128, 128)) -> bytes:
    """A JPEG of coarse noise around a colour: no two seeds look the same."""
    noise = np.random.default_rng([seed, *colour]).integers(-90, 90, size=(6, 6, 1))
    pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
    return encoded(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def encoded(image: Image.Image, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


def photos(label: str, count: int, first: int = 0) -> Files:
    """`count` images of a class, all different."""
    seed = int.from_bytes(hashlib.sha256(label.encode()).digest()[:3], "big")
    return {f"{label}/{number}.jpg": Usable(jpeg(seed + number)) for number in range(first, first + count)}


def source_of(key: str) -> str:
    top = key.split("/")[0]
    return top if top.endswith((".zip", ".tar.gz")) else key


@dataclass
class Runs:
    """Prepare's runs on one dataset, version after version, below `base`."""

    base: Path
    versions: int = 0
    has_base: bool = True

    def run(self, files: Files, **environment: str) -> int:
        """Seals, decodes and prepares `files` as the next version; returns Prepare's exit status.

        What an earlier version knows is not decoded again, unless `has_base` is false.
        """
        before = self.root if self.versions else None
        self.versions += 1
        inputs = self.root / "processing" / "input"
        self._seal(inputs / "version", files)
        old = self._old(before) if before and self.has_base else {}
        self._decode(inputs, files, old, before)
        if before:
            (inputs / "splits").symlink_to(before / "processing" / "output" / "version")
        if before and self.has_base:
            (inputs / "base").symlink_to(before / "processing" / "output" / "prepared")
        given = {**ENVIRONMENT, **environment, "DATASET_VERSION": str(self.versions)}
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**given, "SAGEMAKER_BASE_DIR": str(self.root)}.items():
                patch.setenv(name, value)
            return contract.run(prepare.main, self.root / "output" / "message")

    @property
    def root(self) -> Path:
        """In place of /opt/ml, of the newest version."""
        return self.base / str(self.versions)

    @property
    def prepared(self) -> Path:
        return self.root / "processing" / "output" / "prepared"

    @property
    def version(self) -> Path:
        return self.root / "processing" / "output" / "version"

    def summary(self) -> dict[str, Any]:
        return read(self.prepared / "summary.json")

    def doctor(self) -> dict[str, Any]:
        return read(self.version / "doctor.json")

    def reasons(self) -> dict[str, str]:
        """Why files are quarantined."""
        return {entry["file"]: entry["reason"] for entry in self.doctor()["quarantined"]}

    def index(self) -> list[dict[str, Any]]:
        return lines(self.prepared / "index.jsonl")

    def splits(self) -> dict[str, str]:
        """By key."""
        return {entry["key"]: entry["split"] for entry in self.index()}

    def labels(self) -> dict[str, str]:
        """By key."""
        return {entry["key"]: entry["label"] for entry in self.index()}

    def failure(self) -> dict[str, str]:
        return read(self.root / "output" / "message")

    def finding(self, code: str) -> dict[str, Any]:
        (found,) = [finding for finding in self.doctor()["findings"] if finding["code"] == code]
        return dict(found)

    def _seal(self, folder: Path, files: Files) -> None:
        folder.mkdir(parents=True)
        contents: dict[str, bytes] = {}
        for key, file in sorted(files.items()):
            source = source_of(key)
            contents[source] = contents.get(source, b"") + repr((key, file)).encode()
        objects = [
            {"key": key, "size": len(content), "etag": hashlib.sha256(content).hexdigest()}
            for key, content in sorted(contents.items())
        ]
        (folder / "objects.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in objects), "utf-8")
        parent = self.versions - 1 or None
        seal = {"dataset": DATASET, "version": self.versions, "parent": parent, "objects": len(objects), "bytes": 1}
        seal |= {"added": len(objects), "removed": 0, "changed": 0, "sealed_at": "2026-11-22T14:39:12Z"}
        (folder / "seal.json").write_text(json.dumps(seal), "utf-8")
        diff = {"parent": parent, "added": sorted(contents), "removed": [], "changed": []}
        (folder / "diff.json").write_text(json.dumps(diff), "utf-8")

    def _old(self, before: Path) -> dict[str, str]:
        records = lines(before / "processing" / "output" / "prepared" / "records.jsonl")
        return {record["source"]: record["etag"] for record in records}

    def _decode(self, inputs: Path, files: Files, old: dict[str, str], before: Path | None) -> None:
        etags = {entry["key"]: entry["etag"] for entry in lines(inputs / "version" / "objects.jsonl")}
        (inputs / "decoded").mkdir()
        for kind in ("features", "thumbnails"):
            (inputs / kind).mkdir()
            for shared in (before / "processing" / "input" / kind).iterdir() if before else ():
                (inputs / kind / shared.name).symlink_to(shared.resolve())
        places: dict[str, dict[str, Any]] = {}
        features: list[NDArray[np.float32]] = []
        block = f"{self.versions:032x}"
        records = []
        with zipfile.ZipFile(inputs / "thumbnails" / f"{block}.zip", "w") as thumbnails:
            for key, file in sorted(files.items()):
                source = source_of(key)
                if old.get(source) == etags[source]:
                    continue
                record = {"key": key, "source": source, "size": 1}
                match file:
                    case Ignored():
                        records.append({"key": key, "source": source, "ignored": True})
                        continue
                    case Bad():
                        told = {"reason": file.reason, "hint": "Upload it again.", "unsafe": file.unsafe}
                        records.append({**record, "sha256": None, **told})
                        continue
                    case Labels():
                        name = f"{len(records)}-algo-1.txt"
                        (inputs / "decoded" / name).write_bytes(file.content)
                        digest = hashlib.sha256(file.content).hexdigest()
                        records.append({**record, "sha256": digest, "labels": name})
                        continue
                digest = hashlib.sha256(file.content).hexdigest()
                if digest not in places:
                    known, thumbnail = decoded(file.content)
                    thumbnails.writestr(f"{len(features)}.jpg", thumbnail)
                    places[digest] = {**known, "block": block, "row": len(features)}
                    vector = file.features
                    if vector is None:
                        vector = np.random.default_rng(int(digest[:8], 16)).random(FEATURES, dtype=np.float32)
                    features.append(vector)
                records.append({**record, "size": len(file.content), "sha256": digest, **places[digest]})
        array = np.array(features, dtype=np.float32).reshape(len(features), 1, -1 if features else FEATURES)
        np.save(inputs / "features" / f"{block}.npy", array)
        text = "".join(json.dumps(record) + "\n" for record in records)
        (inputs / "decoded" / "records-algo-1.jsonl").write_text(text, "utf-8")
        (inputs / "decoded" / "decode-algo-1.json").write_text('{"weights_sha256": null}', "utf-8")


def decoded(content: bytes) -> tuple[dict[str, Any], bytes]:
    """What Decode's record says of an image, and its thumbnail."""
    picture = images.decode(io.BytesIO(content), IMAGE_SIZE)
    small = facts.small(picture)
    known = facts.of_picture(picture, picture.scaled(IMAGE_SIZE))
    known["phash"] = facts.perceptual_hash(facts.hashed_pixels(small))
    return known, facts.thumbnail(small)


def read(file: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return document


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").split("\n") if line]
