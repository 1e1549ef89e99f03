"""The Lambda functions: the HTTP API, the handler of uploads and the workflow's own steps."""

from typing import Any

from aws_lambda_powertools import Logger
from chalice.app import Chalice, Request, Response, SQSEvent
from chalicelib import (
    alarms,
    bulk_labelling,
    bulk_predictions,
    console,
    dataset_settings,
    datasets,
    docs_page,
    evaluations,
    failures,
    feedback,
    finishing,
    http_headers,
    models,
    notifications,
    prediction_uploads,
    predictions,
    releases,
    request_schemas,
    runs,
    sealing,
    sent_mails,
    trainings,
    upload_links,
    uploads,
)
from chalicelib.errors import DroptuneError
from chalicelib.http_errors import error_response, require_route, unify
from chalicelib.prediction_requests import BINARY_TYPES
from chalicelib.queries import parse_json, parse_version

logger = Logger(service="droptune")

# Powertools owns the log: Chalice's own handler would print every line twice.
app = Chalice(app_name="droptune", configure_logs=False)
app.api.binary_types = [*BINARY_TYPES, "application/octet-stream"]


@app.middleware("http")
def one_error_shape(request: Request | None, get_response: Any) -> Response:
    """Give every error the same shape, and every answer a request id."""
    request_id = app.lambda_context.aws_request_id
    try:
        response = http_headers.preflight(request)
        if response is None:
            require_route(request, app.routes)
            response = unify(get_response(request), request_id)
    except DroptuneError as error:
        logger.info("refused a request", error=error.document(), request_id=request_id)
        response = error_response(error, request_id)
    return http_headers.complete(request, response, request_id)


def _request() -> Any:
    # Chalice types it as optional, and the body as text or bytes: here it is always there, and bytes.
    return app.current_request


def _query() -> dict[str, str]:
    return _request().query_params or {}


def _json_body() -> Any:
    return parse_json(_request().raw_body)


@app.route("/")
def console_page() -> Response:
    """The console."""
    request = _request()
    return console.page(request.context["path"], request.headers)


@app.route("/console/{version}/{name}")
def console_file(version: str, name: str) -> Response:
    """A file of the console."""
    return console.asset(version, name, _request().headers)


@app.route("/health")
def health() -> dict[str, str]:
    """Whether the API answers."""
    return {"status": "ok"}


@app.route("/openapi.json")
def openapi() -> dict[str, Any]:
    """The API for programs."""
    return request_schemas.document()


@app.route("/docs")
def docs() -> Response:
    """The API for people."""
    return docs_page.page()


@app.route("/predict/{dataset}", methods=["POST"], content_types=["*/*"])
def predict(dataset: str) -> dict[str, Any]:
    """Labels and scores of one image or of several."""
    request = _request()
    content_type = request.headers.get("content-type", "")
    return predictions.predict(dataset, request.raw_body, content_type, _query())


@app.route("/predictions/uploads", methods=["POST"], content_types=["*/*"])
def sign_prediction_upload() -> dict[str, Any]:
    """A place for an image that is too large for a request."""
    return prediction_uploads.sign(request_schemas.validated(_json_body(), "UploadRequest")["bytes"])


@app.route("/predictions", methods=["POST"], content_types=["*/*"])
def start_prediction() -> Response:
    """Label all images below a prefix, in the background."""
    return Response(bulk_predictions.start(_json_body()), status_code=202)


@app.route("/predictions")
def list_predictions() -> dict[str, Any]:
    """The predictions in the background, newest first."""
    return bulk_predictions.list_predictions(_query().get("limit"), _query().get("next"))


@app.route("/predictions/{id}")
def describe_prediction(id: str) -> dict[str, Any]:  # noqa: A002
    """How far a prediction in the background has come."""
    return bulk_predictions.describe(id)


@app.route("/predictions/{id}/resume", methods=["POST"], content_types=["*/*"])
def resume_prediction(id: str) -> Response:  # noqa: A002
    """Go on with a prediction that failed."""
    return Response(bulk_predictions.resume(id), status_code=202)


@app.route("/feedback", methods=["POST"], content_types=["*/*"])
def give_feedback() -> Response:
    """Keep the right label of an image."""
    return Response(feedback.give(_json_body()), status_code=201)


@app.route("/feedback/{dataset}")
def list_feedback(dataset: str) -> dict[str, Any]:
    """What people said about the dataset's images, newest first."""
    return feedback.list_entries(dataset, _query().get("limit"), _query().get("next"))


@app.route("/runs")
def list_runs() -> dict[str, Any]:
    """The newest runs first."""
    return runs.list_runs(_query().get("dataset"), _query().get("limit"), _query().get("next"))


@app.route("/runs/{id}")
def describe_run(id: str) -> dict[str, Any]:  # noqa: A002 - Chalice passes the path's own name
    """One run and its states."""
    return runs.describe_run(id)


@app.route("/runs/{id}/report")
def report(id: str) -> Response:  # noqa: A002
    """Where the run's report is, for a few minutes."""
    return console.link_answer(runs.report_link(id), _request().headers)


@app.route("/runs/{id}/trials")
def list_trials(id: str) -> dict[str, Any]:  # noqa: A002
    """The trials of the run's tuning job."""
    return trainings.list_trials(id)


@app.route("/runs/{id}/curves")
def list_epochs(id: str) -> dict[str, Any]:  # noqa: A002
    """The epochs of the training of the best setting."""
    return trainings.list_epochs(id)


@app.route("/runs/{id}/mail")
def read_mail(id: str) -> dict[str, Any]:  # noqa: A002
    """The mail of the run."""
    return sent_mails.read(id)


@app.route("/models/{dataset}")
def list_models(dataset: str) -> dict[str, Any]:
    """The dataset's models and which one is live."""
    return models.list_models(dataset, _query().get("limit"), _query().get("next"))


@app.route("/models/{dataset}/{version}/approve", methods=["POST"], content_types=["*/*"])
def approve_model(dataset: str, version: str) -> Response:
    """Make a model live, whatever the gate said of it."""
    return Response(releases.approve(dataset, parse_version(version)), status_code=202)


@app.route("/models/{dataset}/{version}/rollback", methods=["POST"], content_types=["*/*"])
def roll_back(dataset: str, version: str) -> Response:
    """Make an approved model live again."""
    return Response(releases.roll_back(dataset, parse_version(version)), status_code=202)


@app.route("/releases/{id}")
def describe_release(id: str) -> dict[str, Any]:  # noqa: A002
    """How far a release has come."""
    return releases.describe_release(id)


@app.route("/datasets")
def list_datasets() -> dict[str, Any]:
    """The datasets by name."""
    return datasets.list_datasets(_query().get("limit"), _query().get("next"))


@app.route("/datasets/{name}")
def describe_dataset(name: str) -> dict[str, Any]:
    """One dataset."""
    return datasets.describe_dataset(name)


@app.route("/datasets/{name}/versions")
def list_versions(name: str) -> dict[str, Any]:
    """The dataset's versions, newest first."""
    return datasets.list_versions(name, _query().get("limit"), _query().get("next"))


@app.route("/datasets/{name}/versions/{v}")
def describe_version(name: str, v: str) -> dict[str, Any]:
    """One version: what changed, and what the data doctor found."""
    return datasets.describe_version(name, v)


@app.route("/datasets/{name}/versions/{v}/doctor")
def doctor(name: str, v: str) -> Response:
    """Where the data doctor's page is, for a few minutes."""
    return console.link_answer(datasets.doctor_link(name, v), _request().headers)


@app.route("/datasets/{name}/settings", methods=["PUT"], content_types=["*/*"])
def change_settings(name: str) -> dict[str, Any]:
    """How long the dataset's uploads are waited for."""
    return dataset_settings.change_settings(name, _json_body())


@app.route("/datasets/{name}/uploads", methods=["POST"], content_types=["*/*"])
def sign_uploads(name: str) -> dict[str, Any]:
    """Forms that upload files straight to S3."""
    return upload_links.sign_uploads(name, _json_body())


# The template replaces the queue's name; without a batching window Lambda allows batches of 10.
@app.on_sqs_message(queue="uploads", batch_size=50, maximum_batching_window_in_seconds=1, maximum_concurrency=5)
def on_upload(event: SQSEvent) -> dict[str, Any]:
    """Count the changes of S3 objects and start runs."""
    return uploads.on_upload(event.to_dict(), event.context)


# Not Chalice's on_sns_message, which wants members that ministack's SNS leaves out; the template subscribes it.
@app.lambda_function()
def on_alarm(event: dict[str, Any], context: Any) -> None:
    """Mail the owner that messages about uploads could not be handled."""
    alarms.on_alarm(event["Records"][0]["Sns"]["Message"], context)


@app.lambda_function()
def settle(event: dict[str, Any], _context: Any) -> dict[str, Any]:
    """Settle: seal a dataset version when its uploads are over."""
    return sealing.settle(
        event["dataset"],
        event["quiet_seconds"],
        event["max_wait_seconds"],
        event["backbone"],
        event["image_size"],
    )


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
def label_images(event: dict[str, Any], _context: Any) -> dict[str, Any]:
    """The steps of a prediction in the background."""
    return bulk_labelling.take_step(event)


@app.lambda_function()
def explain(event: dict[str, Any], _context: Any) -> dict[str, str]:
    """Turn a caught error into a cause and a next step."""
    return failures.explain(event["error"], event["cause"], event["state"], event["run"])


@app.lambda_function()
def write_mail(event: dict[str, Any], _context: Any) -> dict[str, str]:
    """Compose the mail of a run."""
    mail = notifications.write_mail(event)
    sent_mails.keep(event, mail)
    return mail


@app.lambda_function()
def finish(event: dict[str, Any], _context: Any) -> dict[str, Any]:
    """Close a run and let the next one go."""
    return finishing.finish(event)
