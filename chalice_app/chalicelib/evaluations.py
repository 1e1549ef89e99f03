"""What Evaluate wrote: read for the gate, and held against the released endpoint."""

import json
from typing import Any

from botocore.exceptions import ClientError

from chalicelib import config, names, storage
from chalicelib.errors import EvaluationUnreadable, VerificationFailed


def load_evaluation(dataset: str, run: str) -> dict[str, Any] | None:
    """``evaluation.json`` of a run, or None when there is none."""
    body = storage.read(names.evaluation_prefix(dataset, run) + "evaluation.json")
    if body is None:
        return None
    document: dict[str, Any] = json.loads(body)
    return document


def read_evaluation(dataset: str, run: str, champion_version: int | None) -> dict[str, Any]:
    """The few numbers that the workflow decides on.

    Returns ``{"accuracy", "report_key"}``, and ``"champion_accuracy"`` when there is a champion.
    Raises EvaluationUnreadable.
    """
    hint = (
        f"Look at the log of the job {run}-evaluate: CloudWatch Logs, group /aws/sagemaker/ProcessingJobs. "
        "Then upload one file again to start the next run."
    )
    evaluation = load_evaluation(dataset, run)
    if evaluation is None:
        raise EvaluationUnreadable("Evaluate left no evaluation.json.", hint)
    numbers = {
        "accuracy": evaluation["accuracy"],
        "report_key": names.evaluation_prefix(dataset, run) + "report.html",
    }
    if champion_version is not None:
        champion = evaluation.get("champion")
        if not champion or champion["version"] != champion_version:
            raise EvaluationUnreadable(
                f"evaluation.json does not measure the live model, version {champion_version}.", hint
            )
        numbers["champion_accuracy"] = champion["accuracy"]
    return numbers


def verify(dataset: str, run: str) -> dict[str, Any]:
    """Ask the live endpoint about the sample image, and expect the label that Evaluate got.

    Returns ``{"verified": true, "label"}``, or ``{"verified": false}`` when the model labelled no
    test image right, so that there is no sample. Raises VerificationFailed.
    """
    evaluation = load_evaluation(dataset, run)
    sample = evaluation and evaluation.get("sample")
    if not sample:
        return {"verified": False}
    hint = (
        "The previous model, if there was one, serves again. Look at the log of the endpoint "
        f"{names.endpoint(dataset)}."
    )
    image = storage.read(names.evaluation_prefix(dataset, run) + "sample.jpg")
    if image is None:
        raise VerificationFailed("Evaluate left no sample.jpg to verify the endpoint with.", hint)
    try:
        answer = config.client("sagemaker-runtime").invoke_endpoint(
            EndpointName=names.endpoint(dataset),
            Body=image,
            ContentType="image/jpeg",
            Accept="application/json",
            CustomAttributes="top_k=1",
        )
    except ClientError as error:
        raise VerificationFailed(f"The released endpoint does not answer: {error}", hint) from error
    label = json.load(answer["Body"])["predictions"][0]["label"]
    if label != sample["label"]:
        raise VerificationFailed(
            f"The released endpoint calls the sample '{label}'; the evaluated model called it '{sample['label']}'.",
            hint,
        )
    return {"verified": True, "label": label}
