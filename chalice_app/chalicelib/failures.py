"""Explain: turn what Step Functions caught into a cause and a next step.

``Cause`` comes in three forms: the JSON of a Describe…Job whose ``FailureReason`` or
``ExitMessage`` holds the container's error document, the JSON of a failed Lambda function whose
``errorMessage`` holds one, or plain text.
"""

import json
from typing import Any

from botocore.exceptions import ClientError

from chalicelib import config

MAX_MESSAGE = 500

# Where a state's job writes, on AWS and on one machine alike: CloudWatch Logs' group, and the job's name.
JOB_LOGS = {
    "Decode": ("/aws/sagemaker/ProcessingJobs", "{run}-decode"),
    "Prepare": ("/aws/sagemaker/ProcessingJobs", "{run}-prepare"),
    "Tune": ("/aws/sagemaker/TrainingJobs", "{run}"),
    "Retrain": ("/aws/sagemaker/TrainingJobs", "{run}-retrain"),
    "Evaluate": ("/aws/sagemaker/ProcessingJobs", "{run}-evaluate"),
}

# What the services say, and what it means: (words, code, hint). The first that fits is taken.
KNOWN_CAUSES = (
    (
        ("weights/",),
        "WeightsMissing",
        "Put the pretrained weights of the backbone under weights/<backbone>/ in the bucket, then upload again.",
    ),
    (
        ("ResourceLimitExceeded", "service limit", "quota"),
        "QuotaExceeded",
        "Ask for a higher quota of this instance type in Service Quotas, or choose another instance type.",
    ),
    (
        ("CapacityError", "InsufficientCapacity", "Unable to provision"),
        "NoCapacity",
        "AWS has no such machine free at the moment. Upload one file again later, or choose another instance type.",
    ),
    (
        ("annot pull", "image does not exist", "ImageNotFound", "repository does not exist"),
        "ImageMissing",
        "Build and push the container images, and check the stack's TrainingImage and ServingImage.",
    ),
    (
        ("AccessDenied", "not authorized to perform"),
        "AccessDenied",
        "A role of the stack lacks a right. Deploy the stack again; if it stays, check your account's policies.",
    ),
    (
        ("MaxRuntimeExceeded",),
        "Timeout",
        "A job ran longer than max_runtime_seconds allows. Use a faster instance type or fewer epochs.",
    ),
)


def explain(error: str, cause: str, state: str, run: str) -> dict[str, str]:
    """The error document ``{"code", "message", "hint"}`` of a failed state.

    Args:
        error: Step Functions' ``Error``.
        cause: Step Functions' ``Cause``; may be empty (a timeout has none).
        state: the name of the state that failed.
        run: the run id.
    """
    described = _parse(cause)
    if isinstance(described, dict):
        reasons = [described[key] for key in ("ExitMessage", "FailureReason", "errorMessage") if described.get(key)]
        reasons += _trial_reasons(described)
    else:
        reasons = []
    for reason in reasons:
        document = find_error_document(reason)
        if document:
            return document
    text = " ".join(str(reason) for reason in reasons) or cause
    for words, code, hint in KNOWN_CAUSES:
        if any(word in text or word in error for word in words):
            return {"code": code, "message": f"{state}: {_shorten(text or error)}", "hint": hint}
    if error == "States.Timeout":
        return {
            "code": "Timeout",
            "message": f"{state} took too long and was stopped.",
            "hint": f"A faster instance type or fewer images may help. {_where_to_look(state, run)}",
        }
    return {
        "code": error.rpartition(".")[2] or "InternalError",
        "message": f"{state} failed: {_shorten(text or error)}",
        "hint": _where_to_look(state, run),
    }


def _where_to_look(state: str, run: str) -> str:
    if state in JOB_LOGS:
        group, job = JOB_LOGS[state]
        return f"Read the log of {job.format(run=run)}: CloudWatch Logs, group {group}."
    return f"GET /runs/{run} shows every state; the functions' logs are in CloudWatch Logs, groups /aws/lambda/…"


def find_error_document(text: str) -> dict[str, str] | None:
    """The first ``{"code", "message", "hint"}`` inside `text`, or None.

    SageMaker wraps what a container wrote: ``AlgorithmError: {…}, exit code: 1``.
    """
    decoder = json.JSONDecoder()
    start = text.find("{")
    while start >= 0:
        try:
            document, _ = decoder.raw_decode(text, start)
        except ValueError:
            # Cut off at SageMaker's 1,024 characters, or no JSON at all.
            document = None
        if isinstance(document, dict) and "code" in document and "message" in document:
            return {key: str(document.get(key, "")) for key in ("code", "message", "hint")}
        start = text.find("{", start + 1)
    return None


def _trial_reasons(described: dict[str, Any]) -> list[str]:
    """Why a tuning job's trials failed: the job itself only says that they did."""
    job = described.get("HyperParameterTuningJobName")
    if not job:
        return []
    sagemaker = config.client("sagemaker")
    try:
        trials = sagemaker.list_training_jobs_for_hyper_parameter_tuning_job(
            HyperParameterTuningJobName=job, StatusEquals="Failed", MaxResults=1
        )["TrainingJobSummaries"]
        return [
            sagemaker.describe_training_job(TrainingJobName=trial["TrainingJobName"])["FailureReason"]
            for trial in trials
        ]
    except (ClientError, KeyError) as error:
        # The explanation must not fail for want of detail: the tuning job's own words remain.
        return [f"(no reason of its trials: {error})"]


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_MESSAGE else line[: MAX_MESSAGE - 1] + "…"
