"""Processes of jobs and endpoints, forked from warm interpreters (see `forkserver.py`).

There is one fork server for every list of modules to preload, and a bare one for all images without
such a list; commands that are no Python script, or whose image preloads nothing, are executed in a
fresh process. All of them end with this process, whatever ends it.
"""

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from droptune.local_cloud.sagemaker.images import Image

logger = logging.getLogger(__name__)

LOST = -signal.SIGKILL
"""The return code of a process whose fork server died: it was killed with it."""

# What a job may see of the server's own environment; the rest (credentials, the local cloud's
# settings) is none of a container's business.
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
# As in the container image. Threads that wait for one another spin by default, and take the cores from everything
# that runs beside them: on two busy cores Decode took 36 to 68 s for 271 photos instead of 10 to 15.
_OPENMP = {"OMP_WAIT_POLICY": "PASSIVE"}


class WorkerProcess:
    """A process of a job: its end can be awaited, and its whole group signalled."""

    def __init__(self, server: "_Server", identity: int) -> None:
        self._server = server
        self._identity = identity
        self._ended = threading.Event()
        self._callbacks: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self.started = threading.Event()
        self.pid: int | None = None
        self.returncode: int | None = None
        self.lost: str | None = None
        """Why the process ended through no fault of its own: its fork server died."""

    def wait(self, timeout: float | None = None) -> int | None:
        """The return code (below zero: the signal that ended it), or None after `timeout` seconds."""
        self._ended.wait(timeout)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Signals the whole process group; nothing happens if the process has ended."""
        if not self._ended.is_set():
            self._server.send({"id": self._identity, "signal": int(number)})

    def on_end(self, callback: Callable[[], None]) -> None:
        """Calls back, from another thread, when the process has ended (at once if it has)."""
        with self._lock:
            if not self._ended.is_set():
                self._callbacks.append(callback)
                return
        callback()

    def _end(self, returncode: int) -> None:
        with self._lock:
            self.returncode = returncode
            self._ended.set()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()


class Workers:
    """Starts processes, warm where the image says what to preload."""

    def __init__(self, log_dir: Path) -> None:
        log_dir.mkdir(parents=True, exist_ok=True)
        self._log_dir = log_dir
        self._servers: dict[tuple[str, ...], _Server] = {}
        self._lock = threading.Lock()
        self._closed = False

    def prewarm(self, image: Image) -> None:
        """Lets the image's fork server import its modules before the first job needs them."""
        self._server(image.preload)

    def start(
        self,
        image: Image,
        command: list[str],
        *,
        environment: dict[str, str],
        directory: Path,
        log: Path,
    ) -> WorkerProcess:
        """Starts `command` in `directory`; standard output and error are appended to `log`.

        The environment is the given one over a few harmless variables of this process (PATH, HOME,
        …). A command `python[3] <script>.py …` runs in the image's warm interpreter; it must be
        given with absolute paths. `OMP_NUM_THREADS` defaults to 1.

        Raises:
            RuntimeError: the workers are closed.
        """
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        whole = {**inherited, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", **_OPENMP, **environment}
        is_python = Path(command[0]).name in {"python", "python3"}
        if is_python:
            command = [sys.executable, *command[1:]]
        return self._server(image.preload).start(
            {
                "command": command,
                "environment": whole,
                "directory": str(directory),
                "log": str(log),
                "warm": bool(image.preload and is_python and command[1:] and command[1].endswith(".py")),
            }
        )

    def close(self) -> None:
        """Ends every fork server, and with it every process that still runs."""
        with self._lock:
            self._closed = True
            servers = list(self._servers.values())
        for server in servers:
            server.close()

    def _server(self, preload: tuple[str, ...]) -> "_Server":
        with self._lock:
            if self._closed:
                raise RuntimeError("the workers are closed: the local SageMaker is going down")
            server = self._servers.get(preload)
            if server is None or not server.alive:
                server = _Server(preload, self._log_dir / f"forkserver-{'-'.join(preload) or 'bare'}.log")
                self._servers[preload] = server
            return server


class _Server:
    """This side of one fork server."""

    def __init__(self, preload: tuple[str, ...], log: Path) -> None:
        self._name = ", ".join(preload) or "nothing"
        self._processes: dict[int, WorkerProcess] = {}
        self._last_identity = 0
        self._lock = threading.Lock()
        self._log = log
        self.alive = True
        self._channel, theirs = socket.socketpair()
        with log.open("ab") as output, theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "droptune.local_cloud.sagemaker.forkserver", *preload],
                stdin=theirs.fileno(),
                stdout=output,
                stderr=output,
                # OpenMP reads its variables once, when it is loaded, which is here and not in the job.
                # macOS kills forked children of programs that have loaded Objective-C frameworks,
                # as numerical libraries do, unless told that the fork is meant.
                env={**os.environ, **_OPENMP, "OBJC_DISABLE_INITIALIZE_FORK_SAFETY": "YES"},
                start_new_session=True,
            )
        threading.Thread(target=self._read, daemon=True, name=f"forkserver {self._name}").start()

    def start(self, request: dict[str, Any]) -> WorkerProcess:
        with self._lock:
            self._last_identity += 1
            identity = self._last_identity
            process = WorkerProcess(self, identity)
            self._processes[identity] = process
        self.send({"id": identity, **request})
        return process

    def send(self, message: dict[str, Any]) -> None:
        with self._lock:
            if not self.alive:
                lost = True
            else:
                try:
                    self._channel.sendall(json.dumps(message).encode() + b"\n")
                    lost = False
                except OSError as error:
                    logger.warning("The fork server of %s is gone: %s", self._name, error)
                    lost = True
        if lost:
            self._lose()

    def close(self) -> None:
        # Not the lock: a sender may hold it, waiting for a fork server that is still importing.
        with contextlib.suppress(OSError):  # the other end is closed already
            self._channel.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:  # still importing: it has no children yet
            self._process.kill()
            self._process.wait()

    def _read(self) -> None:
        with self._channel.makefile("r") as lines:
            try:
                for line in lines:
                    self._handle(json.loads(line))
            except OSError as error:
                logger.warning("Reading from the fork server of %s failed: %s", self._name, error)
        returncode = self._process.wait()
        if returncode:
            logger.error("The fork server of %s ended with %d; see %s", self._name, returncode, self._log)
        self._lose()
        self._channel.close()

    def _handle(self, message: dict[str, Any]) -> None:
        if "ready" in message:
            logger.info("A warm worker has imported %s", self._name)
            return
        with self._lock:
            process = self._processes.get(message["id"])
            if process is not None and "returncode" in message:
                del self._processes[message["id"]]
        if process is None:
            return
        if "pid" in message:
            process.pid = message["pid"]
            process.started.set()
        else:
            process._end(message["returncode"])

    def _lose(self) -> None:
        """The fork server died, perhaps of SIGKILL: then its children live on, and end here."""
        with self._lock:
            self.alive = False
            self._channel.close()
            processes = list(self._processes.values())
            self._processes.clear()
        for process in processes:
            if process.pid is not None:
                try:
                    os.killpg(process.pid, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    logger.debug("Process group %d had ended already", process.pid)
            process.lost = f"the warm worker of {self._name} has died; see {self._log}"
            process._end(LOST)
