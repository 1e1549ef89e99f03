"""Starts, recognises and ends the local cloud's own processes.

A service is recognised by its PID *and* its start time, since PIDs are used again; and every process of a local
cloud, its children included, carries `DROPTUNE_LOCAL_CLOUD=<home>` in its environment, so that `down` also finds
those whose parent was killed.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

MARKER = "DROPTUNE_LOCAL_CLOUD"
TERM_SECONDS = 15.0
KILL_SECONDS = 5.0
# What a service inherits from the user's shell. Proxies, AWS profiles and PYTHON* would change what Lambda code sees.
INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "OMP_NUM_THREADS")


@dataclass(frozen=True)
class Process:
    """A started service: its PID, its start time in epoch seconds, the port it listens on."""

    pid: int
    started_at: float
    port: int

    def is_alive(self) -> bool:
        """Whether this very process still runs."""
        return _find(self) is not None

    def listens(self) -> bool:
        """Whether this very process, and no other on the same port, waits for connections."""
        found = _find(self)
        with contextlib.suppress(psutil.Error):
            for connection in found.net_connections(kind="tcp") if found else []:
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == self.port:
                    return True
        return False


class ProcessTable:
    """The services that were started for one home directory, kept in `services.json`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._file = home / "services.json"

    def get(self, name: str) -> Process | None:
        """Return the service as it was last started, alive or not."""
        record = self._read().get(name)
        return None if record is None else Process(int(record["pid"]), record["started_at"], int(record["port"]))

    def start(self, name: str, arguments: list[str], environment: Mapping[str, str], port: int) -> Process:
        """Start `python <arguments>` as a detached service whose output goes to `logs/<name>.log`."""
        logs = self.home / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        inherited = {key: os.environ[key] for key in INHERITED if key in os.environ}
        with (logs / f"{name}.log").open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=self.home,
                env={**inherited, **environment, MARKER: str(self.home), "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        process = Process(child.pid, psutil.Process(child.pid).create_time(), port)
        # Detached on purpose: nobody waits for it, and Popen must not warn about that when it is forgotten.
        child.returncode = 0
        records = self._read()
        records[name] = asdict(process)
        write_json(self._file, records)
        return process

    def log_tail(self, name: str, lines: int = 15) -> str:
        """Return the last lines of a service's log, for error messages."""
        try:
            text = (self.home / "logs" / f"{name}.log").read_text(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def stop(self, name: str) -> bool:
        """End a service: SIGTERM, then SIGKILL after 15 s. Return whether it ran."""
        process = self.get(name)
        found = _find(process) if process else None
        if found is None:
            return False
        end([found], TERM_SECONDS)
        return True

    def leftovers(self) -> list[psutil.Process]:
        """Return every process of this home that still runs, whoever its parent is."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.pid != os.getpid() and process.environ().get(MARKER) == str(self.home):
                    found.append(process)
        return found

    def _read(self) -> dict[str, dict[str, float]]:
        try:
            records: dict[str, dict[str, float]] = json.loads(self._file.read_text())
        except FileNotFoundError:
            return {}
        return records


def _find(process: Process) -> psutil.Process | None:
    with contextlib.suppress(psutil.Error):
        candidate = psutil.Process(process.pid)
        # Two readings of one start time differ by a clock tick at most.
        if abs(candidate.create_time() - process.started_at) < 1 and candidate.status() != psutil.STATUS_ZOMBIE:
            return candidate
    return None


def end(processes: Iterable[psutil.Process], patience: float) -> None:
    """Send SIGTERM to `processes`, wait `patience` seconds, and SIGKILL those that are left."""
    remaining = list(processes)
    for process in remaining:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    wait_until(lambda: not any(_runs(process) for process in remaining), patience)
    remaining = [process for process in remaining if _runs(process)]
    for process in remaining:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    wait_until(lambda: not any(_runs(process) for process in remaining), KILL_SECONDS)


def _runs(process: psutil.Process) -> bool:
    # A zombie has ended. Its parent may be gone, and the init process of a container may be slow to reap, or never do.
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def write_json(path: Path, document: object) -> None:
    """Replace `path` by `document` in one step: a reader sees the old or the new, never half."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(document, indent=1))
    temporary.replace(path)


def wait_until(ready: Callable[[], bool], seconds: float, step: float = 0.05) -> bool:
    """Poll `ready` until it is true or `seconds` have passed; return whether it became true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if ready():
            return True
        time.sleep(step)
    return False
