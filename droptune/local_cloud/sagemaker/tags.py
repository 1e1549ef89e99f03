"""Tags of any resource, by its ARN."""

from typing import Any

from droptune.local_cloud.sagemaker.context import Context
from droptune.local_cloud.sagemaker.errors import ResourceLimitExceeded, ValidationException
from droptune.local_cloud.sagemaker.protocol import Request, operation

KIND = "tags"
_MAX_TAGS = 50  # SageMaker's quota per resource


def set_tags(context: Context, arn: str, tags: list[dict[str, str]] | None) -> None:
    """Gives a new resource the `Tags` of its Create request."""
    _check_unique(tags or [])
    context.store.put(KIND, arn, {"Arn": arn, "Tags": {tag["Key"]: tag["Value"] for tag in tags or []}})


def delete_tags_of(context: Context, arn: str) -> None:
    """Forgets a deleted resource's tags."""
    context.store.delete(KIND, arn)


def get_tags(context: Context, arn: str) -> list[dict[str, str]]:
    """The tags of a resource, in the form of the API: `[{"Key", "Value"}]`."""
    document = context.store.get(KIND, arn)
    return [{"Key": key, "Value": value} for key, value in (document or {"Tags": {}})["Tags"].items()]


@operation("AddTags")
def add_tags(context: Context, request: Request) -> dict[str, Any]:
    _check_unique(request["Tags"])

    def add(document: dict[str, Any]) -> None:
        document["Tags"].update({tag["Key"]: tag["Value"] for tag in request["Tags"]})
        if len(document["Tags"]) > _MAX_TAGS:
            raise ResourceLimitExceeded(f"A resource cannot have more than {_MAX_TAGS} tags.")

    arn = _known(context, request["ResourceArn"])
    context.store.mutate(KIND, arn, add)
    return {"Tags": get_tags(context, arn)}


@operation("ListTags")
def list_tags(context: Context, request: Request) -> dict[str, Any]:
    # A resource has 50 tags at the most and a page holds at least 50: there is never a second page.
    return {"Tags": get_tags(context, _known(context, request["ResourceArn"]))}


@operation("DeleteTags")
def delete_tags(context: Context, request: Request) -> dict[str, Any]:
    def remove(document: dict[str, Any]) -> None:
        for key in request["TagKeys"]:
            document["Tags"].pop(key, None)

    context.store.mutate(KIND, _known(context, request["ResourceArn"]), remove)
    return {}


def _known(context: Context, arn: str) -> str:
    if context.store.get(KIND, arn) is None:
        raise ValidationException(f"Requested resource {arn} not found.")
    return arn


def _check_unique(tags: list[dict[str, str]]) -> None:
    keys = [tag["Key"] for tag in tags]
    if repeated := sorted({key for key in keys if keys.count(key) > 1}):
        raise ValidationException(f"Tag keys must be unique, and these appear more than once: {repeated}")
