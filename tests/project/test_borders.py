"""What each room may import (docs/decisions/0001-rooms-and-borders.md)."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STANDARD_LIBRARY = set(sys.stdlib_module_names)
FORBIDDEN_IN_TRAINING = {"boto3", "botocore", "sagemaker", "chalice", "aws_lambda_powertools", "droptune", "ministack"}
ALLOWED_IN_LAMBDA = {
    "aws_lambda_powertools",
    "boto3",
    "botocore",
    "chalice",
    "chalicelib",
    "fastjsonschema",
    "multipart",
}


def imports(file: Path) -> set[str]:
    """Return the top-level names of every module that a file imports, wherever the import stands."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def files(folder: str) -> list[Path]:
    found = sorted((ROOT / folder).rglob("*.py"))
    assert found, f"{folder} holds no code"
    return found


@pytest.mark.parametrize("file", files("chalice_app"), ids=lambda file: file.name)
def test_lambda_code_imports_only_what_lambda_carries(file: Path) -> None:
    # GIVEN a module that runs in Lambda
    # WHEN its imports are read
    foreign = imports(file) - STANDARD_LIBRARY - ALLOWED_IN_LAMBDA
    # THEN nothing heavy, and nothing of the operator's side, is among them
    assert not foreign


@pytest.mark.parametrize("file", files("training_code"), ids=lambda file: file.name)
def test_training_code_never_calls_aws(file: Path) -> None:
    # GIVEN a module that runs in a SageMaker container
    # WHEN its imports are read
    # THEN it cannot reach a control plane
    assert not imports(file) & FORBIDDEN_IN_TRAINING


@pytest.mark.parametrize("file", files("droptune"), ids=lambda file: str(file.relative_to(ROOT)))
def test_the_operators_side_imports_neither_torch_nor_the_other_rooms(file: Path) -> None:
    # GIVEN a module of the operator's side
    # WHEN its imports are read
    own = {path.stem for path in (ROOT / "training_code").glob("*.py")} - STANDARD_LIBRARY
    # THEN torch stays in the containers, and no room is entered but through its contract
    assert not imports(file) & ({"torch", "torchvision", "smdebug", "chalicelib"} | own - {"report", "images"})
