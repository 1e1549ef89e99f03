"""Where SageMaker is attached to ministack."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version

import pytest

from droptune.local_cloud.integrations import exception_name, plain

# Evaluated in a process of its own: importing ministack configures logging and reads the environment.
CONTRACT = """
import inspect, json
from ministack import app
from ministack.core import persistence, router
from ministack.services import apigateway_v1, cloudwatch, lambda_svc, s3, ses, ses_v2, sqs, stepfunctions
print(json.dumps({
    "handlers": isinstance(app.SERVICE_HANDLERS, dict),
    "handler_arguments": list(inspect.signature(app.SERVICE_HANDLERS["s3"]).parameters),
    "patterns": isinstance(router.SERVICE_PATTERNS, dict),
    "detect": list(inspect.signature(router.detect_service).parameters),
    "dispatch": list(inspect.signature(stepfunctions._SERVICE_DISPATCH["arn:aws:states:::sns:publish"]).parameters),
    "execution_error": [e.error for e in [stepfunctions._ExecutionError("A.B", "cause")]]
        + [e.cause for e in [stepfunctions._ExecutionError("A.B", "cause")]],
    "run_execution": list(inspect.signature(stepfunctions._run_execution).parameters),
    "executions": hasattr(stepfunctions._executions, "get"),
    "warm": list(inspect.signature(lambda_svc._execute_function_warm).parameters),
    "import_rest_api": list(inspect.signature(apigateway_v1._import_rest_api).parameters),
    "states": "dynamodb" in app._build_persistence_save_dict() or callable(app._build_persistence_save_dict),
    "encode": list(inspect.signature(persistence._json_default).parameters),
    "format": isinstance(persistence._state_format_version("ses"), int),
    "state_directory": isinstance(persistence.STATE_DIR, str),
    "relay": list(inspect.signature(ses._smtp_relay).parameters),
    "relay_v2": ses_v2._smtp_relay is ses._smtp_relay,
    "write_object": list(inspect.signature(s3._atomic_write).parameters),
    "alarms": hasattr(cloudwatch._alarms, "values"),
    "record_metric": list(inspect.signature(cloudwatch.record_metric).parameters),
    "evaluate_alarm": list(inspect.signature(cloudwatch._evaluate_alarm).parameters),
    "evict_metrics": list(inspect.signature(cloudwatch._evict_old_metrics).parameters),
    "queues": hasattr(sqs._queues, "get") and hasattr(sqs._queues_lock, "acquire"),
    "queue_url": list(inspect.signature(sqs._queue_url).parameters),
    "refresh_counts": list(inspect.signature(sqs._refresh_counts).parameters),
}))
"""


def test_the_private_names_of_ministack_that_the_gateway_relies_on() -> None:
    # GIVEN the pinned ministack
    assert version("ministack") == "1.5.33"
    # WHEN the names that integrations.py, persistence.py and queue_metrics.py reach for are looked at
    answer = subprocess.run([sys.executable, "-c", CONTRACT], capture_output=True, text=True, check=True)
    # THEN each has the shape that they count on
    assert json.loads(answer.stdout) == {
        "handlers": True,
        "handler_arguments": ["method", "path", "headers", "body", "query_params"],
        "patterns": True,
        "detect": ["method", "path", "headers", "query_params"],
        "dispatch": ["resource", "input_data"],
        "execution_error": ["A.B", "cause"],
        "run_execution": ["exec_arn"],
        "executions": True,
        "warm": ["func", "event", "request_id"],
        "import_rest_api": ["spec", "base_data"],
        "states": True,
        "encode": ["obj"],
        "format": True,
        "state_directory": True,
        "relay": ["source", "to_addrs", "message_str"],
        "relay_v2": True,
        "write_object": ["fpath", "data", "text"],
        "alarms": True,
        "record_metric": ["namespace", "metric_name", "value", "unit", "dimensions"],
        "evaluate_alarm": ["alarm"],
        "evict_metrics": [],
        "queues": True,
        "queue_url": ["name"],
        "refresh_counts": ["q"],
    }


TRACEBACK = 'Traceback (most recent call last):\n  File "a.py", line 1\n    x\n    ^\n'


@pytest.mark.parametrize(
    ("log", "name"),
    [
        (f"{TRACEBACK}chalicelib.errors.EmptyDataset: no files\n", "EmptyDataset"),
        (f"START\n{TRACEBACK}ValueError: two\nlines: here", "ValueError"),
        (f"{TRACEBACK}KeyError: 'a'\n\nwhich led to\n\n{TRACEBACK}lib.SealConflict: b", "SealConflict"),
        ("no traceback at all", None),
        ("Traceback (most recent call last):\n  File", None),
    ],
)
def test_the_name_of_an_exception_is_read_from_its_traceback(log: str, name: str | None) -> None:
    # GIVEN what a Lambda logged WHEN it failed THEN its own exception is named
    assert exception_name(log) == name


def test_step_functions_sees_timestamps_in_milliseconds_and_no_metadata() -> None:
    # GIVEN an answer of boto3
    answer = {"CreationTime": datetime(2026, 1, 1, tzinfo=UTC), "Name": "x", "ResponseMetadata": {"RequestId": "1"}}
    # WHEN it becomes a state's result
    # THEN it is the JSON that Step Functions shows
    assert plain(answer) == {"CreationTime": 1767225600000, "Name": "x"}
