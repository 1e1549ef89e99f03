"""What a job prints: followed in its log file, sent to CloudWatch Logs, searched for metrics."""

import logging
import math
import re
import threading
import time
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from droptune.local_cloud.sagemaker.context import Context
from droptune.local_cloud.sagemaker.errors import ValidationException

logger = logging.getLogger(__name__)

_SEND_EVERY_SECONDS = 1.0
# PutLogEvents takes 10,000 events and 1 MiB, where each event counts 26 bytes more, in one call.
_MAX_BATCH_EVENTS = 5_000
_MAX_BATCH_BYTES = 900_000
_MAX_EVENT_BYTES = 200_000


class LineReader:
    """The new lines of a growing file, each once; a line counts when its end has been written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._rest = b""

    def read(self, *, final: bool = False) -> list[str]:
        """`final` also gives a last line without an end."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            data = b""  # the job has not begun to print
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        if final and self._rest:
            lines.append(self._rest)
            self._rest = b""
        return [line.decode(errors="replace").rstrip("\r") for line in lines]


class MetricReader:
    """The values that the metric definitions' regular expressions find in a job's log.

    `final` holds the last value of each metric with its time, as SageMaker's FinalMetricDataList has
    it; a metric whose last value is not finite has no final value.
    """

    def __init__(self, definitions: list[dict[str, str]], log: Path) -> None:
        self._patterns = [(entry["Name"], re.compile(entry["Regex"])) for entry in definitions]
        self._lines = LineReader(log)
        self.final: dict[str, tuple[float, float]] = {}

    def read(self, *, final: bool = False) -> list[tuple[str, float]]:
        """The new (name, value) pairs, in the order in which they were printed."""
        found = []
        for line in self._lines.read(final=final):
            for name, pattern in self._patterns:
                for match in pattern.finditer(line):
                    try:
                        value = float(match.group(1))
                    except ValueError:
                        logger.debug("Metric %s: %r is no number", name, match.group(1))
                        continue
                    found.append((name, value))
                    if math.isfinite(value):
                        self.final[name] = (value, time.time())
                    else:
                        self.final.pop(name, None)
        return found


def check_metric_definitions(definitions: list[dict[str, str]]) -> None:
    """
    Raises:
        ValidationException: a regular expression does not compile or captures nothing.
    """
    for entry in definitions:
        try:
            pattern = re.compile(entry["Regex"])
        except re.error as error:
            raise ValidationException(f"The regex of metric definition {entry['Name']} is invalid: {error}") from error
        if not pattern.groups:
            raise ValidationException(
                f"The regex of metric definition {entry['Name']} has no capture group: put the value's "
                "part in parentheses."
            )


class LogShipper:
    """Sends a job's log to CloudWatch Logs in batches, from a thread of its own.

    A log that cannot be sent is a warning and never the job's failure: the file stays.
    """

    def __init__(self, context: Context, group: str, stream: str, log: Path) -> None:
        self._client = context.client("logs")
        self._names = {"logGroupName": group, "logStreamName": stream}
        self._lines = LineReader(log)
        self._closing = threading.Event()
        self._thread = context.run_in_background(self._ship)

    def close(self) -> None:
        """Sends the rest; waits for it a few seconds at the most."""
        self._closing.set()
        self._thread.join(timeout=5)

    def _ship(self) -> None:
        try:
            self._create()
            while not self._closing.wait(_SEND_EVERY_SECONDS):
                self._send(self._lines.read())
            self._send(self._lines.read(final=True))
        except (ClientError, BotoCoreError) as error:
            logger.warning("The log of %s did not reach CloudWatch Logs: %s", self._names, error)

    def _create(self) -> None:
        calls = (
            (self._client.create_log_group, {"logGroupName": self._names["logGroupName"]}),
            (self._client.create_log_stream, self._names),
        )
        for call, arguments in calls:
            try:
                call(**arguments)
            except self._client.exceptions.ResourceAlreadyExistsException:
                logger.debug("%s exists", arguments)

    def _send(self, lines: list[str]) -> None:
        now = int(time.time() * 1000)
        batch: list[dict[str, Any]] = []
        size = 0
        for line in lines:
            message = line.encode()[:_MAX_EVENT_BYTES].decode(errors="ignore") or " "
            length = len(message.encode()) + 26
            if batch and (len(batch) == _MAX_BATCH_EVENTS or size + length > _MAX_BATCH_BYTES):
                self._client.put_log_events(**self._names, logEvents=batch)
                batch, size = [], 0
            batch.append({"timestamp": now, "message": message})
            size += length
        if batch:
            self._client.put_log_events(**self._names, logEvents=batch)
