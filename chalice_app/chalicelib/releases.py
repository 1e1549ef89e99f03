"""Make a registered model live by hand: ``approve`` a rejected one, or go back to an approved one.

A second, small state machine does it in the same steps as a run: its model and endpoint configuration (made if they
are not there yet), the update of the endpoint, the wait, the check with the sample image, and the way back when that
fails. The workflow's own releases and these wait for each other: an endpoint takes one update at a time.
"""

import json
from datetime import datetime
from typing import Any

from chalicelib import config, models, names, times
from chalicelib.errors import AlreadyLive, ModelNotApproved, NotFound, ReleaseInProgress


def approve(dataset: str, version: int) -> dict[str, Any]:
    """Make a version live, whatever the gate said of it; it is approved when it has proved itself on the endpoint.

    Returns the release, which has begun. Raises UnknownDataset, UnknownModel, AlreadyLive or ReleaseInProgress.
    """
    return _start(dataset, models.find_model(dataset, version))


def roll_back(dataset: str, version: int) -> dict[str, Any]:
    """Make an approved version live again.

    Returns the release, which has begun. Raises UnknownDataset, UnknownModel, ModelNotApproved, AlreadyLive or
    ReleaseInProgress.
    """
    model = models.find_model(dataset, version)
    if model["status"] != "Approved":
        raise ModelNotApproved(
            f"Version {version} of dataset '{dataset}' is {str(model['status']).lower()}: it never proved itself.",
            f"Choose an approved one from GET /models/{dataset}, or POST /models/{dataset}/{version}/approve.",
        )
    return _start(dataset, model)


def _start(dataset: str, model: dict[str, Any]) -> dict[str, Any]:
    live = models.find_live_model(dataset)
    if live is not None and live.status not in {"InService", "Failed"}:
        raise ReleaseInProgress(
            f"The endpoint of dataset '{dataset}' is being changed: its status is {live.status}.",
            "Wait until that has ended, a few minutes on AWS, and ask again.",
        )
    version = int(model["version"])
    if live is not None and live.answers and live.version == version:
        raise AlreadyLive(f"Version {version} of dataset '{dataset}' is live.", "There is nothing to do.")
    now = times.now()
    release = names.new_run_id(dataset, now)
    config.client("stepfunctions").start_execution(
        stateMachineArn=config.releases_machine_arn(),
        name=release,
        input=json.dumps({"release": release, "dataset": dataset, "config": config.run_config(), "model": model}),
    )
    return _document(release, dataset, version, "RUNNING", now, None, None)


def describe_release(release: str) -> dict[str, Any]:
    """``GET /releases/{id}``. Raises NotFound."""
    stepfunctions = config.client("stepfunctions")
    missing = NotFound(
        f"There is no release '{release[:64]}'.", "POST /models/{dataset}/{version}/rollback answers with one."
    )
    if not names.is_run_id(release):
        raise missing
    try:
        execution = stepfunctions.describe_execution(executionArn=execution_arn(config.releases_machine_arn(), release))
    except stepfunctions.exceptions.ExecutionDoesNotExist as error:
        raise missing from error
    given = json.loads(execution["input"])
    problem = None
    if execution["status"] not in {"RUNNING", "SUCCEEDED"}:
        problem = {
            "code": execution.get("error") or execution["status"],
            "message": execution.get("cause") or "The release was stopped.",
            "hint": f"See GET /models/{given['dataset']} for the version that is live now.",
        }
    return _document(
        release,
        given["dataset"],
        int(given["model"]["version"]),
        execution["status"],
        execution["startDate"],
        execution.get("stopDate"),
        problem,
    )


def execution_arn(machine_arn: str, name: str) -> str:
    """The ARN of the execution `name` of a state machine."""
    return f"{machine_arn.replace(':stateMachine:', ':execution:')}:{name}"


def _document(
    release: str,
    dataset: str,
    version: int,
    status: str,
    started_at: datetime,
    ended_at: datetime | None,
    error: dict[str, str] | None,
) -> dict[str, Any]:
    return {
        "id": release,
        "dataset": dataset,
        "version": version,
        "status": status,
        "started_at": times.to_text(started_at),
        "ended_at": ended_at and times.to_text(ended_at),
        "error": error,
    }
