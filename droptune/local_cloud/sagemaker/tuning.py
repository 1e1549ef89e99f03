"""Hyper-parameter tuning jobs: the operations."""

import math
import time
from typing import Any

from droptune.local_cloud.sagemaker.context import Context
from droptune.local_cloud.sagemaker.errors import ResourceInUse, ResourceNotFound, ValidationException
from droptune.local_cloud.sagemaker.jobs import TUNING, Document
from droptune.local_cloud.sagemaker.listing import list_page
from droptune.local_cloud.sagemaker.protocol import Request, operation
from droptune.local_cloud.sagemaker.search import SearchSpace
from droptune.local_cloud.sagemaker.tags import set_tags
from droptune.local_cloud.sagemaker.training import check_training_request
from droptune.local_cloud.sagemaker.trials import best_trial, counters, summaries, training_request
from droptune.local_cloud.sagemaker.tuning_run import run_tuning_job, stop_trials

_COUNTERS = ("TrainingJobStatusCounters", "ObjectiveStatusCounters")


@operation("CreateHyperParameterTuningJob")
def create_tuning_job(context: Context, request: Request) -> dict[str, Any]:
    name = request["HyperParameterTuningJobName"]
    config, limits = _checked(context, request)
    arn = context.arn(TUNING, name)
    now = time.time()
    document = {key: value for key, value in request.items() if key != "Tags"}
    document |= {
        "HyperParameterTuningJobConfig": {**config, "ResourceLimits": limits},
        "HyperParameterTuningJobArn": arn,
        "HyperParameterTuningJobStatus": "InProgress",
        "CreationTime": now,
        "LastModifiedTime": now,
    }
    context.jobs.register(TUNING, name)
    try:
        context.store.create(TUNING, name, document)
    except KeyError as error:
        raise ResourceInUse(
            f"A hyperparameter tuning job with the name, {name}, already exists. Choose a different name."
        ) from error
    set_tags(context, arn, request.get("Tags"))
    context.run_in_background(run_tuning_job, context, name)
    return {"HyperParameterTuningJobArn": arn}


@operation("DescribeHyperParameterTuningJob")
def describe_tuning_job(context: Context, request: Request) -> dict[str, Any]:
    name = request["HyperParameterTuningJobName"]
    document = _existing(context, name)
    training_counters, objective_counters = counters(context, name)
    document["TrainingJobStatusCounters"] = training_counters
    document["ObjectiveStatusCounters"] = objective_counters
    document["BestTrainingJob"] = best_trial(context, [name])
    if "WarmStartConfig" in document:
        document["OverallBestTrainingJob"] = best_trial(context, [name, *_parents(document)])
    return document


@operation("StopHyperParameterTuningJob")
def stop_tuning_job(context: Context, request: Request) -> dict[str, Any]:
    name = request["HyperParameterTuningJobName"]
    _existing(context, name)

    def stopping(document: Document) -> None:
        if document["HyperParameterTuningJobStatus"] != "InProgress":
            raise ValidationException(
                "The request was rejected because the hyperparameter tuning job is in status "
                f"{document['HyperParameterTuningJobStatus']}."
            )
        document["HyperParameterTuningJobStatus"] = "Stopping"
        document["LastModifiedTime"] = time.time()

    context.store.mutate(TUNING, name, stopping)
    context.jobs.stop(TUNING, name)
    stop_trials(context, name)
    return {}


@operation("ListHyperParameterTuningJobs")
def list_tuning_jobs(context: Context, request: Request) -> dict[str, Any]:
    jobs, token = list_page(
        context.store.list(TUNING),
        request,
        name="HyperParameterTuningJobName",
        status="HyperParameterTuningJobStatus",
    )
    members = (
        "HyperParameterTuningJobName",
        "HyperParameterTuningJobArn",
        "HyperParameterTuningJobStatus",
        "CreationTime",
        "HyperParameterTuningEndTime",
        "LastModifiedTime",
    )
    listed = []
    for job in jobs:
        summary = {member: job.get(member) for member in members}
        summary["Strategy"] = job["HyperParameterTuningJobConfig"]["Strategy"]
        summary["ResourceLimits"] = job["HyperParameterTuningJobConfig"]["ResourceLimits"]
        counts = counters(context, job["HyperParameterTuningJobName"])
        listed.append(summary | dict(zip(_COUNTERS, counts, strict=True)))
    return {"HyperParameterTuningJobSummaries": listed, "NextToken": token}


@operation("ListTrainingJobsForHyperParameterTuningJob")
def list_trials(context: Context, request: Request) -> dict[str, Any]:
    name = request["HyperParameterTuningJobName"]
    _existing(context, name)
    listed = summaries(context, name)
    if request.get("SortBy") == "FinalObjectiveMetricValue":  # then the trials without one are left out
        listed = [entry for entry in listed if "FinalHyperParameterTuningJobObjectiveMetric" in entry]
    page, token = list_page(
        listed,
        request,
        name="TrainingJobName",
        status="TrainingJobStatus",
        sort_keys={
            "FinalObjectiveMetricValue": lambda entry: entry["FinalHyperParameterTuningJobObjectiveMetric"]["Value"]
        },
        default_sort="Name",
        default_order="Ascending",
    )
    return {"TrainingJobSummaries": page, "NextToken": token}


def _checked(context: Context, request: Request) -> tuple[Document, Document]:
    """The configuration and its limits, checked and complete.

    Raises:
        ValidationException: what SageMaker refuses, or the local one cannot do.
    """
    config = request["HyperParameterTuningJobConfig"]
    for member in ("TrainingJobDefinitions", "Autotune"):
        if member in request:
            raise ValidationException(f"{member} is not supported by the local SageMaker.")
    definition = request.get("TrainingJobDefinition")
    if definition is None:
        raise ValidationException("A tuning job needs a TrainingJobDefinition.")
    objective = config.get("HyperParameterTuningJobObjective")
    if objective is None:
        raise ValidationException("A tuning job needs a HyperParameterTuningJobObjective.")
    metrics = [entry["Name"] for entry in definition["AlgorithmSpecification"].get("MetricDefinitions", [])]
    if objective["MetricName"] not in metrics:
        raise ValidationException(
            f"The objective metric for the hyperparameter tuning job, [{objective['MetricName']}], isn't valid "
            f"for the [{definition['AlgorithmSpecification'].get('TrainingImage')}] algorithm. Choose a valid "
            f"objective metric: {metrics}."
        )
    space = SearchSpace(config.get("ParameterRanges", {}))
    if both := sorted(set(space.names) & set(definition.get("StaticHyperParameters", {}))):
        raise ValidationException(f"Hyperparameters are either static or tuned, and these are both: {both}")
    criteria = config.get("TuningJobCompletionCriteria", {})
    if "ConvergenceDetected" in criteria:
        raise ValidationException(
            "The completion criterion ConvergenceDetected is not supported by the local SageMaker."
        )
    check_training_request(training_request(request, "check", {}))
    _check_parents(context, request)
    return config, _limits(config, space)


def _limits(config: Document, space: SearchSpace) -> Document:
    limits: Document = config["ResourceLimits"]
    strategy = config["Strategy"]
    if strategy == "Hyperband" and config.get("TrainingJobEarlyStoppingType", "Off") == "Auto":
        raise ValidationException(
            "With strategy Hyperband, which stops training jobs itself, TrainingJobEarlyStoppingType must be Off."
        )
    bounds = config.get("StrategyConfig", {}).get("HyperbandStrategyConfig", {})
    if bounds.get("MinResource", 1) > bounds.get("MaxResource", math.inf):
        raise ValidationException("Hyperband's MinResource must not be greater than its MaxResource.")
    if strategy != "Grid":
        if "MaxNumberOfTrainingJobs" not in limits:
            raise ValidationException(f"Strategy {strategy} needs MaxNumberOfTrainingJobs.")
        return limits
    if not space.is_categorical:
        raise ValidationException("Strategy Grid supports categorical parameter ranges only.")
    combinations = math.prod(len(values) for values in space.grid.values())
    if limits.get("MaxNumberOfTrainingJobs", combinations) != combinations:
        raise ValidationException(
            f"With strategy Grid, MaxNumberOfTrainingJobs must be the number of combinations, {combinations}, "
            "or be left out."
        )
    return {**limits, "MaxNumberOfTrainingJobs": combinations}


def _check_parents(context: Context, request: Request) -> None:
    parents = _parents(request)
    if parents and request["HyperParameterTuningJobConfig"]["Strategy"] == "Grid":
        raise ValidationException("Strategy Grid cannot use a WarmStartConfig: it tries every combination.")
    objective = request["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"]
    for name in parents:
        parent = context.store.get(TUNING, name)
        if parent is None:
            raise ValidationException(f"The parent hyperparameter tuning job {name} does not exist.")
        if parent["HyperParameterTuningJobStatus"] in ("InProgress", "Stopping"):
            raise ValidationException(
                f"The parent hyperparameter tuning job {name} has not ended. Wait for it, or stop it."
            )
        if parent["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"] != objective:
            raise ValidationException(f"The parent hyperparameter tuning job {name} has another objective metric.")


def _parents(document: Document) -> list[str]:
    entries = document.get("WarmStartConfig", {}).get("ParentHyperParameterTuningJobs", [])
    return [entry["HyperParameterTuningJobName"] for entry in entries]


def _existing(context: Context, name: str) -> Document:
    document = context.store.get(TUNING, name)
    if document is None:
        raise ResourceNotFound(f"Amazon SageMaker can't find a tuning job called {name}. Type another name.")
    return document
