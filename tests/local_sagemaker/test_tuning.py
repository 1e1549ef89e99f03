"""Tuning jobs, seen through boto3."""

from typing import Any

import pytest
from botocore.exceptions import ClientError

from .conftest import finished_training, training_request, wait_for

CONTINUOUS = {"Name": "x", "MinValue": "0.0", "MaxValue": "1.0", "ScalingType": "Linear"}


def request(
    name: str,
    *,
    strategy: str = "Bayesian",
    jobs: int | None = 4,
    parallel: int = 2,
    ranges: dict[str, Any] | None = None,
    static: dict[str, str] | None = None,
    **config: Any,
) -> dict[str, Any]:
    definition = training_request("unused")
    for member in ("TrainingJobName", "HyperParameters"):
        del definition[member]
    definition["StaticHyperParameters"] = static or {"epochs": "3"}
    limits = {"MaxParallelTrainingJobs": parallel}
    return {
        "HyperParameterTuningJobName": name,
        "HyperParameterTuningJobConfig": {
            "Strategy": strategy,
            "HyperParameterTuningJobObjective": {"Type": "Maximize", "MetricName": "validation:accuracy"},
            "ResourceLimits": limits if jobs is None else {**limits, "MaxNumberOfTrainingJobs": jobs},
            "ParameterRanges": ranges or {"ContinuousParameterRanges": [CONTINUOUS]},
            **config,
        },
        "TrainingJobDefinition": definition,
    }


def finished(sagemaker: Any, name: str) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        job: dict[str, Any] = sagemaker.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
        return job if job["HyperParameterTuningJobStatus"] in ("Completed", "Failed", "Stopped") else None

    job: dict[str, Any] = wait_for(f"the end of {name}", ended, seconds=120)
    return job


def trials(sagemaker: Any, name: str, **options: Any) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = sagemaker.list_training_jobs_for_hyper_parameter_tuning_job(
        HyperParameterTuningJobName=name, MaxResults=100, **options
    )["TrainingJobSummaries"]
    return listed


@pytest.mark.parametrize("strategy", ["Bayesian", "Random"])
def test_the_best_of_the_trials_is_found(sagemaker, strategy):
    # GIVEN a tuning job over all kinds of ranges
    name = f"tune-{strategy.lower()}"
    ranges = {
        "ContinuousParameterRanges": [
            CONTINUOUS,
            {"Name": "lr", "MinValue": "0.0001", "MaxValue": "0.1", "ScalingType": "Logarithmic"},
            {"Name": "momentum", "MinValue": "0.5", "MaxValue": "0.99", "ScalingType": "ReverseLogarithmic"},
        ],
        "IntegerParameterRanges": [{"Name": "batch", "MinValue": "16", "MaxValue": "64"}],
        "CategoricalParameterRanges": [{"Name": "optimizer", "Values": ["sgd", "adam"]}],
    }
    # WHEN it has run
    arn = sagemaker.create_hyper_parameter_tuning_job(
        **request(name, strategy=strategy, ranges=ranges, RandomSeed=7),
        Tags=[{"Key": "team", "Value": "vision"}],
    )["HyperParameterTuningJobArn"]
    job = finished(sagemaker, name)
    # THEN all its trials are complete
    assert job["HyperParameterTuningJobStatus"] == "Completed", job.get("FailureReason")
    assert job["TrainingJobStatusCounters"] == {
        "Completed": 4,
        "InProgress": 0,
        "RetryableError": 0,
        "NonRetryableError": 0,
        "Stopped": 0,
    }
    assert job["ObjectiveStatusCounters"] == {"Succeeded": 4, "Pending": 0, "Failed": 0}
    listed = trials(sagemaker, name, SortBy="FinalObjectiveMetricValue", SortOrder="Descending")
    values = [entry["FinalHyperParameterTuningJobObjectiveMetric"]["Value"] for entry in listed]
    assert values == sorted(values, reverse=True)
    # AND the best one is the one with the best metric
    best = job["BestTrainingJob"]
    assert best["TrainingJobName"] == listed[0]["TrainingJobName"]
    assert best["ObjectiveStatus"] == "Succeeded"
    # AND every trial drew its values from the ranges
    for entry in listed:
        tuned = entry["TunedHyperParameters"]
        assert 0 <= float(tuned["x"]) <= 1
        assert 0.0001 <= float(tuned["lr"]) <= 0.1
        assert 0.5 <= float(tuned["momentum"]) <= 0.99
        assert 16 <= int(tuned["batch"]) <= 64
        assert tuned["optimizer"] in ("sgd", "adam")
    assert len({entry["TunedHyperParameters"]["x"] for entry in listed}) == 4
    # AND a trial is a training job like any other
    names = sorted(entry["TrainingJobName"] for entry in listed)
    assert [entry.rsplit("-", 1)[0] for entry in names] == [f"{name}-{number:03d}" for number in range(1, 5)]
    trial = finished_training(sagemaker, names[0])
    assert trial["TuningJobArn"] == arn
    assert trial["HyperParameters"]["_tuning_objective_metric"] == "validation:accuracy"
    assert trial["HyperParameters"]["epochs"] == "3"


def test_grid_tries_every_combination_once(sagemaker):
    # GIVEN a grid of two by two
    ranges = {
        "CategoricalParameterRanges": [
            {"Name": "x", "Values": ["0.1", "0.3"]},
            {"Name": "colour", "Values": ["red", "blue"]},
        ]
    }
    # WHEN it has run
    sagemaker.create_hyper_parameter_tuning_job(**request("grid", strategy="Grid", jobs=None, ranges=ranges))
    job = finished(sagemaker, "grid")
    # THEN each pair was tried once
    assert job["HyperParameterTuningJobStatus"] == "Completed", job.get("FailureReason")
    tried = [tuple(sorted(entry["TunedHyperParameters"].values())) for entry in trials(sagemaker, "grid")]
    assert sorted(tried) == [("0.1", "blue"), ("0.1", "red"), ("0.3", "blue"), ("0.3", "red")]
    assert job["BestTrainingJob"]["TunedHyperParameters"]["x"] == "0.3"
    assert job["HyperParameterTuningJobConfig"]["ResourceLimits"]["MaxNumberOfTrainingJobs"] == 4


@pytest.mark.slow  # trials take their time, or they would end before they are judged
def test_hyperband_stops_bad_trials_early(sagemaker):
    # GIVEN trials that print their metric epoch by epoch
    config = {"StrategyConfig": {"HyperbandStrategyConfig": {"MinResource": 1, "MaxResource": 9}}}
    tuning = request(
        "hyperband",
        strategy="Hyperband",
        jobs=8,
        parallel=2,
        static={"epochs": "9", "pause": "0.22"},
        RandomSeed=1,
        **config,
    )
    # WHEN it has run
    sagemaker.create_hyper_parameter_tuning_job(**tuning)
    job = finished(sagemaker, "hyperband")
    # THEN some were stopped, and their metric still counts
    assert job["HyperParameterTuningJobStatus"] == "Completed", job.get("FailureReason")
    counters = job["TrainingJobStatusCounters"]
    assert counters["Stopped"] >= 1
    assert counters["Completed"] >= 1
    assert counters["Stopped"] + counters["Completed"] == 8
    stopped = [entry for entry in trials(sagemaker, "hyperband") if entry["TrainingJobStatus"] == "Stopped"]
    assert all(entry["ObjectiveStatus"] == "Succeeded" for entry in stopped)


@pytest.mark.slow
def test_early_stopping_follows_the_median_rule(sagemaker):
    # GIVEN values of which half are far worse than the others
    values = ["0.3", "0.31", "0.32", "5", "6", "7"]
    ranges = {"CategoricalParameterRanges": [{"Name": "x", "Values": values}]}
    tuning = request(
        "median",
        strategy="Random",
        jobs=7,
        parallel=1,
        ranges=ranges,
        static={"epochs": "3", "pause": "0.21"},
        TrainingJobEarlyStoppingType="Auto",
        RandomSeed=3,
    )
    # WHEN it has run
    sagemaker.create_hyper_parameter_tuning_job(**tuning)
    finished(sagemaker, "median")
    # THEN a bad trial was stopped and no good one of the first three, which have nothing to compare with
    listed = trials(sagemaker, "median")
    assert [entry["TrainingJobStatus"] for entry in listed[:3]] == ["Completed"] * 3
    stopped = [entry for entry in listed if entry["TrainingJobStatus"] == "Stopped"]
    assert stopped
    assert {entry["TunedHyperParameters"]["x"] for entry in stopped} & {"5", "6", "7"}


def test_a_tuning_job_learns_from_its_parent(sagemaker):
    # GIVEN a finished parent with a result that its child cannot reach
    exact = {"CategoricalParameterRanges": [{"Name": "x", "Values": ["0.3"]}]}
    sagemaker.create_hyper_parameter_tuning_job(**request("parent", jobs=1, ranges=exact))
    assert finished(sagemaker, "parent")["HyperParameterTuningJobStatus"] == "Completed"
    # WHEN a child starts from it
    child = request("child", jobs=2, ranges={"ContinuousParameterRanges": [{**CONTINUOUS, "MinValue": "0.9"}]})
    child["WarmStartConfig"] = {
        "ParentHyperParameterTuningJobs": [{"HyperParameterTuningJobName": "parent"}],
        "WarmStartType": "TransferLearning",
    }
    sagemaker.create_hyper_parameter_tuning_job(**child)
    job = finished(sagemaker, "child")
    # THEN its own best and the best of both are told apart
    assert job["HyperParameterTuningJobStatus"] == "Completed", job.get("FailureReason")
    assert job["BestTrainingJob"]["TrainingJobName"].startswith("child-")
    assert job["OverallBestTrainingJob"]["TuningJobName"] == "parent"
    # AND its own trials are counted alone
    assert job["TrainingJobStatusCounters"]["Completed"] == 2


def test_failed_trials_fail_the_tuning_job_with_the_first_reason(sagemaker):
    # GIVEN a program that always fails
    tuning = request("hopeless", jobs=8, static={"do": "fail"})
    # WHEN it is tuned
    sagemaker.create_hyper_parameter_tuning_job(**tuning)
    job = finished(sagemaker, "hopeless")
    # THEN the job gives up after a few and says why
    assert job["HyperParameterTuningJobStatus"] == "Failed"
    assert "No training job succeeded after" in job["FailureReason"]
    assert "AlgorithmError: no such luck, exit code: 1" in job["FailureReason"]
    assert "BestTrainingJob" not in job
    failed = job["TrainingJobStatusCounters"]["NonRetryableError"]
    assert 5 <= failed < 8
    assert job["ObjectiveStatusCounters"]["Failed"] == failed


def test_some_failed_trials_do_not_fail_the_tuning_job(sagemaker):
    # GIVEN a grid in which one value makes the program fail
    ranges = {"CategoricalParameterRanges": [{"Name": "do", "Values": ["train", "fail"]}]}
    sagemaker.create_hyper_parameter_tuning_job(**request("one-fails", strategy="Grid", jobs=2, ranges=ranges))
    # WHEN it has run
    job = finished(sagemaker, "one-fails")
    # THEN the failure is counted and the other one is the best
    assert job["HyperParameterTuningJobStatus"] == "Completed"
    assert job["TrainingJobStatusCounters"]["NonRetryableError"] == 1
    assert job["BestTrainingJob"]["TunedHyperParameters"] == {"do": "train"}


def test_trials_without_a_metric_fail_the_tuning_job(sagemaker):
    # GIVEN a program that never prints the metric
    sagemaker.create_hyper_parameter_tuning_job(**request("silent", jobs=2, static={"epochs": "0"}))
    # WHEN it has run
    job = finished(sagemaker, "silent")
    # THEN SageMaker's own words say what is missing
    assert job["HyperParameterTuningJobStatus"] == "Failed"
    assert job["FailureReason"].startswith("No objective metrics found after running 2 training jobs.")


def test_stopping_a_tuning_job_stops_its_trials(sagemaker):
    # GIVEN a tuning job with running trials
    sagemaker.create_hyper_parameter_tuning_job(**request("stop-tuning", static={"do": "sleep"}))
    wait_for("the first trial", lambda: trials(sagemaker, "stop-tuning"))
    # WHEN it is stopped
    sagemaker.stop_hyper_parameter_tuning_job(HyperParameterTuningJobName="stop-tuning")
    job = finished(sagemaker, "stop-tuning")
    # THEN it and all its trials are stopped, and no more are started
    assert job["HyperParameterTuningJobStatus"] == "Stopped"
    listed = trials(sagemaker, "stop-tuning")
    assert {entry["TrainingJobStatus"] for entry in listed} == {"Stopped"}
    assert len(listed) <= 2


def test_a_target_ends_the_search(sagemaker):
    # GIVEN a tuning job whose every trial reaches its target
    tuning = request(
        "target",
        jobs=6,
        parallel=1,
        TuningJobCompletionCriteria={"TargetObjectiveMetricValue": 0.1},
    )
    # WHEN it has run
    sagemaker.create_hyper_parameter_tuning_job(**tuning)
    job = finished(sagemaker, "target")
    # THEN one trial was enough
    assert job["HyperParameterTuningJobStatus"] == "Completed"
    assert job["TrainingJobStatusCounters"]["Completed"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "Grid"}, "categorical parameter ranges only"),
        ({"jobs": None}, "needs MaxNumberOfTrainingJobs"),
        (
            {"ranges": {"ContinuousParameterRanges": [{**CONTINUOUS, "ScalingType": "Logarithmic"}]}},
            "logarithmic scaling needs values greater than 0",
        ),
        (
            {"ranges": {"ContinuousParameterRanges": [{**CONTINUOUS, "ScalingType": "ReverseLogarithmic"}]}},
            "reverse logarithmic scaling needs",
        ),
        ({"ranges": {"ContinuousParameterRanges": [{**CONTINUOUS, "MinValue": "2"}]}}, "at most MaxValue"),
        ({"ranges": {"ContinuousParameterRanges": [CONTINUOUS] * 2}}, "more than one range"),
        ({"ranges": {"IntegerParameterRanges": [CONTINUOUS]}}, "is invalid"),
        ({"ranges": {"CategoricalParameterRanges": []}}, "at least one range"),
        ({"static": {"x": "1"}}, "both: .'x'."),
        ({"strategy": "Hyperband", "TrainingJobEarlyStoppingType": "Auto"}, "must be Off"),
        (
            {"HyperParameterTuningJobObjective": {"Type": "Maximize", "MetricName": "loss"}},
            "isn't valid for the",
        ),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(sagemaker, options, message):
    # GIVEN a tuning job that cannot be run
    # WHEN it is created
    # THEN the error says what is wrong
    with pytest.raises(ClientError, match=message) as caught:
        sagemaker.create_hyper_parameter_tuning_job(**request("refused", **options))
    assert caught.value.response["Error"]["Code"] == "ValidationException"


def test_tuning_jobs_are_listed(sagemaker):
    # GIVEN a finished tuning job
    sagemaker.create_hyper_parameter_tuning_job(**request("listed", jobs=1))
    finished(sagemaker, "listed")
    # WHEN tuning jobs are listed
    [summary] = sagemaker.list_hyper_parameter_tuning_jobs(NameContains="listed")["HyperParameterTuningJobSummaries"]
    # THEN it is there with its counters
    assert summary["Strategy"] == "Bayesian"
    assert summary["HyperParameterTuningJobStatus"] == "Completed"
    assert summary["TrainingJobStatusCounters"]["Completed"] == 1
