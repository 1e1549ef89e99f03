"""Names and S3 keys that cross borders (docs/reference/contracts.md)."""

import re
import secrets
from datetime import UTC, datetime

DATASET = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
DATASETS_PREFIX = "datasets/"
READY_MARKER = "_READY"
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
IGNORED_FILES = frozenset({"Thumbs.db", "desktop.ini", "COPYRIGHT", "LICENSE"})


def is_dataset(name: str) -> bool:
    """Whether `name` may name a dataset."""
    return DATASET.fullmatch(name) is not None


def dataset_prefix(dataset: str) -> str:
    """Where the user's files of `dataset` are."""
    return f"{DATASETS_PREFIX}{dataset}/"


def version_prefix(dataset: str, version: int) -> str:
    """Where the seal of a dataset version is."""
    return f"versions/{dataset}/{version}/"


def evaluation_prefix(dataset: str, run: str) -> str:
    """Where the results of a run's evaluation are."""
    return f"runs/{dataset}/{run}/evaluation/"


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
    """Whether `path`, relative to a dataset's folder, is an archive that Prepare unpacks."""
    return "/" not in path and path.lower().endswith(ARCHIVE_SUFFIXES)
