"""The connection to the HTTP API that the commands and `droptune.Client` share: one request, one kind of error."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from droptune.errors import ApiError, NotRunning, OperationFailed

if TYPE_CHECKING:
    import httpx

# A local endpoint answers in milliseconds; a first request after a start may load the model.
TIMEOUT_SECONDS = 60
# The API's next steps speak of requests; whoever types commands is told the command.
HINTS = {
    "UnknownRun": "List the runs with `droptune runs`.",
    "UnknownDataset": "Check the spelling, or make it with `droptune drop FOLDER --dataset NAME`.",
    "UnknownVersion": "List the dataset's versions with `droptune data NAME`.",
    "UnknownModel": "List the models with `droptune models NAME`.",
    "ModelNotApproved": "Choose an approved one from `droptune models NAME`, or make it live with `droptune approve`.",
    "NoLiveModel": "The first run that succeeds brings a model live: see `droptune runs` and `droptune watch`.",
    "UnsupportedMediaType": "Save it as JPEG, PNG or WebP.",
    "InternalError": "Try again. If it stays, read the files in the folder `logs` of the state directory.",
}


class HttpApi:
    """A connection to the API at `api_url`; as a context manager it is closed at the end.

    Proxies and credentials of the user's environment take no part.
    """

    def __init__(self, api_url: str) -> None:
        self.api_url = api_url.rstrip("/")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; the next call opens a new one."""
        client = self.__dict__.pop("_http", None)
        if client is not None:
            client.close()

    @cached_property
    def _http(self) -> httpx.Client:
        import httpx

        return httpx.Client(timeout=TIMEOUT_SECONDS, trust_env=False)

    def _get(self, path: str, parameters: dict[str, str | int] | None = None) -> Any:
        return self._request("GET", path, params=parameters).json()

    def _request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """Asks the API.

        Raises:
            ApiError: it refused.
            NotRunning: it does not answer.
            OperationFailed: it did not answer in time.
        """
        import httpx

        url = self.api_url + path
        try:
            response = self._http.request(method, url, **arguments)
        except httpx.TimeoutException as error:
            raise OperationFailed(
                f"{url} gave no answer within {TIMEOUT_SECONDS} seconds.",
                hint="Look at the services with `droptune status`.",
                code="ApiTimeout",
            ) from error
        except httpx.TransportError as error:
            raise NotRunning(f"The API at {self.api_url} does not answer.", why=f"{error}.") from error
        # A redirect has left the API: its target does not speak the API's error document.
        if response.is_error and not response.history:
            raise _api_error(response)
        return response


def _api_error(response: httpx.Response) -> ApiError:
    try:
        error = response.json()["error"]
        code, message, hint = error["code"], error["message"], error["hint"]
    except (ValueError, KeyError, TypeError):
        return ApiError(
            f"{response.request.method} {response.request.url} answered {response.status_code}.",
            why=response.text[:200] or None,
            hint="Look at the services with `droptune status`.",
            code="UnexpectedAnswer",
            status=response.status_code,
        )
    return ApiError(message, hint=HINTS.get(code, hint), code=code, status=response.status_code)
