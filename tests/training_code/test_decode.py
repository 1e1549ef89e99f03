"""Decode: blocks, records, what is reused, and what a file can do to it."""

import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blocks
import decode
import decode_job
import decoding
import facts
import features
import images
import numpy as np
import prepared
import pytest
import workers
from PIL import Image

from tests.training_code.decode_runs import DECODE, run_decode

BACKBONE = "regnet_x_400mf"
CONTENT = ("sha256", "phash", "width", "height", "format", "mode", "brightness", "contrast", "saturation")


def outputs(base: Path) -> tuple[Path, Path]:
    folder = base / "processing" / "output"
    return folder / "decoded", folder / "blocks"


def read_records(base: Path, host: str = "algo-1") -> dict[str, dict[str, Any]]:
    lines = prepared.read_lines(outputs(base)[0] / f"records-{host}.jsonl")
    keys = [record["key"] for record in lines]
    assert keys == sorted(set(keys))
    return {record["key"]: record for record in lines}


def names_of_blocks(base: Path) -> set[str]:
    """Names of the blocks, of which each has its three files."""
    found = [{file.stem for file in (outputs(base)[1] / kind).iterdir()} for kind in ("squares", "features")]
    assert found[0] == found[1] == {file.stem for file in (outputs(base)[1] / "thumbnails").iterdir()}
    return found[0]


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def write(file: Path, content: bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return buffer.getvalue()


def noise(seed: int, width: int = 60, height: int = 40) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (height // 4, width // 4, 3)).astype(np.uint8)
    return encode(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def test_blocks_hold_pixels_features_and_thumbnails_of_each_image(
    tmp_path: Path, dataset_dir: Path, run_job: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN 20 images, more than two blocks hold, and more than one batch of each
    monkeypatch.setattr(decode_job, "MAX_ROWS", 9)
    for number in range(20):
        write(dataset_dir / f"cat-{number % 2}" / f"{number:02}.png", noise(number))

    # WHEN they are decoded
    assert run_job(decode, tmp_path) == 0

    # THEN each has a place, in the order of the keys
    found = read_records(tmp_path)
    places = [(record["block"], record["row"]) for record in found.values()]
    assert [row for _, row in places] == [*range(9), *range(9), 0, 1]
    assert {block for block, _ in places} == names_of_blocks(tmp_path)
    _, folder = outputs(tmp_path)
    network = features.FrozenBackbone(BACKBONE, 32, None)
    for key, record in found.items():
        # AND at that place are its pixels, its features, and a thumbnail
        square = np.load(folder / "squares" / f"{record['block']}.npy")[record["row"]]
        data = (dataset_dir / key).read_bytes()
        assert np.array_equal(square, images.decode_square(data, 32))
        stored = np.load(folder / "features" / f"{record['block']}.npy")[record["row"]]
        assert np.allclose(stored, network.features(square[None], 1, [0])[0], atol=1e-4)
        with zipfile.ZipFile(folder / "thumbnails" / f"{record['block']}.zip") as opened:
            thumbnail = Image.open(io.BytesIO(opened.read(f"{record['row']}.jpg")))
        assert (thumbnail.format, thumbnail.size) == ("JPEG", (60, 40))


@pytest.mark.parametrize("rows", [0, 1, 99, 100_000])
def test_growing_arrays_are_what_numpy_writes(tmp_path: Path, rows: int) -> None:
    # GIVEN an array that is appended to in two parts
    whole = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    growing = blocks.GrowingArray(tmp_path / "grown.npy", np.float32, (3,))
    growing.append(whole[: rows // 2])
    growing.append(whole[rows // 2 :])
    growing.close()

    # WHEN numpy reads it, THEN it is the array, byte for byte as numpy saves it
    np.save(tmp_path / "saved.npy", whole)
    assert np.array_equal(np.load(tmp_path / "grown.npy"), whole)
    assert (tmp_path / "grown.npy").read_bytes() == (tmp_path / "saved.npy").read_bytes()


def test_same_input_makes_the_same_bytes_with_any_number_of_workers(
    tmp_path: Path, run_job: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN images of very different cost, an archive, and augmented views
    written = []
    for count in (1, 3):
        base = tmp_path / str(count)
        dataset = base / "processing" / "input" / "dataset"
        write(dataset / "a" / "big.png", noise(0, 1000, 800))
        for number in range(10):
            write(dataset / "b" / f"{number}.png", noise(1 + number))
        write(dataset / "more.zip", zipped({"c/1.png": noise(50), "c/2.png": noise(51)}))

        # WHEN they are decoded by one worker and by three
        monkeypatch.setattr(workers, "cores", lambda count=count: count)
        assert run_job(decode, base, AUGMENTED_VIEWS="1") == 0
        files = sorted(file for file in (base / "processing" / "output").rglob("*") if file.is_file())
        written.append({file.relative_to(base).as_posix(): file.read_bytes() for file in files})

    # THEN all files are the same, byte for byte, and nothing temporary is left
    assert written[0] == written[1]
    assert len(written[0]) == 5


def test_augmented_views_are_an_images_own(
    tmp_path: Path, run_job: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN an image alone, and the same one behind another
    found = []
    for others in ((), ("a",)):
        base = tmp_path / str(len(others))
        write(base / "processing" / "input" / "dataset" / "cat" / "z.png", noise(0))
        for name in others:
            write(base / "processing" / "input" / "dataset" / "cat" / f"{name}.png", noise(1))

        # WHEN they are decoded with views
        assert run_job(decode, base, AUGMENTED_VIEWS="2") == 0
        (name,) = names_of_blocks(base)
        found.append(np.load(outputs(base)[1] / "features" / f"{name}.npy")[-1])

    # THEN its views are the same, and differ from one another
    assert np.allclose(found[0], found[1], atol=1e-4)
    assert found[0].shape[0] == 3
    assert not np.allclose(found[0][1], found[0][2], atol=1e-2)


def test_records_tell_what_a_file_is(tmp_path: Path, dataset_dir: Path, run_job: Callable[..., int]) -> None:
    # GIVEN an unusual photo: turned, grey, named as another format
    picture = Image.new("L", (80, 60), 255)
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encode(picture, "JPEG", exif=exif)
    write(dataset_dir / "cat" / "1.png", content)

    # WHEN it is decoded, THEN the record says so
    assert run_job(decode, tmp_path) == 0
    record = read_records(tmp_path)["cat/1.png"]
    assert record["source"] == "cat/1.png"
    assert record["size"] == len(content)
    assert (record["width"], record["height"]) == (60, 80)
    assert (record["format"], record["mode"]) == ("JPEG", "L")
    assert (record["brightness"], record["contrast"], record["saturation"]) == (1, 0, 0)
    assert record["remarks"] == [facts.OTHER_EXTENSION, images.TURNED]
    assert len(record["phash"]) == len(record["block"]) // 2 == 16


def test_files_that_are_no_images_are_named(tmp_path: Path, dataset_dir: Path, run_job: Callable[..., int]) -> None:
    # GIVEN a good image among bad, ignored and misplaced files
    write(dataset_dir / "cat" / "good.png", noise(0))
    write(dataset_dir / "cat" / "empty.png", b"")
    write(dataset_dir / "cat" / "half.png", noise(1)[:200])
    write(dataset_dir / "cat" / "inner.zip", zipped({"1.png": noise(2)}))
    write(dataset_dir / "notes.txt", b"dear diary")
    write(dataset_dir / "README.md", b"about these photos")
    write(dataset_dir / "cat" / ".DS_Store", b"x")
    write(dataset_dir / "nothing.zip", zipped({}))

    # WHEN they are decoded
    assert run_job(decode, tmp_path) == 0

    # THEN each is recorded once, with a reason and a next step
    found = read_records(tmp_path)
    assert [key for key, record in found.items() if record.get("ignored")] == ["README.md", "cat/.DS_Store"]
    assert [key for key, record in found.items() if "block" in record] == ["cat/good.png"]
    bad = {key: record for key, record in found.items() if "reason" in record}
    expected = {
        "cat/empty.png": "empty",
        "cat/half.png": "truncated or damaged",
        "cat/inner.zip": "inside a folder",
        "notes.txt": "no image",
        "nothing.zip": "holds no files",
    }
    assert set(bad) == set(expected)
    for key, words in expected.items():
        assert words in bad[key]["reason"]
        assert bad[key]["reason"].startswith(("The file ", "The archive "))
        assert bad[key]["hint"]
        assert bad[key]["unsafe"] is False
    assert len(bad["notes.txt"]["sha256"]) == 64


def test_nothing_usable_leaves_one_empty_block(
    tmp_path: Path, dataset_dir: Path, run_job: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    # GIVEN nothing but a file that is no image
    write(dataset_dir / "notes.txt", b"dear diary")

    # WHEN it is decoded, THEN that is no error yet, and no output folder is empty
    assert run_job(decode, tmp_path) == 0
    (name,) = names_of_blocks(tmp_path)
    assert np.load(outputs(tmp_path)[1] / "squares" / f"{name}.npy").shape == (0, 32, 32, 3)
    assert np.load(outputs(tmp_path)[1] / "features" / f"{name}.npy").shape[:2] == (0, 1)
    assert "decoded 0, reused 0, quarantined 1 of 1 files" in capsys.readouterr().out


def test_what_the_base_knows_is_not_decoded_again(
    tmp_path: Path, dataset_dir: Path, run_job: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    # GIVEN a decoded version
    write(dataset_dir / "cat" / "1.png", noise(1))
    write(dataset_dir / "cat" / "2.jpg", noise(2))
    assert run_job(decode, tmp_path) == 0
    old = read_records(tmp_path)
    base = tmp_path / "next" / "processing" / "input" / "base"
    base.mkdir(parents=True)
    prepared.write_lines(base / "records.jsonl", [{**record, "etag": "x"} for record in old.values()])

    # WHEN the next one brings one of its images under another name, twice, and a new one
    dataset = base.parent / "dataset"
    write(dataset / "dog" / "a.png", noise(2))
    write(dataset / "dog" / "b.png", noise(2))
    write(dataset / "dog" / "new.png", noise(3))
    assert run_job(decode, tmp_path / "next") == 0

    # THEN that one keeps its place and facts, and only the new one is in a block
    found = read_records(tmp_path / "next")
    for key in ("dog/a.png", "dog/b.png"):
        assert {name: found[key][name] for name in (*CONTENT, "block", "row")} == {
            name: old["cat/2.jpg"][name] for name in (*CONTENT, "block", "row")
        }
        # AND what the old name was remarked for does not stick to the new one
        assert old["cat/2.jpg"]["remarks"] == [facts.OTHER_EXTENSION]
        assert found[key]["remarks"] == []
    assert names_of_blocks(tmp_path / "next") == {found["dog/new.png"]["block"]}
    assert "decoded 1, reused 2, quarantined 0 of 3 files" in capsys.readouterr().out


def test_a_base_without_records_is_an_error(
    tmp_path: Path, dataset_dir: Path, run_job: Callable[..., int], failure: Callable[[Path], dict[str, str]]
) -> None:
    (tmp_path / "processing" / "input" / "base").mkdir()
    assert run_job(decode, tmp_path) == 1
    assert failure(tmp_path)["code"] == "MissingInput"


def test_equal_files_share_a_place(tmp_path: Path, dataset_dir: Path, run_job: Callable[..., int]) -> None:
    # GIVEN copies of an image, one of them in an archive, and copies of a bad file
    for key in ("cat/1.png", "cat/2.png", "dog/1.png"):
        write(dataset_dir / key, noise(0))
    write(dataset_dir / "copy.zip", zipped({"dog/9.png": noise(0)}))
    write(dataset_dir / "bad" / "1.png", b"no image")
    write(dataset_dir / "bad" / "2.png", b"no image")

    # WHEN they are decoded, THEN there is one row, and each file has its record
    assert run_job(decode, tmp_path) == 0
    found = read_records(tmp_path)
    usable = [record for record in found.values() if "block" in record]
    assert [(record["key"], record["row"]) for record in usable] == [
        *(("cat/1.png", 0), ("cat/2.png", 0), ("copy.zip/dog/9.png", 0), ("dog/1.png", 0)),
    ]
    assert found["copy.zip/dog/9.png"]["source"] == "copy.zip"
    assert found["bad/1.png"]["reason"] == found["bad/2.png"]["reason"]


def test_archives_are_read_like_folders(tmp_path: Path, dataset_dir: Path, run_job: Callable[..., int]) -> None:
    # GIVEN archives with labels files, at the top and beside class folders that lie in one folder
    write(dataset_dir / "flat.zip", zipped({"labels.csv": b"path,label\n", "1.png": noise(1), "._1.png": b"x"}))
    with tarfile.open(dataset_dir / "wrapped.tar.gz", "w:gz") as opened:
        for name, content in {
            "photos/labels.csv": b"path,label\n1.png,cat\n",
            "photos/cat/2.png": noise(2),
            "photos/cat/deep.csv": b"a,b\n",
        }.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            opened.addfile(entry, io.BytesIO(content))
    write(dataset_dir / "top.manifest", b"{}\n")

    # WHEN they are decoded
    assert run_job(decode, tmp_path) == 0

    # THEN images, labels files and ignored files are told apart, and the labels lie beside the records
    found = read_records(tmp_path)
    assert {key: sorted({"block", "labels", "ignored", "reason"} & set(record)) for key, record in found.items()} == {
        "flat.zip/._1.png": ["ignored"],
        "flat.zip/1.png": ["block"],
        "flat.zip/labels.csv": ["labels"],
        "top.manifest": ["labels"],
        "wrapped.tar.gz/photos/cat/2.png": ["block"],
        "wrapped.tar.gz/photos/cat/deep.csv": ["reason"],
        "wrapped.tar.gz/photos/labels.csv": ["labels"],
    }
    decoded, _ = outputs(tmp_path)
    labels = found["wrapped.tar.gz/photos/labels.csv"]
    assert labels["labels"].endswith("-algo-1.txt")
    assert (decoded / labels["labels"]).read_bytes() == b"path,label\n1.png,cat\n"
    assert labels["source"] == "wrapped.tar.gz"


def test_repeated_and_odd_names_in_archives(tmp_path: Path, dataset_dir: Path, run_job: Callable[..., int]) -> None:
    # GIVEN a tar with a name in Latin-1, a deep path, a name with a line end, and one name twice
    deep = "/".join(["d"] * 200) + "/1.png"
    with tarfile.open(dataset_dir / "odd.tar", "w", encoding="latin-1") as opened:
        for name, content in (
            *(("caf\u00e9/1.png", noise(1)), (deep, noise(2)), ("cat/a\nb.png", noise(3))),
            *(("cat/1.png", b"old"), ("./cat/1.png", noise(4))),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            opened.addfile(entry, io.BytesIO(content))

    # WHEN it is decoded, THEN all are usable, and of the repeated name the last one is
    assert run_job(decode, tmp_path) == 0
    found = read_records(tmp_path)
    expected = sorted(f"odd.tar/{name}" for name in ("caf\u00e9/1.png", deep, "cat/a\nb.png", "cat/1.png"))
    assert [key for key, record in found.items() if "block" in record] == expected == list(found)
    assert len(found["odd.tar/cat/1.png"]["remarks"]) == 1
    assert "several members" in found["odd.tar/cat/1.png"]["remarks"][0]


def test_hosts_write_records_of_their_own(tmp_path: Path, dataset_dir: Path, run_job: Callable[..., int]) -> None:
    # GIVEN the second of two instances
    (tmp_path / "config").mkdir()
    names = {"current_host": "algo-2", "hosts": ["algo-1", "algo-2"]}
    (tmp_path / "config" / "resourceconfig.json").write_text(json.dumps(names), "utf-8")
    write(dataset_dir / "cat" / "1.png", noise(0))
    write(dataset_dir / "labels.csv", b"path,label\n")

    # WHEN it decodes its part, THEN its files carry its name
    assert run_job(decode, tmp_path) == 0
    assert {file.name for file in outputs(tmp_path)[0].iterdir()} == {
        *("records-algo-2.jsonl", "decode-algo-2.json", "0-algo-2.txt"),
    }
    assert json.loads((outputs(tmp_path)[0] / "decode-algo-2.json").read_text("utf-8")) == {"weights_sha256": None}
    assert set(read_records(tmp_path, "algo-2")) == {"cat/1.png", "labels.csv"}


@pytest.mark.parametrize("name", ["SEED", "IMAGE_SIZE", "AUGMENTED_VIEWS", "PRETRAINED"])
def test_bad_environment_is_an_error(
    tmp_path: Path,
    dataset_dir: Path,
    run_job: Callable[..., int],
    failure: Callable[[Path], dict[str, str]],
    name: str,
) -> None:
    assert run_job(decode, tmp_path, **{name: "x"}) == 1
    assert failure(tmp_path)["code"] == "InvalidHyperParameter"
    assert name in failure(tmp_path)["message"]


def test_missing_weights_are_an_error(
    tmp_path: Path, dataset_dir: Path, run_job: Callable[..., int], failure: Callable[[Path], dict[str, str]]
) -> None:
    # GIVEN a job that wants pretrained weights, and none
    write(dataset_dir / "cat" / "1.png", noise(0))
    assert run_job(decode, tmp_path, PRETRAINED="true") == 1
    assert failure(tmp_path)["code"] == "WeightsMissing"


def test_a_file_that_takes_too_long_costs_that_file_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN good files, and one whose decoder waits for ever: a pipe that nobody writes to
    monkeypatch.setattr(workers, "DECODING_SECONDS", 2.0)
    good = write(tmp_path / "good.png", noise(0))
    os.mkfifo(tmp_path / "endless.png")
    with workers.Workers(2) as pool:
        started = [pool.start_decoding(file, 32) for file in (good, tmp_path / "endless.png", good)]

        # WHEN they are decoded
        first, endless, last = [pool.decoded(one) for one in started]

        # THEN that one was given up and its worker killed, and the others are usable, later ones too
        assert isinstance(endless, decoding.Refused)
        assert endless.reason == "The file takes longer than 2 s to decode."
        assert endless.hint
        for outcome in (first, last, pool.decoded(pool.start_decoding(good, 32))):
            assert isinstance(outcome, decoding.Decoded)


def test_a_worker_that_dies_costs_its_file_only(tmp_path: Path) -> None:
    # GIVEN a good file, and workers of which one is about to die
    good = write(tmp_path / "good.png", noise(0))
    with workers.Workers(2) as pool:
        dying = pool.start_decoding(good, 32)
        dying = workers.Started(good, 32, pool._pool.schedule(os.abort))

        # WHEN it has died, THEN its file is refused by name of the signal
        refused = pool.decoded(dying)
        assert isinstance(refused, decoding.Refused)
        assert "SIGABRT" in refused.reason
        assert refused.hint

        # AND the next files are decoded
        for _ in range(4):
            assert isinstance(pool.decoded(pool.start_decoding(good, 32)), decoding.Decoded)


TAKE = """
import decoding
with decoding.limited_memory(64 << 20):
    small = bytearray(16 << 20)
    try:
        bytearray(256 << 20)
    except MemoryError:
        print("refused")
print(len(bytearray(256 << 20)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="macOS knows the limit and does not enforce it")
def test_memory_of_a_worker_is_limited_while_it_decodes() -> None:
    # GIVEN a process that takes more than it may, and the same again after the limit is lifted
    # WHEN it runs, THEN the first is refused and the second is not
    done = subprocess.run([sys.executable, "-c", TAKE], cwd=DECODE.parent, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["refused", str(256 << 20)]


def test_a_file_that_takes_too_much_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN a decoder that gets no memory
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(images, "decode", fail)

    # WHEN a file is decoded, THEN the reason is the memory
    refused = decoding.decode(write(tmp_path / "1.png", noise(0)), 32, images.MAX_DECODING_BYTES)
    assert isinstance(refused, decoding.Refused)
    assert "memory" in refused.reason


def test_an_archive_that_takes_too_long_is_refused(
    tmp_path: Path, dataset_dir: Path, run_job: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN an archive of many members, and hardly any time
    monkeypatch.setattr(workers, "UNPACKING_SECONDS", 0.05)
    write(dataset_dir / "many.zip", zipped({f"cat/{number}.png": b"x" for number in range(4000)}))
    write(dataset_dir / "dog" / "1.png", noise(0))

    # WHEN it is decoded, THEN it is refused, and the rest is usable
    assert run_job(decode, tmp_path) == 0
    found = read_records(tmp_path)
    assert list(found) == ["dog/1.png", "many.zip"]
    assert "takes longer" in found["many.zip"]["reason"]
    assert "block" in found["dog/1.png"]


@pytest.mark.slow
def test_as_a_process_it_says_how_far_it_is(tmp_path: Path) -> None:
    # GIVEN some images
    for number in range(20):
        write(tmp_path / "photos" / "cat" / f"{number}.png", noise(number))

    # WHEN Decode runs as SageMaker runs it, where every warning is an error
    run = run_decode(tmp_path / "photos", tmp_path / "ml", PYTHONWARNINGS="error")

    # THEN it ends well, has told its progress, and left nothing but its outputs
    assert run.status == 0, run.output
    assert "10 of 20 files, about" in run.output
    assert "decoded 20, reused 0, quarantined 0 of 20 files" in run.output
    assert {entry.name for entry in run.decoded.parent.iterdir()} == {"decoded", "blocks"}
    assert len(run.records()) == 20
