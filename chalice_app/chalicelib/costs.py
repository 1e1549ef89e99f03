"""What a run's instances cost: an estimate from list prices, not a bill."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from botocore.exceptions import ClientError

from chalicelib import config
from chalicelib.models import is_missing

# On-demand list prices of SageMaker in us-east-1, in USD an hour; any other type is reported as unknown. Checked in
# November 2026 against answers of the AWS Price List API (service AmazonSageMaker) that others have published:
# ml.m5.large (Host, Processing 2026-07-30, Train 2026-08-11), ml.m5.xlarge and ml.t3.medium (Processing 2026-07-30),
# ml.g5.2xlarge (Train 2026-08-20). For ml.g4dn.xlarge no such answer was found: several published tables agree on
# its price, and it keeps to SageMaker's 40 % above EC2's 0.526, the ratio of the price list of 2026-10-04 elsewhere.
PRICES_AS_OF = "2026"
USD_PER_HOUR = {
    "ml.t3.medium": 0.05,
    "ml.m5.large": 0.115,
    "ml.m5.xlarge": 0.23,
    "ml.g4dn.xlarge": 0.7364,
    "ml.g5.2xlarge": 1.515,
}


@dataclass(frozen=True)
class Use:
    """How long one kind of instance worked for a state."""

    state: str
    instance: str
    seconds: float

    @property
    def usd(self) -> float | None:
        """The list price of this use in USD, or None when the type's price is not known here."""
        price = USD_PER_HOUR.get(self.instance)
        return None if price is None else price * self.seconds / 3600


def list_uses(run: str, instances: dict[str, Any]) -> list[Use]:
    """The instance time of a run's jobs, as SageMaker measured it; jobs that never began are left out.

    Args:
        run: the run id.
        instances: ``config.instances`` of the run.
    """
    sagemaker = config.client("sagemaker")
    retrain = _describe(sagemaker.describe_training_job, TrainingJobName=f"{run}-retrain")
    uses = [
        Use("Decode", instances["processing"], _processing_seconds(sagemaker, f"{run}-decode")),
        Use("Prepare", instances["processing"], _processing_seconds(sagemaker, f"{run}-prepare")),
        Use("Tune", instances["tuning"], _trial_seconds(sagemaker, run)),
        Use("Retrain", instances["training"], _seconds(retrain, "TrainingStartTime", "TrainingEndTime")),
        Use("Evaluate", instances["processing"], _processing_seconds(sagemaker, f"{run}-evaluate")),
    ]
    return [use for use in uses if use.seconds > 0]


def _processing_seconds(sagemaker: Any, job: str) -> float:
    """Seconds of all the job's instances together."""
    found = _describe(sagemaker.describe_processing_job, ProcessingJobName=job)
    seconds = _seconds(found, "ProcessingStartTime", "ProcessingEndTime")
    return seconds * found["ProcessingResources"]["ClusterConfig"]["InstanceCount"] if found else 0.0


def _trial_seconds(sagemaker: Any, run: str) -> float:
    trials = sagemaker.get_paginator("list_training_jobs_for_hyper_parameter_tuning_job")
    try:
        return sum(
            _seconds(trial, "TrainingStartTime", "TrainingEndTime")
            for page in trials.paginate(HyperParameterTuningJobName=run)
            for trial in page["TrainingJobSummaries"]
        )
    except ClientError as error:
        if is_missing(error):
            return 0.0
        raise


def _describe(describe: Any, **name: str) -> dict[str, Any]:
    try:
        document: dict[str, Any] = describe(**name)
    except ClientError as error:
        if is_missing(error):
            return {}
        raise
    return document


def _seconds(job: dict[str, Any], start: str, end: str) -> float:
    first: datetime | None = job.get(start)
    last: datetime | None = job.get(end)
    return (last - first).total_seconds() if first and last else 0.0
