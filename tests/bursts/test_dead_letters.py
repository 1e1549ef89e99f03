"""What cannot be handled: aside it goes, the owner hears of it once, and it can be put back."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from chalicelib import uploads

from droptune.dead_letters import read
from tests.project.pages import REFERENCE, json_fences, section, text
from tests.state_machine.local_system import LocalSystem, wait_for

EVENT = {
    "detail-type": "Object Created",
    "detail": {"bucket": {"name": "b"}, "object": {"key": "datasets/x/cat/1.jpg"}},
}


def command(system: LocalSystem, *arguments: str) -> Any:
    """What `droptune <arguments> --json` prints."""
    done = subprocess.run(
        [str(Path(sys.executable).parent / "droptune"), "--state-dir", str(system.cloud.home), *arguments, "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def send(system: LocalSystem, *bodies: str) -> None:
    """Put messages into the queue of upload events."""
    queue = system.session.client("sqs")
    for body in bodies:
        queue.send_message(QueueUrl=system.outputs["UploadQueueUrl"], MessageBody=body)


def dead_letters(system: LocalSystem) -> int | None:
    """How many messages lie in the dead-letter queue, as `droptune status` says."""
    return system.cloud.status().dead_letters


def alarm(system: LocalSystem) -> str:
    """The state of the alarm."""
    (found,) = system.session.client("cloudwatch").describe_alarms()["MetricAlarms"]
    state: str = found["StateValue"]
    return state


def upload_event(system: LocalSystem, dataset: str) -> str:
    """The event of an object that is gone."""
    thing = {"key": f"datasets/{dataset}/cat/1.jpg", "sequencer": "0A"}
    return json.dumps({"detail-type": "Object Created", "detail": {"bucket": {"name": system.bucket}, "object": thing}})


@pytest.mark.slow
def test_poison_ends_aside_the_owner_hears_of_it_once_and_it_can_be_put_back(system: LocalSystem) -> None:
    # GIVEN an alarm that rests, and a dataset whose item cannot be counted up
    wait_for("the alarm's first look", lambda: alarm(system) == "OK")
    table = system.session.client("dynamodb")
    key = {"dataset": {"S": "spoilt"}}
    table.put_item(TableName=system.outputs["DatasetsTable"], Item={**key, "uploads": {"S": "no number"}})
    # WHEN poison comes, twice the same, beside an upload of that dataset and one of a sound dataset
    send(system, "no event", "no event", '{"Records": []}')
    system.upload("datasets/spoilt/cat/1.jpg")
    system.upload_classes("sound", "cat")
    # THEN the sound one gets its run, and the others end in the dead-letter queue
    (run,) = system.ended_runs("sound", 1)
    assert run["error"]["code"] == "TooFewClasses", run
    wait_for("the dead letters", lambda: dead_letters(system) == 4)
    # AND the owner has one mail, which says what to do
    wait_for("the mail", lambda: system.mails("droptune: "))
    send(system, "one more")
    wait_for("one more dead letter", lambda: dead_letters(system) == 5)
    (mail,) = system.mails("droptune: ")
    assert mail.subject.endswith("about uploads could not be handled")
    assert "droptune redrive --dry-run" in mail.text
    assert alarm(system) == "ALARM"

    # WHEN they are listed THEN nothing moves
    listed = command(system, "redrive", "--dry-run")
    assert (listed["messages"], listed["kept"], listed["put_back"], listed["dropped"]) == (5, 5, 0, 0)
    (event,) = [letter for letter in listed["dead_letters"] if letter["reason"] is None]
    assert (event["key"], event["event"], event["messages"]) == ("datasets/spoilt/cat/1.jpg", "Object Created", 1)
    (example,) = json_fences(section(text(REFERENCE / "command.md"), "`redrive --json`"))
    assert (set(example), set(example["dead_letters"][0])) == (set(listed), set(event))
    others = {letter["body"]: letter["messages"] for letter in listed["dead_letters"] if letter["reason"]}
    assert others == {"no event": 2, '{"Records": []}': 1, "one more": 1}
    assert command(system, "status")["dead_letters"] == 5

    # WHEN the cause is mended and they are put back
    table.delete_item(TableName=system.outputs["DatasetsTable"], Key=key)
    done = command(system, "redrive")
    # THEN the upload gets its run after all, and what can never be handled stays
    assert (done["put_back"], done["dropped"], done["kept"]) == (1, 0, 4)
    (run,) = system.ended_runs("spoilt", 1)
    assert run["error"]["code"] == "TooFewClasses"
    assert dead_letters(system) == 4
    # AND it goes when it is told to
    assert command(system, "redrive", "--drop")["dropped"] == 4
    assert dead_letters(system) == 0

    # WHEN the incident is over and another one comes
    system.session.client("cloudwatch").set_alarm_state(
        AlarmName="droptune-uploads-dead", StateValue="OK", StateReason="five minutes have passed"
    )
    queue = system.session.client("sqs")
    queue.send_message(QueueUrl=system.outputs["UploadDeadLetterQueueUrl"], MessageBody="poison again")
    # THEN the owner hears of that too
    wait_for("the second mail", lambda: len(system.mails("droptune: ")) == 2)
    assert command(system, "redrive", "--drop")["dropped"] == 1


@pytest.mark.slow
def test_a_redrive_that_is_killed_loses_nothing(system: LocalSystem) -> None:
    # GIVEN an event in the dead-letter queue
    queue = system.session.client("sqs")
    source, dead = system.outputs["UploadQueueUrl"], system.outputs["UploadDeadLetterQueueUrl"]
    queue.send_message(QueueUrl=dead, MessageBody=upload_event(system, "killed"))
    # WHEN a redrive has sent it back, and dies before it deletes it
    (message,) = queue.receive_message(QueueUrl=dead, VisibilityTimeout=1)["Messages"]
    queue.send_message(QueueUrl=source, MessageBody=message["Body"])
    # THEN it comes again, and another redrive takes it
    wait_for("the message", lambda: dead_letters(system) == 1)
    assert command(system, "redrive")["put_back"] == 1
    # AND it is counted once
    (run,) = system.ended_runs("killed", 1)
    assert run["error"]["code"] == "EmptyDataset"
    wait_for(
        "the queue",
        lambda: (
            {
                queue.get_queue_attributes(QueueUrl=source, AttributeNames=["All"])["Attributes"][name]
                for name in ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
            }
            == {"0"}
        ),
    )
    assert system.dataset_item("killed")["uploads"] == 1
    assert len(system.runs("killed")) == 1


@pytest.mark.parametrize(
    ("body", "can_be_handled"),
    [
        (json.dumps(EVENT), True),
        (json.dumps(EVENT | {"detail-type": "Object Deleted", "id": "1"}), True),
        (json.dumps(EVENT | {"detail-type": "Object Restore Completed"}), False),
        (json.dumps(EVENT | {"detail": {"object": {"key": "k"}}}), False),
        (json.dumps(EVENT | {"detail": None}), False),
        ("no JSON", False),
        ("7", False),
        ("[]", False),
        ('{"Records": []}', False),
    ],
    ids=["created", "deleted", "restored", "no bucket", "no detail", "text", "number", "list", "notification"],
)
def test_the_command_and_the_handler_agree_on_what_is_poison(body: str, can_be_handled: bool) -> None:
    # GIVEN a message WHEN the command reads it THEN it says what the handler would
    assert (read(body).reason is None) == can_be_handled
    document: Any = None
    try:
        document = json.loads(body)
        uploads.parse_change({"id": "1", **document} if isinstance(document, dict) else document)
    except (KeyError, TypeError, ValueError):
        assert not can_be_handled
    else:
        assert can_be_handled
