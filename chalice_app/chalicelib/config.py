"""What differs between places, from the function's environment.

The template sets these variables: ``DROPTUNE_CONFIG`` (the JSON document that becomes ``config``
of every execution's input), ``DROPTUNE_API_URL`` (only where executions are started: the API's
address depends on the API's own function), ``BUCKET``, ``DATASETS_TABLE``, ``RUNS_TABLE``,
``IDEMPOTENCY_TABLE``, ``STATE_MACHINE_ARN``, ``PREDICTIONS_MACHINE_ARN``, ``RELEASES_MACHINE_ARN``, ``ALLOW_HTTP_URLS``
and ``CORS_ORIGIN``.
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
    retries = {"mode": "standard", "max_attempts": 4}
    if service != "s3":
        return boto3.client(service, config=Config(retries=retries))
    # Signed links and forms too get signature version 4: in us-east-1 boto3 would still take the old one. And they
    # name the bucket's own region: the global address redirects, and no client sends a form a second time.
    own = {"addressing_style": "virtual"}
    return boto3.client(service, config=Config(retries=retries, signature_version="s3v4", s3=own))


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


def dead_letter_queue_url() -> str:
    """The queue of events that could not be handled; only the function that tells of them knows it."""
    return os.environ["DEAD_LETTER_QUEUE_URL"]


def state_machine_arn() -> str:
    """The state machine that runs the workflow."""
    return os.environ["STATE_MACHINE_ARN"]


def predictions_machine_arn() -> str:
    """The state machine that labels all images below a prefix."""
    return os.environ["PREDICTIONS_MACHINE_ARN"]


def releases_machine_arn() -> str:
    """The state machine that makes a registered model live."""
    return os.environ["RELEASES_MACHINE_ARN"]


def allows_http_urls() -> bool:
    """Whether images may be fetched from unencrypted addresses."""
    return os.environ.get("ALLOW_HTTP_URLS", "false") == "true"


def cors_origin() -> str:
    """The web origin whose pages may call the API, ``*`` for all, or an empty text for none."""
    return os.environ.get("CORS_ORIGIN", "")


def run_config() -> dict[str, Any]:
    """The ``config`` of an execution's input.

    Lists of mail addresses are given as one comma-separated text: a template parameter is text.
    """
    config: dict[str, Any] = json.loads(os.environ["DROPTUNE_CONFIG"])
    config["api_url"] = os.environ.get("DROPTUNE_API_URL", "").rstrip("/")
    addresses = config["mail"]["to"]
    config["mail"]["to"] = [address.strip() for address in addresses.split(",") if address.strip()]
    return config
