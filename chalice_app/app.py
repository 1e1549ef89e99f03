"""The Lambda functions: the HTTP API, the handler of uploads and the workflow's own steps."""

from typing import Any

from aws_lambda_powertools import Logger
from chalice.app import Chalice, Request, Response, SQSEvent
from chalicelib import (
    evaluations,
    failures,
    finishing,
    models,
    notifications,
    predictions,
    runs,
    sealing,
    uploads,
)
from chalicelib.errors import DroptuneError
from chalicelib.http_errors import error_response, require_route, unify

logger = Logger(service="droptune")

# Powertools owns the log: Chalice's own handler would print every line twice.
app = Chalice(app_name="droptune", configure_logs=False)
app.api.binary_types = [*predictions.IMAGE_TYPES, "application/octet-stream"]


@app.middleware("http")
def one_error_shape(request: Request | None, get_response: Any) -> Response:
    """Give every error the same shape and a request id."""
    request_id = app.lambda_context.aws_request_id
    try:
        require_route(request, app.routes)
        return unify(get_response(request), request_id)
    except DroptuneError as error:
        logger.info("refused a request", error=error.document(), request_id=request_id)
        return error_response(error, request_id)


def _request() -> Any:
    # Chalice types it as optional, and the body as text or bytes: here it is always there, and bytes.
    return app.current_request


@app.route("/health")
def health() -> dict[str, str]:
    """Whether the API answers."""
    return {"status": "ok"}


@app.route("/predict/{dataset}", methods=["POST"], content_types=["*/*"])
def predict(dataset: str) -> dict[str, Any]:
    """Labels and scores of one image."""
    request = _request()
    top_k = (request.query_params or {}).get("top_k")
    content_type = request.headers.get("content-type", "")
    return predictions.predict(dataset, request.raw_body, content_type, top_k)


@app.route("/runs")
def list_runs() -> dict[str, Any]:
    """The newest runs first."""
    query = _request().query_params or {}
    return runs.list_runs(query.get("dataset"), query.get("limit"))


@app.route("/runs/{id}")
def describe_run(id: str) -> dict[str, Any]:  # noqa: A002 - Chalice passes the path's own name
    """One run and its states."""
    return runs.describe_run(id)


@app.route("/runs/{id}/report")
def report(id: str) -> Response:  # noqa: A002
    """Where the run's report is, for a few minutes."""
    return Response(body="", status_code=302, headers={"Location": runs.report_link(id)})


@app.route("/models/{dataset}")
def list_models(dataset: str) -> dict[str, Any]:
    """The dataset's models and which one is live."""
    return models.list_models(dataset)


# The template replaces the queue's name; without a batching window Lambda allows batches of 10.
@app.on_sqs_message(queue="uploads", batch_size=50, maximum_batching_window_in_seconds=1, maximum_concurrency=5)
def on_upload(event: SQSEvent) -> dict[str, Any]:
    """Count the changes of S3 objects and start runs."""
    return uploads.on_upload(event.to_dict(), event.context)


@app.lambda_function()
def settle(event: dict[str, Any], _context: Any) -> dict[str, Any]:
    """Settle: seal a dataset version when its uploads are over."""
    return sealing.settle(event["dataset"], event["quiet_seconds"], event["max_wait_seconds"])


@app.lambda_function()
def describe_champion(event: dict[str, Any], _context: Any) -> dict[str, Any]:
    """Name the live model, which a challenger has to beat."""
    return models.describe_champion(event["dataset"])


@app.lambda_function()
def read_evaluation(event: dict[str, Any], _context: Any) -> dict[str, Any]:
    """Read the numbers that the gate decides on."""
    return evaluations.read_evaluation(event["dataset"], event["run"], event.get("champion_version"))


@app.lambda_function()
def verify(event: dict[str, Any], _context: Any) -> dict[str, Any]:
    """Prove that the released endpoint answers as the evaluated model did."""
    return evaluations.verify(event["dataset"], event["run"])


@app.lambda_function()
def explain(event: dict[str, Any], _context: Any) -> dict[str, str]:
    """Turn a caught error into a cause and a next step."""
    return failures.explain(event["error"], event["cause"], event["state"], event["run"])


@app.lambda_function()
def write_mail(event: dict[str, Any], _context: Any) -> dict[str, str]:
    """Compose the mail of a run."""
    return notifications.write_mail(event)


@app.lambda_function()
def finish(event: dict[str, Any], _context: Any) -> dict[str, Any]:
    """Close a run and let the next one go."""
    return finishing.finish(event)
