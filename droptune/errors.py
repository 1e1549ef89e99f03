"""Errors of the operator's side: each has a code for machines, a cause for people and a next step.

    DroptuneError
    ├── UsageError          what was asked for cannot be done as asked
    ├── NotRunning          the local cloud does not answer
    ├── NotFound            the run, model or mail that was named does not exist
    └── OperationFailed     the request was right, and it failed all the same
        └── ApiError        the HTTP API answered with its error document

The exit code of the `droptune` command is the class's `exit_code`.
"""

# ruff: noqa: N818 (the names say the state: "not running", "not found")
from __future__ import annotations


class DroptuneError(Exception):
    """Base of the foreseeable errors.

    Args:
        message: what went wrong, in one sentence.
        hint: what to do next.
        why: the cause, where the message does not already say it.
        code: a stable CamelCase word for machines; the class name if absent.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str, why: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.why = why
        self.code = code or type(self).__name__

    def document(self) -> dict[str, dict[str, str]]:
        """Returns the error as the JSON document that `--json` prints."""
        message = f"{self.message} {self.why}" if self.why else self.message
        return {"error": {"code": self.code, "message": message, "hint": self.hint}}


class UsageError(DroptuneError):
    """The arguments, or the files they name, cannot be used."""

    exit_code = 2


class NotRunning(DroptuneError):
    """The local cloud is down, or one of its services does not answer."""

    exit_code = 3

    def __init__(
        self,
        message: str = "The local cloud is not running.",
        *,
        hint: str = "Start it with `droptune up`.",
        why: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint, why=why, code=code)


class NotFound(DroptuneError):
    """The named run, model or mail does not exist."""

    exit_code = 4


class OperationFailed(DroptuneError):
    """A well-formed request failed."""


class ApiError(OperationFailed):
    """The HTTP API refused a request; `status` is the HTTP status."""

    def __init__(
        self, message: str, *, hint: str, why: str | None = None, code: str | None = None, status: int
    ) -> None:
        super().__init__(message, hint=hint, why=why, code=code)
        self.status = status
        if status == 404:
            self.exit_code = NotFound.exit_code
