"""State survives `down` and `up`, and a SIGKILL of everything or of a part."""

import os
import shutil
import signal
from pathlib import Path

import httpx
import psutil
import pytest

from droptune.local_cloud.processes import ProcessTable, wait_until
from tests.end_to_end.conftest import PHOTOS, System, free_port_pair

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def kill(system: System, *names: str) -> None:
    for name in names:
        process = ProcessTable(system.home).get(name)
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)


def predict(system: System) -> object:
    return system.json("predict", str(next((PHOTOS / "bird").glob("*.jpg"))), "--dataset", "few")


def wait_for_a_job(system: System, dataset: str) -> None:
    """Wait until a job of the dataset's newest run is at work."""
    (run, *_) = system.runs(dataset)
    jobs = system.session().client("sagemaker")
    in_progress = {"NameContains": run["id"], "StatusEquals": "InProgress"}
    assert wait_until(lambda: bool(jobs.list_processing_jobs(**in_progress)["ProcessingJobSummaries"]), 60)


def test_a_killed_cloud_loses_no_upload_no_run_and_no_model(own_system: System, few_photos: Path) -> None:
    system = own_system
    # GIVEN a dataset with a live model, and another one whose run is on the way
    system.run("drop", str(few_photos), "--dataset", "few", "--wait")
    finished = system.runs("few")
    prediction = predict(system)
    system.run("drop", str(few_photos), "--dataset", "second")
    assert wait_until(lambda: bool(system.runs("second")), 30)
    wait_for_a_job(system, "second")
    # WHEN every service is killed
    kill(system, "gateway", "sagemaker", "mailbox")
    # THEN no process outlives its killed parent for long
    assert wait_until(lambda: not ProcessTable(system.home).leftovers(), 20)
    # AND when they are started again, the finished run, its mail and its endpoint are as they were
    system.run("up")
    assert system.runs("few") == finished
    assert len(system.mails("few")) == 1
    assert predict(system) == prediction

    # WHEN the run that answers the second upload now is cut off too, because SageMaker alone is killed
    wait_for_a_job(system, "second")
    kill(system, "sagemaker")
    system.run("up")
    # AND the next one, because everything is stopped properly
    wait_for_a_job(system, "second")
    system.run("down")
    assert not ProcessTable(system.home).leftovers()
    system.run("predict", str(next((PHOTOS / "bird").glob("*.jpg"))), expect=3)
    system.run("up")
    # THEN a run answers the upload all the same
    run = system.json("watch")
    assert (run["dataset"], run["status"]) == ("second", "SUCCEEDED")
    assert len(system.mails("second")) == 1
    # AND those that were cut off say so
    api = system.json("env")["DROPTUNE_API_URL"]
    answer = httpx.get(f"{api}/runs", params={"dataset": "second"}, timeout=20, trust_env=False).json()["runs"]
    assert [(r["status"], (r["error"] or {}).get("code")) for r in answer] == [
        ("SUCCEEDED", None),
        *[("FAILED", "Interrupted")] * 3,
    ]
    # AND nothing that was uploaded is missing, nor is the first model
    bucket = system.json("env")["DROPTUNE_BUCKET"]
    listed = system.session().client("s3").list_objects_v2(Bucket=bucket, Prefix="datasets/second/")["KeyCount"]
    assert listed == 24
    assert predict(system) == prediction


def test_up_twice_is_harmless_and_two_systems_run_side_by_side(system: System, tmp_path: Path) -> None:
    # GIVEN a running system
    pids = {service["name"]: service["pid"] for service in system.json("status")["services"]}
    # WHEN `up` is called again, and another system is started in a second home
    system.run("up")
    other = System(tmp_path / "other")
    other.run("up", "--port", str(free_port_pair()))
    try:
        # THEN the first one was not touched, and the two share nothing
        assert {service["name"]: service["pid"] for service in system.json("status")["services"]} == pids
        assert system.json("env")["AWS_ENDPOINT_URL"] != other.json("env")["AWS_ENDPOINT_URL"]
        assert other.json("runs") == []
        # AND everything listens on the loopback interface only
        for pid in [*pids.values(), *[service["pid"] for service in other.json("status")["services"]]]:
            for connection in psutil.Process(pid).net_connections(kind="inet"):
                if connection.status == psutil.CONN_LISTEN:
                    assert connection.laddr.ip == "127.0.0.1"
    finally:
        other.run("down")
    assert system.json("status")["running"]
    shutil.rmtree(other.home)
