"""SageMaker's own errors, as they stand on the wire.

SageMakerError
├── ValidationException     a bad request, and most unknown names
├── ResourceNotFound        an unknown name, where SageMaker says so itself
├── ResourceInUse           the name is taken, or the thing is in use
└── ResourceLimitExceeded   a quota
"""


class SageMakerError(Exception):
    """An error that a client receives: a code, a sentence and an HTTP status.

    SageMaker answers every one of its own errors with status 400.
    """

    code = "InternalFailure"

    def __init__(self, message: str, *, code: str | None = None, http_status: int = 400) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.http_status = http_status


class ValidationException(SageMakerError):  # noqa: N818 (the name on the wire)
    code = "ValidationException"


class ResourceNotFound(SageMakerError):  # noqa: N818
    code = "ResourceNotFound"


class ResourceInUse(SageMakerError):  # noqa: N818
    code = "ResourceInUse"


class ResourceLimitExceeded(SageMakerError):  # noqa: N818
    code = "ResourceLimitExceeded"
