"""Starting, recognising and ending the local cloud's own processes."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil

from droptune.local_cloud.processes import MARKER, ProcessTable, end, wait_until

SLEEP = ["-c", "import time; print('up', flush=True); time.sleep(60)"]
DEAF = [
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)",
]


def test_a_service_is_found_again_and_stopped(tmp_path: Path) -> None:
    # GIVEN a started service
    table = ProcessTable(tmp_path)
    started = table.start("sleeper", SLEEP, {"OWN": "1"}, port=1234)
    # WHEN another table of the same home looks for it
    found = ProcessTable(tmp_path).get("sleeper")
    # THEN it is the same, alive, detached from this session, and ends when told
    assert found == started
    assert started.is_alive()
    assert os.getsid(started.pid) != os.getsid(0)
    assert table.stop("sleeper")
    assert not started.is_alive()
    assert not table.stop("sleeper")


def test_another_process_with_the_same_pid_is_not_taken_for_it(tmp_path: Path) -> None:
    # GIVEN a record whose PID now belongs to somebody else
    table = ProcessTable(tmp_path)
    stranger = replace(table.start("sleeper", SLEEP, {}, port=1), started_at=1.0)
    # THEN it counts as dead, and is left alone
    assert not stranger.is_alive()
    assert table.stop("sleeper")


def test_a_process_without_its_parent_is_found_by_its_mark(tmp_path: Path) -> None:
    # GIVEN a process that carries the mark of this home, and one of another home
    environment = {**os.environ, MARKER: str(tmp_path)}
    own = subprocess.Popen([sys.executable, *SLEEP], env=environment, stdout=subprocess.DEVNULL)
    other = subprocess.Popen(
        [sys.executable, *SLEEP], env={**os.environ, MARKER: "/elsewhere"}, stdout=subprocess.DEVNULL
    )
    try:
        # WHEN left-overs are looked for (the mark shows once the new program is loaded)
        table = ProcessTable(tmp_path)
        assert wait_until(lambda: bool(table.leftovers()), 10)
        # THEN only its own is found
        assert [process.pid for process in table.leftovers()] == [own.pid]
    finally:
        for process in (own, other):
            process.kill()
            process.wait()


def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    # GIVEN a process that is deaf to SIGTERM
    table = ProcessTable(tmp_path)
    deaf = table.start("deaf", DEAF, {}, port=1)
    assert wait_until(lambda: "up" in table.log_tail("deaf"), 10)
    # WHEN it is ended with little patience
    end([psutil.Process(deaf.pid)], patience=0.2)
    # THEN it is gone
    assert not deaf.is_alive()


def test_the_environment_of_a_service_is_not_the_users(tmp_path: Path) -> None:
    # GIVEN a user's shell with a proxy and an AWS profile
    os.environ["AWS_PROFILE"] = "private"
    try:
        # WHEN a service is started
        table = ProcessTable(tmp_path)
        table.start("printer", ["-c", "import os; print(sorted(os.environ))"], {"GIVEN": "1"}, port=1)
        assert wait_until(lambda: table.log_tail("printer").endswith("]"), 10)
    finally:
        del os.environ["AWS_PROFILE"]
    # THEN it sees what it was given and none of that
    assert "'GIVEN'" in table.log_tail("printer")
    assert "AWS_PROFILE" not in table.log_tail("printer")


LISTEN = """
import socket, sys, time
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("up", flush=True)
time.sleep(60)
"""


def test_another_process_that_listens_on_the_port_is_not_taken_for_the_service(tmp_path: Path) -> None:
    # GIVEN a service that listens, and one of another home that only says that it does, on the same port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    table = ProcessTable(tmp_path)
    service = table.start("service", ["-c", LISTEN, str(port)], {}, port)
    impostor = table.start("impostor", SLEEP, {}, port)
    try:
        # WHEN both are up THEN they are told apart
        assert wait_until(lambda: all("up" in table.log_tail(name) for name in ("service", "impostor")), 10)
        assert service.listens()
        assert impostor.is_alive()
        assert not impostor.listens()
    finally:
        table.stop("service")
        table.stop("impostor")
    assert not service.listens()
