"""What the API's requests and answers hold, as types.

`docs/generate_openapi.py` writes the schemas of `openapi.json` from them, by which requests are checked at run time
(`request_schemas.py`) and answers in the tests. Times are ISO 8601 in UTC; fractions are from 0 to 1. A member that
has None as its default may be left out of a request.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

STRICT: dict[str, str] = {"extra": "forbid"}
# The default of a member that may be null, and not only left out.
NULLABLE = {"json_schema_extra": {"nullable": True}}


@dataclass(frozen=True)
class Limits:
    """What a JSON schema says beyond the type; pydantic asks for it by this method's name, and is not needed here."""

    rules: dict[str, Any] = field(hash=False)

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: Any) -> dict[str, Any]:
        schema: dict[str, Any] = handler(core_schema)
        return schema | self.rules


def limits(**rules: Any) -> Limits:
    """`Limits` of the JSON schema's own words."""
    return Limits(rules)


Text = Annotated[str, limits(minLength=1, maxLength=2048)]
Label = Annotated[str, limits(minLength=1, maxLength=256)]
DatasetName = Annotated[str, limits(pattern="^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$")]
TopK = Annotated[int, limits(minimum=1, maximum=1000)]
VersionNumber = Annotated[int, limits(minimum=1, maximum=999_999_999)]
Base64 = Annotated[str, limits(minLength=1, contentEncoding="base64")]
Status = Literal["RUNNING", "SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED"]


@dataclass
class Error:
    """Why a request failed, and what to do."""

    code: str
    message: str
    hint: str
    request_id: str


@dataclass
class ErrorAnswer:
    """The form of every error."""

    error: Error


@dataclass
class ItemError:
    """What is wrong with one thing of several."""

    code: str
    message: str
    hint: str


@dataclass
class Health:
    """Whether the API answers."""

    status: Literal["ok"]


@dataclass
class ImageSource:
    """An image: exactly one of `s3`, `url` and `base64`."""

    __pydantic_config__: ClassVar[dict[str, str]] = STRICT
    s3: Text | None = None
    url: Text | None = None
    base64: Base64 | None = None
    name: Label | None = None


@dataclass
class PredictRequest:
    """The image or the images to label: exactly one of `images`, `s3`, `url` and `base64`."""

    __pydantic_config__: ClassVar[dict[str, str]] = STRICT
    images: Annotated[list[ImageSource], limits(minItems=1, maxItems=16)] | None = None
    s3: Text | None = None
    url: Text | None = None
    base64: Base64 | None = None
    top_k: TopK | None = None
    explain: bool | None = None
    embedding: bool | None = None
    model_version: VersionNumber | None = None


@dataclass
class Score:
    """A label and how sure the model is of it."""

    label: str
    score: float


@dataclass
class Prediction:
    """The labels of one image, best first; where it was asked for with its features and a heat map (a PNG)."""

    predictions: list[Score]
    model_version: int
    dataset: str
    embedding: list[float] | None = None
    heatmap: Base64 | None = None


@dataclass
class ImageLabels:
    """The labels of one of several images, best first; the rest as for a single one."""

    image: str
    predictions: list[Score]
    embedding: list[float] | None = None
    heatmap: Base64 | None = None


@dataclass
class ImageRefusal:
    """Why one of several images has no labels."""

    image: str
    error: ItemError


@dataclass
class Predictions:
    """The labels of several images, in the order of the request."""

    results: list[ImageLabels | ImageRefusal]
    model_version: int
    dataset: str


@dataclass
class UploadRequest:
    """How large an image is that does not fit into a request."""

    __pydantic_config__: ClassVar[dict[str, str]] = STRICT
    bytes: Annotated[int, limits(minimum=1, maximum=6 * 1024 * 1024)]


@dataclass
class PredictionUpload:
    """Where to put an image: `method` with exactly that many bytes to `url`; then ask for `s3`."""

    s3: str
    method: Literal["PUT"]
    url: str
    expires_in: int


@dataclass
class BulkRequest:
    """Which images to label in the background: all below an S3 prefix of the stack's bucket."""

    __pydantic_config__: ClassVar[dict[str, str]] = STRICT
    dataset: DatasetName
    prefix: Text
    top_k: TopK | None = None


@dataclass
class BulkPrediction:
    """How far a prediction in the background has come."""

    id: str
    dataset: str
    prefix: str
    top_k: int
    status: Status
    started_at: str
    ended_at: str | None
    images: int | None
    labelled: int
    failed: int | None
    results_url: str | None
    csv_url: str | None
    error: ItemError | None


@dataclass
class BulkSummary:
    """One prediction of a list."""

    id: str
    status: Status
    started_at: str
    ended_at: str | None


@dataclass
class BulkList:
    """Predictions in the background, newest first."""

    predictions: list[BulkSummary]
    next: str | None


@dataclass
class FeedbackRequest:
    """The right label of an image; the image itself as `s3` or `base64`, if it is to be kept."""

    __pydantic_config__: ClassVar[dict[str, str]] = STRICT
    dataset: DatasetName
    label: Label
    predicted: Label | None = None
    model_version: VersionNumber | None = None
    s3: Text | None = None
    base64: Base64 | None = None
    comment: Annotated[str, limits(maxLength=2000)] | None = None


@dataclass
class Feedback:
    """What a person said about an image."""

    id: str
    dataset: str
    label: str
    predicted: str | None
    model_version: int | None
    image: str | None
    sha256: str | None
    comment: str | None
    created_at: str


@dataclass
class FeedbackList:
    """What people said, newest first."""

    feedback: list[Feedback]
    next: str | None


@dataclass
class Model:
    """A version of a dataset's models."""

    version: int
    status: str
    accuracy: float | None
    run: str | None
    created_at: str


@dataclass
class ModelList:
    """A dataset's models, newest first, and which of them is live."""

    dataset: str
    live: int | None
    models: list[Model]
    next: str | None


@dataclass
class Release:
    """A model on its way to being live."""

    id: str
    dataset: str
    version: int
    status: Status
    started_at: str
    ended_at: str | None
    error: ItemError | None


@dataclass
class Run:
    """One way of a dataset version from the uploads to the mail."""

    id: str
    dataset: str
    status: Status
    verdict: Literal["promoted", "rejected", "unchanged"] | None
    started_at: str
    ended_at: str | None
    dataset_version: int | None
    model_version: int | None
    accuracy: float | None
    error: ItemError | None


@dataclass
class RunList:
    """Runs, newest first."""

    runs: list[Run]
    next: str | None


@dataclass
class Link:
    """A signed link, which works for minutes."""

    url: str


@dataclass
class State:
    """A state of a run's workflow."""

    name: str
    status: Literal["RUNNING", "SUCCEEDED", "FAILED"]
    started_at: str
    ended_at: str | None


@dataclass
class RunWithStates(Run):
    """A run and the states that it has entered."""

    states: list[State]


@dataclass
class SettingsRequest:
    """How long the uploads of a dataset are waited for; null: as long as the stack's own setting."""

    __pydantic_config__: ClassVar[dict[str, str]] = STRICT
    quiet_seconds: Annotated[int, limits(minimum=1, maximum=7200)] | None = field(default=None, metadata=NULLABLE)
    max_wait_seconds: Annotated[int, limits(minimum=1, maximum=7200)] | None = field(default=None, metadata=NULLABLE)


@dataclass
class Seconds:
    """The stack's own settings."""

    quiet_seconds: int
    max_wait_seconds: int


@dataclass
class Settings:
    """A dataset's own settings, and the stack's, which hold where these are null."""

    quiet_seconds: int | None
    max_wait_seconds: int | None
    defaults: Seconds


@dataclass
class Dataset:
    """A dataset as it is now."""

    name: str
    versions: int
    newest_version: int | None
    live_version: int | None
    objects: int | None
    bytes: int | None
    last_upload_at: str | None
    run: str | None
    settings: Settings


@dataclass
class DatasetList:
    """Datasets by name."""

    datasets: list[Dataset]
    next: str | None


@dataclass
class Version:
    """A sealed version of a dataset; what the data doctor counted is null until it has looked."""

    version: int
    parent: int | None
    content_hash: str
    objects: int
    bytes: int
    added: int | None
    removed: int | None
    changed: int | None
    sealed_at: str
    images: int | None
    quarantined: int | None
    suspected_labels: int | None
    duplicates: int | None


@dataclass
class VersionList:
    """A dataset's versions, newest first."""

    versions: list[Version]
    next: str | None


@dataclass
class VersionWithDoctor(Version):
    """A version, what changed in it, and what the data doctor found; signed links work for minutes."""

    diff: dict[str, Any] | None
    doctor: dict[str, Any] | None
    manifest_url: str | None
    doctor_url: str | None


@dataclass
class UploadFile:
    """A file that is to be uploaded, by its path in the dataset's folder."""

    path: Annotated[str, limits(minLength=1, maxLength=1024)]
    content_type: Annotated[str, limits(minLength=1, maxLength=128)]


@dataclass
class UploadsRequest:
    """The files to upload."""

    files: Annotated[list[UploadFile], limits(minItems=1, maxItems=100)]


@dataclass
class UploadForm:
    """A form of `multipart/form-data`: its fields, then the file as the last one, to `url`."""

    path: str
    url: str
    fields: dict[str, str]
    max_bytes: int


@dataclass
class UploadForms:
    """A form for each file, in the order of the request."""

    uploads: list[UploadForm]
    expires_in: int


@dataclass
class Trial:
    """A trial of a tuning job."""

    name: str
    status: str
    hyper_parameters: dict[str, str]
    metric: float | None
    started_at: str | None
    ended_at: str | None
    failure: str | None


@dataclass
class Trials:
    """The tuning job of a run and its trials, in the order of their start."""

    run: str
    status: str | None
    objective: str | None
    max_trials: int | None
    best: str | None
    trials: list[Trial]


@dataclass
class Curves:
    """The epochs of a run's last training: `epoch` and the four metrics, null where one is not finite."""

    run: str
    epochs: list[dict[str, float | None]]


@dataclass
class SentMail:
    """The mail of a run."""

    run: str
    written_at: str
    subject: str
    text: str
    html: str
    to: list[str]
