"""Settle against a real bucket and table: what is sealed, what a version builds on, and retries."""

import hashlib
import json
from typing import Any

import pytest
from chalicelib import config, dataset_versions, names, sealing, storage, times
from chalicelib.errors import EmptyDataset

from tests.chalice_app.conftest import BUCKET, Stack

BACKBONE = "resnet18"


def settle(backbone: str = BACKBONE, image_size: int = 224) -> dict[str, Any]:
    """Settle the dataset `pets`, whose uploads rest."""
    return sealing.settle("pets", 60, 900, backbone, image_size)


def upload(stack: Stack, **files: str) -> None:
    """Put files into `pets`: ``cat_1="meow"`` is cat/1.jpg."""
    for name, text in files.items():
        stack.put(f"datasets/pets/{name.replace('_', '/')}.jpg", text)


def prepare(stack: Stack, answer: dict[str, Any]) -> None:
    """Leave what a Prepare that ended leaves."""
    folder = names.prepared_versions_prefix("pets", answer["recipe"]) + f"{answer['version']}/"
    for name in ("records.jsonl", "summary.json"):
        stack.put(folder + name, "{}")
    stack.put(f"versions/pets/{answer['version']}/splits.json", "{}")


def version(stack: Stack, number: int) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    """The seal, the objects and the diff of a version."""
    seal, objects, diff = (
        stack.get(f"versions/pets/{number}/{name}") for name in ("seal.json", "objects.jsonl", "diff.json")
    )
    assert seal is not None
    assert objects is not None
    assert diff is not None
    return json.loads(seal), [json.loads(line) for line in objects.splitlines()], json.loads(diff)


def to_decode(stack: Stack, answer: dict[str, Any]) -> list[str]:
    """The keys that Decode has to read, by the manifest that the answer names."""
    text = stack.get(answer["manifest"].removeprefix(f"s3://{BUCKET}/"))
    assert text
    prefix, *keys = json.loads(text)
    assert prefix == {"prefix": f"s3://{BUCKET}/datasets/pets/"}
    return list(map(str, keys))


@pytest.fixture
def weights(stack: Stack) -> str:
    """The hash of the backbone's one file of weights."""
    stack.put(f"weights/{BACKBONE}/resnet18-00000000.pth", "weights")
    etag = hashlib.md5(b"weights", usedforsecurity=False).hexdigest()
    return hashlib.sha256(f"resnet18-00000000.pth\t7\t{etag}\n".encode()).hexdigest()


def test_a_first_version(stack: Stack, weights: str) -> None:
    # GIVEN images, and files that are no data
    upload(stack, cat_2="two", cat_1="one", dog_1="three")
    for ignored in ("_READY", "cat/.DS_Store", "README.md", "cat/"):
        stack.put(f"datasets/pets/{ignored}")
    # WHEN the dataset is settled
    answer = settle()
    # THEN the answer is that of the contract
    seal, objects, diff = version(stack, 1)
    assert answer == {
        "status": "sealed",
        "version": 1,
        "content_hash": seal["content_hash"],
        "manifest": f"s3://{BUCKET}/versions/pets/1/decode.manifest",
        "recipe": f"resnet18-224-2-{weights[:8]}",
        "base": None,
        "splits": None,
    }
    # AND the seal holds the sorted objects, all of them new
    assert [entry["key"] for entry in objects] == ["cat/1.jpg", "cat/2.jpg", "dog/1.jpg"]
    assert objects[0] == {"key": "cat/1.jpg", "size": 3, "etag": hashlib.md5(b"one", usedforsecurity=False).hexdigest()}
    lines = "".join(f"{entry['key']}\t{entry['size']}\t{entry['etag']}\n" for entry in objects)
    assert seal.pop("content_hash") == hashlib.sha256(lines.encode()).hexdigest()
    assert times.from_text(seal.pop("sealed_at")) <= times.now()
    assert seal == {
        "dataset": "pets",
        "version": 1,
        "parent": None,
        "objects": 3,
        "bytes": 11,
        "added": 3,
        "removed": 0,
        "changed": 0,
    }
    assert diff == {"parent": None, "added": ["cat/1.jpg", "cat/2.jpg", "dog/1.jpg"], "removed": [], "changed": []}
    assert to_decode(stack, answer) == ["cat/1.jpg", "cat/2.jpg", "dog/1.jpg"]


def test_a_next_version_decodes_only_what_is_new(stack: Stack, weights: str) -> None:
    # GIVEN a version that was prepared
    upload(stack, cat_1="one", cat_2="two", cat_3="three", dog_1="four")
    prepare(stack, settle())
    # WHEN files are added, changed, deleted and renamed
    upload(stack, cat_1="ONE", bird_1="five", dog_2="four")
    for gone in ("cat/2.jpg", "dog/1.jpg"):
        stack.delete(f"datasets/pets/{gone}")
    answer = settle()
    # THEN the second version says so, and builds on the first
    seal, _, diff = version(stack, 2)
    assert (answer["version"], answer["base"], answer["splits"]) == (2, 1, 1)
    assert diff == {
        "parent": 1,
        "added": ["bird/1.jpg", "dog/2.jpg"],
        "removed": ["cat/2.jpg", "dog/1.jpg"],
        "changed": ["cat/1.jpg"],
    }
    assert (seal["parent"], seal["added"], seal["removed"], seal["changed"]) == (1, 2, 2, 1)
    assert to_decode(stack, answer) == ["bird/1.jpg", "cat/1.jpg", "dog/2.jpg"]


def test_where_nothing_is_new_the_manifest_names_one_object(stack: Stack, weights: str) -> None:
    # GIVEN a prepared version
    upload(stack, cat_1="one", dog_1="two")
    prepare(stack, settle())
    # WHEN an image is only taken away
    stack.delete("datasets/pets/cat/1.jpg")
    # THEN the manifest is not empty: SageMaker takes no empty one
    assert to_decode(stack, settle()) == ["dog/1.jpg"]


def test_another_recipe_begins_anew_but_keeps_the_splits(stack: Stack, weights: str) -> None:
    # GIVEN a prepared version
    upload(stack, cat_1="one", dog_1="two")
    first = settle()
    prepare(stack, first)
    stack.put("datasets/pets/dog/2.jpg", "three")
    # WHEN the next one has another backbone, another size, or other weights
    others = [settle(backbone="resnet50"), settle(image_size=160)]
    stack.put(f"weights/{BACKBONE}/resnet18-00000000.pth", "other weights")
    others.append(settle())
    # THEN each decodes everything, and knows the splits
    assert len({first["recipe"], *(other["recipe"] for other in others)}) == 4
    for other in others:
        assert (other["version"], other["base"], other["splits"]) == (2, None, 1)
    assert to_decode(stack, others[-1]) == ["cat/1.jpg", "dog/1.jpg", "dog/2.jpg"]


def test_a_base_must_be_whole(stack: Stack, weights: str) -> None:
    # GIVEN a prepared version, and a later one whose Prepare was cut off
    upload(stack, cat_1="one", dog_1="two")
    prepare(stack, settle())
    upload(stack, cat_2="three")
    second = settle()
    stack.put(names.prepared_versions_prefix("pets", second["recipe"]) + "2/summary.json", "{}")
    # WHEN the next is settled
    upload(stack, cat_3="four")
    third = settle()
    # THEN it builds on the first, and is compared with the second
    assert (third["version"], third["base"], third["splits"]) == (3, 1, 1)
    assert to_decode(stack, third) == ["cat/2.jpg", "cat/3.jpg"]
    assert version(stack, 3)[2] == {"parent": 2, "added": ["cat/3.jpg"], "removed": [], "changed": []}


def test_the_same_content_after_a_failed_run_is_the_same_version(stack: Stack, weights: str) -> None:
    # GIVEN a version whose run failed after Prepare
    upload(stack, cat_1="one", dog_1="two")
    first = settle()
    prepare(stack, first)
    seal = stack.get("versions/pets/1/seal.json")
    # WHEN it is settled again
    again = settle()
    # THEN it is that version, which is its own base by now: the manifest is written anew
    assert again == first | {"base": 1, "splits": 1}
    assert to_decode(stack, again) == ["cat/1.jpg"]
    assert stack.get("versions/pets/1/seal.json") == seal


def test_the_content_of_the_last_good_run_is_unchanged(stack: Stack, weights: str) -> None:
    # GIVEN a run that ended well, and a later version whose run did not
    upload(stack, cat_1="one", dog_1="two")
    first = settle()
    config.datasets_table().update_item(
        Key={"dataset": "pets"},
        UpdateExpression="SET content_hash = :hash, version = :version",
        ExpressionAttributeValues={":hash": first["content_hash"], ":version": 1},
    )
    upload(stack, cat_2="three")
    assert settle()["version"] == 2
    # WHEN the change is taken back
    stack.delete("datasets/pets/cat/2.jpg")
    # THEN there is nothing to do
    assert settle() == {"status": "unchanged", "version": 1}
    # AND the next change is the third version
    upload(stack, cat_3="four")
    assert settle()["version"] == 3


def test_an_empty_dataset_is_noted_and_refused(stack: Stack) -> None:
    # GIVEN a dataset of which only the marker is left
    stack.put("datasets/pets/_READY")
    # WHEN it is settled THEN it says what to do
    with pytest.raises(EmptyDataset, match="one folder a class"):
        settle()
    # AND the seal is noted, but no number is taken
    assert stack.item("pets")["sealed_hash"] == hashlib.sha256(b"").hexdigest()
    assert "sealed_version" not in stack.item("pets")


class Crash(Exception):  # noqa: N818 - it stands for a function that dies, and is no error of the code's
    """The function was killed."""


def crash(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Let the function die at its write number `at`, before or after the write: the odd numbers are after."""
    writes = [0]

    def dying(write: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            if writes[0] == at:
                raise Crash
            answer = write(*arguments, **named)
            if writes[0] + 1 == at:
                raise Crash
            writes[0] += 2
            return answer

        return call

    monkeypatch.setattr(storage, "write", dying(storage.write))
    monkeypatch.setattr(sealing, "_note_seal", dying(sealing._note_seal))


@pytest.mark.parametrize("at", range(10))
def test_a_retry_after_a_crash_seals_the_same_version(
    stack: Stack, weights: str, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    # GIVEN a first version, changes, and a Settle that dies at one of its five writes
    upload(stack, cat_1="one", dog_1="two")
    prepare(stack, settle())
    upload(stack, cat_2="three")
    with monkeypatch.context() as patch:
        crash(patch, at)
        with pytest.raises(Crash):
            settle()
    # WHEN it is tried again THEN the version is the second, and whole
    answer = settle()
    assert (answer["version"], answer["base"]) == (2, 1)
    assert to_decode(stack, answer) == ["cat/2.jpg"]
    seal, _, diff = version(stack, 2)
    assert (seal["parent"], seal["content_hash"]) == (1, answer["content_hash"])
    assert diff == {"parent": 1, "added": ["cat/2.jpg"], "removed": [], "changed": []}
    # AND nothing more was sealed
    assert list(dataset_versions.list_versions("pets")) == [2, 1]


def test_uploads_after_a_crash_leave_a_gap(stack: Stack, weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN a Settle that died before seal.json, and more uploads since
    upload(stack, cat_1="one", dog_1="two")
    settle()
    upload(stack, cat_2="three")
    with monkeypatch.context() as patch:
        crash(patch, at=4)
        with pytest.raises(Crash):
            settle()
    upload(stack, cat_3="four")
    # WHEN it is tried again
    answer = settle()
    # THEN the number that was claimed for another content stays empty
    assert answer["version"] == 3
    assert list(dataset_versions.list_versions("pets")) == [3, 1]
    assert version(stack, 3)[2] == {"parent": 1, "added": ["cat/2.jpg", "cat/3.jpg"], "removed": [], "changed": []}


def test_two_settles_at_once_share_no_number(stack: Stack, weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN a Settle that was given up, but seals between the look and the claim of the next one
    upload(stack, cat_1="one", dog_1="two")
    choose = sealing._choose_version
    answers: list[Any] = []

    def overtaken(*arguments: Any) -> int:
        chosen = choose(*arguments)
        if not answers:
            answers.append(None)
            answers[0] = settle()
        return chosen

    monkeypatch.setattr(sealing, "_choose_version", overtaken)
    # WHEN the next one claims the number
    # THEN it is told to look again, and finds the version sealed
    assert settle() == {"status": "waiting", "wait_seconds": 1}
    assert settle() == answers[0]
    assert list(dataset_versions.list_versions("pets")) == [1]


def test_a_datasets_own_settings_come_first(stack: Stack, weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN an upload at this moment
    now = times.now()
    monkeypatch.setattr(times, "now", lambda: now)
    upload(stack, cat_1="one", dog_1="two")
    item = {
        "dataset": "pets",
        "uploads": 2,
        "first_upload_at": times.to_text(now),
        "last_upload_at": times.to_text(now),
    }
    for settings, seconds in (
        # WHEN nothing is set THEN the stack's quiet time holds
        ({}, 60),
        # WHEN a longer one is set THEN that
        ({"quiet_seconds": 300}, 300),
        # WHEN the wait is bounded THEN no longer than that
        ({"quiet_seconds": 300, "max_wait_seconds": 20}, 20),
    ):
        config.datasets_table().put_item(Item=item | {"settings": settings})
        # The text of a time is cut to milliseconds.
        assert settle() == {"status": "waiting", "wait_seconds": seconds}


def test_listings_of_many_pages(stack: Stack, weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN listings of three keys a page
    monkeypatch.setattr(storage, "PAGE_SIZE", 3)
    upload(stack, **{f"cat_{number:03}": str(number) for number in range(100)}, dog_1="x")
    # WHEN versions are sealed and prepared
    prepare(stack, settle())
    for number in range(3):
        upload(stack, **{f"bird_{number}": "y"})
        answer = settle()
        prepare(stack, answer)
    # THEN nothing is missed
    assert (answer["version"], answer["base"], answer["splits"]) == (4, 3, 3)
    assert version(stack, 4)[0]["objects"] == 104
    assert to_decode(stack, answer) == ["bird/2.jpg"]


def test_versions_of_an_older_form_are_no_versions(stack: Stack, weights: str) -> None:
    # GIVEN a version that lists its objects otherwise
    upload(stack, cat_1="one", dog_1="two")
    stack.put("versions/pets/1/seal.json", json.dumps({"version": 1, "content_hash": "0"}))
    stack.put("versions/pets/1/objects.json", "[]")
    config.datasets_table().put_item(Item={"dataset": "pets", "sealed_version": 1, "sealed_hash": "0"})
    # WHEN the dataset is settled
    answer = settle()
    # THEN its number is not used again, and nothing is compared with it
    assert answer["version"] == 2
    assert version(stack, 2)[2]["parent"] is None
    assert list(dataset_versions.list_versions("pets")) == [2]
