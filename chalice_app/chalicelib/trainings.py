"""``GET /runs/{id}/trials`` and ``/runs/{id}/curves``: how the tuning and the last training went.

Trials are SageMaker's own. The curves are read from the lines that the training prints (contracts.md, "Metric
lines"): SageMaker keeps each metric's last value only, and the history file comes with the end of the training.
"""

import math
import re
from typing import Any

from botocore.exceptions import ClientError

from chalicelib import config, models, runs, times

LOG_GROUP = "/aws/sagemaker/TrainingJobs"
EPOCH_LINE = re.compile(r"epoch=(\d+); (.*)")
METRICS = ("train:loss", "train:accuracy", "validation:loss", "validation:accuracy")
# A training that was resumed has a log stream a start; FilterLogEvents takes 100 names.
MAX_STREAMS = 100


def list_trials(run: str) -> dict[str, Any]:
    """The trials of the run's tuning job, in the order of their start. Raises UnknownRun.

    Without a tuning job (yet): no trials, and the job's members null.
    """
    runs.require_run(run)
    sagemaker = config.client("sagemaker")
    try:
        job = sagemaker.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=run)
    except ClientError as error:
        if not models.is_missing(error):
            raise
        return {"run": run, "status": None, "objective": None, "max_trials": None, "best": None, "trials": []}
    pages = sagemaker.get_paginator("list_training_jobs_for_hyper_parameter_tuning_job").paginate(
        HyperParameterTuningJobName=run, SortBy="CreationTime", SortOrder="Ascending"
    )
    settings = job["HyperParameterTuningJobConfig"]
    return {
        "run": run,
        "status": job["HyperParameterTuningJobStatus"],
        "objective": settings["HyperParameterTuningJobObjective"]["MetricName"],
        "max_trials": settings["ResourceLimits"].get("MaxNumberOfTrainingJobs"),
        "best": job.get("BestTrainingJob", {}).get("TrainingJobName"),
        "trials": [_trial(summary) for page in pages for summary in page["TrainingJobSummaries"]],
    }


def _trial(summary: dict[str, Any]) -> dict[str, Any]:
    started, ended = summary.get("TrainingStartTime") or summary.get("CreationTime"), summary.get("TrainingEndTime")
    return {
        "name": summary["TrainingJobName"],
        "status": summary["TrainingJobStatus"],
        "hyper_parameters": summary.get("TunedHyperParameters", {}),
        "metric": summary.get("FinalHyperParameterTuningJobObjectiveMetric", {}).get("Value"),
        "started_at": started and times.to_text(started),
        "ended_at": ended and times.to_text(ended),
        "failure": summary.get("FailureReason"),
    }


def list_epochs(run: str) -> dict[str, Any]:
    """The epochs of the training of the best setting, as far as it has come. Raises UnknownRun."""
    runs.require_run(run)
    logs = config.client("logs")
    try:
        streams = logs.describe_log_streams(logGroupName=LOG_GROUP, logStreamNamePrefix=f"{run}-retrain/")
    except logs.exceptions.ResourceNotFoundException:
        # The first training of an account makes the group.
        return {"run": run, "epochs": []}
    names = [stream["logStreamName"] for stream in streams["logStreams"]][:MAX_STREAMS]
    if not names:
        return {"run": run, "epochs": []}
    pages = logs.get_paginator("filter_log_events").paginate(logGroupName=LOG_GROUP, logStreamNames=names)
    return {"run": run, "epochs": read_epochs([event["message"] for page in pages for event in page["events"]])}


def read_epochs(lines: list[str]) -> list[dict[str, Any]]:
    """The epochs that a training's lines tell of, each once, in their order.

    Each has the number ``epoch`` and the members `METRICS`; a value that is missing or not finite is None. The best
    epoch's line is printed again at the end, and a resumed training may repeat one.
    """
    epochs: dict[int, dict[str, Any]] = {}
    for line in lines:
        found = EPOCH_LINE.match(line)
        if found:
            values = dict(pair.split("=", 1) for pair in found[2].rstrip("; \n").split("; ") if "=" in pair)
            epochs[int(found[1])] = {"epoch": int(found[1])} | {name: _number(values.get(name)) for name in METRICS}
    return [epochs[number] for number in sorted(epochs)]


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "nan")
    except ValueError:
        # A line that was cut off: CloudWatch splits the longest.
        return None
    return value if math.isfinite(value) else None
