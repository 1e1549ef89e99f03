"""Errors a person can act on.

Every error carries a code, a message that names the cause and a hint that names the next step.
Its text is the JSON document ``{"code", "message", "hint"}``, because text is what survives on
every way out of a Lambda function: Step Functions hands it on as part of ``Cause``.

    DroptuneError
    ├── RequestError               (a caller of the HTTP API; has an HTTP status)
    │   ├── EmptyBody, InvalidImage, InvalidParameter              400
    │   ├── UrlRefused, UrlUnavailable, ExplainUnavailable         400
    │   ├── UnknownDataset, UnknownVersion, UnknownRun             404
    │   ├── UnknownModel, NotFound                                 404
    │   ├── ModelNotLive, ModelNotApproved, AlreadyLive            409
    │   ├── ReleaseInProgress, NothingToResume                     409
    │   ├── ImageTooLarge                                          413
    │   ├── UnsupportedMediaType                                   415
    │   ├── Overloaded                                             429
    │   └── NoLiveModel, ModelUnavailable                          503
    ├── EmptyDataset               (Settle)
    ├── EvaluationUnreadable       (ReadEvaluation)
    └── VerificationFailed         (Verify)
"""

# The class names are the codes of the contract.
# ruff: noqa: N818

import json
from typing import ClassVar

from chalice.app import ChaliceUnhandledError


class DroptuneError(ChaliceUnhandledError):
    """Base of all errors here.

    Chalice turns every other exception of a view into a bare 500; this base is the one that it
    lets through to the middleware that writes the error shape.
    """

    def __init__(self, message: str, hint: str) -> None:
        self.message = message
        self.hint = hint
        super().__init__(json.dumps(self.document(), ensure_ascii=False))

    @property
    def code(self) -> str:
        """The error's name in documents, mails and answers."""
        return type(self).__name__

    def document(self) -> dict[str, str]:
        """The error as ``{"code", "message", "hint"}``."""
        return {"code": self.code, "message": self.message, "hint": self.hint}


class EmptyDataset(DroptuneError):
    """A dataset whose folder holds no data."""


class EvaluationUnreadable(DroptuneError):
    """``evaluation.json`` is missing or does not hold what the gate decides on."""


class VerificationFailed(DroptuneError):
    """The released endpoint does not answer as the evaluated model does."""


class RequestError(DroptuneError):
    """An HTTP request that cannot be answered with a result."""

    status = 400
    headers: ClassVar[dict[str, str]] = {}
    """What the answer's headers hold besides those of every answer."""


class EmptyBody(RequestError):
    """A prediction was asked for without an image."""


class InvalidImage(RequestError):
    """The body is no image that the model can read."""


class InvalidParameter(RequestError):
    """A query parameter, or a member of the body, is out of range."""


class UrlRefused(RequestError):
    """A URL that is not allowed: its scheme, its port, or an address that is not on the public internet."""


class UrlUnavailable(RequestError):
    """A URL that is allowed, but gives no image."""


class ExplainUnavailable(RequestError):
    """The model cannot show what it looked at."""


class UnknownDataset(RequestError):
    """No object and no record of the dataset exists."""

    status = 404


class UnknownVersion(RequestError):
    """The dataset has no such version."""

    status = 404


class UnknownRun(RequestError):
    """No record of the run exists."""

    status = 404


class UnknownModel(RequestError):
    """The dataset has no model of that version."""

    status = 404


class NotFound(RequestError):
    """The thing asked for does not exist (yet)."""

    status = 404


class ModelNotLive(RequestError):
    """A prediction was asked of a model version that is not the live one."""

    status = 409


class ModelNotApproved(RequestError):
    """A model that is not approved cannot be made live."""

    status = 409


class AlreadyLive(RequestError):
    """The model that is to be made live is live."""

    status = 409


class NothingToResume(RequestError):
    """What is to be resumed runs, or has ended well."""

    status = 409


class ReleaseInProgress(RequestError):
    """The endpoint is being changed already."""

    status = 409


class ImageTooLarge(RequestError):
    """The image exceeds a limit of bytes or pixels."""

    status = 413


class UnsupportedMediaType(RequestError):
    """The content type is none of the image types."""

    status = 415


class Overloaded(RequestError):
    """The model has more requests waiting than it can answer soon."""

    status = 429
    headers: ClassVar[dict[str, str]] = {"Retry-After": "1"}


class NoLiveModel(RequestError):
    """The dataset is known, but no model of it serves."""

    status = 503


class ModelUnavailable(RequestError):
    """A model should serve, but does not answer."""

    status = 503
