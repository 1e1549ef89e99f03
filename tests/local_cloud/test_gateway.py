"""The gateway as a process: ministack, durable through SIGKILL, a full disk and the absence of its neighbours."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.exceptions import ClientError

from droptune.local_cloud.lifecycle import LocalCloud
from droptune.local_cloud.mailbox import messages
from droptune.local_cloud.processes import Process, wait_until
from droptune.local_cloud.session import LocalSession
from tests.end_to_end.conftest import free_port_pair


@dataclass
class Gateway:
    cloud: LocalCloud
    settings: Any

    def start(self, name: str = "gateway") -> None:
        self.cloud._start(name, self.settings, print)

    def process(self, name: str = "gateway") -> Process:
        process = self.cloud.processes.get(name)
        assert process is not None
        return process

    def kill(self, name: str = "gateway") -> None:
        os.kill(self.process(name).pid, signal.SIGKILL)

    def client(self, service: str) -> Any:
        return LocalSession(f"http://127.0.0.1:{self.settings.gateway_port}").client(service)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    """Mailbox and gateway without a SageMaker behind them."""
    cloud = LocalCloud(tmp_path)
    started = Gateway(cloud, cloud._settle(None, None, free_port_pair()))
    try:
        started.start("mailbox")
        started.start()
        yield started
    finally:
        cloud.down()
    assert not cloud.processes.leftovers()


def test_what_was_answered_survives_a_kill(gateway: Gateway) -> None:
    # GIVEN rows and objects whose writes were answered
    table, s3 = gateway.client("dynamodb"), gateway.client("s3")
    table.create_table(
        TableName="rows",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    s3.create_bucket(Bucket="photos")
    httpx.post(f"http://127.0.0.1:{gateway.settings.gateway_port}/_droptune/flush", timeout=10)
    for number in range(20):
        table.put_item(TableName="rows", Item={"id": {"S": str(number)}})
        s3.put_object(Bucket="photos", Key=f"cat/{number}.jpg", Body=b"x" * number)
    # WHEN the gateway is killed at once and started again
    gateway.kill()
    gateway.start()
    # THEN all of it is there
    assert table.scan(TableName="rows", Select="COUNT")["Count"] == 20
    assert s3.list_objects_v2(Bucket="photos")["KeyCount"] == 20
    assert s3.get_object(Bucket="photos", Key="cat/7.jpg")["Body"].read() == b"x" * 7


def test_without_sagemaker_the_answer_names_the_next_step(gateway: Gateway) -> None:
    # GIVEN a gateway whose SageMaker does not run
    # WHEN it is asked for
    with pytest.raises(ClientError) as caught:
        gateway.client("sagemaker").list_models()
    # THEN the answer is an AWS error that says what to do
    assert caught.value.response["Error"]["Code"] == "ServiceUnavailable"
    assert "droptune up" in caught.value.response["Error"]["Message"]


def test_the_api_port_says_when_nothing_is_deployed(gateway: Gateway) -> None:
    # GIVEN no stack
    # WHEN the API's own port is asked
    answer = httpx.get(f"http://127.0.0.1:{gateway.settings.api_port}/health", timeout=10)
    # THEN it answers in the one shape of errors
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "NotDeployed"


def send_mail(gateway: Gateway, subject: str) -> None:
    ses = gateway.client("sesv2")
    ses.send_email(
        FromEmailAddress="droptune@droptune.test",
        Destination={"ToAddresses": ["owner@droptune.test"]},
        Content={"Simple": {"Subject": {"Data": subject}, "Body": {"Text": {"Data": "line"}}}},
    )


def subjects(gateway: Gateway) -> list[str]:
    assert all(mail.recipients == ("owner@droptune.test",) for mail in messages(gateway.cloud.home / "mail"))
    return [mail.subject for mail in messages(gateway.cloud.home / "mail")]


def test_a_mail_that_ses_accepted_reaches_the_mailbox_whatever_is_killed(gateway: Gateway) -> None:
    # GIVEN a sender identity and a mail that leaves SES by SMTP
    gateway.client("sesv2").create_email_identity(EmailIdentity="droptune@droptune.test")
    send_mail(gateway, "Grüße")
    assert wait_until(lambda: subjects(gateway) == ["Grüße"], 20)
    # WHEN the mailbox is away while the next mail is sent, and the gateway is killed before it is back
    gateway.kill("mailbox")
    send_mail(gateway, "late")
    gateway.kill()
    gateway.start()
    gateway.start("mailbox")
    # THEN the mail comes all the same
    assert wait_until(lambda: subjects(gateway) == ["late", "Grüße"], 30)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the files of another process")
def test_a_full_disk_is_an_error_and_loses_nothing_afterwards(gateway: Gateway) -> None:
    import resource

    s3, queues = gateway.client("s3"), gateway.client("sqs")
    s3.create_bucket(Bucket="photos")
    # GIVEN a gateway that can write next to nothing
    old = resource.prlimit(gateway.process().pid, resource.RLIMIT_FSIZE, (200, resource.RLIM_INFINITY))
    # WHEN an object is uploaded that does not fit
    with pytest.raises(ClientError) as caught:
        s3.put_object(Bucket="photos", Key="big.jpg", Body=b"x" * 1000)
    # THEN the answer says so, and what to do
    assert caught.value.response["Error"]["Code"] == "InsufficientStorage"
    assert "Free some space" in caught.value.response["Error"]["Message"]
    # AND what could not be written meanwhile is written when there is space again
    queues.create_queue(QueueName="kept")
    assert wait_until(lambda: "the state cannot be written" in gateway.cloud.processes.log_tail("gateway", 100), 20)
    resource.prlimit(gateway.process().pid, resource.RLIMIT_FSIZE, old)
    written = gateway.cloud.home / "cloud" / "sqs.json"
    assert wait_until(lambda: written.exists() and "kept" in written.read_text(), 20)
    s3.put_object(Bucket="photos", Key="big.jpg", Body=b"x" * 1000)
    gateway.kill()
    gateway.start()
    assert s3.head_object(Bucket="photos", Key="big.jpg")["ContentLength"] == 1000
    assert queues.list_queues()["QueueUrls"]


def test_a_state_waits_for_a_sagemaker_that_is_away(gateway: Gateway) -> None:
    # GIVEN a state machine with a SageMaker task, and no SageMaker
    states = gateway.client("stepfunctions")
    definition = {
        "QueryLanguage": "JSONata",
        "StartAt": "List",
        "States": {
            "List": {
                "Type": "Task",
                "Resource": "arn:aws:states:::aws-sdk:sagemaker:describeModel",
                "Arguments": {"ModelName": "{% $states.input.model %}"},
                "End": True,
            }
        },
    }
    arn = states.create_state_machine(
        name="list", definition=json.dumps(definition), roleArn="arn:aws:iam::000000000000:role/x"
    )["stateMachineArn"]
    execution = states.start_execution(stateMachineArn=arn, input=json.dumps({"model": "m"}))["executionArn"]
    assert wait_until(lambda: "waits until" in gateway.cloud.processes.log_tail("gateway"), 30)
    assert states.describe_execution(executionArn=execution)["status"] == "RUNNING"
    # WHEN SageMaker is started
    (gateway.cloud.home / "images.json").write_text("{}")
    gateway.start("sagemaker")
    # THEN the task gets its answer: there is no such model
    assert wait_until(lambda: states.describe_execution(executionArn=execution)["status"] != "RUNNING", 30)
    described = states.describe_execution(executionArn=execution)
    assert described["status"] == "FAILED"
    assert described["error"] == "SageMaker.SageMakerException"
    assert "Could not find model" in described["cause"]


def test_a_queue_follows_the_gateway_to_another_port(gateway: Gateway) -> None:
    # GIVEN a queue with a message
    sqs = gateway.client("sqs")
    url = sqs.create_queue(QueueName="uploads")["QueueUrl"]
    sqs.send_message(QueueUrl=url, MessageBody="one photo")

    # WHEN the gateway goes and comes back on another port
    gateway.cloud.down()
    gateway.settings = gateway.cloud._settle(None, None, free_port_pair())
    gateway.start("mailbox")
    gateway.start()

    # THEN the queue is known by its new URL and holds the message
    sqs = gateway.client("sqs")
    moved = sqs.get_queue_url(QueueName="uploads")["QueueUrl"]
    assert moved == url.replace(url.split("/")[2], f"127.0.0.1:{gateway.settings.gateway_port}")
    assert [message["Body"] for message in sqs.receive_message(QueueUrl=moved)["Messages"]] == ["one photo"]
