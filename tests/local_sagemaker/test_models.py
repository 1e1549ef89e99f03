"""Models, and how their data is unpacked."""

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from droptune.local_cloud.sagemaker.model_data import ModelDataError, unpack

from .conftest import ROLE
from .serving import archive, make_model, put_model_data

ARN = "arn:aws:sagemaker:us-east-1:000000000000:model"


def test_a_model_is_created_described_listed_and_deleted(sagemaker: Any, s3: Any) -> None:
    # GIVEN a model
    url = put_model_data(s3, "m-life")
    container = {"Image": "warm:1", "ModelDataUrl": url, "Environment": {"A": "b"}}
    created = sagemaker.create_model(
        ModelName="m-life",
        ExecutionRoleArn=ROLE,
        PrimaryContainer=container,
        Tags=[{"Key": "run", "Value": "r1"}],
    )

    # WHEN it is looked at
    described = sagemaker.describe_model(ModelName="m-life")
    listed = sagemaker.list_models(NameContains="m-life")["Models"]

    # THEN all that was given is there
    assert created["ModelArn"] == described["ModelArn"] == f"{ARN}/m-life"
    assert described["PrimaryContainer"] == container
    assert described["ExecutionRoleArn"] == ROLE
    assert [model["ModelName"] for model in listed] == ["m-life"]
    assert sagemaker.list_tags(ResourceArn=f"{ARN}/m-life")["Tags"] == [{"Key": "run", "Value": "r1"}]

    # WHEN it is deleted THEN it is unknown
    sagemaker.delete_model(ModelName="m-life")
    with pytest.raises(ClientError, match=f'Could not find model "{ARN}/m-life".'):
        sagemaker.describe_model(ModelName="m-life")


def test_a_taken_name_is_refused(sagemaker: Any, s3: Any) -> None:
    make_model(sagemaker, s3, "m-twice")
    with pytest.raises(ClientError, match=f'Cannot create already existing model "{ARN}/m-twice".') as raised:
        make_model(sagemaker, s3, "m-twice")
    assert raised.value.response["Error"]["Code"] == "ValidationException"


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"ModelName": "-x", "PrimaryContainer": {"Image": "warm:1"}}, "failed to satisfy constraint"),
        ({"ModelName": "m"}, "either a PrimaryContainer or Containers"),
        (
            {"ModelName": "m", "PrimaryContainer": {"Image": "i"}, "Containers": [{"Image": "i"}]},
            "either a PrimaryContainer or Containers",
        ),
        ({"ModelName": "m", "Containers": [{"Image": "i"}, {"Image": "i"}]}, "models of one container"),
        ({"ModelName": "m", "PrimaryContainer": {"Image": "i", "Mode": "MultiModel"}}, "multi-model"),
        ({"ModelName": "m", "PrimaryContainer": {}}, "name an Image or a ModelPackageName"),
        (
            {"ModelName": "m", "PrimaryContainer": {"Image": "i", "ModelDataUrl": "s3://nowhere/m.tar.gz"}},
            "Could not find model data at s3://nowhere/m.tar.gz.",
        ),
        (
            {"ModelName": "m", "PrimaryContainer": {"ModelPackageName": "no-such-package"}},
            "ModelPackage .*model-package/no-such-package does not exist.",
        ),
    ],
)
def test_a_bad_model_is_refused(sagemaker: Any, request_: dict[str, Any], message: str) -> None:
    with pytest.raises(ClientError, match=message) as raised:
        sagemaker.create_model(**request_)
    assert raised.value.response["Error"]["Code"] == "ValidationException"


def test_model_data_is_unpacked_with_its_folders(tmp_path: Path) -> None:
    # GIVEN an archive as `tar -C model .` makes it
    path = tmp_path / "model.tar.gz"
    source = tmp_path / "source"
    (source / "code").mkdir(parents=True)
    (source / "code" / "run.sh").write_text("#!/bin/sh\n")
    (source / "code" / "run.sh").chmod(0o755)
    (source / "manifest.json").write_text("{}")
    with tarfile.open(path, "w:gz") as tar:
        tar.add(source, arcname=".")

    # WHEN it is unpacked
    target = tmp_path / "model"
    target.mkdir()
    unpack(path, target)

    # THEN the files are there, executable where they were
    assert (target / "manifest.json").read_text() == "{}"
    assert (target / "code" / "run.sh").stat().st_mode & 0o777 == 0o755
    assert (target / "manifest.json").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("name", "kind", "linkname"),
    [
        ("../out.txt", tarfile.REGTYPE, ""),
        ("a/../../out.txt", tarfile.REGTYPE, ""),
        ("/tmp/out.txt", tarfile.REGTYPE, ""),
        ("link", tarfile.SYMTYPE, "/etc/passwd"),
        ("link", tarfile.SYMTYPE, "inside.txt"),
        ("link", tarfile.LNKTYPE, "inside.txt"),
        ("pipe", tarfile.FIFOTYPE, ""),
        ("disk", tarfile.BLKTYPE, ""),
        ("console", tarfile.CHRTYPE, ""),
    ],
)
def test_an_unsafe_member_refuses_the_whole_archive(tmp_path: Path, name: str, kind: bytes, linkname: str) -> None:
    # GIVEN an archive with a good file before the bad member
    path = tmp_path / "model.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        good = tarfile.TarInfo("inside.txt")
        good.size = 2
        tar.addfile(good, io.BytesIO(b"ok"))
        bad = tarfile.TarInfo(name)
        bad.type, bad.linkname = kind, linkname
        tar.addfile(bad)
    target = tmp_path / "model"
    target.mkdir()

    # WHEN it is unpacked THEN the member is named, and nothing at all has been written
    with pytest.raises(ModelDataError, match=name):
        unpack(path, target)
    assert list(target.iterdir()) == []
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["model", "model.tar.gz"]


@pytest.mark.parametrize(
    "content", [b"", b"no archive", archive({"a": bytes(100_000)})[:60]], ids=["empty", "other", "truncated"]
)
def test_a_broken_archive_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.tar.gz"
    path.write_bytes(content)
    with pytest.raises(ModelDataError, match="no gzipped tar file"):
        unpack(path, tmp_path)
