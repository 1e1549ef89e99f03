"""What differs between places, from the function's environment.

The template sets these variables: ``DROPTUNE_CONFIG`` (the JSON document that becomes ``config``
of every execution's input), ``DROPTUNE_API_URL`` (only where executions are started: the API's
address depends on the API's own function), ``BUCKET``, ``DATASETS_TABLE``, ``RUNS_TABLE``,
``IDEMPOTENCY_TABLE`` and ``STATE_MACHINE_ARN``.
"""

import json
import os
from functools import cache
from typing import Any

import boto3
from botocore.config import Config


@cache
def client(service: str) -> Any:
    """The boto3 client of `service`, made once per warm function."""
    # Signed links too get signature version 4: in us-east-1 boto3 would still take the old one.
    signature = "s3v4" if service == "s3" else None
    retries = {"mode": "standard", "max_attempts": 4}
    return boto3.client(service, config=Config(retries=retries, signature_version=signature))


@cache
def _table(name: str) -> Any:
    return boto3.resource("dynamodb").Table(name)


def datasets_table() -> Any:
    """The DynamoDB table of datasets: one item a dataset, with its run lock."""
    return _table(os.environ["DATASETS_TABLE"])


def runs_table() -> Any:
    """The DynamoDB table of runs."""
    return _table(os.environ["RUNS_TABLE"])


def idempotency_table_name() -> str:
    """The DynamoDB table of Powertools' idempotency."""
    return os.environ["IDEMPOTENCY_TABLE"]


def bucket() -> str:
    """The one bucket of the stack."""
    return os.environ["BUCKET"]


def state_machine_arn() -> str:
    """The state machine that runs the workflow."""
    return os.environ["STATE_MACHINE_ARN"]


def run_config() -> dict[str, Any]:
    """The ``config`` of an execution's input.

    Lists of mail addresses are given as one comma-separated text: a template parameter is text.
    """
    config: dict[str, Any] = json.loads(os.environ["DROPTUNE_CONFIG"])
    config["api_url"] = os.environ.get("DROPTUNE_API_URL", "").rstrip("/")
    addresses = config["mail"]["to"]
    config["mail"]["to"] = [address.strip() for address in addresses.split(",") if address.strip()]
    return config
