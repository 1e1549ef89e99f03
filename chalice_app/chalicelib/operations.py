"""The API's operations: what each takes, answers and refuses.

`docs/generate_openapi.py` writes `openapi.json` from this table; `tests/api/test_openapi.py` holds it to the routes.
"""

from dataclasses import dataclass, field

from chalicelib import api_types as types

PAGE = {"limit": "at most this many", "next": "the next of the page before"}
PREDICT_QUERY = {
    "top_k": "how many labels an image gets, 1 to 1000; default 3",
    "explain": "true: with a heat map of what the model looked at",
    "embedding": "true: with the image's features",
    "model_version": "the version that has to answer; default: the live one",
}
PREDICT_ERRORS = (
    "EmptyBody InvalidImage InvalidParameter UrlRefused UrlUnavailable ExplainUnavailable UnknownDataset UnknownModel "
    "NotFound ModelNotLive ImageTooLarge UnsupportedMediaType Overloaded NoLiveModel ModelUnavailable"
)


@dataclass(frozen=True)
class Operation:
    """One method of one path.

    Attributes:
        summary: what it does, in a few words.
        answer: the type of the answer's body; None: a redirect, or a page.
        request: the type of the request's body.
        errors: the codes of its refusals, blank-separated; `InternalError` is always among them.
        query: its query parameters and their meaning.
        status: of an answer that is no error.
        media_type: of the answer.
    """

    summary: str
    answer: type | tuple[type, ...] | None
    request: type | None = None
    errors: str = ""
    query: dict[str, str] = field(default_factory=dict)
    status: int = 200
    media_type: str = "application/json"


OPERATIONS: dict[str, Operation] = {
    "GET /health": Operation("Whether the API answers", types.Health),
    "GET /openapi.json": Operation("This document", dict),
    "GET /docs": Operation("This document for people", None, media_type="text/html"),
    "POST /predict/{dataset}": Operation(
        "Label one image, or several",
        (types.Prediction, types.Predictions),
        types.PredictRequest,
        PREDICT_ERRORS,
        PREDICT_QUERY,
    ),
    "POST /predictions/uploads": Operation(
        "A place for an image that is too large for a request",
        types.PredictionUpload,
        types.UploadRequest,
        "EmptyBody InvalidParameter",
    ),
    "POST /predictions": Operation(
        "Label all images below an S3 prefix, in the background",
        types.BulkPrediction,
        types.BulkRequest,
        "InvalidParameter UnknownDataset NoLiveModel",
        status=202,
    ),
    "GET /predictions": Operation(
        "Predictions in the background", types.BulkList, errors="InvalidParameter", query=PAGE
    ),
    "GET /predictions/{id}": Operation(
        "How far a prediction in the background has come", types.BulkPrediction, errors="NotFound"
    ),
    "POST /predictions/{id}/resume": Operation(
        "Go on with a prediction that failed",
        types.BulkPrediction,
        errors="NotFound NothingToResume",
        status=202,
    ),
    "POST /feedback": Operation(
        "Say the right label of an image",
        types.Feedback,
        types.FeedbackRequest,
        "EmptyBody InvalidParameter UnknownDataset NotFound ImageTooLarge",
        status=201,
    ),
    "GET /feedback/{dataset}": Operation(
        "What people said about images",
        types.FeedbackList,
        errors="InvalidParameter UnknownDataset",
        query=PAGE,
    ),
    "GET /runs": Operation(
        "The runs",
        types.RunList,
        errors="InvalidParameter",
        query=PAGE | {"dataset": "only runs of this dataset"},
    ),
    "GET /runs/{id}": Operation("One run with its states", types.RunWithStates, errors="UnknownRun"),
    "GET /runs/{id}/report": Operation("The run's report", None, errors="UnknownRun NotFound", status=302),
    "GET /runs/{id}/trials": Operation("The trials of the run's tuning", types.Trials, errors="UnknownRun"),
    "GET /runs/{id}/curves": Operation("The epochs of the run's last training", types.Curves, errors="UnknownRun"),
    "GET /runs/{id}/mail": Operation("The run's mail", types.SentMail, errors="UnknownRun NotFound"),
    "GET /models/{dataset}": Operation(
        "The models of a dataset, and which one is live",
        types.ModelList,
        errors="InvalidParameter UnknownDataset",
        query=PAGE,
    ),
    "POST /models/{dataset}/{version}/approve": Operation(
        "Make a model live, whatever the gate said",
        types.Release,
        errors="InvalidParameter UnknownDataset UnknownModel AlreadyLive ReleaseInProgress",
        status=202,
    ),
    "POST /models/{dataset}/{version}/rollback": Operation(
        "Make an approved model live again",
        types.Release,
        errors="InvalidParameter UnknownDataset UnknownModel ModelNotApproved AlreadyLive ReleaseInProgress",
        status=202,
    ),
    "GET /releases/{id}": Operation("How far a release has come", types.Release, errors="NotFound"),
    "GET /datasets": Operation("The datasets", types.DatasetList, errors="InvalidParameter", query=PAGE),
    "GET /datasets/{name}": Operation("One dataset", types.Dataset, errors="UnknownDataset"),
    "GET /datasets/{name}/versions": Operation(
        "The dataset's versions", types.VersionList, errors="InvalidParameter UnknownDataset", query=PAGE
    ),
    "GET /datasets/{name}/versions/{v}": Operation(
        "One version: what changed, and what the data doctor found",
        types.VersionWithDoctor,
        errors="UnknownDataset UnknownVersion",
    ),
    "GET /datasets/{name}/versions/{v}/doctor": Operation(
        "The data doctor's page", None, errors="UnknownDataset UnknownVersion NotFound", status=302
    ),
    "PUT /datasets/{name}/settings": Operation(
        "How long the dataset's uploads are waited for",
        types.Settings,
        types.SettingsRequest,
        "InvalidParameter UnknownDataset",
    ),
    "POST /datasets/{name}/uploads": Operation(
        "Forms that upload files straight to S3",
        types.UploadForms,
        types.UploadsRequest,
        "InvalidParameter",
    ),
}
