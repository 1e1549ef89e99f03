"""``POST /datasets/{name}/uploads``: presigned POSTs, with which files go straight to S3.

S3 itself holds each form to its key, its content type, its size and its time, so that whoever has one can upload that
one file and nothing else (https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-HTTPPOSTConstructPolicy.html).
"""

from dataclasses import dataclass
from typing import Any

from chalicelib import config, names
from chalicelib.errors import InvalidParameter

MAX_FILES = 100
EXPIRES_IN_SECONDS = 3600
# S3's limit of a key, in bytes of UTF-8 (https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html).
MAX_KEY_BYTES = 1024


@dataclass(frozen=True)
class Kind:
    """What may be uploaded: content types, and sizes in bytes."""

    name: str
    content_types: tuple[str, ...]
    max_bytes: int
    min_bytes: int = 1


# Decode quarantines a larger image file.
IMAGE = Kind(
    "an image", ("image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp", "image/tiff"), 100 * 1024**2
)
# 5 GiB is the most that S3 takes in one request; `aws s3 cp` uploads a larger archive in parts.
ARCHIVE = Kind(
    "an archive",
    (
        "application/zip",
        "application/x-zip-compressed",
        "application/x-tar",
        "application/gzip",
        "application/x-gzip",
        "application/octet-stream",
    ),
    5 * 1024**3,
)
LABELS = Kind(
    "a labels file",
    ("text/csv", "text/plain", "application/json", "application/x-ndjson", "application/octet-stream"),
    100 * 1024**2,
)
MARKER = Kind("the marker _READY", ("text/plain", "application/octet-stream"), 1024, min_bytes=0)


def sign_uploads(dataset: str, wanted: Any) -> dict[str, Any]:
    """The forms for some files of `dataset`, which need not exist yet.

    Args:
        dataset: the dataset.
        wanted: ``{"files": [{"path", "content_type"}]}``, 1 to `MAX_FILES` files; paths are relative to the
            dataset's folder.

    Returns ``{"uploads": [{"path", "url", "fields", "max_bytes"}], "expires_in": seconds}``, in the order of
    `wanted`. Raises InvalidParameter; then nothing is signed.
    """
    if not names.is_dataset(dataset):
        raise InvalidParameter(
            f"'{dataset}' cannot name a dataset.",
            "A name has 1 to 32 small letters, digits and hyphens, and begins and ends with a letter or a digit.",
        )
    files = wanted.get("files") if isinstance(wanted, dict) else None
    if not isinstance(files, list) or not 1 <= len(files) <= MAX_FILES:
        raise InvalidParameter(
            f"The body must be a JSON object with the list files, of 1 to {MAX_FILES} entries.",
            'Send for example {"files": [{"path": "cat/1.jpg", "content_type": "image/jpeg"}]}, and more files with '
            "more requests.",
        )
    checked = [_check(dataset, file) for file in files]
    return {
        "uploads": [_sign(dataset, path, content_type, kind) for path, content_type, kind in checked],
        "expires_in": EXPIRES_IN_SECONDS,
    }


def _check(dataset: str, file: Any) -> tuple[str, str, Kind]:
    path = file.get("path") if isinstance(file, dict) else None
    content_type = file.get("content_type") if isinstance(file, dict) else None
    if not isinstance(path, str) or not isinstance(content_type, str):
        raise InvalidParameter(
            "Each of files must be an object with the texts path and content_type.",
            'Send for example {"path": "cat/1.jpg", "content_type": "image/jpeg"}.',
        )
    _check_path(dataset, path)
    kind = _kind_of(path)
    if content_type not in kind.content_types:
        raise InvalidParameter(
            f"The content type '{content_type}' does not fit '{path}', which is {kind.name}.",
            f"Send one of {', '.join(kind.content_types)}.",
        )
    return path, content_type, kind


def _check_path(dataset: str, path: str) -> None:
    problem = None
    if any(part in {"", ".", ".."} for part in path.split("/")):
        problem = "is absolute, or has an empty part, '.' or '..'"
    elif "\\" in path or not path.isprintable():
        problem = "holds a backslash or a character that cannot be printed"
    elif "${" in path:
        # S3 would put the name of the sent file in the place of ${filename}.
        problem = "holds '${', which S3 takes for a variable"
    elif len((names.dataset_prefix(dataset) + path).encode()) > MAX_KEY_BYTES:
        problem = f"makes a key of more than {MAX_KEY_BYTES} bytes"
    if problem:
        raise InvalidParameter(
            f"The path '{path[:200]}' {problem}.",
            "Give a path relative to the dataset's folder, for example cat/1.jpg or photos.zip.",
        )


def _kind_of(path: str) -> Kind:
    if path == names.READY_MARKER:
        return MARKER
    if names.is_data(path):
        for fits, kind in ((names.is_image, IMAGE), (names.is_archive, ARCHIVE), (names.is_labels_file, LABELS)):
            if fits(path):
                return kind
    raise InvalidParameter(
        f"'{path}' would not become part of a dataset.",
        f"Upload images ({', '.join(names.IMAGE_SUFFIXES)}) in class folders, archives "
        f"({', '.join(names.ARCHIVE_SUFFIXES)}) and labels files ({', '.join(names.LABELS_SUFFIXES)}) in no folder, "
        f"or the marker {names.READY_MARKER}. Names that begin with '.' or '_' are left out.",
    )


def _sign(dataset: str, path: str, content_type: str, kind: Kind) -> dict[str, Any]:
    form = config.client("s3").generate_presigned_post(
        config.bucket(),
        names.dataset_prefix(dataset) + path,
        Fields={"Content-Type": content_type},
        Conditions=[{"Content-Type": content_type}, ["content-length-range", kind.min_bytes, kind.max_bytes]],
        ExpiresIn=EXPIRES_IN_SECONDS,
    )
    return {"path": path, "url": form["url"], "fields": form["fields"], "max_bytes": kind.max_bytes}
