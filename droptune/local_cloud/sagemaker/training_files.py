"""The files and variables that a training container finds: SageMaker's container contract."""

import json
from pathlib import Path
from typing import Any

from droptune.local_cloud.sagemaker.context import Context
from droptune.local_cloud.sagemaker.jobs import (
    CURRENT_HOST,
    Document,
    cpu_count,
    gpu_count,
    resource_config,
)


def write_config(base: Path, job: Document) -> None:
    """Makes the job's folders below `base` (`/opt/ml`) and writes `input/config/*.json`."""
    for folder in ("input/config", "input/data", "model", "output/data", "code"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    write_json(base / "input/config/hyperparameters.json", job.get("HyperParameters", {}))
    write_json(base / "input/config/resourceconfig.json", _resources(job))
    write_json(base / "input/config/inputdataconfig.json", _channels(job))


def training_environment(context: Context, base: Path, job: Document, threads: int) -> dict[str, str]:
    """What SageMaker and its training toolkit set, and then the request's own `Environment`.

    `SM_HPS` holds values as JSON reads them (`"3"` becomes 3); `SM_HP_<NAME>` the strings themselves.
    """
    hyper_parameters: dict[str, str] = job.get("HyperParameters", {})
    channels = _channels(job)
    environment = {
        "SAGEMAKER_BASE_DIR": str(base),
        "SAGEMAKER_REGION": context.region,
        "AWS_REGION": context.region,
        "TRAINING_JOB_NAME": job["TrainingJobName"],
        "TRAINING_JOB_ARN": job["TrainingJobArn"],
        "OMP_NUM_THREADS": str(threads),
        "SM_CURRENT_HOST": CURRENT_HOST,
        "SM_HOSTS": json.dumps([CURRENT_HOST]),
        "SM_NETWORK_INTERFACE_NAME": "lo",
        "SM_CURRENT_INSTANCE_TYPE": job["ResourceConfig"]["InstanceType"],
        "SM_NUM_CPUS": str(cpu_count()),
        "SM_NUM_GPUS": str(gpu_count()),
        "SM_INPUT_DIR": str(base / "input"),
        "SM_INPUT_CONFIG_DIR": str(base / "input" / "config"),
        "SM_MODEL_DIR": str(base / "model"),
        "SM_OUTPUT_DIR": str(base / "output"),
        "SM_OUTPUT_DATA_DIR": str(base / "output" / "data"),
        "SM_CHANNELS": json.dumps(sorted(channels)),
        "SM_HPS": json.dumps({name: _decoded(value) for name, value in hyper_parameters.items()}),
        "SM_RESOURCE_CONFIG": json.dumps(_resources(job)),
        "SM_INPUT_DATA_CONFIG": json.dumps(channels),
        "SM_LOG_LEVEL": "20",
    }
    for name in channels:
        environment[f"SM_CHANNEL_{name.upper().replace('-', '_')}"] = str(base / "input" / "data" / name)
    for name, value in hyper_parameters.items():
        environment[f"SM_HP_{name.upper().replace('-', '_')}"] = value
    environment.update(job.get("Environment", {}))
    return environment


def write_json(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def _resources(job: Document) -> Document:
    return resource_config(job["ResourceConfig"]["InstanceType"])


def _channels(job: Document) -> Document:
    default_mode = job["AlgorithmSpecification"]["TrainingInputMode"]
    channels = {}
    for channel in job.get("InputDataConfig", []):
        source = channel["DataSource"]["S3DataSource"]
        channels[channel["ChannelName"]] = {
            "TrainingInputMode": channel.get("InputMode", default_mode),
            "S3DistributionType": source.get("S3DataDistributionType", "FullyReplicated"),
            "RecordWrapperType": "None",
            **({"ContentType": channel["ContentType"]} if "ContentType" in channel else {}),
        }
    return channels


def _decoded(value: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value
