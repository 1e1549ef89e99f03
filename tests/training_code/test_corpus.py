"""Decode on a dataset made by an enemy (`corpus`): nothing crashes, nothing escapes, everything is named."""

import io
import sys
from collections import Counter
from pathlib import Path

import images
import pytest
from PIL import Image

from tests.training_code import corpus
from tests.training_code.decode_runs import DecodeRun, run_decode

MAX_RSS = 1024**3


@pytest.fixture(scope="module")
def escaped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the archives try to write."""
    return tmp_path_factory.mktemp("escape") / "escaped.jpg"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, escaped: Path) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    corpus.make(folder, escaped)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, dataset: Path) -> DecodeRun:
    return run_decode(dataset, tmp_path_factory.mktemp("run") / "ml", cores=2, PYTHONWARNINGS="error")


def keys(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.slow
def test_the_corpus_is_what_it_should_be(dataset: Path) -> None:
    # GIVEN the corpus, THEN it has at least 200 different malformed images and 12 malicious archives
    malformed = {file.read_bytes() for file in (dataset / "cat").iterdir()}
    assert len(malformed) >= 200
    assert len([file for file in dataset.iterdir() if file.is_file()]) >= 12 + 2
    # AND the bombs are small and real
    bomb = (dataset / "cat" / "bomb.png").read_bytes()
    assert len(bomb) < 100_000
    assert int.from_bytes(bomb[16:20], "big") == int.from_bytes(bomb[20:24], "big") == 50_000
    with Image.open(io.BytesIO((dataset / "cat" / "frames.gif").read_bytes())) as frames:
        assert getattr(frames, "n_frames", 1) == 10_000


@pytest.mark.slow
def test_every_file_is_named_once_and_usable_or_explained(run: DecodeRun, dataset: Path) -> None:
    # WHEN Decode has run on it, THEN it ended well
    assert run.status == 0, run.output
    records = run.records()

    # AND every file has one record; an archive has one itself or those of its members
    assert Counter(record["key"] for record in records).most_common(1)[0][1] == 1
    assert {record["source"] for record in records} == keys(dataset)
    for record in records:
        if "block" in record:
            continue
        # AND what is not usable has a reason and a next step
        assert record["reason"].startswith(("The file ", "The archive ", "UnsafeArchive: ")), record
        assert record["hint"], record
        assert "\n" not in record["reason"], record


@pytest.mark.slow
def test_good_images_among_bad_ones_are_usable(run: DecodeRun, dataset: Path) -> None:
    usable = {record["key"] for record in run.records() if "block" in record}
    good = {key for key in keys(dataset) if key.startswith("good/")}
    assert good | set(corpus.GOOD_MEMBERS) <= usable


@pytest.mark.slow
def test_archives_are_refused_for_what_they_do(run: DecodeRun) -> None:
    reasons = {record["key"]: record["reason"] for record in run.records() if "reason" in record}
    assert {record["key"] for record in run.records() if record.get("unsafe")} == set(corpus.UNSAFE_ARCHIVES)
    expected = {
        "absolute.zip": "leave the archive",
        "symlink.tar": "link or a device",
        "sparse.tar": "times its size",
        "overlapping-bomb.zip": "times its size",
        "bomb.tar.gz": "times its size",
        "header-bomb.tar.gz": "takes more memory" if sys.platform == "linux" else "",
        "million.zip": "too large",
        "lying-number.zip": "takes more memory" if sys.platform == "linux" else "too large",
        "million.tar.gz": "too large",
        "encrypted.zip": "encrypted",
        "cut.tar.gz": "cannot be unpacked",
        "no-archive.zip": "cannot be unpacked",
        "nested.zip/a.zip": "another archive",
        "lying-size.zip/cat/1.bmp": "damaged in the archive",
    }
    for key, words in expected.items():
        assert words in reasons[key], (key, reasons[key])


@pytest.mark.slow
def test_bombs_are_refused_as_too_large(run: DecodeRun) -> None:
    reasons = {record["key"]: record.get("reason", "usable") for record in run.records()}
    for name in ("bomb.png", "whole-bomb.png", "bomb.webp", "bomb.tiff", "gif-claims-0.gif"):
        assert "too large to decode" in reasons[f"cat/{name}"], (name, reasons[f"cat/{name}"])
    # A film is no bomb to one who takes its first frame.
    assert reasons["cat/frames.gif"] == "usable"


@pytest.mark.slow
def test_nothing_is_written_elsewhere(run: DecodeRun, dataset: Path, escaped: Path) -> None:
    assert not escaped.exists()
    assert not list(escaped.parent.iterdir())
    assert {entry.name for entry in (run.base / "processing").iterdir()} == {"input", "output"}
    assert {entry.name for entry in run.decoded.parent.iterdir()} == {"decoded", "blocks"}
    assert {entry.name for entry in run.decoded.iterdir()} == {"records-algo-1.jsonl", "decode-algo-1.json"}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs two cores set apart, and limits that are enforced")
def test_memory_stays_below_a_gibibyte(run: DecodeRun) -> None:
    # GIVEN pictures that take nearly all that one may, among files that would take far more
    assert images.MAX_DECODING_BYTES >= 96 * 1024**2

    # THEN Decode with two workers, and all processes of it together, took less than 1 GiB at their peak
    assert run.peak_rss <= MAX_RSS, f"{run.peak_rss / 1024**2:.0f} MiB"
