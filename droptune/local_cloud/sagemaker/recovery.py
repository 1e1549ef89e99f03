"""Jobs do not survive the server: what ran when it went away has failed."""

import logging
from collections.abc import Callable

from droptune.local_cloud.sagemaker import processing, training_run, tuning_run
from droptune.local_cloud.sagemaker.context import Context
from droptune.local_cloud.sagemaker.jobs import INTERRUPTED, PROCESSING, STATUS, TRAINING, TUNING, Document

logger = logging.getLogger(__name__)

_NAME = {
    TRAINING: "TrainingJobName",
    PROCESSING: "ProcessingJobName",
    TUNING: "HyperParameterTuningJobName",
}
_INTERRUPT: dict[str, Callable[[Document, str], None]] = {
    TRAINING: training_run.interrupt,
    PROCESSING: processing.interrupt,
    TUNING: tuning_run.interrupt,
}


def fail_interrupted_jobs(context: Context) -> None:
    """Fails every job that has not ended: on the way down, and after a crash on the next start."""
    for kind, interrupt in _INTERRUPT.items():
        for document in context.store.list(kind):
            if document[STATUS[kind]] in ("InProgress", "Stopping"):
                _fail(context, kind, document[_NAME[kind]], interrupt)


def _fail(context: Context, kind: str, name: str, interrupt: Callable[[Document, str], None]) -> None:
    def fail(document: Document) -> None:
        # It may have ended since it was listed.
        if document[STATUS[kind]] in ("InProgress", "Stopping"):
            interrupt(document, INTERRUPTED)
            logger.warning("%s %s was interrupted", kind, name)

    context.store.mutate(kind, name, fail)
