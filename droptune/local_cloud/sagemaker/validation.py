"""Checks requests against SageMaker's service model and words the errors as SageMaker does.

botocore's own validator knows types and unknown members; lengths, patterns, enumerations and upper
limits stand in the model, but are checked by the service alone: that part is here.
"""

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

from botocore.model import ListShape, MapShape, Shape, StructureShape
from botocore.validate import ParamValidator

from droptune.local_cloud.sagemaker.errors import SageMakerError, ValidationException

_NUMBERS = {"integer", "long", "float", "double"}


def validate(request: Any, shape: Shape | None) -> None:
    """
    Raises:
        ValidationException: a member is missing, unknown or breaks a constraint.
        SageMakerError: a member has the wrong type (`SerializationException`).
    """
    if not isinstance(request, dict):
        raise SageMakerError("The request is no JSON object.", code="SerializationException")
    if shape is None:
        return
    violations = list(_violations(request, shape, ""))
    if violations:
        count = len(violations)
        raise ValidationException(
            f"{count} validation error{'s' if count > 1 else ''} detected: {'; '.join(violations)}"
        )
    report = ParamValidator().validate(request, shape)
    if report.has_errors():
        text = report.generate_report()
        if "Invalid type" in text:
            raise SageMakerError(text, code="SerializationException")
        raise ValidationException(text)


def _violations(value: Any, shape: Shape, path: str) -> Iterator[str]:
    """Values of a wrong type are passed over: botocore's validator words those."""
    if isinstance(shape, StructureShape) and isinstance(value, Mapping):
        for name in shape.required_members:
            if value.get(name) is None:
                yield _violation(None, _join(path, name), "Member must not be null")
        for name, member in value.items():
            if name in shape.members and member is not None:
                yield from _violations(member, shape.members[name], _join(path, name))
    elif isinstance(shape, ListShape) and isinstance(value, list):
        yield from _length_violations(value, shape, path)
        for index, item in enumerate(value, start=1):
            yield from _violations(item, shape.member, f"{path}.{index}.member")
    elif isinstance(shape, MapShape) and isinstance(value, Mapping):
        yield from _length_violations(value, shape, path)
        for key, item in value.items():
            for part, subshape in ((key, shape.key), (item, shape.value)):
                what = "keys" if subshape is shape.key else "values"
                for text in _violations(part, subshape, path):
                    constraint = text.split("failed to satisfy constraint: ", 1)[1]
                    yield _violation(value, path, f"Map {what} must satisfy constraint: [{constraint}]")
    elif shape.type_name == "string" and isinstance(value, str):
        yield from _string_violations(value, shape, path)
    elif shape.type_name in _NUMBERS and isinstance(value, int | float) and not isinstance(value, bool):
        minimum, maximum = shape.metadata.get("min"), shape.metadata.get("max")
        if minimum is not None and value < minimum:
            yield _violation(value, path, f"Member must have value greater than or equal to {minimum}")
        if maximum is not None and value > maximum:
            yield _violation(value, path, f"Member must have value less than or equal to {maximum}")


def _string_violations(value: str, shape: Shape, path: str) -> Iterator[str]:
    yield from _length_violations(value, shape, path)
    if (values := shape.metadata.get("enum")) and value not in values:
        yield _violation(value, path, f"Member must satisfy enum value set: [{', '.join(values)}]")
    pattern = shape.metadata.get("pattern")
    if pattern and (compiled := _compiled(pattern)) and not compiled.fullmatch(value):
        yield _violation(value, path, f"Member must satisfy regular expression pattern: {pattern}")


def _length_violations(value: Any, shape: Shape, path: str) -> Iterator[str]:
    minimum, maximum = shape.metadata.get("min"), shape.metadata.get("max")
    if minimum is not None and len(value) < minimum:
        yield _violation(value, path, f"Member must have length greater than or equal to {minimum}")
    if maximum is not None and len(value) > maximum:
        yield _violation(value, path, f"Member must have length less than or equal to {maximum}")


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str] | None:
    """The pattern in Python's syntax, or None for the few that only Java can read (surrogate ranges)."""
    # Python's re has no Unicode properties; \w and \s differ from letters, numbers and separators by
    # the underscore, which the tag patterns allow anyway.
    python = pattern.replace(r"\p{L}", r"\w").replace(r"\p{N}", r"\w").replace(r"\p{Z}", r"\s")
    try:
        return re.compile(python)
    except re.error:
        return None


def _violation(value: Any, path: str, constraint: str) -> str:
    shown = "null" if value is None else f"'{value}'"
    return f"Value {shown} at '{path}' failed to satisfy constraint: {constraint}"


def _join(path: str, name: str) -> str:
    member = name[0].lower() + name[1:]
    return f"{path}.{member}" if path else member
