"""A tuning job's way from its stored document to its end: an Optuna study over training jobs."""

import logging
import math
import threading
import time
import uuid

import optuna

from droptune.local_cloud.sagemaker.context import Context
from droptune.local_cloud.sagemaker.errors import ValidationException
from droptune.local_cloud.sagemaker.jobs import TUNING, Control, Document, shorten
from droptune.local_cloud.sagemaker.search import SearchSpace, pruner, sampler
from droptune.local_cloud.sagemaker.training import create_document, stop_training_job
from droptune.local_cloud.sagemaker.training_run import run_training_job
from droptune.local_cloud.sagemaker.trials import (
    TRIAL,
    counters,
    objective_value,
    summaries,
    training_request,
)

logger = logging.getLogger(__name__)

_HOPELESS = 5  # SageMaker gives up when that many trials failed and none succeeded

_DIRECTION = {
    "Maximize": optuna.study.StudyDirection.MAXIMIZE,
    "Minimize": optuna.study.StudyDirection.MINIMIZE,
}


class _TrialFailed(Exception):  # noqa: N818
    """A training job without an objective: Optuna counts the trial as failed and goes on."""


def run_tuning_job(context: Context, name: str) -> None:
    """Runs a stored tuning job to its end."""
    control = context.jobs.register(TUNING, name)
    try:
        _Tuning(context, name, control).run()
    except Exception as error:
        _finish(context, name, "Failed", f"InternalServerError: {error}")
        raise
    finally:
        context.jobs.forget(TUNING, name)


def stop_trials(context: Context, tuning_name: str) -> None:
    """Stops the training jobs of a tuning job that still run."""
    for entry in summaries(context, tuning_name):
        if entry["TrainingJobStatus"] == "InProgress":
            _stop_training(context, entry["TrainingJobName"])


def _stop_training(context: Context, name: str) -> None:
    try:
        stop_training_job(context, {"TrainingJobName": name})
    except ValidationException as error:  # it ended in between
        logger.debug("Training job %s needs no stop: %s", name, error)


class _Tuning:
    def __init__(self, context: Context, name: str, control: Control) -> None:
        job = context.store.get(TUNING, name)
        assert job is not None
        self._context = context
        self._name = name
        self._control = control
        self._job: Document = job
        self._config: Document = job["HyperParameterTuningJobConfig"]
        self._objective: dict[str, str] = self._config["HyperParameterTuningJobObjective"]
        self._limits: Document = self._config["ResourceLimits"]
        self._space = SearchSpace(self._config["ParameterRanges"])
        self._parallel = min(self._limits["MaxParallelTrainingJobs"], self._limits["MaxNumberOfTrainingJobs"])
        self._lock = threading.Lock()
        self._created = 0
        self._without_improvement = 0

    def run(self) -> None:
        seed = self._config.get("RandomSeed")
        count = self._limits["MaxNumberOfTrainingJobs"]
        study = optuna.create_study(
            study_name=self._name,  # Hyperband assigns trials to brackets by this name
            direction=_DIRECTION[self._objective["Type"]],
            sampler=sampler(self._config["Strategy"], self._space, count, seed),
            pruner=pruner(self._config),
        )
        self._add_parents_trials(study)
        deadline = self._start_deadline()
        try:
            study.optimize(
                self._run_trial,
                n_trials=count,
                n_jobs=self._parallel,
                catch=(_TrialFailed,),
                callbacks=[self._judge],
            )
        finally:
            if deadline is not None:
                deadline.cancel()
        self._end()

    def _add_parents_trials(self, study: optuna.Study) -> None:
        entries = self._job.get("WarmStartConfig", {}).get("ParentHyperParameterTuningJobs", [])
        for parent in [entry["HyperParameterTuningJobName"] for entry in entries]:
            for entry in summaries(self._context, parent):
                if entry["ObjectiveStatus"] != "Succeeded":
                    continue
                value = entry["FinalHyperParameterTuningJobObjectiveMetric"]["Value"]
                trial = self._space.finished_trial(entry["TunedHyperParameters"], value)
                if trial is None:
                    logger.info("%s lies outside the ranges of %s", entry["TrainingJobName"], self._name)
                else:
                    study.add_trial(trial)

    def _start_deadline(self) -> threading.Timer | None:
        seconds = self._limits.get("MaxRuntimeInSeconds")
        if seconds is None:
            return None
        timer = threading.Timer(seconds, self._run_out)
        timer.daemon = True
        timer.start()
        return timer

    def _run_out(self) -> None:
        self._control.request_stop()
        stop_trials(self._context, self._name)

    def _run_trial(self, trial: optuna.Trial) -> float:
        if self._control.is_stopped() or self._context.stopping.is_set():
            trial.study.stop()
            raise _TrialFailed
        tuned = self._space.suggest(trial)
        name = self._create(tuned)
        if self._control.is_stopped():  # it was stopped while this trial was being created
            _stop_training(self._context, name)
        pruned = False

        def observe(metric: str, value: float) -> None:
            nonlocal pruned
            if metric != self._objective["MetricName"] or not math.isfinite(value) or pruned:
                return
            trial.report(value, step=len(reported) + 1)
            reported.append(value)
            if trial.should_prune():
                pruned = True
                _stop_training(self._context, name)

        reported: list[float] = []
        training = run_training_job(self._context, name, self._parallel, observe)
        value = objective_value(training, self._objective)
        if training["TrainingJobStatus"] == "Failed" or value is None:
            raise _TrialFailed
        if training["TrainingJobStatus"] == "Stopped":
            raise optuna.TrialPruned
        return value

    def _create(self, tuned: dict[str, str]) -> str:
        with self._lock:
            self._created += 1
            name = f"{self._name}-{self._created:03d}-{uuid.uuid4().hex[:8]}"
            request = training_request(self._job, name, tuned)
            create_document(self._context, request, tuning_job_arn=self._job["HyperParameterTuningJobArn"])
            trial = {"TrainingJobName": name, "TuningJobName": self._name, "TunedHyperParameters": tuned}
            self._context.store.create(TRIAL, name, trial)
        return name

    def _judge(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        """After each trial: is there any use in another one?"""
        if self._is_hopeless() or self._is_complete(study, trial) or self._context.stopping.is_set():
            study.stop()

    def _is_hopeless(self) -> bool:
        _, objective = counters(self._context, self._name)
        return objective["Succeeded"] == 0 and objective["Failed"] >= _HOPELESS

    def _is_complete(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        criteria = self._config.get("TuningJobCompletionCriteria", {})
        if trial.state != optuna.trial.TrialState.COMPLETE:
            return False
        assert trial.value is not None
        target = criteria.get("TargetObjectiveMetricValue")
        if target is not None:
            maximize = self._objective["Type"] == "Maximize"
            if trial.value >= target if maximize else trial.value <= target:
                return True
        patience = criteria.get("BestObjectiveNotImproving", {}).get("MaxNumberOfTrainingJobsNotImproving")
        with self._lock:
            improved = study.best_trial.number == trial.number
            self._without_improvement = 0 if improved else self._without_improvement + 1
            return patience is not None and self._without_improvement >= patience

    def _end(self) -> None:
        training, objective = counters(self._context, self._name)
        if self._control.is_stopped():
            _finish(self._context, self._name, "Stopped")
        elif objective["Succeeded"]:
            _finish(self._context, self._name, "Completed")
        elif training["Completed"]:
            _finish(
                self._context,
                self._name,
                "Failed",
                f"No objective metrics found after running {training['Completed']} training jobs. Please "
                "ensure that the custom algorithm is emitting the objective metric as defined by the regular "
                "expression provided.",
            )
        else:
            failed = [entry for entry in summaries(self._context, self._name) if "FailureReason" in entry]
            first = f" {failed[0]['TrainingJobName']}: {failed[0]['FailureReason']}" if failed else ""
            _finish(
                self._context,
                self._name,
                "Failed",
                f"No training job succeeded after {sum(training.values())} attempts. For additional details, "
                f"please take a look at the training job failures by listing training jobs for the tuning "
                f"job.{first}",
            )


def _finish(context: Context, name: str, status: str, reason: str | None = None) -> None:
    """Gives the job its last status, unless it has one (the server went down meanwhile)."""

    def finish(document: Document) -> None:
        unfinished = document["HyperParameterTuningJobStatus"] in ("InProgress", "Stopping")
        if not unfinished or context.stopping.is_set():
            return
        document["HyperParameterTuningJobStatus"] = status
        document["HyperParameterTuningEndTime"] = document["LastModifiedTime"] = time.time()
        if reason is not None:
            document["FailureReason"] = shorten(reason)

    context.store.mutate(TUNING, name, finish)


def interrupt(document: Document, reason: str) -> None:
    """Fails a job whose server went away."""
    document["HyperParameterTuningJobStatus"] = "Failed"
    document["FailureReason"] = reason
    document["HyperParameterTuningEndTime"] = document["LastModifiedTime"] = time.time()
