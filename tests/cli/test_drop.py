"""`drop` against a real S3: which files become which keys, and what is refused."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from chalicelib import names

from droptune.cli_output import Output
from droptune.client import Cloud
from droptune.commands import drop as drop_module
from droptune.commands.drop import class_of, is_archive, is_data, planned, print_counts, upload
from droptune.errors import OperationFailed, UsageError
from droptune.names import DATASET
from droptune.watching import covering_run

Document = Callable[..., dict[str, Any]]
PATHS = [
    "cat/1.jpg",
    "train/cat/1.jpg",
    "cat/_READY",
    "_READY",
    "README.md",
    "cat/README",
    ".DS_Store",
    "cat/.hidden.jpg",
    ".git/config",
    "__MACOSX/cat/1.jpg",
    "cat/Thumbs.db",
    "desktop.ini",
    "COPYRIGHT",
    "LICENSE",
    "photos.zip",
    "photos.TGZ",
    "cat/inner.zip",
    "_private/1.jpg",
    "labels.csv",
]


def files(root: Path, *paths: str) -> Path:
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(path.encode())
    return root


def keys(cloud: Cloud, dataset: str) -> set[str]:
    page = cloud.s3.list_objects_v2(Bucket=cloud.bucket, Prefix=f"datasets/{dataset}/")
    return {entry["Key"] for entry in page.get("Contents", [])}


def test_a_folder_becomes_a_dataset_of_the_same_layout(
    cloud: Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # GIVEN class folders with odd names, and files that are no data
    folder = files(
        tmp_path / "pets", "cat/1.jpg", "cat/über.JPG", "dog big/a+b.png", "dog big/.hidden", "COPYRIGHT", "x.jpg"
    )

    # WHEN they are dropped
    plan = planned(folder, None)
    output = Output(as_json=False)
    before = datetime.now(UTC)
    uploaded_at = upload(cloud, plan, output)
    print_counts(output.console, plan)

    # THEN the data is there, byte for byte, and what is not is told
    prefix = "datasets/pets/"
    assert keys(cloud, "pets") == {prefix + name for name in ("cat/1.jpg", "cat/über.JPG", "dog big/a+b.png", "x.jpg")}
    stored = cloud.s3.get_object(Bucket=cloud.bucket, Key=prefix + "cat/über.JPG")
    assert stored["Body"].read() == "cat/über.JPG".encode()
    assert stored["ContentType"] == "image/jpeg"
    assert abs(uploaded_at - before) < timedelta(minutes=1)
    assert plan.classes == {"cat": 2, "dog big": 1}
    text = capsys.readouterr().out
    assert "Uploaded 4 files" in text
    assert "in 2 classes to dataset pets" in text
    assert "Left out 2 files" in text
    assert "COPYRIGHT" in text
    assert "1 file in no class folder" in text


def test_split_folders_keep_their_split(tmp_path: Path) -> None:
    folder = files(tmp_path / "pets", "train/cat/1.jpg", "train/dog/1.jpg", "valid/cat/2.jpg", "test/dog/3.jpg")
    plan = planned(folder, "my-pets")
    assert plan.classes == {"cat": 2, "dog": 2}
    assert plan.key("valid/cat/2.jpg") == "datasets/my-pets/valid/cat/2.jpg"


@pytest.mark.parametrize("name", ["pets.zip", "pets.tar.gz", "pets.tgz", "pets.tar"])
def test_an_archive_is_one_object(cloud: Cloud, tmp_path: Path, name: str) -> None:
    archive = tmp_path / name
    archive.write_bytes(b"packed")
    plan = planned(archive, None)
    upload(cloud, plan, Output(as_json=True))
    assert plan.dataset == "pets"
    assert f"datasets/pets/{name}" in keys(cloud, "pets")


def test_links_are_followed_but_no_circle_of_them(tmp_path: Path) -> None:
    # GIVEN a class folder that is a link, and a link back up
    elsewhere = files(tmp_path / "elsewhere", "1.jpg")
    folder = files(tmp_path / "pets", "dog/1.jpg")
    (folder / "cat").symlink_to(elsewhere)
    (folder / "dog" / "up").symlink_to(folder)

    # THEN each file is taken once
    assert sorted(planned(folder, None).files) == ["cat/1.jpg", "dog/1.jpg"]


@pytest.mark.parametrize(
    ("paths", "dataset", "code"),
    [
        ([], None, "EmptyFolder"),
        (["COPYRIGHT", ".DS_Store", "cat/.keep"], None, "EmptyFolder"),
        (["1.jpg", "2.jpg"], None, "NoClassFolders"),
        (["cat/1.jpg"], "Pets", "BadDatasetName"),
        (["cat/1.jpg"], "", "BadDatasetName"),
        (["cat/1.jpg"], "a" * 33, "BadDatasetName"),
        (["cat/1.jpg"], "pets-", "BadDatasetName"),
    ],
)
def test_what_cannot_be_a_dataset_is_refused(tmp_path: Path, paths: list[str], dataset: str | None, code: str) -> None:
    folder = tmp_path / "pets"
    folder.mkdir()
    files(folder, *paths)
    with pytest.raises(UsageError) as caught:
        planned(folder, dataset)
    assert caught.value.code == code
    assert caught.value.hint


def test_a_bad_folder_name_comes_with_a_good_one(tmp_path: Path) -> None:
    folder = files(tmp_path / "My Pets (2026)", "cat/1.jpg")
    with pytest.raises(UsageError, match="cannot name a dataset") as caught:
        planned(folder, None)
    assert "--dataset my-pets-2026" in caught.value.hint


def test_a_single_image_and_a_broken_link_are_refused(tmp_path: Path) -> None:
    image = files(tmp_path, "cat.jpg") / "cat.jpg"
    with pytest.raises(UsageError) as caught:
        planned(image, None)
    assert caught.value.code == "UnsupportedFile"

    folder = files(tmp_path / "pets", "cat/1.jpg")
    (folder / "cat" / "2.jpg").symlink_to(tmp_path / "absent")
    with pytest.raises(UsageError) as caught:
        planned(folder, None)
    assert caught.value.code == "CannotRead"


def test_a_file_that_disappears_is_named(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN a file that goes away between the plan and its upload
    plan = planned(files(tmp_path / "gone", "cat/1.jpg", "cat/2.jpg"), None)
    original = drop_module._upload_file

    def upload_file(cloud: Cloud, key: str, path: Path) -> None:
        path.unlink()
        original(cloud, key, path)

    monkeypatch.setattr(drop_module, "_upload_file", upload_file)

    # WHEN the plan is uploaded
    with pytest.raises(OperationFailed) as caught:
        upload(cloud, plan, Output(as_json=True))

    # THEN the error names the file
    assert caught.value.code == "CannotRead"
    assert os.fspath(tmp_path) in caught.value.message


@pytest.mark.parametrize("path", PATHS)
def test_the_command_and_the_run_agree_on_what_is_data(path: str) -> None:
    assert is_data(path) == names.is_data(path)
    assert is_archive(path) == names.is_archive(path)


def test_the_command_and_the_run_agree_on_names() -> None:
    assert DATASET.pattern == names.DATASET.pattern


@pytest.mark.parametrize(
    ("path", "label"),
    [("cat/1.jpg", "cat"), ("test/cat/1.jpg", "cat"), ("1.jpg", None), ("test/1.jpg", None), ("a/b/1.jpg", "a")],
)
def test_a_label_is_the_folder(path: str, label: str | None) -> None:
    assert class_of(path) == label


def test_progress_is_shown_on_a_terminal_only(cloud: Cloud, tmp_path: Path) -> None:
    from rich.console import Console

    # GIVEN an output whose progress goes to a terminal, and one whose does not
    plan = planned(files(tmp_path / "pets", "cat/1.jpg"), None)
    shown = {}
    for terminal in (True, False):
        output = Output(as_json=False)
        output.stderr = Console(file=io.StringIO(), force_terminal=terminal)

        # WHEN a file is uploaded
        upload(cloud, plan, output)
        assert isinstance(output.stderr.file, io.StringIO)
        shown[terminal] = output.stderr.file.getvalue()

    # THEN only the terminal shows a bar
    assert "uploading" in shown[True]
    assert shown[False] == ""


class TestCoveringRun:
    """Which run holds an upload: the oldest that had not sealed its version before it."""

    def test_the_run_that_waits_for_more_uploads(
        self, cloud: Cloud, api: Any, execution: Callable[..., str], run_document: Document
    ) -> None:
        # GIVEN an old run, and one in Settle that began before the uploads ended
        execution("cover-a", settle=600)
        api.runs = [
            run_document("cover-a", status="RUNNING", started_at="2026-11-22T15:00:00Z", ended_at=None),
            run_document("cover-0"),
        ]

        # THEN it is the one
        run = covering_run(cloud, "pets", datetime(2026, 11, 22, 15, 0, 2, tzinfo=UTC), patience=0)
        assert run["id"] == "cover-a"

    def test_not_the_run_that_had_sealed_before(
        self, cloud: Cloud, api: Any, execution: Callable[..., str], run_document: Document
    ) -> None:
        # GIVEN a run that left Settle long before the uploads ended, and its follow-up
        arn = execution("cover-b", prepare=600)
        while len(cloud.stepfunctions.get_execution_history(executionArn=arn)["events"]) < 4:
            time.sleep(0.05)
        uploaded_at = datetime.now(UTC) + timedelta(minutes=1)
        later = (uploaded_at + timedelta(seconds=5)).isoformat()
        api.runs = [
            run_document("cover-c", status="RUNNING", started_at=later, ended_at=None),
            run_document("cover-b", status="RUNNING", started_at="2026-11-22T15:00:00Z", ended_at=None),
        ]

        # THEN the follow-up is the one
        assert covering_run(cloud, "pets", uploaded_at, patience=0)["id"] == "cover-c"

    def test_no_run_is_an_error_with_a_next_step(self, cloud: Cloud, api: Any, run_document: Document) -> None:
        # GIVEN nothing but an old run
        api.runs = [run_document("old")]

        # THEN the wait ends
        with pytest.raises(OperationFailed) as caught:
            covering_run(cloud, "pets", datetime(2026, 11, 22, 16, tzinfo=UTC), patience=0)
        assert caught.value.code == "NoRunStarted"
