"""How a job ends: status, error document, and what is in the images."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import contract
import pytest
import torch
import train
from contract import JobError

TRAINING_CODE = Path(contract.__file__).parent
REPOSITORY = TRAINING_CODE.parent
# Import name to package name, where they differ.
PACKAGES = {"PIL": "pillow"}


def fail(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (JobError("TooFewClasses", "One class.", "Add another."), "TooFewClasses"),
        (MemoryError(), "OutOfMemory"),
        (torch.OutOfMemoryError("CUDA out of memory"), "OutOfMemory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "OutOfMemory"),
        (KeyError("x"), "InternalError"),
    ],
)
def test_failures_become_documents(
    tmp_path: Path, error: Exception, code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # WHEN a job fails
    status = contract.run(lambda: fail(error), tmp_path / "output" / "failure")

    # THEN its status is 1, and the document is in the file and on standard error
    assert status == 1
    text = (tmp_path / "output" / "failure").read_text(encoding="utf-8")
    document = json.loads(text)
    assert document["code"] == code
    assert document["message"]
    assert document["hint"]
    assert text in capsys.readouterr().err


def test_success_leaves_no_document(tmp_path: Path) -> None:
    assert contract.run(lambda: None, tmp_path / "failure") == 0
    assert not (tmp_path / "failure").exists()


@pytest.mark.parametrize("part", ["x", '"', "é", "\n"])
def test_long_failures_fit_sagemakers_limit(part: str) -> None:
    # GIVEN an error that is far too long, in characters that JSON may escape
    error = JobError("InternalError", part * 5000, part * 2000)

    # WHEN it is written, THEN it fits and is still JSON
    text = contract.failure_document(error)
    assert 900 < len(text) <= contract.MAX_FAILURE_CHARACTERS
    assert json.loads(text)["code"] == "InternalError"


@pytest.mark.parametrize("value", ["", "x", "0", "11", "1.5"])
def test_environment_integers(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("NUMBER", value)
    with pytest.raises(JobError, match="NUMBER"):
        contract.environment_integer("NUMBER", 1, 10)
    monkeypatch.setenv("NUMBER", "10")
    assert contract.environment_integer("NUMBER", 1, 10) == 10


def test_environment_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, expected in (("true", True), ("FALSE", False), ("", True)):
        monkeypatch.setenv("FLAG", value)
        assert contract.environment_flag("FLAG", default=True) is expected
    monkeypatch.setenv("FLAG", "no")
    with pytest.raises(JobError, match="FLAG"):
        contract.environment_flag("FLAG", default=True)


def imported(module: str) -> set[str]:
    """Top-level names that a module imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((TRAINING_CODE / f"{module}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def closure(*modules: str) -> tuple[set[str], set[str]]:
    """Modules of this folder and packages that `modules` import, directly or through one another."""
    own = {file.stem for file in TRAINING_CODE.glob("*.py")}
    seen: set[str] = set()
    packages: set[str] = set()
    todo = set(modules)
    while todo:
        module = todo.pop()
        seen.add(module)
        names = imported(module)
        todo |= (names & own) - seen
        packages |= {PACKAGES.get(name, name) for name in names - own - sys.stdlib_module_names}
    return seen, packages


def required(file: str) -> dict[str, str]:
    lines = (TRAINING_CODE / file).read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_serving_image_holds_what_serve_imports_and_no_more() -> None:
    # GIVEN what serve.py imports
    modules, packages = closure("serve")

    # THEN the Dockerfile copies those modules
    copied = re.search(
        r"^COPY ((?:\w+\.py )+)serve \./$", (TRAINING_CODE / "Dockerfile.serving").read_text(), re.MULTILINE
    )
    assert copied
    assert {name.removesuffix(".py") for name in copied[1].split()} == modules
    # AND the requirements are those packages
    assert required("requirements-serving.txt").keys() == packages


def test_training_image_holds_what_the_jobs_import() -> None:
    _, packages = closure("decode", "prepare", "train", "evaluate")
    assert packages <= required("requirements-training.txt").keys()


@pytest.mark.parametrize("file", ["requirements-training.txt", "requirements-serving.txt"])
def test_images_have_the_versions_of_the_lock(file: str) -> None:
    lock = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8")
    # Some packages are locked twice, for older and newer versions of Python.
    locked = set(re.findall(r"^([\w-]+)==([^ \\\n]+)", lock, re.MULTILINE))
    assert required(file).items() <= locked


def test_training_code_makes_no_cloud_calls() -> None:
    _, packages = closure("decode", "prepare", "train", "evaluate", "serve")
    assert not packages & {"boto3", "botocore", "sagemaker", "droptune"}


def test_version_is_the_projects() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["version"] == train.VERSION


@pytest.mark.parametrize("name", ["train", "serve"])
def test_shims_are_executable(name: str) -> None:
    shim = TRAINING_CODE / name
    assert shim.stat().st_mode & 0o111
    assert f"exec python3 /opt/program/{name}.py" in shim.read_text(encoding="utf-8")


def test_current_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN no file, one that names a host, and a damaged one
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path))
    assert contract.current_host() == "algo-1"
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "resourceconfig.json").write_text('{"current_host": "algo-3"}', "utf-8")
    assert contract.current_host() == "algo-3"
    (tmp_path / "config" / "resourceconfig.json").write_text("[", "utf-8")

    # THEN the last is an error with a next step
    with pytest.raises(JobError, match="current_host") as caught:
        contract.current_host()
    assert caught.value.code == "MissingInput"


def test_known_errors_need_no_torch() -> None:
    # GIVEN a process without torch
    program = "import contract, sys; print(contract.known_error(MemoryError()).code, 'torch' in sys.modules)"

    # WHEN it asks for the error of a MemoryError, THEN it gets it, and still has no torch
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=TRAINING_CODE, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["OutOfMemory", "False"]


def test_workers_hold_no_torch() -> None:
    # GIVEN what each worker of Decode imports: its main script, and what the work needs
    program = "import decode, decoding, sys; decoding.prepare_process(); print('torch' in sys.modules)"

    # THEN torch, which would take half a gigabyte in each, is not among it
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=TRAINING_CODE, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False"]
