"""AWS inside this process: botocore's requests go straight to ministack's handlers, with no network between.

That makes a call cheap enough for thousands of interleavings, and gives a place to stop before, and after, each.
State machines do not run by themselves: their executions stay RUNNING until a test ends them.
"""

import asyncio
import contextlib
import io
import json
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import boto3
import botocore.session
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.config import Config

REGION, ACCOUNT = "us-east-1", "000000000000"
BUCKET, MACHINE = "bursts", f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:bursts"
# The names of botocore's events and of ministack's services.
SERVICES = {"dynamodb": "dynamodb", "s3": "s3", "sfn": "states"}
# What the template gives to the functions; the run's configuration only passes through.
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": REGION,
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    "BUCKET": BUCKET,
    "DATASETS_TABLE": "datasets",
    "RUNS_TABLE": "runs",
    "IDEMPOTENCY_TABLE": "idempotency",
    "STATE_MACHINE_ARN": MACHINE,
    "DROPTUNE_CONFIG": '{"mail": {"from": "", "to": ""}}',
}

Gate = Callable[[str], None]
"""Called with an operation's name; what it raises is what the caller of the operation gets."""


class Body(io.BytesIO):
    """A response's body as urllib3 offers it."""

    def stream(self, **_: Any) -> Iterator[bytes]:
        yield self.read()


class InProcessAws:
    """ministack's S3, DynamoDB and Step Functions, called directly.

    Attributes:
        before: called before an operation is carried out: raising here is a request that never arrives.
        after: called after it: raising here is an answer that never arrives.
    """

    def __init__(self) -> None:
        from ministack import app
        from ministack.services import dynamodb, s3, stepfunctions

        self._handlers = {name: app.SERVICE_HANDLERS[service] for name, service in SERVICES.items()}
        self._modules = (dynamodb, s3, stepfunctions)
        self._stepfunctions = stepfunctions
        # Otherwise each execution would begin a thread that races with the test.
        stepfunctions._run_execution = lambda _: None
        self._loop = asyncio.new_event_loop()
        # Threads of the tests that use no scheduler come at the same time.
        self._lock = threading.Lock()
        self.before: Gate = _pass
        self.after: Gate = _pass
        self._here = threading.local()

    def session(self) -> boto3.Session:
        """A session whose clients' requests come here."""
        own = botocore.session.get_session()
        # Composing its own name takes botocore a sixth of a call.
        own.set_default_client_config(Config(user_agent="tests"))
        session = boto3.Session(botocore_session=own)
        session.events.register("before-send", self._send)
        return session

    def prepare(self) -> None:
        """Begin anew, with the tables, the bucket and the state machine of the stack."""
        for module in self._modules:
            module.reset()
        session = self.session()
        dynamodb = session.client("dynamodb")
        for table, key in (("datasets", "dataset"), ("runs", "id"), ("idempotency", "id")):
            dynamodb.create_table(
                TableName=table,
                KeySchema=[{"AttributeName": key, "KeyType": "HASH"}],
                AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"}],
                BillingMode="PAY_PER_REQUEST",
            )
        session.client("s3").create_bucket(Bucket=BUCKET)
        states = {"StartAt": "Work", "States": {"Work": {"Type": "Succeed"}}}
        session.client("stepfunctions").create_state_machine(
            name="bursts", definition=str(states).replace("'", '"'), roleArn=f"arn:aws:iam::{ACCOUNT}:role/states"
        )

    def close(self) -> None:
        """Close the event loop."""
        self._loop.close()

    def put_object(self, key: str, body: bytes) -> None:
        """Put an object without a client, whose part takes ten times as long."""
        status, *_ = self._call("s3", "PUT", f"/{BUCKET}/{key}", {}, body, {})
        assert status == 200

    @contextlib.contextmanager
    def unseen(self) -> Iterator[None]:
        """Let the calls of this thread pass the gates: the test looks, and takes no part."""
        self._here.unseen = True
        try:
            yield
        finally:
            self._here.unseen = False

    def forget_executions(self) -> None:
        """Begin anew with no execution."""
        self._stepfunctions._executions.clear()

    def running(self, dataset: str) -> list[str]:
        """The names of the executions of a dataset that run now."""
        return [
            execution["name"]
            for execution in self._stepfunctions._executions.values()
            if execution["status"] == "RUNNING" and json.loads(execution["input"])["dataset"] == dataset
        ]

    def end(self, run: str) -> None:
        """End an execution, as its last state does."""
        execution = self._stepfunctions._executions[f"{MACHINE.replace(':stateMachine:', ':execution:')}:{run}"]
        execution.update(status="SUCCEEDED", stopDate=execution["startDate"])

    def _send(self, request: AWSPreparedRequest, event_name: str, **_: Any) -> AWSResponse:
        service, operation = event_name.split(".")[1:]
        seen = not getattr(self._here, "unseen", False)
        if seen:
            self.before(operation)
        address = urlsplit(request.url)
        headers = {name.lower(): _text(value) for name, value in request.headers.items()}
        query = parse_qs(address.query, keep_blank_values=True)
        given = request.body
        sent = given.read() if hasattr(given, "read") else given.encode() if isinstance(given, str) else given or b""
        status, answered, content = self._call(service, request.method, unquote(address.path), headers, sent, query)
        if seen:
            self.after(operation)
        return AWSResponse(request.url, status, answered, Body(content if content is not None else b""))

    def _call(self, service: str, *request: Any) -> Any:
        with self._lock:
            return self._loop.run_until_complete(self._handlers[service](*request))


def _pass(_: str) -> None:
    """Let every operation through."""


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value
