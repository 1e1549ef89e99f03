"""The gateway as a process: ministack, durable through SIGKILL, with a friendly error when SageMaker is away."""

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.exceptions import ClientError

from droptune.local_cloud.lifecycle import LocalCloud
from droptune.local_cloud.processes import wait_until
from droptune.local_cloud.session import LocalSession


@dataclass
class Gateway:
    cloud: LocalCloud
    settings: Any

    def start(self) -> None:
        self.cloud._start("gateway", self.settings, print)

    def kill(self) -> None:
        process = self.cloud.processes.get("gateway")
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)

    def client(self, service: str) -> Any:
        return LocalSession(f"http://127.0.0.1:{self.settings.gateway_port}").client(service)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    """Mailbox and gateway without a SageMaker behind them."""
    cloud = LocalCloud(tmp_path)
    started = Gateway(cloud, cloud._settle(None, None, None))
    cloud._start("mailbox", started.settings, print)
    started.start()
    yield started
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


def test_mail_leaves_ses_by_smtp(gateway: Gateway) -> None:
    # GIVEN a sender identity
    ses = gateway.client("sesv2")
    ses.create_email_identity(EmailIdentity="droptune@droptune.test")
    # WHEN a mail is sent with SESv2
    ses.send_email(
        FromEmailAddress="droptune@droptune.test",
        Destination={"ToAddresses": ["owner@droptune.test"]},
        Content={"Simple": {"Subject": {"Data": "Grüße"}, "Body": {"Text": {"Data": "line"}}}},
    )
    # THEN it lies in the mailbox
    from droptune.local_cloud.mailbox import messages

    # The relay answers SES's caller first and speaks SMTP afterwards.
    assert wait_until(lambda: bool(messages(gateway.cloud.home / "mail")), 10)
    mails = messages(gateway.cloud.home / "mail")
    assert [(mail.subject, mail.recipients) for mail in mails] == [("Grüße", ("owner@droptune.test",))]


def test_step_functions_reports_a_missing_sagemaker_as_an_error_of_the_task(gateway: Gateway) -> None:
    # GIVEN a state machine with a SageMaker task
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
    # WHEN it runs
    execution = states.start_execution(stateMachineArn=arn, input=json.dumps({"model": "m"}))["executionArn"]
    assert wait_until(lambda: states.describe_execution(executionArn=execution)["status"] != "RUNNING", 30)
    described = states.describe_execution(executionArn=execution)
    # THEN it failed with SageMaker's error
    assert described["status"] == "FAILED"
    assert described["error"] == "SageMaker.SdkClientException"
