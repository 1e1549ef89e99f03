"""State survives `down` and `up`, and a SIGKILL of everything."""

import os
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest

from droptune.local_cloud.processes import ProcessTable
from tests.end_to_end.conftest import PHOTOS, System, free_port_pair

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def kill_everything(system: System) -> None:
    table = ProcessTable(system.home)
    for name in ("gateway", "sagemaker", "mailbox"):
        process = table.get(name)
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)


def predict(system: System) -> object:
    return system.json("predict", str(next((PHOTOS / "bird").glob("*.jpg"))), "--dataset", "few")


def test_a_killed_cloud_loses_no_upload_no_run_and_no_model(own_system: System, few_photos: Path) -> None:
    system = own_system
    # GIVEN a dataset with a live model
    system.run("drop", str(few_photos), "--dataset", "few", "--wait")
    before = system.json("runs")
    prediction = predict(system)
    # WHEN every service is killed, and started again
    kill_everything(system)
    system.run("up")
    # THEN the run, the mail and the serving endpoint are as they were
    assert system.json("runs") == before
    assert len(system.mails("few")) == 1
    assert predict(system) == prediction

    # WHEN a second dataset is uploaded and the cloud is killed while its run is on the way
    system.run("drop", str(few_photos), "--dataset", "second")
    time.sleep(4)
    kill_everything(system)
    # AND another client's processes do not outlive their killed parents
    deadline = time.monotonic() + 20
    while ProcessTable(system.home).leftovers() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not ProcessTable(system.home).leftovers()
    system.run("up")
    # THEN the upload is answered by a run all the same
    run = system.json("watch")
    assert run["dataset"] == "second"
    assert run["status"] == "SUCCEEDED"
    bucket = system.json("env")["DROPTUNE_BUCKET"]
    listed = system.session().client("s3").list_objects_v2(Bucket=bucket, Prefix="datasets/second/")["KeyCount"]
    assert listed == 24

    # WHEN it is stopped properly and started again
    system.run("down")
    assert not ProcessTable(system.home).leftovers()
    system.run("predict", str(next((PHOTOS / "bird").glob("*.jpg"))), expect=3)
    system.run("up")
    # THEN both models still answer
    assert predict(system) == prediction
    assert {model["dataset"] for model in system.json("runs")} == {"few", "second"}


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
