"""SageMaker's wire protocol: AWS JSON 1.1, with botocore's service model as the schema.

A module registers what it answers with `@operation("CreateTrainingJob")`, and what it does when the
server comes up or goes down with `@on_startup` and `@on_shutdown`.
"""

import datetime
import functools
from collections.abc import Callable, Mapping
from typing import Any

import botocore.session
from botocore.model import ListShape, MapShape, ServiceModel, Shape, StructureShape

from droptune.local_cloud.sagemaker.context import Context
from droptune.local_cloud.sagemaker.errors import SageMakerError
from droptune.local_cloud.sagemaker.validation import validate

Request = dict[str, Any]
Operation = Callable[[Context, Request], dict[str, Any]]
Hook = Callable[[Context], None]

TARGET_PREFIX = "SageMaker."

_SCALARS: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "long": (int,),
    "boolean": (bool,),
    "float": (int, float),
    "double": (int, float),
    "timestamp": (int, float),
}

OPERATIONS: dict[str, Operation] = {}
STARTUP_HOOKS: list[Hook] = []
SHUTDOWN_HOOKS: list[Hook] = []


def operation(name: str) -> Callable[[Operation], Operation]:
    """Registers the function that answers the operation.

    It receives a request that already fits the service model and returns the answer's members (None
    stands for an absent one); it raises `SageMakerError` for everything a client is to hear about.
    It runs in a worker thread and is expected to return at once: long work goes to the background.
    """

    def register(function: Operation) -> Operation:
        if name not in service_model().operation_names:
            raise ValueError(f"SageMaker has no operation {name}")
        OPERATIONS[name] = function
        return function

    return register


def on_startup(hook: Hook) -> Hook:
    """Calls the hook before the server answers its first request."""
    STARTUP_HOOKS.append(hook)
    return hook


def on_shutdown(hook: Hook) -> Hook:
    """Calls the hook when the server goes down; `context.stopping` is already set."""
    SHUTDOWN_HOOKS.append(hook)
    return hook


@functools.cache
def service_model() -> ServiceModel:
    return botocore.session.Session().get_service_model("sagemaker")


def dispatch(context: Context, name: str, request: Any) -> dict[str, Any]:
    """Validates the request, answers it and returns the answer in its JSON form.

    Raises:
        SageMakerError: what the client is to hear.
    """
    function = OPERATIONS.get(name)
    if function is None:
        known = name in service_model().operation_names
        raise SageMakerError(
            f"The local SageMaker does not support the operation {name}."
            if known
            else f"SageMaker has no operation {name}.",
            code="UnknownOperationException",
        )
    model = service_model().operation_model(name)
    validate(request, model.input_shape)
    answer = function(context, request)
    if model.output_shape is None:
        return {}
    serialized: dict[str, Any] = serialize(answer, model.output_shape, name)
    return serialized


def serialize(value: Any, shape: Shape, path: str) -> Any:
    """The JSON form of an answer: absent members left out, points in time as epoch seconds.

    Raises:
        TypeError: the value has a member, or a type, that the service model does not know.
    """
    if isinstance(shape, StructureShape):
        if not isinstance(value, Mapping):
            raise TypeError(f"{path} should be a structure, not {value!r}")
        if unknown := set(value) - set(shape.members):
            raise TypeError(f"{path} has members that SageMaker does not know: {sorted(unknown)}")
        return {
            key: serialize(member, shape.members[key], f"{path}.{key}")
            for key, member in value.items()
            if member is not None
        }
    if isinstance(shape, ListShape):
        return [serialize(item, shape.member, f"{path}[{index}]") for index, item in enumerate(value)]
    if isinstance(shape, MapShape):
        return {str(key): serialize(item, shape.value, f"{path}.{key}") for key, item in value.items()}
    if shape.type_name == "timestamp" and isinstance(value, datetime.datetime):
        return value.timestamp()
    if not isinstance(value, _SCALARS[shape.type_name]):
        raise TypeError(f"{path} should be of type {shape.type_name}, not {value!r}")
    return value
