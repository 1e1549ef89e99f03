"""One burst, one run, through the deployed system: S3, EventBridge, SQS, Lambda, Step Functions."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any

import httpx
import pytest
from boto3.s3.transfer import TransferConfig

from tests.bursts.test_dead_letters import command
from tests.state_machine.local_system import LocalSystem, wait_for

pytestmark = pytest.mark.slow

OBJECTS = 500
# The states of a run that promotes a first model, from the seal to its end; an upload comes during each.
STATES = (
    ("Decode", "Tune", "CreateModel", "Finish"),
    ("Prepare", "Evaluate", "CreateEndpointConfig", "SendMail"),
    ("Retrain", "ReadEvaluation", "Verify", "Mail"),
    ("DescribeChampion", "CreateModelPackageGroup", "FindEndpoint", "Register"),
)


def listing(system: LocalSystem, dataset: str) -> list[dict[str, Any]]:
    """What the bucket holds of a dataset, as a seal lists it."""
    prefix = f"datasets/{dataset}/"
    pages = system.session.client("s3").get_paginator("list_objects_v2").paginate(Bucket=system.bucket, Prefix=prefix)
    found = [
        {"key": entry["Key"].removeprefix(prefix), "size": entry["Size"], "etag": entry["ETag"].strip('"')}
        for page in pages
        for entry in page.get("Contents", [])
    ]
    return [entry for entry in found if entry["key"] != "_READY"]


def is_idle(system: LocalSystem) -> bool:
    """Whether no event is on its way to its handler."""
    attributes = system.session.client("sqs").get_queue_attributes(
        QueueUrl=system.outputs["UploadQueueUrl"], AttributeNames=["All"]
    )["Attributes"]
    names = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
    return all(attributes[name] == "0" for name in names)


def has_entered(system: LocalSystem, run: str, state: str) -> bool:
    """Whether a run has come to a state."""
    return state in states(system, run)


def states(system: LocalSystem, run: str) -> list[str]:
    """The states that a run has entered."""
    arn = f"{system.outputs['StateMachineArn'].replace(':stateMachine:', ':execution:')}:{run}"
    pages = system.session.client("stepfunctions").get_paginator("get_execution_history").paginate(executionArn=arn)
    events = [event for page in pages for event in page["events"]]
    return [event["stateEnteredEventDetails"]["name"] for event in events if "stateEnteredEventDetails" in event]


def test_500_objects_from_many_threads_make_one_run(system: LocalSystem) -> None:
    # GIVEN two classes of images
    keys = [f"datasets/crowd/{label}/{number}.jpg" for label in ("cat", "dog") for number in range(OBJECTS // 2)]
    s3 = system.session.client("s3")
    # WHEN eight threads upload them
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: s3.put_object(Bucket=system.bucket, Key=key, Body=key.encode()), keys))
    # THEN one run takes them all, and nothing follows it
    system.ended_runs("crowd", 1)
    wait_for("the queue", lambda: is_idle(system))
    (run,) = system.ended_runs("crowd", 1)
    assert (run["status"], run["dataset_version"]) == ("SUCCEEDED", 1), run
    assert system.dataset_item("crowd")["uploads"] == OBJECTS
    assert system.lines("versions/crowd/1/objects.jsonl") == listing(system, "crowd")
    assert len(listing(system, "crowd")) == OBJECTS


def upload_in_states(system: LocalSystem, dataset: str, wanted: tuple[str, ...]) -> None:
    """Upload an image in the first of the states of the dataset's first run, in the second of its follow-up, …"""
    system.upload_classes(dataset, "cat", "dog")
    known: set[str] = set()

    def next_run() -> str | None:
        return next((run["id"] for run in system.runs(dataset) if run["id"] not in known), None)

    for state in wanted:
        run = wait_for(f"the run after {len(known)}", next_run)
        known.add(run)
        wait_for(f"{state} of {run}", partial(has_entered, system, run, state))
        system.upload(f"datasets/{dataset}/dog/{state}.jpg", state.encode())
        system.upload(f"datasets/{dataset}/_READY")


def test_an_upload_during_any_state_has_exactly_one_follow_up(system: LocalSystem) -> None:
    # GIVEN datasets whose runs are on their way at the same time
    names = [f"stage-{number}" for number in range(len(STATES))]
    # WHEN an image is uploaded in each state of a run
    with ThreadPoolExecutor(len(STATES)) as pool:
        list(pool.map(partial(upload_in_states, system), names, STATES))
    for dataset, wanted in zip(names, STATES, strict=True):
        system.ended_runs(dataset, len(wanted) + 1)
    wait_for("the queue", lambda: is_idle(system))
    for dataset, wanted in zip(names, STATES, strict=True):
        # THEN each such upload has one run
        runs = system.ended_runs(dataset, len(wanted) + 1)
        assert [run["dataset_version"] for run in runs] == list(range(len(wanted) + 1, 0, -1)), runs
        # AND no two were at work at once
        for later, earlier in pairwise(runs):
            assert later["started_at"] >= states_end(system, earlier)
        # AND the last one has all images
        newest = system.lines(f"versions/{dataset}/{len(wanted) + 1}/objects.jsonl")
        assert newest == listing(system, dataset)
        assert len(newest) == 6 + len(wanted)


def states_end(system: LocalSystem, run: dict[str, Any]) -> str:
    """When the last state before Finish ended."""
    found = system.api.get(f"/runs/{run['id']}").json()["states"]
    ended: str = [state["ended_at"] for state in found if state["name"] != "Finish"][-1]
    return ended


def test_the_same_content_again_starts_nothing_or_says_so(system: LocalSystem) -> None:
    # GIVEN a run on its way WHEN an image of it is uploaded again, as it is
    system.upload_classes("again", "cat", "dog")
    (run,) = wait_for("a run", lambda: system.runs("again"))
    wait_for("Tune", partial(has_entered, system, run["id"], "Tune"))
    system.upload("datasets/again/cat/0.jpg", b"cat0")
    # THEN nothing follows
    system.ended_runs("again", 1)
    wait_for("the queue", lambda: is_idle(system))
    (run,) = system.ended_runs("again", 1)
    assert run["verdict"] == "promoted"
    # WHEN that comes while no run is on its way
    system.upload("datasets/again/cat/0.jpg", b"cat0")
    system.upload("datasets/again/_READY")
    # THEN a run says that nothing has changed, and does nothing else
    unchanged, _ = system.ended_runs("again", 2)
    assert (unchanged["status"], unchanged["verdict"], unchanged["dataset_version"]) == ("SUCCEEDED", "unchanged", 1)
    assert not {"Decode", "Tune"} & set(states(system, unchanged["id"]))
    # AND so does `droptune runs`
    listed = command(system, "runs", "--dataset", "again")
    assert [run["verdict"] for run in listed] == ["unchanged", "promoted"]


def test_every_way_in_is_seen(system: LocalSystem, tmp_path: Any) -> None:
    # GIVEN images that come as a plain upload, in parts, as a copy within S3 and through a signed form; one is too many
    s3 = system.session.client("s3")
    large = tmp_path / "large.jpg"
    large.write_bytes(bytes(range(256)) * 4 * 6 * 1024)
    system.upload("elsewhere/1.jpg", b"copied")
    # WHEN they come
    system.upload("datasets/ways/cat/plain.jpg", b"plain")
    parts = TransferConfig(multipart_threshold=5 * 1024**2, multipart_chunksize=5 * 1024**2)
    s3.upload_file(str(large), system.bucket, "datasets/ways/cat/parts.jpg", Config=parts)
    s3.copy_object(
        Bucket=system.bucket,
        Key="datasets/ways/dog/copy.jpg",
        CopySource={"Bucket": system.bucket, "Key": "elsewhere/1.jpg"},
    )
    form = s3.generate_presigned_post(system.bucket, "datasets/ways/dog/form.jpg")
    with httpx.Client(trust_env=False) as browser:
        answer = browser.post(form["url"], data=form["fields"], files={"file": ("form.jpg", b"form")})
    assert answer.status_code in (200, 201, 204), answer.text
    system.upload("datasets/ways/dog/gone.jpg", b"gone")
    s3.delete_object(Bucket=system.bucket, Key="datasets/ways/dog/gone.jpg")
    # THEN each is counted once, and one run takes what is there
    (run,) = system.ended_runs("ways", 1)
    wait_for("the queue", lambda: is_idle(system))
    (run,) = system.ended_runs("ways", 1)
    assert (run["status"], run["dataset_version"]) == ("SUCCEEDED", 1), run
    assert system.dataset_item("ways")["uploads"] == 6
    sealed = system.lines("versions/ways/1/objects.jsonl")
    assert [entry["key"] for entry in sealed] == ["cat/parts.jpg", "cat/plain.jpg", "dog/copy.jpg", "dog/form.jpg"]
    assert sealed == listing(system, "ways")
    # AND the one that came in parts has an ETag of parts
    assert sealed[0]["etag"].endswith("-2")
