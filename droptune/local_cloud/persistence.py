"""Keeps ministack's state through a SIGKILL.

ministack writes its state only when it is stopped cleanly. Two things here close that gap:

- `Snapshots` writes the state of each service that changed, about once a second while anything changes.
- `RequestLog` keeps the writes that came after the last snapshot: a DynamoDB request that changed something is on
  disk before its answer leaves, and is sent to ministack once more after a kill.

S3 object bodies are not its business: ministack writes them to disk before it answers.
"""

import asyncio
import base64
import json
import logging
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

logger = logging.getLogger("droptune.persistence")

SNAPSHOT_SECONDS = 1.0
# Writing may take this share of the time at most: histories grow, and a snapshot is a whole file.
SNAPSHOT_SHARE = 0.05
# These change without a request of their own, while an execution runs or an event is on its way.
BUSY_SERVICES = frozenset({"dynamodb", "ses", "ses_v2", "sqs", "stepfunctions"})

Request = dict[str, Any]


def move_port(directory: Path, old: int, new: int) -> None:
    """Make the written state name another gateway port: ministack knows a queue by its URL, the port included.

    To be called while no gateway runs; safe to repeat.

    Raises:
        OSError: a file cannot be written.
    """
    for file in directory.glob("*.json"):
        text = file.read_text()
        moved = text.replace(f"http://127.0.0.1:{old}/", f"http://127.0.0.1:{new}/")
        if moved != text:
            partial = file.with_suffix(".json.tmp")
            partial.write_text(moved)
            partial.replace(file)


class RequestLog:
    """Append-only log of requests in numbered files; each snapshot begins a new file and drops the older ones.

    A request of the newest file may already be in the snapshot. Sending it again is harmless for what is logged:
    conditional writes fail, plain writes write the same, and a counter that is one too high only makes the end of
    a run look at the bucket once more.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._number = max((int(file.stem) for file in self._files()), default=0) + 1

    def append(self, request: Request, body: bytes) -> None:
        """Add one request (JSON values) and its body; on return the operating system has it."""
        record = {**request, "body": base64.b64encode(body).decode()}
        with (self._directory / f"{self._number}.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")

    def rotate(self) -> int:
        """Begin a new file; return the number below which files may go once the coming snapshot is written."""
        self._number += 1
        return self._number

    def drop_before(self, number: int) -> None:
        """Delete the files that a written snapshot has made superfluous."""
        for file in self._files():
            if int(file.stem) < number:
                file.unlink()

    def replay(self) -> Iterator[tuple[Request, bytes]]:
        """Yield every kept request with its body, oldest first."""
        for file in self._files():
            for line in file.read_text().splitlines():
                try:
                    record = json.loads(line)
                except ValueError:
                    # The kill came in the middle of the line: its request was never answered.
                    continue
                body = base64.b64decode(record.pop("body"))
                yield record, body

    def _files(self) -> list[Path]:
        return sorted(self._directory.glob("*.jsonl"), key=lambda file: int(file.stem))


class Snapshots:
    """Writes changed service state in ministack's own format, one writer at a time.

    Not through its `save_state`, which keeps a full disk to itself: the log may go only when the state is on disk.
    """

    def __init__(self, log: RequestLog) -> None:
        from ministack import app as ministack_app
        from ministack.core import persistence

        self._states: Callable[[], dict[str, Callable[[], Any]]] = ministack_app._build_persistence_save_dict
        self._encode: Callable[[Any], Any] = persistence._json_default
        self._format: Callable[[str], int] = persistence._state_format_version
        self._directory = Path(persistence.STATE_DIR)
        self._log = log
        self._failing = False
        self._written: dict[str, int] = {}
        self._lock = asyncio.Lock()
        self._marked = asyncio.Event()
        self._everything = False

    def mark(self, service: str) -> None:
        """Note that `service` changed something; the next snapshot looks."""
        # Anything but the busy ones is rare and may touch others (CloudFormation touches them all).
        self._everything |= service not in BUSY_SERVICES
        self._marked.set()

    async def flush(self) -> None:
        """Write every service that changed since it was last written.

        Raises:
            OSError: a file cannot be written.
        """
        await self._snapshot(None)

    async def run(self) -> None:
        """Write what changed, about once a second while there is something to write, until cancelled."""
        while True:
            await self._marked.wait()
            self._marked.clear()
            everything, self._everything = self._everything, False
            started = time.monotonic()
            try:
                if await self._snapshot(None if everything else BUSY_SERVICES):
                    # The busy services may change on without a request: looked at until they rest.
                    self._marked.set()
                self._failing = False
            except (OSError, TypeError, ValueError) as error:
                # A full disk, or a value that is no JSON. The log keeps every write meanwhile.
                if not self._failing:
                    logger.error("the state cannot be written, and is tried again every second: %s", error)
                self._failing = True
                self._everything |= everything
                self._marked.set()
            await asyncio.sleep(max(SNAPSHOT_SECONDS, (time.monotonic() - started) / SNAPSHOT_SHARE))

    async def save(self, service: str) -> None:
        """Write one service at once, if it changed."""
        async with self._lock:
            try:
                await asyncio.to_thread(self._write, {service})
            except OSError as error:
                logger.error("the state of %s cannot be written: %s", service, error)
                self._marked.set()

    async def _snapshot(self, services: Collection[str] | None) -> bool:
        """Return whether something had changed."""
        async with self._lock:
            # First a new log file, then the copy: whatever stands in the older files is in the copy.
            number = self._log.rotate()
            complete, changed = await asyncio.to_thread(self._write, services)
            if complete:
                self._log.drop_before(number)
            return changed

    def _write(self, only: Collection[str] | None) -> tuple[bool, bool]:
        complete, changed = True, False
        for name, get_state in self._states().items():
            if only is not None and name not in only:
                continue
            text = self._text(name, get_state)
            if text is None:
                complete = False
            elif text != "null" and self._written.get(name) != hash(text):
                self._replace(name, text)
                self._written[name] = hash(text)
                changed = True
        return complete, changed

    def _text(self, name: str, get_state: Callable[[], Any]) -> str | None:
        """Return the state as JSON, "null" of a service that has none to keep, None if it changed too fast."""
        # The dictionaries belong to other threads too (executions, Lambda workers), which may change them meanwhile.
        for attempt in range(10):
            try:
                return json.dumps(get_state(), default=self._encode)
            except RuntimeError:
                time.sleep(0.01 * (attempt + 1))
        logger.warning("the state of %s changed too fast to be copied; the next snapshot tries again", name)
        return None

    def _replace(self, name: str, text: str) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        file = self._directory / f"{name}.json"
        partial = file.with_suffix(".json.tmp")
        try:
            partial.write_text(f'{{"__ministack_format__": {self._format(name)}, "payload": {text}}}')
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)
