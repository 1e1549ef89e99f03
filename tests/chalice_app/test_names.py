"""Names and what counts as data."""

from datetime import UTC, datetime

import pytest
from chalicelib import names

NOW = datetime(2026, 11, 22, 14, 39, 12, tzinfo=UTC)


@pytest.mark.parametrize("name", ["a", "0", "tuxpaint-photos", "a" * 32, "a--b"])
def test_a_dataset_name(name: str) -> None:
    assert names.is_dataset(name)


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a_b", "a b", "a.b", "ä", "a" * 33, "a\n"])
def test_no_dataset_name(name: str) -> None:
    assert not names.is_dataset(name)


@pytest.mark.parametrize("dataset", ["a", "tuxpaint-photos", "thirteen-char-x", "a" * 32, "abcdefghijklm-xyz"])
def test_a_run_id_fits_a_tuning_job(dataset: str) -> None:
    # GIVEN a dataset
    # WHEN its run gets an id
    run = names.new_run_id(dataset, NOW)
    # THEN SageMaker takes it as the name of a tuning job (its pattern, 32 characters)
    head, moment, tail = run.rsplit("-", 2)
    assert len(run) <= 32
    assert dataset.startswith(head)
    assert not head.endswith("-")
    assert (moment, len(tail)) == ("261122143912", 4)
    assert names.new_run_id(dataset, NOW) != run


@pytest.mark.parametrize("path", ["cat/1.jpg", "train/cat/1.jpg", "photos.zip", "cat/notes.txt", "1.jpg"])
def test_data(path: str) -> None:
    assert names.is_data(path)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "cat/",
        "_READY",
        "cat/_index.jpg",
        ".DS_Store",
        "cat/.hidden.jpg",
        ".git/config",
        "__MACOSX/cat/1.jpg",
        "cat/Thumbs.db",
        "desktop.ini",
        "COPYRIGHT",
        "cat/LICENSE",
        "README.md",
    ],
)
def test_no_data(path: str) -> None:
    assert not names.is_data(path)


def test_an_archive_lies_directly_in_its_dataset() -> None:
    assert all(names.is_archive(name) for name in ("a.zip", "a.TAR", "a.tar.gz", "a.tgz"))
    assert not any(names.is_archive(name) for name in ("cat/a.zip", "a.gz", "zip", "a.jpg"))
