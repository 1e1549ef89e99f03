"""One burst, one run: what makes a burst, and what ends it, in simulated time."""

import itertools
import json
import random
from datetime import timedelta
from typing import Any

import pytest
from chalicelib import config, finishing
from chalicelib.errors import EmptyDataset

from tests.bursts.aws_in_process import BUCKET, InProcessAws
from tests.bursts.world import MAX_WAIT_SECONDS, QUIET_SECONDS, Clock, World

FILES = 10_000
BURST_SECONDS = 60
LAMBDA_BATCH = 50
NUMBERS = itertools.count()


@pytest.fixture
def world(aws: InProcessAws, clock: Clock, s3: object) -> World:
    """A dataset of its own."""
    return World(aws, clock, f"one-run-{next(NUMBERS)}", random.Random(0), s3)


def finish(world: World, status: str = "SUCCEEDED", **facts: Any) -> str | None:
    """End the active run; returns its follow-up."""
    run = world.item()["run"]
    answer = finishing.finish({"run": run, "dataset": world.dataset, "status": status, **facts})
    world.aws.end(run)
    follow_up: str | None = answer["follow_up"]
    return follow_up


def finish_sealed(world: World, status: str = "SUCCEEDED") -> str | None:
    """Seal, and end the run."""
    sealed = world.settle()
    assert sealed["status"] == "sealed", sealed
    return finish(world, status, dataset_version=sealed["version"], content_hash=sealed["content_hash"])


def wait(clock: Clock, seconds: float) -> None:
    """Let time pass."""
    clock.time += timedelta(seconds=seconds)


def sealed_objects(world: World, version: int) -> list[dict[str, Any]]:
    """What a version's seal lists."""
    key = f"versions/{world.dataset}/{version}/objects.jsonl"
    body = world.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read().decode()
    return [json.loads(line) for line in body.splitlines()]


@pytest.mark.slow
def test_ten_thousand_uploads_in_a_minute_make_one_run(world: World, clock: Clock) -> None:
    # GIVEN as many objects, whose events come shuffled, one in five twice, over a minute
    paths = [f"{label}/{number}.jpg" for label in ("cat", "dog") for number in range(FILES // 2)]
    for path in paths:
        world.aws.put_object(f"datasets/{world.dataset}/{path}", b"x")
    events = [world.event("Object Created", path) for path in paths]
    deliveries = events + world.random.sample(events, FILES // 5)
    world.random.shuffle(deliveries)
    batches = [deliveries[start : start + LAMBDA_BATCH] for start in range(0, len(deliveries), LAMBDA_BATCH)]
    # WHEN they are handled in batches, while the run asks whether the burst is over
    for number, batch in enumerate(batches):
        assert world.deliver(*batch) == set()
        wait(clock, BURST_SECONDS / len(batches))
        if number % 20 == 0:
            assert world.settle()["status"] == "waiting"
    (run,) = world.running()
    waiting = world.settle()
    assert waiting["status"] == "waiting"
    wait(clock, waiting["wait_seconds"])
    sealed = world.settle()
    # THEN each change is counted once
    assert world.item()["uploads"] == FILES
    # AND what is sealed is what the bucket holds
    pages = world.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"datasets/{world.dataset}/")
    listed = [
        {"key": entry["Key"].removeprefix(f"datasets/{world.dataset}/"), "size": 1, "etag": entry["ETag"].strip('"')}
        for page in pages
        for entry in page["Contents"]
    ]
    assert len(listed) == FILES
    assert sealed_objects(world, sealed["version"]) == listed
    # AND nothing follows it, nor a late repetition of all its events
    facts = {"dataset_version": sealed["version"], "content_hash": sealed["content_hash"]}
    assert finish(world, **facts) is None
    for batch in batches[:40]:
        world.deliver(*batch)
    assert world.running() == []
    with world.aws.unseen():
        runs = config.runs_table().scan()["Items"]
    assert [item["id"] for item in runs if item["dataset"] == world.dataset] == [run]


@pytest.mark.parametrize("last", ["_READY", "more.zip"])
def test_a_marker_or_an_archive_seals_at_once(world: World, clock: Clock, last: str) -> None:
    # GIVEN a burst WHEN its last file says that no more will come, and is announced before the others
    images = [world.put(f"cat/{number}.jpg", last.encode()) for number in range(3)]
    world.deliver(world.put(last, b""))
    wait(clock, 1)
    world.deliver(*images)
    # THEN it is sealed without a quiet time
    assert finish_sealed(world) is None


def test_a_marker_of_an_earlier_burst_does_not_end_a_later_one(world: World, clock: Clock) -> None:
    # GIVEN a run that has sealed, and a whole burst during it, with its marker
    world.deliver(world.put("cat/1.jpg", b"1"), world.put("_READY", b""))
    sealed = world.settle()
    world.deliver(world.put("cat/2.jpg", b"2"), world.put("_READY", b""))
    # AND the beginning of another, much later, when the run ends
    wait(clock, 3600)
    world.deliver(world.put("cat/3.jpg", b"3"))
    assert finish(world, dataset_version=sealed["version"], content_hash=sealed["content_hash"])
    # WHEN the follow-up settles
    # THEN it waits for the whole of the later burst
    assert world.settle() == {"status": "waiting", "wait_seconds": QUIET_SECONDS}
    world.deliver(world.put("cat/4.jpg", b"4"))
    wait(clock, QUIET_SECONDS)
    assert finish_sealed(world) is None
    assert len(sealed_objects(world, 2)) == 4


def test_a_burst_that_does_not_end_is_sealed_all_the_same(world: World, clock: Clock) -> None:
    # GIVEN uploads that come faster than the quiet time, for ever
    begun = clock.time
    world.deliver(world.put("cat/0.jpg", b"0"))
    number = 0
    # WHEN the run settles
    while world.settle()["status"] == "waiting":
        number += 1
        world.deliver(world.put(f"cat/{number}.jpg", b"x"))
        wait(clock, QUIET_SECONDS - 1)
    # THEN it waits for so long and no longer
    waited = (clock.time - begun).total_seconds()
    assert MAX_WAIT_SECONDS <= waited < MAX_WAIT_SECONDS + QUIET_SECONDS
    # AND what comes later is for the follow-up
    world.deliver(world.put("cat/last.jpg", b"x"))
    assert finish(world) is not None


def test_a_deletion_is_a_change(world: World, clock: Clock) -> None:
    # GIVEN a version that went well
    events = [world.put(f"cat/{number}.jpg", b"x") for number in range(3)]
    world.deliver(*events)
    wait(clock, QUIET_SECONDS)
    finish_sealed(world)
    # WHEN one of its objects is deleted
    world.deliver(world.delete("cat/1.jpg"))
    wait(clock, QUIET_SECONDS)
    # THEN the next version lacks it
    finish_sealed(world)
    assert [entry["key"] for entry in sealed_objects(world, 2)] == ["cat/0.jpg", "cat/2.jpg"]
    # AND when the very same bytes come back, that is a change again
    world.deliver(world.put("cat/1.jpg", b"x"))
    wait(clock, QUIET_SECONDS)
    finish_sealed(world)
    # AND the same once more is none, and says so
    world.deliver(world.put("cat/1.jpg", b"x"))
    wait(clock, QUIET_SECONDS)
    assert world.settle() == {"status": "unchanged", "version": 3}


def test_the_order_of_events_does_not_matter(world: World, clock: Clock) -> None:
    # GIVEN files that came and went
    events = [world.put("cat/1.jpg", b"1"), world.put("cat/2.jpg", b"2"), world.delete("cat/1.jpg")]
    # WHEN the deletion is announced first, and a creation last
    for event in reversed(events):
        world.deliver(event)
    wait(clock, QUIET_SECONDS)
    # THEN the version holds what is there
    finish_sealed(world)
    assert [entry["key"] for entry in sealed_objects(world, 1)] == ["cat/2.jpg"]


def test_datasets_do_not_know_of_each_other(world: World, aws: InProcessAws, clock: Clock) -> None:
    # GIVEN changes of three datasets, which come in one batch
    others = [World(aws, clock, f"{world.dataset}-{number}", random.Random(0), world.s3) for number in range(2)]
    together = [world, *others]
    world.deliver(*(each.put(f"cat/{number}.jpg", b"x") for number in range(3) for each in together))
    # WHEN one is sealed at once
    world.deliver(others[0].put("_READY", b""))
    # THEN it alone is, and each has a run of its own
    assert others[0].settle()["status"] == "sealed"
    assert [each.settle()["status"] for each in (world, others[1])] == ["waiting", "waiting"]
    assert [len(each.running()) for each in together] == [1, 1, 1]


def test_a_run_that_fails_is_not_followed_by_itself(
    world: World, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN a run that fails after its seal WHEN it ends THEN nothing follows
    world.deliver(world.put("cat/1.jpg", b"1"))
    wait(clock, QUIET_SECONDS)
    assert finish_sealed(world, "FAILED") is None

    # GIVEN a run that fails before its seal, while more came
    world.deliver(world.put("cat/2.jpg", b"2"))
    world.deliver(world.put("cat/3.jpg", b"3"))
    # WHEN it ends
    follow_up = finish(world, "FAILED")
    # THEN one run follows, for those that it may not have seen
    assert follow_up == world.item()["run"]
    # AND when that one fails too, no other
    assert finish(world, "FAILED") is None
    assert "run" not in world.item()
    # AND the next upload makes one that takes everything
    world.deliver(world.put("cat/4.jpg", b"4"))
    wait(clock, QUIET_SECONDS)
    assert finish_sealed(world) is None
    assert len(sealed_objects(world, 2)) == 4


def test_a_folder_that_was_emptied_fails_once(world: World, clock: Clock) -> None:
    # GIVEN a dataset whose only image is deleted
    world.deliver(world.put("cat/1.jpg", b"1"))
    world.deliver(world.delete("cat/1.jpg"))
    wait(clock, QUIET_SECONDS)
    # WHEN its run settles and fails
    with pytest.raises(EmptyDataset):
        world.settle()
    # THEN nothing follows
    assert finish(world, "FAILED") is None


@pytest.mark.parametrize(
    "body",
    [
        "no JSON",
        "[]",
        '"text"',
        '{"Records": [{"s3": {}}]}',
        '{"Service": "Amazon S3", "Event": "s3:TestEvent"}',
        '{"detail-type": "Object Restore Completed", "detail": {"bucket": {"name": "b"}, "object": {"key": "k"}}}',
        '{"detail-type": "Object Created", "detail": {"bucket": {"name": "b"}, "object": {"key": 7}}}',
    ],
    ids=["text", "list", "string", "notification", "test event", "restore", "number for a key"],
)
def test_a_poison_message_does_not_hold_up_its_batch(world: World, body: str) -> None:
    # GIVEN a message that is no S3 event, amid others
    messages = [
        world.handler.message(event) for event in (world.put("cat/1.jpg", b"1"), body, world.put("_READY", b""))
    ]
    # WHEN the batch is handled
    failed = world.handler.handle(messages)
    # THEN it alone comes again
    assert failed == {messages[1]["messageId"]}
    assert world.settle()["status"] == "sealed"


def test_a_dataset_that_cannot_be_counted_does_not_hold_up_the_others(
    world: World, aws: InProcessAws, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN a dataset whose item DynamoDB refuses to change, and another one in the same batch
    broken = World(aws, clock, "broken-count", random.Random(0), world.s3)
    with aws.unseen():
        config.datasets_table().put_item(Item={"dataset": broken.dataset, "uploads": "no number"})
    good, bad = (
        world.handler.message(world.put("cat/1.jpg", b"1")),
        world.handler.message(broken.put("cat/1.jpg", b"1")),
    )
    # WHEN they are handled
    failed = world.handler.handle([bad, good])
    # THEN the first alone comes again
    assert failed == {bad["messageId"]}
    assert len(world.running()) == 1
