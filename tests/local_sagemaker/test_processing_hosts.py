"""Processing jobs on several instances: one process each, with its shard of the input."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest
from botocore.exceptions import ClientError

from .conftest import CREDENTIALS, wait_for
from .test_processing import finished, request

# Writes what its host has; `algo-2` fails if told to, while the others sleep.
PROGRAM = """
import json, os, pathlib, sys, time

base = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"])
config = json.loads((base / "config/resourceconfig.json").read_text())
host = config["current_host"]
print("this is", host, flush=True)
(base / "output/message").write_text(f"message of {host}")
if os.environ.get("DO") == "fail":
    if host == "algo-2":
        sys.exit(3)
    time.sleep(600)
inputs = base / "processing/input"
document = {
    "hosts": config["hosts"],
    "group": config["instance_groups"][0]["hosts"],
    **{
        folder.name: sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        for folder in inputs.iterdir()
    },
}
(base / f"processing/output/prepared/{host}.json").write_text(json.dumps(document))
"""


@pytest.fixture
def hosts_request(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """A request for the program above on `count` instances."""
    program = tmp_path / "hosts.py"
    program.write_text(PROGRAM)

    def make(name: str, count: int, **environment: str) -> dict[str, Any]:
        document = request(name, **environment)
        document["AppSpecification"] = {"ImageUri": "warm:1", "ContainerEntrypoint": ["python3", str(program)]}
        document["ProcessingResources"]["ClusterConfig"]["InstanceCount"] = count
        source = document["ProcessingInputs"][0]["S3Input"]
        source["S3DataDistributionType"] = "ShardedByS3Key"
        for other, kind, uri, distribution in (
            ("prefix", "S3Prefix", "s3://jobs/data/", "ShardedByS3Key"),
            ("whole", "S3Prefix", "s3://jobs/data/", "FullyReplicated"),
        ):
            document["ProcessingInputs"].append(
                {
                    "InputName": other,
                    "S3Input": {
                        **source,
                        "S3Uri": uri,
                        "S3DataType": kind,
                        "S3DataDistributionType": distribution,
                        "LocalPath": f"/opt/ml/processing/input/{other}",
                    },
                }
            )
        return document

    return make


def test_every_host_has_its_shard_and_all_outputs_are_uploaded(gateway, sagemaker, s3, bucket, hosts_request):
    # GIVEN a manifest of two objects and a prefix of three
    # WHEN a job on four instances has run
    sagemaker.create_processing_job(**hosts_request("sharded", 4))
    job = finished(sagemaker, "sharded")
    assert job["ProcessingJobStatus"] == "Completed", job.get("FailureReason")
    # THEN each host knows itself and the others
    found = {}
    for host in ("algo-1", "algo-2", "algo-3", "algo-4"):
        body = s3.get_object(Bucket="jobs", Key=f"prepared/sharded/{host}.json")["Body"]
        found[host] = json.load(body)
        assert found[host]["hosts"] == found[host]["group"] == ["algo-1", "algo-2", "algo-3", "algo-4"]
        # AND has all of what is replicated
        assert found[host]["whole"] == ["a.txt", "b.txt", "sub/c.txt"]
    # AND each object of the others has gone to one host, in equal parts; a host too many has an empty folder
    shards = {name: [document[name] for document in found.values()] for name in ("dataset", "prefix")}
    assert sorted(file for shard in shards["dataset"] for file in shard) == ["b.txt", "sub/c.txt"]
    assert sorted(file for shard in shards["prefix"] for file in shard) == ["a.txt", "b.txt", "sub/c.txt"]
    assert sorted(map(len, shards["dataset"])) == [0, 0, 1, 1]
    assert sorted(map(len, shards["prefix"])) == [0, 1, 1, 1]
    assert job["ExitMessage"] == "message of algo-1"
    # AND every host's output is a log stream of its own
    logs = boto3.client("logs", endpoint_url=gateway, **CREDENTIALS)
    streams = logs.describe_log_streams(logGroupName="/aws/sagemaker/ProcessingJobs", logStreamNamePrefix="sharded/")[
        "logStreams"
    ]
    names = sorted(stream["logStreamName"] for stream in streams)
    assert [name.rsplit("-", 1)[0] for name in names] == [f"sharded/algo-{number}" for number in (1, 2, 3, 4)]
    events = logs.get_log_events(logGroupName="/aws/sagemaker/ProcessingJobs", logStreamName=names[2])["events"]
    assert [event["message"] for event in events] == ["this is algo-3"]


def test_one_host_that_fails_ends_the_job_with_its_message(sagemaker, s3, bucket, hosts_request):
    # GIVEN a job of which one host fails, while the others would go on for minutes
    sagemaker.create_processing_job(**hosts_request("one-fails", 3, DO="fail"))
    # WHEN it has ended
    job = finished(sagemaker, "one-fails")
    # THEN the job has failed as that host has
    assert job["ProcessingJobStatus"] == "Failed"
    assert job["ExitMessage"] == "message of algo-2"
    assert job["FailureReason"].endswith("exit code: 3")
    assert s3.list_objects_v2(Bucket="jobs", Prefix="prepared/one-fails/")["KeyCount"] == 0


def test_a_stop_ends_every_host(server, sagemaker, bucket, hosts_request, tmp_path):
    # GIVEN a job whose two hosts sleep
    program = tmp_path / "sleep.py"
    program.write_text("import os, time; print(os.getpid(), flush=True); time.sleep(600)")
    document = hosts_request("hosts-stop", 2)
    document["AppSpecification"]["ContainerEntrypoint"] = ["python3", str(program)]
    sagemaker.create_processing_job(**document)
    logs = server.directory / "state" / "logs" / "processing-job"
    files = [logs / "hosts-stop.log", logs / "hosts-stop.algo-2.log"]
    wait_for("the start of both", lambda: all(file.is_file() and file.read_text().strip() for file in files))
    pids = [int(file.read_text()) for file in files]
    # WHEN it is stopped
    sagemaker.stop_processing_job(ProcessingJobName="hosts-stop")
    # THEN both have ended
    assert finished(sagemaker, "hosts-stop")["ProcessingJobStatus"] == "Stopped"
    assert len(set(pids)) == 2
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_more_hosts_than_this_machine_has_room_for_are_refused(sagemaker, hosts_request):
    with pytest.raises(ClientError, match="set InstanceCount to 4 or less") as caught:
        sagemaker.create_processing_job(**hosts_request("too-many", 5))
    assert caught.value.response["Error"]["Code"] == "ValidationException"
