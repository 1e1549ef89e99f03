"""The state machine as data, and its JSONata evaluated as Step Functions does."""

import json
from pathlib import Path
from typing import Any

import jsonata  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "state_machine" / "retrain.asl.json"
DEFINITION: dict[str, Any] = json.loads(FILE.read_text())
STATES: dict[str, dict[str, Any]] = DEFINITION["States"]

RUN = "tuxpaint-photo-261122143912-9f3a"
CONFIG: dict[str, Any] = {
    "bucket": "droptune-000000000000-us-east-1",
    "backbone": "resnet50",
    "image_size": 224,
    "training_image": "000000000000.dkr.ecr.us-east-1.amazonaws.com/droptune-training:1",
    "serving_image": "000000000000.dkr.ecr.us-east-1.amazonaws.com/droptune-serving:1",
    "roles": {name: f"arn:aws:iam::000000000000:role/{name}" for name in ("processing", "training", "endpoint")},
    "functions": {
        name: f"arn:aws:lambda:us-east-1:000000000000:function:droptune-{name}"
        for name in (
            "settle",
            "describe_champion",
            "read_evaluation",
            "verify",
            "explain",
            "write_mail",
            "finish",
            "label_images",
        )
    },
    "instances": {
        "processing": "ml.m5.xlarge",
        "processing_count": 1,
        "tuning": "ml.g4dn.xlarge",
        "training": "ml.g4dn.xlarge",
        "endpoint": "ml.m5.large",
    },
    "quiet_seconds": 60,
    "max_wait_seconds": 900,
    "tuning": {
        "max_jobs": 8,
        "max_parallel_jobs": 2,
        "strategy": "Bayesian",
        "ranges": {
            "ContinuousParameterRanges": [
                {"Name": "learning_rate", "MinValue": "0.0005", "MaxValue": "0.02", "ScalingType": "Logarithmic"}
            ],
            "IntegerParameterRanges": [{"Name": "epochs", "MinValue": "10", "MaxValue": "40"}],
            "CategoricalParameterRanges": [{"Name": "batch_size", "Values": ["16", "32"]}],
        },
        "static_hyper_parameters": {"trainable_layers": "0"},
    },
    "max_runtime_seconds": 3600,
    "mail": {"from": "droptune@example.com", "to": ["owner@example.com"]},
    "api_url": "https://api.example.com/api",
}
# What the states before have assigned by the time of the last one.
VARIABLES: dict[str, Any] = {
    "run": RUN,
    "dataset": "tuxpaint-photos",
    "config": CONFIG,
    "s3": f"s3://{CONFIG['bucket']}",
    "version": 3,
    "manifest": f"s3://{CONFIG['bucket']}/versions/tuxpaint-photos/3/decode.manifest",
    "prepared": f"s3://{CONFIG['bucket']}/prepared/tuxpaint-photos/resnet50-224-2-0123abcd/",
    "base": 2,
    "splits": 2,
    "tuned": {
        "learning_rate": "0.0031415926535897931",
        "dropout": "0.12345678901234568",
        "weight_decay": "1.2345678901234568e-05",
        "label_smoothing": "0.098765432109876543",
        "epochs": "24",
        "batch_size": "32",
        "trainable_layers": "0",
    },
    "trials": 500,
    "objective": 0.8909090757369995,
    "artifact": f"s3://{CONFIG['bucket']}/runs/tuxpaint-photos/{RUN}/retrain/{RUN}-retrain/output/model.tar.gz",
    "champion": {"version": 2, "model_data_url": "s3://b/m/model.tar.gz", "endpoint_config": "older-run"},
    "evaluation": {"accuracy": 0.8727272727272727, "champion_accuracy": 0.8},
    "approval": "Approved",
    "package": "arn:aws:sagemaker:us-east-1:000000000000:model-package/droptune-tuxpaint-photos/3",
    "registered": {"model_version": 3},
    "previous": {"endpoint_config": "older-run"},
    "verdict": {"verdict": "promoted"},
    "sealed": {"dataset_version": 3, "content_hash": "ab"},
    "measured": {"accuracy": 0.87, "report_key": "runs/r/report.html"},
    "problem": {},
    "mail_problem": {},
    "status": "SUCCEEDED",
    "polls": 0,
    "failure": {"Error": "States.TaskFailed", "Cause": "{}"},
    "failed_state": "Tune",
}


class UndefinedResultError(Exception):
    """An expression gave nothing, which Step Functions refuses."""


def evaluate(template: Any, states: dict[str, Any] | None = None, **variables: Any) -> Any:
    """`template` with every ``{% … %}`` replaced by its value.

    Args:
        template: a state's field.
        states: ``$states`` (``input``, ``result``, ``errorOutput``, ``context``).
        variables: replace those of `VARIABLES`.
    """
    bindings = VARIABLES | variables | {"states": states or {}}
    if isinstance(template, dict):
        return {key: evaluate(value, states, **variables) for key, value in template.items()}
    if isinstance(template, list):
        return [evaluate(value, states, **variables) for value in template]
    if not (isinstance(template, str) and template.startswith("{%")):
        return template
    expression = jsonata.Jsonata.jsonata(template[2:-2].strip())
    value = expression.evaluate(None, bindings)
    if value is None:
        raise UndefinedResultError(template)
    return value
