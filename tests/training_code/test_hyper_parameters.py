"""Hyper-parameters: defaults, ranges, errors, and the page that documents them."""

import json
import re
from dataclasses import fields
from pathlib import Path

import hyper_parameters
import pytest
from contract import JobError
from hyper_parameters import HyperParameters

CONTRACTS = Path(__file__).parents[2] / "docs" / "reference" / "contracts.md"


def test_defaults_are_those_of_the_documentation() -> None:
    # GIVEN the table in the reference
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| `?([^|`]+?)`? \|", CONTRACTS.read_text("utf-8"), re.MULTILINE)
    documented = {name: default for name, default in rows if name in HyperParameters.__dataclass_fields__}

    # THEN it has every parameter, with the default of the code
    assert documented.keys() == {field.name for field in fields(HyperParameters)}
    assert hyper_parameters.parse(documented) == HyperParameters()


def test_strings_become_values(tmp_path: Path) -> None:
    # GIVEN the file as SageMaker writes it, with a name of its own and a value quoted by its Python SDK
    given = {
        "epochs": "7",
        "learning_rate": "1e-2",
        "backbone": '"mobilenet_v2"',
        "debug_hook": "True",
        "_tuning_objective_metric": "validation:accuracy",
    }
    (tmp_path / "hyperparameters.json").write_text(json.dumps(given), encoding="utf-8")

    # WHEN it is read, THEN values have their types
    assert hyper_parameters.read(tmp_path / "hyperparameters.json") == HyperParameters(
        epochs=7, learning_rate=0.01, backbone="mobilenet_v2", debug_hook=True
    )


def test_no_file_means_defaults(tmp_path: Path) -> None:
    assert hyper_parameters.read(tmp_path / "none.json") == HyperParameters()


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("epochs", "0", "an integer from 1 to 500"),
        ("epochs", "501", "an integer from 1 to 500"),
        ("epochs", "2.5", "an integer from 1 to 500"),
        ("epochs", "", "an integer from 1 to 500"),
        ("batch_size", "0", "an integer from 1 to 4096"),
        ("batch_size", "4097", "an integer from 1 to 4096"),
        ("learning_rate", "0", "a number above 0"),
        ("learning_rate", "nan", "a number above 0"),
        ("learning_rate", "inf", "a number above 0"),
        ("learning_rate", "fast", "a number above 0"),
        ("weight_decay", "-1", "a number from 0"),
        ("label_smoothing", "1.1", "a number from 0 to 1"),
        ("dropout", "1", "a number from 0 to below 1"),
        ("trainable_layers", "-1", "an integer from 0"),
        ("seed", "-1", "an integer from 0"),
        ("debug_hook", "yes", "true or false"),
        ("artifact", "onnx", "model or head"),
    ],
)
def test_bad_values_name_parameter_value_and_range(name: str, value: str, allowed: str) -> None:
    with pytest.raises(JobError) as caught:
        hyper_parameters.parse({name: value})
    assert caught.value.code == "InvalidHyperParameter"
    assert name in caught.value.message
    assert repr(value) in caught.value.message
    assert allowed in caught.value.hint


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(JobError, match="'momentum'") as caught:
        hyper_parameters.parse({"momentum": "0.9"})
    assert caught.value.code == "InvalidHyperParameter"
    assert "learning_rate" in caught.value.hint


def test_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "h.json").write_text("{epochs: 3", encoding="utf-8")
    with pytest.raises(JobError, match="no JSON document"):
        hyper_parameters.read(tmp_path / "h.json")
