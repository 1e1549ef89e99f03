"""One dataset, and everyone who works on it at once: people, the functions that handle uploads, and its runs.

The handlers are the deployed ones. What SQS, Lambda and Step Functions do around them is done here in their place:
messages are delivered at least once and in any order, a function that died is called again, a run goes from Settle
to Finish.
"""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from chalicelib import config, finishing, run_lock, sealing, uploads
from chalicelib.dataset_objects import hash_objects, list_objects
from chalicelib.errors import EmptyDataset

from tests.bursts.aws_in_process import BUCKET, InProcessAws
from tests.bursts.interleaving import Actor, Interleaving, Killed

QUIET_SECONDS, MAX_WAIT_SECONDS = 5, 100
STEP = timedelta(milliseconds=40)
START = datetime(2026, 11, 22, 14, 0, tzinfo=UTC)
# A queue gives up after five; here nothing dies more often.
MAX_ATTEMPTS = 4

Event = dict[str, Any]


@dataclass
class Context:
    """What Lambda hands to a function beside the event."""

    function_name: str = "droptune-on-upload"
    memory_limit_in_mb: int = 512
    invoked_function_arn: str = "arn:aws:lambda:us-east-1:000000000000:function:droptune-on-upload"
    aws_request_id: str = "00000000-0000-0000-0000-000000000000"

    def get_remaining_time_in_millis(self) -> int:
        return 60_000


class Clock:
    """The simulated time; an actor's own clock may be wrong."""

    def __init__(self) -> None:
        self.time = START
        self.current: Callable[[], Actor | None] = lambda: None

    def now(self) -> datetime:
        actor = self.current()
        return self.time + timedelta(seconds=actor.skew if actor else 0)


class Handler:
    """The function `on_upload` as Lambda calls it, with a queue's messages before it."""

    def __init__(self) -> None:
        self._number = 0

    def message(self, event: Any) -> Event:
        """An SQS message, as a Lambda event lists it."""
        self._number += 1
        body = event if isinstance(event, str) else json.dumps(event)
        return {"messageId": str(self._number), "body": body, "eventSource": "aws:sqs", "attributes": {}}

    def handle(self, messages: list[Event]) -> set[str]:
        """Hand over a batch; the ids of the messages that have to come again."""
        answer = uploads.on_upload({"Records": messages}, Context())
        return {failure["itemIdentifier"] for failure in answer["batchItemFailures"]}


@dataclass
class World:
    """One dataset and what happens to it.

    Attributes:
        queue: the messages that wait to be handled.
        told: all events there were.
        started: the runs whose execution began, in order.
        sealed: the content hash of each run that has sealed a version.
        verdicts: how each run ended, or will end.
        waiting: what Finish will be given, of runs that are held before it.
        hold: the states before which runs are held, ``settle`` or ``finish``.
        failures: how probable it is that a run fails after its seal.
    """

    aws: InProcessAws
    clock: Clock
    dataset: str
    random: random.Random
    s3: Any
    handler: Handler = field(default_factory=Handler)
    queue: list[Event] = field(default_factory=list)
    told: list[Event] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    sealed: dict[str, str] = field(default_factory=dict)
    verdicts: dict[str, str] = field(default_factory=dict)
    waiting: dict[str, dict[str, Any]] = field(default_factory=dict)
    hold: set[str] = field(default_factory=set)
    failures: float = 0.0

    def __post_init__(self) -> None:
        self.turns = Interleaving(self.random)
        self.clock.current = self.turns.current
        self.aws.before, self.aws.after = self.turns.before, self.turns.after
        self.aws.forget_executions()
        self._sequence = 0
        self._finishing: set[str] = set()

    # What people do.

    def put(self, path: str, body: bytes) -> Event:
        """Upload an object; returns the event that S3 announces it with."""
        self.s3.put_object(Bucket=BUCKET, Key=f"datasets/{self.dataset}/{path}", Body=body)
        return self.event("Object Created", path)

    def delete(self, path: str) -> Event:
        """Delete an object; returns the event."""
        self.s3.delete_object(Bucket=BUCKET, Key=f"datasets/{self.dataset}/{path}")
        return self.event("Object Deleted", path)

    def announce(self, *events: Event) -> None:
        """Put events into the queue, now and then one of them twice."""
        self.told += events
        for event in events:
            self.queue += [self.handler.message(event) for _ in range(1 + (self.random.random() < 0.2))]
        self.random.shuffle(self.queue)

    def deliver(self, *events: Any) -> set[str]:
        """Handle these events now, in one batch; returns the ids of the messages that failed."""
        return self.handler.handle([self.handler.message(event) for event in events])

    def event(self, kind: str, path: str) -> Event:
        """What EventBridge makes of a change of an object."""
        self._sequence += 1
        return {
            "source": "aws.s3",
            "detail-type": kind,
            "detail": {
                "bucket": {"name": BUCKET},
                "object": {"key": f"datasets/{self.dataset}/{path}", "sequencer": f"{self._sequence:018X}"},
            },
        }

    # Who works at once.

    def add_dispatcher(self, *, mortal: bool = True) -> None:
        """Begin a function that takes a few messages of the queue; when it dies they come again."""
        size = self.random.randint(1, 3)
        batch, self.queue = self.queue[:size], self.queue[size:]
        if batch:
            self._add("on_upload", lambda: self._handle(batch), mortal, lambda: self.queue.extend(batch))

    def add_person(self, *changes: Callable[[], Event]) -> None:
        """Begin a person who makes these changes, one after the other."""

        def work() -> None:
            for change in changes:
                self.announce(change())
                self.add_dispatcher()

        self._add("person", work, mortal=False)

    def add_run(self, run: str) -> None:
        """Let a run go on with the state before which it is held."""
        if run in self.waiting:
            self._add_state(run, self._finish)
        else:
            self._add_state(run, self._settle)

    def go_on(self, dispatchers: int = 2) -> None:
        """Let all work at once, with so many functions at first, until nothing is left to do."""
        for _ in range(dispatchers):
            self.add_dispatcher()
        self.turns.run(self._check)
        while self.queue:
            self.add_dispatcher(mortal=False)
            self.turns.run(self._check)

    # What can be told afterwards.

    def item(self) -> dict[str, Any]:
        """The dataset's item."""
        with self.aws.unseen():
            return run_lock.dataset_item(self.dataset)

    def content(self) -> str:
        """The content hash of what the bucket holds."""
        with self.aws.unseen():
            return hash_objects(list_objects(self.dataset))

    def running(self) -> list[str]:
        """The runs whose execution has not ended."""
        return self.aws.running(self.dataset)

    def trace(self) -> str:
        """Every call in its order."""
        return "\n".join(self.turns.trace)

    def _handle(self, batch: list[Event]) -> None:
        failed = self.handler.handle(batch)
        self.queue += [message for message in batch if message["messageId"] in failed]
        self.add_dispatcher()

    def _add(self, name: str, work: Callable[[], None], mortal: bool, dead: Callable[[], None] = lambda: None) -> None:
        actor = Actor(name, work, skew=self.random.choice((0.0, 0.0, -1.0, 1.0)))
        if mortal and self.random.random() < 0.4:
            actor.dies_at, actor.after = self.random.randrange(8), self.random.random() < 0.5

        def live() -> None:
            try:
                work()
            except Killed:
                dead()
                raise

        actor.work = live
        self.turns.add(actor)

    def _add_state(self, run: str, state: Callable[[str], None], attempt: int = 1) -> None:
        def again() -> None:
            self._add_state(run, state, attempt + 1)

        self._add(f"{run} {state.__name__}", lambda: state(run), attempt < MAX_ATTEMPTS, again)

    def _settle(self, run: str) -> None:
        outcome = {"run": run, "dataset": self.dataset, "status": "SUCCEEDED"}
        try:
            while (result := self.settle())["status"] == "waiting":
                self.clock.time += timedelta(seconds=result["wait_seconds"])
        except EmptyDataset:
            outcome |= {"status": "FAILED", "verdict": "empty"}
        else:
            assert self.item()["run"] == run, f"a run without the lock has sealed\n{self.trace()}"
            outcome |= {"dataset_version": result["version"], "verdict": "unchanged"}
            if result["status"] == "sealed":
                self.sealed[run] = result["content_hash"]
                outcome |= {"content_hash": result["content_hash"], "verdict": "promoted"}
                if self.random.random() < self.failures:
                    outcome |= {"status": "FAILED", "verdict": "failed"}
        self.verdicts[run] = outcome["verdict"]
        self.waiting[run] = outcome
        if "finish" not in self.hold:
            self.add_run(run)

    def settle(self) -> dict[str, Any]:
        """What Settle answers now."""
        return sealing.settle(self.dataset, QUIET_SECONDS, MAX_WAIT_SECONDS, "resnet18", 224)

    def _finish(self, run: str) -> None:
        self._finishing.add(run)
        finishing.finish(self.waiting[run])
        self.aws.end(run)

    def _check(self) -> None:
        self.clock.time += STEP
        running = self.running()
        new = [run for run in running if run not in self.started]
        if not new and len(running) < 2:
            return
        holder = self.item().get("run")
        assert all(run == holder for run in new), f"{new} began without the lock\n{self.trace()}"
        at_work = [run for run in running if run != holder and run not in self._finishing]
        assert not at_work, f"{at_work} lost the lock at work\n{self.trace()}"
        for run in new:
            self.started.append(run)
            if "settle" not in self.hold:
                self.add_run(run)


def use(aws: InProcessAws, clock: Clock, monkeypatch: Any) -> None:
    """Put this process in the place of the functions."""
    session = aws.session()
    monkeypatch.setattr("boto3.client", session.client)
    monkeypatch.setattr("boto3.resource", session.resource)
    monkeypatch.setattr("chalicelib.times.now", clock.now)
    forget()


def forget() -> None:
    """Let the functions make their clients anew."""
    config.client.cache_clear()
    config._table.cache_clear()
