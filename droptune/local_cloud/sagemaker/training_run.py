"""A training job's way from its stored document to its end, under the container contract."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError

from droptune.local_cloud.sagemaker import s3_data
from droptune.local_cloud.sagemaker.context import Context
from droptune.local_cloud.sagemaker.images import Image
from droptune.local_cloud.sagemaker.job_logs import LogShipper, MetricReader
from droptune.local_cloud.sagemaker.jobs import (
    TRAINING,
    Control,
    Document,
    JobStopped,
    Outcome,
    algorithm_error,
    cannot_pull,
    cpu_count,
    failure_text,
    run_process,
    shorten,
)
from droptune.local_cloud.sagemaker.training_files import training_environment, write_config

logger = logging.getLogger(__name__)

LOG_GROUP = "/aws/sagemaker/TrainingJobs"
_CHECKPOINT_SECONDS = 10

_MESSAGES = {
    "Starting": "Starting the training job",
    "Downloading": "Downloading input data",
    "Training": "Training image download completed. Training in progress.",
    "Uploading": "Uploading generated training model",
    "Stopping": "Stopping the training job",
    "Stopped": "Training job stopped",
    "MaxRuntimeExceeded": "Resource released due to training job runtime exceeding MaxRuntimeInSeconds provided",
    "Completed": "Training job completed",
    "Failed": "Training job failed",
}

MetricObserver = Callable[[str, float], None]
"""Hears of each value of a metric, (name, value), while the job runs."""


def run_training_job(
    context: Context, name: str, parallel: int = 1, observe: MetricObserver = lambda *_: None
) -> Document:
    """Runs a stored job to its end and returns its document.

    `parallel` is how many jobs are meant to run side by side: they share the processors.
    """
    control = context.jobs.register(TRAINING, name)
    try:
        with context.jobs.slot(control) as running, context.jobs.directory(TRAINING, name) as base:
            threads = max(1, cpu_count() // max(running, parallel))
            _Run(context, name, control, base, threads, observe).run()
    except JobStopped:
        _finish(context, name, "Stopped", "Stopped")
    except (ClientError, BotoCoreError, Boto3Error, OSError, RuntimeError) as error:
        logger.exception("Training job %s failed", name)
        _finish(context, name, "Failed", "Failed", f"InternalServerError: {error}")
    finally:
        context.jobs.forget(TRAINING, name)
    document = context.store.get(TRAINING, name)
    assert document is not None
    return document


class _Run:
    """One job's way through downloading, training and uploading."""

    def __init__(
        self,
        context: Context,
        name: str,
        control: Control,
        base: Path,
        threads: int,
        observe: MetricObserver,
    ) -> None:
        job = context.store.get(TRAINING, name)
        assert job is not None
        self._context = context
        self._name = name
        self._control = control
        self._base = base
        self._threads = threads
        self._observe = observe
        self._job: Document = job
        self._s3 = context.client("s3")
        self._checkpoints = base / "checkpoints"
        self._checkpointed_at = time.time()
        self._log = context.jobs.log_path(TRAINING, name)
        self._metrics = MetricReader(job["AlgorithmSpecification"].get("MetricDefinitions", []), self._log)

    def run(self) -> None:
        uri = self._job["AlgorithmSpecification"]["TrainingImage"]
        image = self._context.image(uri)
        if image is None or not image.train:
            _finish(self._context, self._name, "Failed", "Failed", cannot_pull(uri))
            return
        _move_on(self._context, self._name, "Downloading", TrainingStartTime=time.time())
        try:
            self._download()
        except s3_data.DownloadError as error:
            reason = f"ClientError: Data download failed: {error}"
            _finish(self._context, self._name, "Failed", "Failed", reason)
            return
        if self._control.is_stopped():
            raise JobStopped
        _move_on(self._context, self._name, "Training")
        started = time.time()
        outcome = self._train(image)
        if not self._context.stopping.is_set():
            self._end(outcome, int(time.time() - started))

    def _download(self) -> None:
        for channel in self._job.get("InputDataConfig", []):
            source = channel["DataSource"]["S3DataSource"]
            directory = self._base / "input" / "data" / channel["ChannelName"]
            s3_data.download(self._s3, self._context.jobs.cache, source["S3Uri"], source["S3DataType"], directory)
        checkpoint = self._job.get("CheckpointConfig")
        if checkpoint:
            self._checkpoints = self._local(checkpoint.get("LocalPath", "/opt/ml/checkpoints"))
            s3_data.download_checkpoints(self._s3, self._context.jobs.cache, checkpoint["S3Uri"], self._checkpoints)

    def _train(self, image: Image) -> Outcome:
        write_config(self._base, self._job)
        algorithm = self._job["AlgorithmSpecification"]
        entry = [*algorithm.get("ContainerEntrypoint", []), *algorithm.get("ContainerArguments", [])]
        if algorithm.get("ContainerEntrypoint"):
            command = [self._localized(image, argument) for argument in entry]
        else:
            command = image.command(image.train) + [self._localized(image, argument) for argument in entry]
        process = self._context.workers.start(
            image,
            command,
            environment=training_environment(self._context, self._base, self._job, self._threads),
            directory=image.program,
            log=self._log,
        )
        stream = f"{self._name}/algo-1-{int(time.time())}"
        shipper = LogShipper(self._context, LOG_GROUP, stream, self._log)
        limit = self._job["StoppingCondition"]["MaxRuntimeInSeconds"]
        try:
            return run_process(self._context.jobs, self._control, process, limit, self._tick)
        finally:
            shipper.close()

    def _localized(self, image: Image, argument: str) -> str:
        if argument.startswith("/opt/ml/"):
            return str(self._local(argument))
        return image.localized(argument)

    def _local(self, path: str) -> Path:
        """A path of the container below this job's root."""
        return self._base.parent.parent / path.lstrip("/")

    def _tick(self) -> None:
        for metric, value in self._metrics.read():
            self._observe(metric, value)
        if "CheckpointConfig" in self._job and time.time() - self._checkpointed_at > _CHECKPOINT_SECONDS:
            try:
                self._upload_checkpoints()
            except (ClientError, BotoCoreError, Boto3Error) as error:
                logger.warning("Uploading checkpoints of %s failed, will try again: %s", self._name, error)
                self._checkpointed_at = 0.0

    def _upload_checkpoints(self) -> None:
        changed_after, self._checkpointed_at = self._checkpointed_at, time.time()
        s3_data.upload_directory(
            self._s3, self._checkpoints, self._job["CheckpointConfig"]["S3Uri"], changed_after=changed_after
        )

    def _end(self, outcome: Outcome, seconds: int) -> None:
        for metric, value in self._metrics.read(final=True):
            self._observe(metric, value)
        failed = outcome.returncode != 0 and not (outcome.stopped or outcome.timed_out)
        if not outcome.stopped:  # a stopped job's status goes on saying that it stops
            _move_on(self._context, self._name, "Uploading")
        self._upload(with_model=not failed)
        changes: Document = {
            "TrainingTimeInSeconds": seconds,
            "BillableTimeInSeconds": max(1, seconds),
            "FinalMetricDataList": [
                {"MetricName": metric, "Value": value, "Timestamp": moment}
                for metric, (value, moment) in self._metrics.final.items()
            ],
        }
        if failed:
            text = failure_text(self._base / "output" / "failure")
            reason = algorithm_error(text, outcome.returncode)
            _finish(self._context, self._name, "Failed", "Failed", reason, **changes)
        elif outcome.timed_out:
            _finish(self._context, self._name, "Stopped", "MaxRuntimeExceeded", **changes)
        elif outcome.stopped:
            _finish(self._context, self._name, "Stopped", "Stopped", **changes)
        else:
            _finish(self._context, self._name, "Completed", "Completed", **changes)

    def _upload(self, *, with_model: bool) -> None:
        artifacts = self._job["ModelArtifacts"]["S3ModelArtifacts"]
        output = self._job["OutputDataConfig"]["S3OutputPath"].rstrip("/") + f"/{self._name}/output"
        uncompressed = artifacts.endswith("/")
        if with_model and uncompressed:
            s3_data.upload_directory(self._s3, self._base / "model", artifacts)
        elif with_model:
            s3_data.upload_archive(self._s3, self._base / "model", artifacts)
        data = self._base / "output" / "data"
        if any(data.iterdir()) and uncompressed:
            s3_data.upload_directory(self._s3, data, f"{output}/output/")
        elif any(data.iterdir()):
            s3_data.upload_archive(self._s3, data, f"{output}/output.tar.gz")
        if "CheckpointConfig" in self._job:
            self._checkpointed_at = 0.0
            self._upload_checkpoints()


def enter_status(document: Document, secondary: str, message: str | None = None) -> None:
    """Ends the current secondary status and begins the next."""
    now = time.time()
    transitions = document["SecondaryStatusTransitions"]
    if transitions:
        transitions[-1]["EndTime"] = now
    transition = {"Status": secondary, "StartTime": now, "StatusMessage": message or _MESSAGES[secondary]}
    transitions.append(transition)
    document["SecondaryStatus"] = secondary
    document["LastModifiedTime"] = now


def _move_on(context: Context, name: str, secondary: str, **changes: Any) -> None:
    def move(document: Document) -> None:
        document.update(changes)
        if document["TrainingJobStatus"] == "InProgress":
            enter_status(document, secondary)

    context.store.mutate(TRAINING, name, move)


def _finish(
    context: Context, name: str, status: str, secondary: str, reason: str | None = None, **changes: Any
) -> None:
    """Gives the job its last status, unless it has one (the server went down meanwhile)."""

    def finish(document: Document) -> None:
        if document["TrainingJobStatus"] not in ("InProgress", "Stopping") or context.stopping.is_set():
            return
        document.update(changes)
        document["TrainingJobStatus"] = status
        enter_status(document, secondary)
        now = document["LastModifiedTime"]
        document["SecondaryStatusTransitions"][-1]["EndTime"] = now
        document["TrainingEndTime"] = now
        if reason is not None:
            document["FailureReason"] = shorten(reason)
            document["SecondaryStatusTransitions"][-1]["StatusMessage"] = shorten(reason)

    context.store.mutate(TRAINING, name, finish)


def interrupt(document: Document, reason: str) -> None:
    """Fails a job whose server went away."""
    document["TrainingJobStatus"] = "Failed"
    document["FailureReason"] = reason
    enter_status(document, "Failed", reason)
    document["SecondaryStatusTransitions"][-1]["EndTime"] = document["LastModifiedTime"]
    document["TrainingEndTime"] = document["LastModifiedTime"]
