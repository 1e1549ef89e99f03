"""What outlives the server, and what must not."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from .conftest import Server, finished_training, training_request, wait_for
from .test_training import wait_until_it_sleeps
from .test_tuning import finished
from .test_tuning import request as tuning_request

INTERRUPTED = "InternalServerError: the local SageMaker stopped while the job ran. Start it again."


@pytest.fixture
def own_server(gateway: str, bucket: str, images: dict[str, Any], tmp_path: Path) -> Any:
    """A server that a test may kill."""
    server = Server(tmp_path, gateway, images, "--stop-grace", "1")
    yield server
    if server.process.poll() is None:
        assert server.stop() == 0, server.log()


def process_tree(server: Server) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children(recursive=True)


def all_gone(processes: list[psutil.Process]) -> bool:
    # A container's first process may not reap orphans: a zombie has ended.
    return all(
        not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        for process in processes
        if psutil.pid_exists(process.pid)
    )


@pytest.mark.parametrize("image", ["plain:1", "warm:1"])
def test_a_killed_server_leaves_no_process_and_loses_no_finished_job(own_server, image):
    # GIVEN a finished job, a running one and a running tuning job
    sagemaker = own_server.client()
    sagemaker.create_training_job(**training_request("done", image))
    done = finished_training(sagemaker, "done")
    sagemaker.create_training_job(**training_request("running", image, do="stubborn"))
    wait_until_it_sleeps(own_server, "running")
    sagemaker.create_hyper_parameter_tuning_job(**tuning_request("tuning", static={"do": "sleep"}))
    processes = process_tree(own_server)
    assert len(processes) >= 2
    # WHEN the server is killed and started again
    own_server.kill()
    wait_for("the end of all its processes", lambda: all_gone(processes))
    own_server.start()
    # THEN the finished job is as it was
    assert finished_training(sagemaker, "done")["FinalMetricDataList"] == done["FinalMetricDataList"]
    # AND the others have failed, with a reason that says what to do
    running = sagemaker.describe_training_job(TrainingJobName="running")
    assert (running["TrainingJobStatus"], running["FailureReason"]) == ("Failed", INTERRUPTED)
    assert running["SecondaryStatusTransitions"][-1]["Status"] == "Failed"
    tuning = finished(sagemaker, "tuning")
    assert (tuning["HyperParameterTuningJobStatus"], tuning["FailureReason"]) == ("Failed", INTERRUPTED)
    assert tuning["TrainingJobStatusCounters"]["InProgress"] == 0
    # AND new jobs run
    sagemaker.create_training_job(**training_request("again", image))
    assert finished_training(sagemaker, "again")["TrainingJobStatus"] == "Completed"


def test_sigterm_ends_everything_in_order(own_server):
    # GIVEN a running job that ignores SIGTERM
    sagemaker = own_server.client()
    sagemaker.create_training_job(**training_request("running", do="stubborn"))
    wait_until_it_sleeps(own_server, "running")
    processes = process_tree(own_server)
    # WHEN the server is told to stop
    status = own_server.stop()
    # THEN it ends well and takes its processes with it
    assert status == 0, own_server.log()
    wait_for("the end of all its processes", lambda: all_gone(processes), seconds=5)
    # AND the job has failed
    own_server.start()
    job = sagemaker.describe_training_job(TrainingJobName="running")
    assert (job["TrainingJobStatus"], job["FailureReason"]) == ("Failed", INTERRUPTED)


def test_a_killed_fork_server_fails_its_job_and_is_replaced(own_server):
    # GIVEN a running job
    sagemaker = own_server.client()
    sagemaker.create_training_job(**training_request("lost", do="stubborn"))
    pid = wait_until_it_sleeps(own_server, "lost")
    # WHEN the fork server it came from is killed, as the kernel does when memory runs out
    fork_server = psutil.Process(pid).parent()
    assert fork_server is not None
    fork_server.kill()
    # THEN the job fails and its process is gone
    job = finished_training(sagemaker, "lost")
    assert job["FailureReason"].startswith("InternalServerError: the warm worker of json, decimal has died")
    wait_for("the end of the job's process", lambda: not psutil.pid_exists(pid) or all_gone([psutil.Process(pid)]))
    # AND the next job runs
    sagemaker.create_training_job(**training_request("next"))
    assert finished_training(sagemaker, "next")["TrainingJobStatus"] == "Completed"


def test_one_server_per_state_directory(own_server):
    # GIVEN a running server
    # WHEN another one is started on the same state
    second = subprocess.run(
        [
            *(sys.executable, "-m", "droptune.local_cloud.sagemaker", "--port", "1"),
            *("--state-dir", str(own_server.directory / "state"), "--images", "none.json"),
            *("--gateway-url", "http://127.0.0.1:1"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    # THEN it refuses, and says what to do
    assert second.returncode == 1
    assert "Another local SageMaker is running on" in second.stderr
    assert "--state-dir" in second.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON document"),
        ('{"a": {"program": "relative"}}', "is no absolute folder"),
        ('{"a": {"program": "/", "run": []}}', "unknown members"),
    ],
)
def test_a_bad_images_file_is_refused(tmp_path, content, message):
    # GIVEN an images file that cannot be used
    (tmp_path / "images.json").write_text(content)
    # WHEN the server is started with it
    process = subprocess.run(
        [
            *(sys.executable, "-m", "droptune.local_cloud.sagemaker", "--port", "1"),
            *("--state-dir", str(tmp_path / "state"), "--images", str(tmp_path / "images.json")),
            *("--gateway-url", "http://127.0.0.1:1"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    # THEN it says why
    assert process.returncode == 1
    assert message in process.stderr


def test_a_fork_server_ends_its_children_when_the_server_dies_in_mid_conversation(tmp_path):
    # GIVEN a fork server with a sleeping child, whose messages nobody has read yet
    program = tmp_path / "sleep.py"
    program.write_text("import os, time; print('sleeping', os.getpid(), flush=True); time.sleep(600)")
    log = tmp_path / "log"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "droptune.local_cloud.sagemaker.forkserver"], stdin=theirs.fileno()
        )
        theirs.close()
        start = {"id": 1, "command": [sys.executable, str(program)], "warm": False}
        start |= {"environment": {}, "directory": str(tmp_path), "log": str(log)}
        ours.sendall(json.dumps(start).encode() + b"\n")
        text = wait_for("the child", lambda: log.exists() and log.read_text().endswith("\n") and log.read_text())
        child = psutil.Process(int(text.split()[1]))
        # WHEN the other end goes away: with unread messages that is a reset, not an orderly end
        ours.close()
    # THEN both end
    assert process.wait(timeout=30) == 0
    wait_for("the end of the child", lambda: all_gone([child]))
