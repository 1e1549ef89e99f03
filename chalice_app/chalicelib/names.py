"""Names and S3 keys that cross borders (docs/reference/contracts.md)."""

import re
import secrets
from datetime import UTC, datetime

DATASET = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
RUN_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,13}-[0-9]{12}-[0-9a-f]{4}")
DATASETS_PREFIX = "datasets/"
VERSIONS_PREFIX = "versions/"
PREDICTIONS_PREFIX = "predictions/"
PREDICTION_UPLOADS_PREFIX = "predictions/uploads/"
FEEDBACK_PREFIX = "feedback/"
READY_MARKER = "_READY"
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
LABELS_SUFFIXES = (".csv", ".manifest")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
# The format of what Decode and Prepare write: another one begins anew (training_code/prepared.py has the same number).
PREPARED_FORMAT = 2
IGNORED_FILES = frozenset({"Thumbs.db", "desktop.ini", "COPYRIGHT", "LICENSE"})


def is_dataset(name: str) -> bool:
    """Whether `name` may name a dataset."""
    return DATASET.fullmatch(name) is not None


def dataset_prefix(dataset: str) -> str:
    """Where the user's files of `dataset` are."""
    return f"{DATASETS_PREFIX}{dataset}/"


def version_prefix(dataset: str, version: int) -> str:
    """Where the seal of a dataset version is."""
    return f"{VERSIONS_PREFIX}{dataset}/{version}/"


def prepared_versions_prefix(dataset: str, recipe: str) -> str:
    """Where the versions that were prepared by one recipe are."""
    return f"prepared/{dataset}/{recipe}/versions/"


def weights_prefix(backbone: str) -> str:
    """Where the pretrained weights of `backbone` are."""
    return f"weights/{backbone}/"


def evaluation_prefix(dataset: str, run: str) -> str:
    """Where the results of a run's evaluation are."""
    return f"runs/{dataset}/{run}/evaluation/"


def mail_key(dataset: str, run: str) -> str:
    """Where the mail of a run is kept."""
    return f"runs/{dataset}/{run}/mail/mail.json"


def endpoint(dataset: str) -> str:
    """The endpoint, and also the model package group, of `dataset`."""
    return f"droptune-{dataset}"


def new_run_id(dataset: str, now: datetime) -> str:
    """A run id of at most 32 characters, the longest name that a tuning job may have.

    Args:
        dataset: a valid dataset name.
        now: the time of the request, with a time zone.
    """
    return f"{dataset[:14].rstrip('-')}-{now.astimezone(UTC):%y%m%d%H%M%S}-{secrets.token_hex(2)}"


def is_run_id(text: str) -> bool:
    """Whether `text` may be what `new_run_id` made."""
    return RUN_ID.fullmatch(text) is not None


def is_data(path: str) -> bool:
    """Whether `path`, relative to a dataset's folder, counts as data.

    Folder markers, hidden files and folders, names that begin with ``_`` and the files that
    operating systems and licences leave beside images do not: they are ignored, not bad.
    """
    folders, _, name = path.rpartition("/")
    return not (
        not name
        or name.startswith(("_", "README"))
        or name in IGNORED_FILES
        or any(part.startswith(".") or part == "__MACOSX" for part in (*folders.split("/"), name))
    )


def is_archive(path: str) -> bool:
    """Whether `path`, relative to a dataset's folder, is an archive that Decode unpacks."""
    return "/" not in path and path.lower().endswith(ARCHIVE_SUFFIXES)


def is_labels_file(path: str) -> bool:
    """Whether `path`, relative to a dataset's folder, says the labels of images."""
    return "/" not in path and path.lower().endswith(LABELS_SUFFIXES)


def is_image(path: str) -> bool:
    """Whether `path` has the extension of an image format that Decode reads."""
    return path.lower().endswith(IMAGE_SUFFIXES)
