"""The hyper-parameters of train.py: names, types, ranges and defaults, in one table.

SageMaker passes every value as a string (docs/reference/contracts.md lists the same table).
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from contract import JobError

# SageMaker adds this name to the hyper-parameters of a tuning job's trials.
ADDED_BY_SAGEMAKER = ("_tuning_objective_metric",)


@dataclass(frozen=True)
class HyperParameters:
    epochs: int = 20
    batch_size: int = 32
    learning_rate: float = 0.003
    weight_decay: float = 0.0001
    label_smoothing: float = 0.0
    dropout: float = 0.2
    backbone: str = "resnet50"
    trainable_layers: int = 0
    refit: bool = False
    seed: int = 0
    debug_hook: bool = False
    artifact: str = "model"
    quantize: bool = True

    def described(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Interval:
    """A numeric range; `open_low` and `open_high` leave out the end itself."""

    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below and math.isfinite(value)

    def __str__(self) -> str:
        low = f"{'above' if self.open_low else 'from'} {self.low:g}"
        if self.high == math.inf:
            return low
        return f"{low} {'to below' if self.open_high else 'to'} {self.high:g}"


INTERVALS = {
    "epochs": Interval(1, 500),
    "batch_size": Interval(1, 4096),
    "learning_rate": Interval(0, open_low=True),
    "weight_decay": Interval(0),
    "label_smoothing": Interval(0, 1),
    "dropout": Interval(0, 1, open_high=True),
    "trainable_layers": Interval(0, 10_000),
    "seed": Interval(0, 2**32 - 1),
}
CHOICES = {"artifact": ("model", "head")}


def read(file: Path) -> HyperParameters:
    """Reads SageMaker's `hyperparameters.json`; a missing file means all defaults.

    Raises JobError `InvalidHyperParameter` naming the parameter, its value and what is allowed.
    """
    if not file.is_file():
        return HyperParameters()
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise JobError(
            "InvalidHyperParameter",
            f"{file.name} is no JSON document: {error}",
            "Give the job its hyper-parameters as a map of strings.",
        ) from error
    return parse(given)


def parse(given: dict[str, str]) -> HyperParameters:
    """Parses and checks a map of strings. Raises like `read`."""
    types = {field.name: str(field.type) for field in fields(HyperParameters)}
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name in ADDED_BY_SAGEMAKER:
            continue
        if name not in types:
            raise JobError(
                "InvalidHyperParameter",
                f"There is no hyper-parameter {name!r} (value {value!r}).",
                f"Use one of: {', '.join(sorted(types))}.",
            )
        values[name] = _parse_one(name, types[name], _unquoted(str(value)))
    return HyperParameters(**values)


def _unquoted(text: str) -> str:
    # SageMaker's Python SDK sends values as JSON, so that a string arrives in quotation marks.
    text = text.strip()
    return text[1:-1] if len(text) >= 2 and text[0] == text[-1] == '"' else text


def _parse_one(name: str, kind: str, text: str) -> Any:
    if kind == "bool":
        if text.lower() not in ("true", "false"):
            raise _invalid(name, text, "true or false")
        return text.lower() == "true"
    if kind == "str":
        if name in CHOICES and text not in CHOICES[name]:
            raise _invalid(name, text, " or ".join(CHOICES[name]))
        return text
    allowed = f"{'an integer' if kind == 'int' else 'a number'} {INTERVALS[name]}"
    try:
        number = int(text) if kind == "int" else float(text)
    except ValueError as error:
        raise _invalid(name, text, allowed) from error
    if number not in INTERVALS[name]:
        raise _invalid(name, text, allowed)
    return number


def _invalid(name: str, text: str, allowed: str) -> JobError:
    return JobError("InvalidHyperParameter", f"The hyper-parameter {name} is {text!r}.", f"Set {name} to {allowed}.")
