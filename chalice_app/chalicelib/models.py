"""The models of a dataset: which one serves, and which ones there were.

SageMaker is the record: the endpoint's current configuration says what serves, that
configuration's tags say which model version it is, and the model package group lists all.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

from botocore.exceptions import ClientError

from chalicelib import config, names, times
from chalicelib.errors import InvalidParameter, NoLiveModel, UnknownDataset, UnknownModel
from chalicelib.queries import parse_count, read_token, write_token
from chalicelib.run_lock import dataset_item

VERSION_TAG, RUN_TAG = "droptune:model-version", "droptune:run"
# Each version costs one more call, since SageMaker's list leaves out the metadata that holds the accuracy.
DEFAULT_LIMIT = 25
MAX_LIMIT = 100


@dataclass(frozen=True)
class LiveModel:
    """What an endpoint serves."""

    version: int
    run: str | None
    endpoint_config: str
    status: str
    """The endpoint's status: ``InService``, ``Updating``, ``Creating``, ``Failed`` …"""

    @property
    def answers(self) -> bool:
        """Whether the endpoint takes requests: during an update the old configuration serves."""
        return self.status in {"InService", "Updating", "SystemUpdating", "RollingBack"}


def find_live_model(dataset: str) -> LiveModel | None:
    """The model behind the dataset's endpoint, or None when there is no endpoint."""
    try:
        endpoint = config.client("sagemaker").describe_endpoint(EndpointName=names.endpoint(dataset))
    except ClientError as error:
        if is_missing(error):
            return None
        raise
    endpoint_config = endpoint["EndpointConfigName"]
    tags = _tags_of(endpoint_config)
    return LiveModel(
        version=int(tags[VERSION_TAG]),
        run=tags.get(RUN_TAG),
        endpoint_config=endpoint_config,
        status=endpoint["EndpointStatus"],
    )


@cache
def _tags_of(endpoint_config: str) -> dict[str, str]:
    # An endpoint configuration cannot be changed, so its tags are asked for once.
    sagemaker = config.client("sagemaker")
    arn = sagemaker.describe_endpoint_config(EndpointConfigName=endpoint_config)["EndpointConfigArn"]
    return {tag["Key"]: tag["Value"] for tag in sagemaker.list_tags(ResourceArn=arn)["Tags"]}


def describe_champion(dataset: str) -> dict[str, Any]:
    """The model that a challenger has to beat.

    Returns ``{}`` when nothing serves, else ``{"version", "model_data_url", "endpoint_config"}``.
    """
    live = find_live_model(dataset)
    if live is None or not live.answers:
        return {}
    sagemaker = config.client("sagemaker")
    variants = sagemaker.describe_endpoint_config(EndpointConfigName=live.endpoint_config)["ProductionVariants"]
    model = sagemaker.describe_model(ModelName=variants[0]["ModelName"])
    return {
        "version": live.version,
        "model_data_url": model["PrimaryContainer"]["ModelDataUrl"],
        "endpoint_config": live.endpoint_config,
    }


def list_models(dataset: str, limit: str | None = None, after: str | None = None) -> dict[str, Any]:
    """``GET /models/{dataset}``: a page of the models, newest first. Raises UnknownDataset or InvalidParameter."""
    count = parse_count("limit", limit, default=DEFAULT_LIMIT, highest=MAX_LIMIT)
    token = read_token(after, str)
    # SageMaker refuses to look for a name that nothing can have, as it refuses any malformed request.
    found, following = _list_packages(dataset, count, token) if names.is_dataset(dataset) else ([], None)
    if not found:
        require_known(dataset)
    live = find_live_model(dataset)
    return {
        "dataset": dataset,
        "live": live.version if live and live.answers else None,
        "models": found,
        "next": following,
    }


def find_model(dataset: str, version: int) -> dict[str, Any]:
    """One version of the dataset's models, with what a release needs.

    Returns an entry of `list_models` and ``package`` (its ARN), ``image`` and ``model_data_url``. Raises UnknownDataset
    or UnknownModel.
    """
    unknown = UnknownModel(
        f"Dataset '{dataset}' has no model of version {version}.", f"GET /models/{dataset} lists the versions."
    )
    if not names.is_dataset(dataset):
        require_known(dataset)
    try:
        package = config.client("sagemaker").describe_model_package(ModelPackageName=_package_arn(dataset, version))
    except ClientError as error:
        if not is_missing(error):
            raise
        require_known(dataset)
        raise unknown from error
    (container,) = package["InferenceSpecification"]["Containers"]
    return _to_document(package) | {
        "package": package["ModelPackageArn"],
        "image": container["Image"],
        "model_data_url": container["ModelDataUrl"],
    }


def _package_arn(dataset: str, version: int) -> str:
    # A version of a package has no name of its own to be asked for by.
    _, partition, _, region, account, *_ = config.state_machine_arn().split(":")
    return f"arn:{partition}:sagemaker:{region}:{account}:model-package/{names.endpoint(dataset)}/{version}"


def _list_packages(dataset: str, count: int, token: str | None) -> tuple[list[dict[str, Any]], str | None]:
    sagemaker = config.client("sagemaker")
    try:
        page = sagemaker.list_model_packages(
            ModelPackageGroupName=names.endpoint(dataset),
            SortBy="CreationTime",
            SortOrder="Descending",
            MaxResults=count,
            **({"NextToken": token} if token else {}),
        )
    except ClientError as error:
        if is_missing(error):
            return [], None
        if token and error.response["Error"]["Code"] == "ValidationException":
            raise InvalidParameter(
                "next is no token that a page ended with.", "Leave next out for the first page."
            ) from error
        raise
    arns = [summary["ModelPackageArn"] for summary in page["ModelPackageSummaryList"]]
    found = [_to_document(sagemaker.describe_model_package(ModelPackageName=arn)) for arn in arns]
    following = page.get("NextToken")
    # Two versions may be as old as each other to the second; the number decides.
    return sorted(found, key=lambda model: -int(model["version"])), following and write_token(following)


def _to_document(package: dict[str, Any]) -> dict[str, Any]:
    metadata = package.get("CustomerMetadataProperties", {})
    return {
        "version": package["ModelPackageVersion"],
        "status": package["ModelApprovalStatus"],
        "accuracy": float(metadata["accuracy"]) if "accuracy" in metadata else None,
        "run": metadata.get("run"),
        "created_at": times.to_text(package["CreationTime"]),
    }


def require_known(dataset: str) -> None:
    """Raise UnknownDataset unless the dataset has a record or at least one object."""
    if names.is_dataset(dataset):
        if dataset_item(dataset):
            return
        listing = config.client("s3").list_objects_v2(
            Bucket=config.bucket(), Prefix=names.dataset_prefix(dataset), MaxKeys=1
        )
        if listing.get("KeyCount", 0):
            return
    raise UnknownDataset(
        f"There is no dataset '{dataset}'.",
        "Check the spelling, or upload images to datasets/<dataset>/<class>/ to make one.",
    )


def require_live_model(dataset: str) -> LiveModel:
    """The model that serves `dataset`. Raises UnknownDataset or NoLiveModel."""
    live = find_live_model(dataset) if names.is_dataset(dataset) else None
    if live is not None and live.answers:
        return live
    require_known(dataset)
    if live is not None and live.status == "Creating":
        raise NoLiveModel(
            f"The first model of dataset '{dataset}' is being released.",
            "Try again in a minute.",
        )
    raise NoLiveModel(
        f"Dataset '{dataset}' has no live model.",
        f"See GET /runs?dataset={dataset}: the first run that succeeds brings a model live.",
    )


def is_missing(error: ClientError) -> bool:
    """Whether SageMaker says that the thing asked for does not exist.

    It says so with the same code as for any bad request, so the text has to decide.
    """
    code = error.response["Error"]["Code"]
    message = error.response["Error"]["Message"].lower()
    return code in {"ResourceNotFound", "ResourceNotFoundException"} or (
        code == "ValidationException"
        and any(words in message for words in ("could not find", "does not exist", "not found"))
    )
