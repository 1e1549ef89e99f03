"""Images that look the same, on the example photos and on many generated hashes."""

import io
import random
from collections.abc import Callable
from pathlib import Path

import duplicates
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from tests.training_code import versions
from tests.training_code.versions import Files, Runs, Usable

PHOTOS = Path(__file__).parents[2] / "examples" / "tuxpaint-photos"


def quality(image: Image.Image) -> bytes:
    return versions.encoded(image, quality=50)


def smaller(image: Image.Image) -> bytes:
    return versions.encoded(image.resize((image.width * 2 // 3, image.height * 2 // 3)))


def larger(image: Image.Image) -> bytes:
    return versions.encoded(image.resize((image.width * 2, image.height * 2)))


def brighter(image: Image.Image) -> bytes:
    return versions.encoded(ImageEnhance.Brightness(image).enhance(1.1))


def as_webp(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=60)
    return buffer.getvalue()


EDITS = [quality, smaller, larger, brighter, as_webp]


@pytest.fixture(scope="module")
def originals() -> dict[str, bytes]:
    """The example photos by key."""
    return {file.relative_to(PHOTOS).as_posix(): file.read_bytes() for file in sorted(PHOTOS.rglob("*.jpg"))}


def grouped(contents: list[bytes]) -> list[list[int]]:
    """Groups of images that look the same, by number."""
    known = [versions.decoded(content) for content in contents]
    hashes = np.array([int(facts["phash"], 16) for facts, _ in known], dtype=np.uint64)
    names = [str(hash(content)) for content in contents]
    return duplicates.several(duplicates.look_the_same(names, hashes, lambda number: known[number][1]).tolist())


def test_no_two_of_the_example_photos_look_the_same(originals: dict[str, bytes]) -> None:
    # GIVEN photos among which are coins and road signs that differ in little
    assert grouped(list(originals.values())) == []


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_edited_copies_are_found(originals: dict[str, bytes], edit: Callable[[Image.Image], bytes]) -> None:
    # GIVEN sixty photos and their edited copies
    chosen = [originals[key] for key in random.Random(0).sample(sorted(originals), 60)]
    copies = [edit(Image.open(io.BytesIO(content)).convert("RGB")) for content in chosen]

    # WHEN they are compared, THEN at least nine in ten pairs are found, and nothing else
    found = grouped([*chosen, *copies])
    assert all(second == first + 60 for first, second in found)
    assert len(found) >= 54


def test_planted_duplicates_across_splits_are_found_and_none_is_left(
    tmp_path: Path, originals: dict[str, bytes]
) -> None:
    # GIVEN the example photos sorted into splits, with 50 equal copies and 50 edited ones in other splits
    chance = random.Random(3)
    keys = sorted(originals)
    place = {key: ("train", "train", "train", "valid", "test")[number % 5] for number, key in enumerate(keys)}
    files: Files = {f"{place[key]}/{key}": Usable(originals[key]) for key in keys}
    planted = chance.sample(keys, 100)
    copy_of: dict[str, str] = {}
    for number, key in enumerate(planted):
        other = chance.choice([split for split in ("train", "valid", "test") if split != place[key]])
        label, name = key.split("/")
        content = originals[key]
        if number >= 50:
            content = EDITS[number % len(EDITS)](Image.open(io.BytesIO(content)).convert("RGB"))
        copy = f"{other}/{label}/{'equal' if number < 50 else 'edited'}-{name}"
        files[copy] = Usable(content)
        copy_of[copy] = f"{place[key]}/{key}"

    # WHEN the version is prepared
    runs = Runs(tmp_path)
    assert runs.run(files) == 0

    # THEN all equal and at least 45 edited copies are found, and no pair that was not planted
    document = runs.doctor()
    groups = {frozenset(group["files"]): group for group in document["duplicates"]}
    pairs = {frozenset(pair): "equal" in pair[0] for pair in copy_of.items()}
    assert groups.keys() <= pairs.keys()
    found = [is_equal for pair, is_equal in pairs.items() if pair in groups]
    assert found.count(True) == 50
    assert found.count(False) >= 45
    assert all(group["kind"] == ("exact" if pairs[pair] else "near") for pair, group in groups.items())
    assert all(group["splits_joined"] for group in groups.values())
    # AND of each found pair one image is left: the one that tests, else the one that validates
    rank = {"test": 0, "valid": 1, "train": 2}
    used = runs.splits()
    for pair in groups:
        kept, lost = sorted(pair, key=lambda key: rank[key.split("/")[0]])
        assert used[kept] == kept.split("/")[0]
        assert lost not in used
        assert kept in runs.reasons()[lost]
    assert len(document["quarantined"]) == len(groups)


def test_a_chain_of_look_alikes_is_one_group() -> None:
    # GIVEN a photo, a brighter copy, and a brighter copy of that
    first = Image.open(PHOTOS / "bird" / min(file.name for file in (PHOTOS / "bird").iterdir())).convert("RGB")
    second = brighter(first)
    third = brighter(Image.open(io.BytesIO(second)))
    assert grouped([versions.jpeg(1), versions.encoded(first), versions.jpeg(2), second, third]) == [[1, 3, 4]]


def test_blank_images_are_no_copies_of_each_other() -> None:
    # GIVEN images without any pattern, whose hashes are equal though they tell nothing
    blank = [versions.encoded(Image.new("RGB", (40, 40), (level,) * 3)) for level in (0, 90, 200, 255)]
    assert grouped(blank) == []
    # AND equal files of them are
    assert grouped([*blank, blank[1]]) == [[1, 4]]


def test_nothing_to_compare() -> None:
    assert duplicates.look_the_same([], np.array([], dtype=np.uint64), lambda number: b"").tolist() == []


def test_near_hashes_are_found_in_all_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN thousands of random hashes, fifty of them near another, in tiles smaller than their number
    monkeypatch.setattr(duplicates, "TILE_COLUMNS", 700)
    random_numbers = np.random.default_rng(0)
    hashes = random_numbers.integers(0, 2**64, 3000, dtype=np.uint64)
    left = random_numbers.permutation(3000)[:100].reshape(50, 2)
    for first, second in left:
        bits = random_numbers.permutation(64)[: random_numbers.integers(0, duplicates.MAX_HASH_BITS + 1)]
        hashes[second] = hashes[first] ^ np.bitwise_or.reduce(np.uint64(1) << bits.astype(np.uint64), initial=0)
    asked = set()

    def thumbnail(number: int) -> bytes:
        asked.add(number)
        return versions.jpeg(0)

    # WHEN they are compared, THEN these pairs are found, and no other image was looked at
    found = duplicates.look_the_same([f"{number:064}" for number in range(3000)], hashes, thumbnail)
    assert duplicates.several(found.tolist()) == sorted(sorted(pair) for pair in left.tolist())
    assert asked == set(left.ravel().tolist())
