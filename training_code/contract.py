"""SageMaker's container contract: where files lie, which parameters came, how a job ends.

Paths are those of SageMaker below `SAGEMAKER_BASE_DIR` (default `/opt/ml`):
https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo.html
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger("droptune.training_code")

# SageMaker returns at most this much of a failure or exit message:
# https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_DescribeTrainingJob.html
MAX_FAILURE_CHARACTERS = 1024


class JobError(Exception):
    """A failure whose cause and next step are known to us.

    `code` is one of the codes in docs/reference/contracts.md; `message` says what is wrong, `hint` what
    to do about it.
    """

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(f"{code}: {message} {hint}")
        self.code = code
        self.message = message
        self.hint = hint


def base_dir() -> Path:
    return Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))


def processing_input(name: str) -> Path:
    return base_dir() / "processing" / "input" / name


def processing_output(name: str) -> Path:
    """Path of an output folder of a processing job; made if it is not there."""
    return _made(base_dir() / "processing" / "output" / name)


def channel(name: str) -> Path:
    return base_dir() / "input" / "data" / name


def model_dir() -> Path:
    return base_dir() / "model"


def output_data_dir() -> Path:
    """Folder that SageMaker packs into output.tar.gz; made if it is not there."""
    return _made(base_dir() / "output" / "data")


def checkpoint_dir() -> Path:
    return base_dir() / "checkpoints"


def hyper_parameters_file() -> Path:
    return base_dir() / "input" / "config" / "hyperparameters.json"


def current_host() -> str:
    """This instance's name among those of a processing job; `algo-1` where no file tells.

    Raises JobError `MissingInput` when the file cannot be read.
    https://docs.aws.amazon.com/sagemaker/latest/dg/build-your-own-processing-container.html
    """
    file = base_dir() / "config" / "resourceconfig.json"
    if not file.is_file():
        return "algo-1"
    try:
        return str(json.loads(file.read_text("utf-8"))["current_host"])
    except (ValueError, KeyError, TypeError) as error:
        raise JobError(
            "MissingInput",
            f"{file} does not name this instance ({type(error).__name__}: {error}).",
            "It is SageMaker's: an object with current_host, such as algo-1. Without the file, algo-1 is taken.",
        ) from error


def training_failure_file() -> Path:
    return base_dir() / "output" / "failure"


def processing_failure_file() -> Path:
    return base_dir() / "output" / "message"


def _made(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def environment_text(name: str) -> str:
    """Value of a required environment variable.

    Raises JobError `InvalidHyperParameter` when it is absent or empty.
    """
    value = os.environ.get(name, "").strip()
    if not value:
        raise JobError(
            "InvalidHyperParameter",
            f"The environment variable {name} is not set.",
            f"Set {name} in the job's environment.",
        )
    return value


def environment_integer(name: str, lowest: int, highest: int, default: int | None = None) -> int:
    """Integer value of an environment variable within `lowest` to `highest`, both included.

    Raises JobError `InvalidHyperParameter` when it is no integer, out of range, or absent without default.
    """
    if default is not None and not os.environ.get(name, "").strip():
        return default
    text = environment_text(name)
    try:
        value = int(text)
    except ValueError:
        value = lowest - 1
    if not lowest <= value <= highest:
        raise JobError(
            "InvalidHyperParameter",
            f"The environment variable {name} is {text!r}.",
            f"Give {name} an integer from {lowest} to {highest}.",
        )
    return value


def environment_flag(name: str, default: bool) -> bool:
    """`true` or `false` from an environment variable.

    Raises JobError `InvalidHyperParameter` for any other word.
    """
    text = os.environ.get(name, "").strip().lower()
    if text in ("", "true", "false"):
        return default if not text else text == "true"
    raise JobError(
        "InvalidHyperParameter",
        f"The environment variable {name} is {text!r}.",
        f"Set {name} to true or false, or leave it out for {str(default).lower()}.",
    )


def failure_document(error: JobError) -> str:
    """The error as JSON, its longest part shortened until it fits into SageMaker's limit."""
    parts = {"code": error.code, "message": error.message, "hint": error.hint}
    while len(text := json.dumps(parts, ensure_ascii=False)) > MAX_FAILURE_CHARACTERS:
        longest = max(("message", "hint"), key=lambda name: len(parts[name]))
        excess = len(text) - MAX_FAILURE_CHARACTERS
        # A character can take up several in JSON, so half of the excess is never too much to cut.
        parts[longest] = parts[longest][: -(excess // 2 + 2)] + "…"
    return text


def known_error(error: Exception) -> JobError:
    """The JobError for any exception: itself, `OutOfMemory`, or `InternalError`."""
    if isinstance(error, JobError):
        return error
    # Not imported here: what runs without torch must not load it, and then cannot have raised its error.
    torch = sys.modules.get("torch")
    kinds = (MemoryError, torch.OutOfMemoryError) if torch else MemoryError
    # Torch's CPU allocator has no exception class of its own: it raises RuntimeError with these words.
    if isinstance(error, kinds) or "can't allocate memory" in str(error):
        return JobError(
            "OutOfMemory",
            f"The memory of this machine does not suffice: {error}",
            "Lower batch_size, or choose an instance type with more memory.",
        )
    return JobError(
        "InternalError",
        f"{type(error).__name__}: {error}",
        "The job's log holds the traceback; report it together with the job's name.",
    )


def run(job: Callable[[], None], failure_file: Path | None) -> int:
    """Runs a job's body and returns its exit status: 0, or 1 after writing the error document.

    The document goes to standard error and, unless it is None, to `failure_file`; an unforeseen exception
    is logged with its traceback too.
    """
    # Windows and some minimal containers default to other encodings; log lines hold file names.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")
    try:
        job()
    except Exception as error:
        failure = known_error(error)
        if failure.code == "InternalError":
            logger.exception("The job failed in a way it did not foresee.")
        document = failure_document(failure)
        print(document, file=sys.stderr, flush=True)
        if failure_file:
            failure_file.parent.mkdir(parents=True, exist_ok=True)
            failure_file.write_text(document, encoding="utf-8")
        return 1
    return 0
