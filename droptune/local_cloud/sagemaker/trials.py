"""The training jobs of a tuning job: how they are asked for, and what came of them."""

from typing import Any

from droptune.local_cloud.sagemaker.context import Context
from droptune.local_cloud.sagemaker.jobs import TRAINING, TUNING, Document

TRIAL = "tuning-trial"
"""Documents `{"TrainingJobName", "TuningJobName", "TunedHyperParameters"}`, named like the training job."""


def training_request(tuning: Document, name: str, tuned: dict[str, str]) -> Document:
    """The CreateTrainingJob request of one trial.

    As on AWS, the trial receives the static hyper-parameters, the tuned ones, and
    `_tuning_objective_metric`.
    """
    definition = tuning["TrainingJobDefinition"]
    objective = tuning["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"]
    request = {
        member: definition[member]
        for member in (
            "AlgorithmSpecification",
            "RoleArn",
            "InputDataConfig",
            "OutputDataConfig",
            "VpcConfig",
            "StoppingCondition",
            "EnableNetworkIsolation",
            "EnableInterContainerTrafficEncryption",
            "EnableManagedSpotTraining",
            "CheckpointConfig",
            "RetryStrategy",
            "Environment",
        )
        if member in definition
    }
    if "CheckpointConfig" in request:  # each trial has a folder of its own below the tuning job's
        uri = request["CheckpointConfig"]["S3Uri"].rstrip("/")
        request["CheckpointConfig"] = {**request["CheckpointConfig"], "S3Uri": f"{uri}/{name}"}
    return {
        **request,
        "TrainingJobName": name,
        "ResourceConfig": _resources(definition),
        "HyperParameters": {
            **definition.get("StaticHyperParameters", {}),
            **tuned,
            "_tuning_objective_metric": objective["MetricName"],
        },
    }


def _resources(definition: Document) -> Document:
    if "ResourceConfig" in definition:
        resources: Document = definition["ResourceConfig"]
        return resources
    alternative = definition.get("HyperParameterTuningResourceConfig", {})
    members = ("InstanceType", "InstanceCount", "VolumeSizeInGB", "VolumeKmsKeyId")
    return {member: alternative[member] for member in members if member in alternative}


def summaries(context: Context, tuning_name: str) -> list[Document]:
    """The tuning job's trials as the API lists them, in the order of their creation."""
    tuning = context.store.get(TUNING, tuning_name)
    if tuning is None:
        return []
    listed = []
    for trial in context.store.list(TRIAL):
        if trial["TuningJobName"] == tuning_name:
            training = context.store.get(TRAINING, trial["TrainingJobName"])
            assert training is not None
            listed.append(_summary(tuning, trial, training))
    return listed


def counters(context: Context, tuning_name: str) -> tuple[dict[str, int], dict[str, int]]:
    """`TrainingJobStatusCounters` and `ObjectiveStatusCounters`."""
    training = {"Completed": 0, "InProgress": 0, "RetryableError": 0, "NonRetryableError": 0, "Stopped": 0}
    objective = {"Succeeded": 0, "Pending": 0, "Failed": 0}
    column = {"Stopping": "InProgress", "Failed": "NonRetryableError"}
    for entry in summaries(context, tuning_name):
        status: str = entry["TrainingJobStatus"]
        training[column.get(status, status)] += 1
        objective[entry["ObjectiveStatus"]] += 1
    return training, objective


def best_trial(context: Context, tuning_names: list[str]) -> Document | None:
    """The summary of the trial with the best objective, over all of these tuning jobs."""
    best = None
    for name in tuning_names:
        for entry in summaries(context, name):
            if entry["ObjectiveStatus"] == "Succeeded" and (best is None or _is_better(entry, best)):
                best = {**entry, "TuningJobName": name} if len(tuning_names) > 1 else entry
    return best


def objective_value(training: Document, objective: dict[str, str]) -> float | None:
    """The final value of the objective metric, if the training job printed one."""
    for metric in training.get("FinalMetricDataList", []):
        if metric["MetricName"] == objective["MetricName"]:
            return float(metric["Value"])
    return None


def _is_better(entry: Document, best: Document) -> bool:
    ours = entry["FinalHyperParameterTuningJobObjectiveMetric"]
    theirs = best["FinalHyperParameterTuningJobObjectiveMetric"]
    if ours["Type"] == "Maximize":
        return bool(ours["Value"] > theirs["Value"])
    return bool(ours["Value"] < theirs["Value"])


def _summary(tuning: Document, trial: Document, training: Document) -> Document:
    objective = tuning["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"]
    summary: dict[str, Any] = {
        member: training[member]
        for member in (
            "TrainingJobName",
            "TrainingJobArn",
            "CreationTime",
            "TrainingStartTime",
            "TrainingEndTime",
            "TrainingJobStatus",
            "FailureReason",
        )
        if member in training
    }
    if "DefinitionName" in tuning["TrainingJobDefinition"]:
        summary["TrainingJobDefinitionName"] = tuning["TrainingJobDefinition"]["DefinitionName"]
    summary["TunedHyperParameters"] = trial["TunedHyperParameters"]
    value = objective_value(training, objective)
    if training["TrainingJobStatus"] in ("InProgress", "Stopping"):
        summary["ObjectiveStatus"] = "Pending"
    elif value is None or training["TrainingJobStatus"] == "Failed":
        summary["ObjectiveStatus"] = "Failed"
    else:
        summary["ObjectiveStatus"] = "Succeeded"
        summary["FinalHyperParameterTuningJobObjectiveMetric"] = {**objective, "Value": value}
    return summary
