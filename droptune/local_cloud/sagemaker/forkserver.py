"""A process that has imported heavy modules once and forks a child for every job.

Run as `python -m droptune.local_cloud.sagemaker.forkserver MODULE…` with a Unix socket as standard
input (see `workers.py`). Each message is one JSON line:

    in:  {"id": 1, "command": […], "environment": {…}, "directory": "…", "log": "…"}
         {"id": 1, "signal": 15}                          to the child's whole process group
    out: {"ready": true} | {"id": 1, "pid": 4711} | {"id": 1, "returncode": 0}

A return code below zero is the signal that ended the child. When the other end closes, every child's
group is killed and this process ends: nothing outlives the server, not even one that was SIGKILLed.
The server's death shows as the end of the socket, on Linux and macOS alike.

Signals go through this process because it alone knows whether a child has been reaped: a signal to a
reaped pid might hit a stranger.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import traceback
import types
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

Start = dict[str, Any]


class ForkServer:
    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._buffer = b""
        self._children: dict[int, int] = {}  # pid → id
        self._wakeup, self._wakeup_write = socket.socketpair()
        self._wakeup.setblocking(False)
        self._wakeup_write.setblocking(False)

    def serve(self) -> Start:
        """Forks until the channel closes. Returns in the children alone, with what to run there.

        In the child, everything this object had open is closed.
        """
        # Python's handler only writes to the wake-up socket; SIG_DFL would not wake the selector.
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wakeup_write.fileno(), warn_on_full_buffer=False)
        selector = selectors.DefaultSelector()
        selector.register(self._channel, selectors.EVENT_READ)
        selector.register(self._wakeup, selectors.EVENT_READ)
        self._send({"ready": True})
        try:
            return self._serve(selector)
        except BaseException:
            # A defect here must not leave children behind that nobody can reach.
            self._kill_children()
            raise

    def _serve(self, selector: selectors.BaseSelector) -> Start:
        while True:
            for key, _ in selector.select():
                if key.fileobj is self._wakeup:
                    with contextlib.suppress(BlockingIOError):
                        self._wakeup.recv(4096)
                    self._reap()
                    continue
                for message in self._receive():
                    if "signal" in message:
                        self._signal(message["id"], message["signal"])
                    elif self._fork(message):
                        signal.set_wakeup_fd(-1)
                        selector.close()
                        for end in (self._channel, self._wakeup, self._wakeup_write):
                            end.close()
                        return message

    def _receive(self) -> list[dict[str, Any]]:
        try:
            data = self._channel.recv(65536)
        except ConnectionResetError:  # the server died with messages of ours unread
            data = b""
        if not data:
            self._end()
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._channel.sendall(json.dumps(message).encode() + b"\n")
        except (BrokenPipeError, ConnectionResetError):
            self._end()

    def _fork(self, message: Start) -> bool:
        """Returns True in the child."""
        grouped, grouped_write = os.pipe()
        with warnings.catch_warnings():
            # Python 3.12 warns about forking with threads; the ones here are the idle pools that
            # numerical libraries start on import and set up anew in a forked child.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            self._children.clear()  # its siblings are none of its business
            os.setsid()
            os.close(grouped)
            os.close(grouped_write)
            return True
        os.close(grouped_write)
        os.read(grouped, 1)  # until the child leads its own group: signals go to that group
        os.close(grouped)
        self._children[pid] = message["id"]
        self._send({"id": message["id"], "pid": pid})
        return False

    def _signal(self, identity: int, number: int) -> None:
        for pid, child in self._children.items():
            if child == identity:
                _kill_group(pid, number)

    def _reap(self) -> None:
        for pid in list(self._children):
            reaped, status = os.waitpid(pid, os.WNOHANG)
            if reaped:
                # What the child left running in its group must not outlive the job.
                _kill_group(pid, signal.SIGKILL)
                self._send({"id": self._children.pop(pid), "returncode": os.waitstatus_to_exitcode(status)})

    def _end(self) -> NoReturn:
        self._kill_children()
        os._exit(0)

    def _kill_children(self) -> None:
        for pid in self._children:
            _kill_group(pid, signal.SIGKILL)


def _kill_group(pid: int, number: int) -> None:
    # macOS answers EPERM for a group of nothing but zombies.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def become(start: Start) -> str | None:
    """Turns the forked child into the job's process.

    Returns the Python script to run here, in this warm interpreter; any other command replaces the
    process and never comes back.
    """
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    log = os.open(start["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(nothing)
    os.close(log)
    os.environ.clear()
    os.environ.update(start["environment"])
    os.chdir(start["directory"])
    command: list[str] = start["command"]
    if not start["warm"]:
        try:
            os.execvpe(command[0], command, start["environment"])  # noqa: S606 (no shell is meant)
        except OSError as error:
            os.write(2, f"cannot run {command[0]}: {error}\n".encode())
            os._exit(127)
    script, *arguments = command[1:]
    sys.argv = [script, *arguments]
    sys.path[0] = str(os.path.dirname(script))  # noqa: PTH120 (pathlib is not loaded here)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    if numpy := sys.modules.get("numpy"):
        # Else every job would draw the same numbers, from the state that numpy was imported with.
        numpy.random.seed()
    if torch := sys.modules.get("torch"):
        # OpenMP read the variable when torch was imported, long before this job's value was known.
        torch.set_num_threads(int(start["environment"]["OMP_NUM_THREADS"]))
    sys.excepthook = _print_job_traceback
    return script


def _print_job_traceback(kind: type[BaseException], error: BaseException, trace: types.TracebackType | None) -> None:
    """The traceback as the script alone would print it: without this module's and runpy's frames."""
    frames = trace
    while frames is not None and frames.tb_frame.f_code.co_filename != sys.argv[0]:
        frames = frames.tb_next
    traceback.print_exception(kind, error, frames or trace)


def main(modules: Sequence[str]) -> None:
    channel = socket.socket(fileno=os.dup(0))
    # Ctrl-C in a terminal reaches the whole foreground group; the server decides when to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for module in modules:
        importlib.import_module(module)
    # Frozen objects are not touched by the collector, so their pages stay shared with the children.
    gc.collect()
    gc.freeze()
    # The last collection must see them again: modules that count their objects at exit (triton's
    # nanobind) would print pages about leaks into the job's log, over the cause of a failure.
    atexit.register(gc.unfreeze)
    script = become(ForkServer(channel).serve())
    if script is not None:
        runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
