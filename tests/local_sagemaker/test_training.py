"""Training jobs under the container contract, seen through boto3."""

import io
import json
import tarfile
from typing import Any

import pytest
from botocore.exceptions import ClientError

from .conftest import Server, finished_training, training_request, wait_for


def channel(name: str, uri: str, data_type: str = "S3Prefix") -> dict[str, Any]:
    return {"ChannelName": name, "DataSource": {"S3DataSource": {"S3DataType": data_type, "S3Uri": uri}}}


def archive_of(s3: Any, key: str) -> dict[str, bytes]:
    body = s3.get_object(Bucket="jobs", Key=key)["Body"].read()
    with tarfile.open(fileobj=io.BytesIO(body)) as tar:
        members = [member for member in tar.getmembers() if member.isfile()]
        return {member.name: tar.extractfile(member).read() for member in members}  # type: ignore[union-attr]


def wait_until_it_sleeps(server: Server, name: str) -> int:
    """Waits for the job's program to sleep and returns its process id."""
    log = server.directory / "state/logs/training-job" / f"{name}.log"
    text = wait_for("the program", lambda: log.exists() and "sleeping" in log.read_text() and log.read_text())
    return int(text.split("sleeping ")[1].split()[0])


@pytest.mark.parametrize("image", ["plain:1", "123456789012.dkr.ecr.us-east-1.amazonaws.com/warm@sha256:00"])
def test_a_job_runs_its_program_under_the_container_contract(sagemaker, s3, bucket, image):
    # GIVEN a job with two channels, hyper-parameters and an environment
    name = f"contract-{image[:5]}".replace(":", "").replace("1", "w")
    request = training_request(name, image, x="0.3", epochs="3", **{"with-hyphen": "[1, 2]"}, output="yes")
    request["InputDataConfig"] = [
        channel("all", "s3://jobs/data"),
        channel("some-files", "s3://jobs/list.json", "ManifestFile"),
    ]
    request["Environment"] = {"COLOUR": "blue"}
    request["Tags"] = [{"Key": "team", "Value": "vision"}]

    # WHEN it has run
    arn = sagemaker.create_training_job(**request)["TrainingJobArn"]
    job = finished_training(sagemaker, name)

    # THEN it is complete, with its metrics, its times and its secondary statuses
    assert job["TrainingJobStatus"] == job["SecondaryStatus"] == "Completed", job.get("FailureReason")
    assert job["TrainingJobArn"] == arn == f"arn:aws:sagemaker:us-east-1:000000000000:training-job/{name}"
    [metric] = job["FinalMetricDataList"]
    assert (metric["MetricName"], metric["Value"]) == ("validation:accuracy", 0.75)
    assert job["CreationTime"] <= job["TrainingStartTime"] <= job["TrainingEndTime"]
    assert job["BillableTimeInSeconds"] >= 1
    statuses = [entry["Status"] for entry in job["SecondaryStatusTransitions"]]
    assert statuses == ["Starting", "Downloading", "Training", "Uploading", "Completed"]
    assert all(entry["EndTime"] >= entry["StartTime"] for entry in job["SecondaryStatusTransitions"])
    assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == request["Tags"]

    # AND the program saw its channels, files and variables
    assert job["ModelArtifacts"]["S3ModelArtifacts"] == f"s3://jobs/out/{name}/output/model.tar.gz"
    model = archive_of(s3, f"out/{name}/output/model.tar.gz")
    assert json.loads(model["inputs.json"]) == [
        *("all/a.txt", "all/b.txt", "all/sub/c.txt"),
        *("some-files/b.txt", "some-files/sub/c.txt"),
    ]
    config = json.loads(model["config.json"])
    assert config["hyperparameters"] == request["HyperParameters"]
    assert config["resourceconfig"]["hosts"] == ["algo-1"]
    assert config["inputdataconfig"]["all"]["TrainingInputMode"] == "File"
    environment = json.loads(model["environment.json"])
    base = environment["SAGEMAKER_BASE_DIR"]
    assert environment["SM_CHANNEL_SOME_FILES"] == f"{base}/input/data/some-files"
    assert environment["SM_MODEL_DIR"] == f"{base}/model"
    assert environment["SM_OUTPUT_DATA_DIR"] == f"{base}/output/data"
    assert json.loads(environment["SM_HPS"])["with-hyphen"] == [1, 2]
    assert environment["SM_HP_WITH_HYPHEN"] == "[1, 2]"
    assert environment["TRAINING_JOB_NAME"] == name
    assert environment["COLOUR"] == "blue"
    assert not {variable for variable in environment if variable.startswith("AWS_") and "KEY" in variable}
    assert archive_of(s3, f"out/{name}/output/output.tar.gz") == {"history.json": b"[]"}


def test_archives_are_deterministic(sagemaker, s3, bucket):
    # GIVEN two jobs with the same result
    hashes = []
    for name in ("same-1", "same-2"):
        sagemaker.create_training_job(**training_request(name, output="yes"))
        # WHEN both have ended
        assert finished_training(sagemaker, name)["TrainingJobStatus"] == "Completed"
        hashes.append(s3.head_object(Bucket="jobs", Key=f"out/{name}/output/output.tar.gz")["ETag"])
    # THEN their archives are byte for byte the same
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize(
    ("do", "reason"),
    [
        ("fail", "AlgorithmError: no such luck, exit code: 1"),
        ("crash", "AlgorithmError: See job logs for more information, exit code: 1"),
    ],
)
@pytest.mark.parametrize("image", ["plain", "warm"])
def test_a_failing_program_fails_the_job_with_its_own_words(sagemaker, do, reason, image):
    # GIVEN a program that fails
    name = f"failing-{image}-{do}"
    # WHEN it runs
    sagemaker.create_training_job(**training_request(name, f"{image}:1", do=do))
    job = finished_training(sagemaker, name)
    # THEN its failure file stands in the reason
    assert job["TrainingJobStatus"] == job["SecondaryStatus"] == "Failed"
    assert job["FailureReason"] == reason


def test_missing_data_fails_the_job(sagemaker):
    # GIVEN a channel whose prefix holds nothing, and one whose bucket does not exist
    for name, uri, part in (
        ("no-prefix", "s3://jobs/nothing/", "No S3 objects found under S3 URL"),
        ("no-bucket", "s3://no-such-bucket-here/x", "NoSuchBucket (404)"),
        ("no-manifest", "s3://jobs/nothing.json", "NoSuchKey (404)"),
    ):
        request = training_request(name)
        kind = "ManifestFile" if name == "no-manifest" else "S3Prefix"
        request["InputDataConfig"] = [channel("data", uri, kind)]
        # WHEN the job runs
        sagemaker.create_training_job(**request)
        job = finished_training(sagemaker, name)
        # THEN it fails as SageMaker says it
        assert job["TrainingJobStatus"] == "Failed"
        assert job["FailureReason"].startswith("ClientError: Data download failed: ")
        assert part in job["FailureReason"]


def test_a_key_cannot_leave_the_channels_folder(sagemaker, s3, bucket):
    # GIVEN a manifest that names a key with ..
    s3.put_object(Bucket="jobs", Key="evil/../../../x.txt", Body=b"x")
    manifest = [{"prefix": "s3://jobs/evil/"}, "../../../x.txt"]
    s3.put_object(Bucket="jobs", Key="evil.json", Body=json.dumps(manifest).encode())
    request = training_request("evil-key")
    request["InputDataConfig"] = [channel("data", "s3://jobs/evil.json", "ManifestFile")]
    # WHEN the job runs
    sagemaker.create_training_job(**request)
    job = finished_training(sagemaker, "evil-key")
    # THEN nothing is written, and the reason says why
    assert job["TrainingJobStatus"] == "Failed"
    assert "would leave the channel's folder" in job["FailureReason"]


def test_an_unknown_image_fails_the_job(sagemaker):
    # GIVEN a job whose image this machine does not have
    sagemaker.create_training_job(**training_request("no-image", "123.dkr.ecr.us-east-1.amazonaws.com/other:1"))
    # WHEN it has run
    job = finished_training(sagemaker, "no-image")
    # THEN it says so
    assert job["TrainingJobStatus"] == "Failed"
    assert job["FailureReason"].startswith("ClientError: Cannot pull image 123.dkr.ecr")


def test_stopping_a_job_lets_it_save_its_work(sagemaker, s3, server):
    # GIVEN a running job that saves on SIGTERM
    sagemaker.create_training_job(**training_request("to-stop", do="sleep"))
    wait_until_it_sleeps(server, "to-stop")
    # WHEN it is stopped
    sagemaker.stop_training_job(TrainingJobName="to-stop")
    job = finished_training(sagemaker, "to-stop")
    # THEN it is Stopped and what it saved is uploaded
    assert job["TrainingJobStatus"] == job["SecondaryStatus"] == "Stopped"
    assert "Stopping" in [entry["Status"] for entry in job["SecondaryStatusTransitions"]]
    assert archive_of(s3, "out/to-stop/output/model.tar.gz") == {"saved.txt": b"saved on SIGTERM"}
    # AND it cannot be stopped again
    with pytest.raises(ClientError, match="is in status Stopped"):
        sagemaker.stop_training_job(TrainingJobName="to-stop")


def test_a_job_that_ignores_sigterm_is_killed(sagemaker, server):
    # GIVEN a running job that ignores SIGTERM
    sagemaker.create_training_job(**training_request("stubborn", "plain:1", do="stubborn"))
    wait_until_it_sleeps(server, "stubborn")
    # WHEN it is stopped
    sagemaker.stop_training_job(TrainingJobName="stubborn")
    # THEN it ends after the grace period
    assert finished_training(sagemaker, "stubborn")["TrainingJobStatus"] == "Stopped"


def test_the_runtime_limit_ends_a_job(sagemaker):
    # GIVEN a job that would sleep for ever
    request = training_request("too-long", do="sleep")
    request["StoppingCondition"] = {"MaxRuntimeInSeconds": 1}
    # WHEN its time is over
    sagemaker.create_training_job(**request)
    job = finished_training(sagemaker, "too-long")
    # THEN it is stopped, and its secondary status says why
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopped", "MaxRuntimeExceeded")


def test_checkpoints_go_to_s3_and_come_back(sagemaker, s3, bucket, images, tmp_path):
    # GIVEN a checkpoint from before and a program that writes another one
    s3.put_object(Bucket="jobs", Key="checkpoints/epoch-1.txt", Body=b"1")
    program = tmp_path / "checkpoint.py"
    program.write_text(
        "import os, pathlib\n"
        "folder = pathlib.Path(os.environ['SAGEMAKER_BASE_DIR']) / 'checkpoints'\n"
        "(folder / 'epoch-1.txt').write_text((folder / 'epoch-1.txt').read_text() + ' again')\n"
        "(folder / 'epoch-2.txt').write_text('2')\n"
    )
    request = training_request("checkpoints")
    request["AlgorithmSpecification"]["ContainerEntrypoint"] = ["python3", str(program)]
    request["CheckpointConfig"] = {"S3Uri": "s3://jobs/checkpoints"}
    # WHEN it has run
    sagemaker.create_training_job(**request)
    assert finished_training(sagemaker, "checkpoints")["TrainingJobStatus"] == "Completed"
    # THEN S3 holds both
    for name, content in (("epoch-1.txt", b"1 again"), ("epoch-2.txt", b"2")):
        assert s3.get_object(Bucket="jobs", Key=f"checkpoints/{name}")["Body"].read() == content


def test_jobs_share_downloads_and_notice_changes(sagemaker, s3, server, bucket):
    # GIVEN a job that has read an object
    s3.put_object(Bucket="jobs", Key="changing/file.txt", Body=b"old")
    request = training_request("reader-1")
    request["InputDataConfig"] = [channel("data", "s3://jobs/changing/")]
    sagemaker.create_training_job(**request)
    assert finished_training(sagemaker, "reader-1")["TrainingJobStatus"] == "Completed"
    cache = server.directory / "state/cache"
    before = {path.name for path in cache.iterdir()}
    # WHEN a second job reads the same, and a third one after the object has changed
    sagemaker.create_training_job(**(request | {"TrainingJobName": "reader-2"}))
    assert finished_training(sagemaker, "reader-2")["TrainingJobStatus"] == "Completed"
    assert {path.name for path in cache.iterdir()} == before
    s3.put_object(Bucket="jobs", Key="changing/file.txt", Body=b"new")
    sagemaker.create_training_job(**(request | {"TrainingJobName": "reader-3"}))
    assert finished_training(sagemaker, "reader-3")["TrainingJobStatus"] == "Completed"
    # THEN only the change was fetched
    [fetched] = {path.name for path in cache.iterdir()} - before
    assert (cache / fetched).read_bytes() == b"new"


def test_the_log_is_in_cloudwatch(sagemaker, gateway, server):
    # GIVEN a job that prints
    sagemaker.create_training_job(**training_request("chatty"))
    assert finished_training(sagemaker, "chatty")["TrainingJobStatus"] == "Completed"
    # WHEN an official client looks for its log
    import boto3

    from .conftest import CREDENTIALS

    logs = boto3.client("logs", endpoint_url=gateway, **CREDENTIALS)
    group = "/aws/sagemaker/TrainingJobs"
    [stream] = logs.describe_log_streams(logGroupName=group, logStreamNamePrefix="chatty/")["logStreams"]
    events = logs.get_log_events(logGroupName=group, logStreamName=stream["logStreamName"], startFromHead=True)[
        "events"
    ]
    # THEN it is there, whole
    assert stream["logStreamName"].startswith("chatty/algo-1-")
    messages = [event["message"] for event in events]
    assert messages[0] == "doing train"
    assert messages[-1].startswith("epoch=2;")


def test_jobs_are_listed_filtered_and_paged(sagemaker):
    # GIVEN three jobs
    names = ["list-a", "list-b", "list-c"]
    for name in names:
        sagemaker.create_training_job(**training_request(name, do="fail" if name == "list-b" else "train"))
        finished_training(sagemaker, name)
    # WHEN they are listed in pages of two
    pages = sagemaker.get_paginator("list_training_jobs").paginate(
        NameContains="LIST-", SortBy="Name", SortOrder="Ascending", PaginationConfig={"PageSize": 2}
    )
    listed = [[job["TrainingJobName"] for job in page["TrainingJobSummaries"]] for page in pages]
    # THEN each comes once
    assert listed == [["list-a", "list-b"], ["list-c"]]
    # AND filters and orders work
    failed = sagemaker.list_training_jobs(NameContains="list-", StatusEquals="Failed")["TrainingJobSummaries"]
    assert [job["TrainingJobName"] for job in failed] == ["list-b"]
    newest = sagemaker.list_training_jobs(NameContains="list-")["TrainingJobSummaries"]
    assert [job["TrainingJobName"] for job in newest] == names[::-1]
    later = sagemaker.list_training_jobs(
        NameContains="list-", CreationTimeAfter=newest[1]["CreationTime"], SortOrder="Ascending"
    )["TrainingJobSummaries"]
    assert "list-a" not in [job["TrainingJobName"] for job in later]


TORCH_PROGRAM = """
import os, sys
warm = "torch" in sys.modules
import torch
from torch.utils.data import DataLoader, TensorDataset

assert warm, "torch was imported by the job itself"
assert torch.get_num_threads() == int(os.environ["OMP_NUM_THREADS"])
# Threads, gradients and worker processes have to work in a forked interpreter.
x = torch.randn(256, 64, requires_grad=True)
(x @ x.T).sum().backward()
loader = DataLoader(TensorDataset(torch.arange(8)), batch_size=4, num_workers=1)
print("batches=%d;" % sum(1 for _ in loader))
"""


@pytest.mark.slow  # imports torch once
def test_a_warm_worker_has_torch_imported(gateway, bucket, tmp_path):
    # GIVEN an image that preloads torch
    (tmp_path / "train.py").write_text(TORCH_PROGRAM)
    images = {"torch": {"program": str(tmp_path), "train": ["train.py"], "preload": ["torch"]}}
    server = Server(tmp_path / "server", gateway, images)
    sagemaker = server.client()
    request = training_request("torch", "torch:1")
    request["AlgorithmSpecification"]["MetricDefinitions"] = [{"Name": "batches", "Regex": r"batches=(\d+);"}]
    # WHEN a job runs
    sagemaker.create_training_job(**request)
    job = finished_training(sagemaker, "torch")
    # THEN torch was there before it, and works
    log = (server.directory / "state/logs/training-job/torch.log").read_text()
    assert job["TrainingJobStatus"] == "Completed", log
    assert job["FinalMetricDataList"][0]["Value"] == 2
    assert server.stop() == 0
