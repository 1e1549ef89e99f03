"""What moves between S3 and a job's folders."""

import gzip
import hashlib
import json
import logging
import os
import shutil
import tarfile
import tempfile
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

logger = logging.getLogger(__name__)

_PARALLEL_TRANSFERS = 8
_CACHE_LIMIT_BYTES = 8 * 2**30
_PART_PREFIX = "part-"


class DownloadError(Exception):
    """The input data cannot be had; the text stands in the job's FailureReason."""


@dataclass(frozen=True)
class S3Object:
    bucket: str
    key: str
    etag: str
    size: int
    modified: int
    """Epoch seconds."""


def parse_s3_uri(uri: str) -> tuple[str, str]:
    """Bucket and key (perhaps empty) of `s3://bucket/key`.

    Raises:
        ValueError: the URI is none of S3.
    """
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise ValueError(f"{uri!r} is no S3 URI. Write it as s3://<bucket>/<prefix>.")
    return bucket, key


class DataCache:
    """Objects that jobs have downloaded, by bucket, key and ETag, shared by hard links.

    The trials of a tuning job read the same channels: each object is fetched once. The cached files
    are read-only and keep the object's time of modification; one that a job has changed in place all
    the same (root may) is seen by its size and time and fetched again.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        for part in directory.glob(f"{_PART_PREFIX}*"):  # of a server that was killed
            part.unlink()
        self._directory = directory
        self._locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()
        self._trimming = threading.Lock()

    def place(self, client: Any, source: S3Object, destination: Path, *, own: bool = False) -> None:
        """Puts the object at `destination`, whose folder is made if need be.

        `own` gives a copy that may be written to.

        Raises:
            botocore.exceptions.ClientError: S3 refuses it.
        """
        digest = hashlib.sha256(f"{source.bucket}\0{source.key}\0{source.etag}".encode()).hexdigest()
        cached = self._directory / digest
        destination.parent.mkdir(parents=True, exist_ok=True)
        with self._lock(digest):
            if not _is_intact(cached, source):
                self._fetch(client, source, cached)
            if own:
                shutil.copyfile(cached, destination)
                return
            try:
                os.link(cached, destination)
            except OSError as error:  # another file system, or too many links
                logger.debug("Copying %s, since it cannot be linked: %s", source.key, error)
                shutil.copyfile(cached, destination)

    def trim(self) -> None:
        """Removes the files used longest ago, down to the limit; files in use stay."""
        if not self._trimming.acquire(blocking=False):
            return  # another job has just ended and is at it
        try:
            self._trim()
        finally:
            self._trimming.release()

    def _trim(self) -> None:
        # Linking a file touches its ctime, so that is when it was last used.
        files = sorted(((entry.stat(), entry) for entry in self._cached_files()), key=_last_use)
        excess = sum(stat.st_size for stat, _ in files) - _CACHE_LIMIT_BYTES
        for stat, path in files:
            if excess <= 0:
                return
            with self._lock(path.name):
                if path.stat().st_nlink == 1:
                    path.unlink()
                    excess -= stat.st_size

    def _cached_files(self) -> list[Path]:
        return [path for path in self._directory.iterdir() if not path.name.startswith(_PART_PREFIX)]

    def _lock(self, digest: str) -> threading.Lock:
        """Held while one cached file is fetched, linked or removed."""
        with self._guard:
            return self._locks.setdefault(digest, threading.Lock())

    def _fetch(self, client: Any, source: S3Object, cached: Path) -> None:
        body = client.get_object(Bucket=source.bucket, Key=source.key, IfMatch=source.etag)["Body"]
        descriptor, name = tempfile.mkstemp(prefix=_PART_PREFIX, dir=self._directory)
        part = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file, body:
                shutil.copyfileobj(body, file, length=2**20)
            part.chmod(0o444)
            os.utime(part, (source.modified, source.modified))
            part.replace(cached)
        finally:
            part.unlink(missing_ok=True)


def _is_intact(cached: Path, source: S3Object) -> bool:
    try:
        stat = cached.stat()
    except FileNotFoundError:
        return False
    return stat.st_size == source.size and int(stat.st_mtime) == source.modified


def _last_use(entry: tuple[os.stat_result, Path]) -> float:
    return entry[0].st_ctime


@dataclass(frozen=True)
class Shard:
    """Which objects of an input a host gets: every `of`-th from number `index` on."""

    index: int
    of: int


def download(
    client: Any, cache: DataCache, uri: str, data_type: str, directory: Path, shard: Shard | None = None
) -> None:
    """Fills `directory` with what an `S3Prefix` or a `ManifestFile` names.

    With fewer objects than hosts a `shard` may be empty.

    Raises:
        DownloadError: nothing is there, or S3 refuses it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    try:
        if data_type == "ManifestFile":
            wanted = list(_manifest_objects(client, uri))
        else:
            wanted = list(_prefix_objects(client, uri))
        if not wanted:
            bucket, _ = parse_s3_uri(uri)
            raise DownloadError(
                f'No S3 objects found under S3 URL "{uri}" given in input data source. Please ensure that '
                "the bucket exists in the selected region, that objects exist under that S3 prefix, and "
                f'that the role has "s3:ListBucket" permissions on bucket "{bucket}".'
            )
        if shard:
            wanted = wanted[shard.index :: shard.of]
        with ThreadPoolExecutor(_PARALLEL_TRANSFERS) as pool:
            for _ in pool.map(lambda pair: cache.place(client, pair[1], directory / pair[0]), wanted):
                pass
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        details = error.response["Error"]
        raise DownloadError(f"{details['Code']} ({status}): {details['Message']} ({uri})") from error
    except (BotoCoreError, OSError, ValueError) as error:
        raise DownloadError(f"{error} ({uri})") from error


def download_checkpoints(client: Any, cache: DataCache, uri: str, directory: Path) -> None:
    """Like `download` of a prefix, but the files may be written to and there may be none.

    Raises:
        DownloadError: S3 refuses it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    try:
        for path, source in _prefix_objects(client, uri.rstrip("/") + "/"):
            cache.place(client, source, directory / path, own=True)
    except (ClientError, BotoCoreError, OSError, ValueError) as error:
        raise DownloadError(f"{error} ({uri})") from error


def _list(client: Any, bucket: str, prefix: str) -> Iterator[S3Object]:
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for entry in page.get("Contents", []):
            yield S3Object(bucket, entry["Key"], entry["ETag"], entry["Size"], int(entry["LastModified"].timestamp()))


def _prefix_objects(client: Any, uri: str) -> Iterator[tuple[PurePosixPath, S3Object]]:
    """Objects under a prefix, with their paths below the channel.

    A prefix need not end at a slash (`s3://b/data/im` also covers `data/images/1.jpg`): names are
    relative to the prefix where it is a folder, else to the folder that holds it.
    """
    bucket, prefix = parse_s3_uri(uri)
    folder = prefix if prefix.endswith("/") or not prefix else prefix + "/"
    parent = prefix.rpartition("/")[0]
    for entry in _list(client, bucket, prefix):
        if entry.key.endswith("/"):
            continue  # a folder's marker, which consoles create
        base = folder if entry.key.startswith(folder) else (parent + "/" if parent else "")
        yield _safe_path(entry.key[len(base) :]), entry


def _manifest_objects(client: Any, uri: str) -> Iterator[tuple[PurePosixPath, S3Object]]:
    """Objects of a manifest, `[{"prefix": "s3://bucket/prefix/"}, "a/1.jpg", …]`."""
    bucket, key = parse_s3_uri(uri)
    with client.get_object(Bucket=bucket, Key=key)["Body"] as body:
        manifest = json.loads(body.read())
    if not (isinstance(manifest, list) and manifest and isinstance(manifest[0], dict)):
        raise ValueError('the manifest does not begin with [{"prefix": "s3://…"}, …]')
    prefix_uri = manifest[0].get("prefix", "")
    bucket, prefix = parse_s3_uri(prefix_uri)
    # One listing tells the ETags of a thousand objects; asking for each is a request for each.
    known = {entry.key: entry for entry in _list(client, bucket, prefix)}
    for name in manifest[1:]:
        entry = known.get(prefix + name)
        if entry is None:
            raise ValueError(f"NoSuchKey (404): The specified key does not exist: {prefix_uri}{name}")
        yield _safe_path(name), entry


def _safe_path(name: str) -> PurePosixPath:
    """A key as a path below a folder: keys may hold `..` or a leading slash, paths must not."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or not parts:
        raise ValueError(f"the key {name!r} would leave the channel's folder; rename the object")
    return PurePosixPath(*parts)


def upload_directory(client: Any, directory: Path, uri: str, *, changed_after: float = 0.0) -> int:
    """Uploads every file below `directory` to the prefix; returns how many there were.

    `changed_after` (epoch seconds) leaves out the files that were last written before.

    Raises:
        botocore.exceptions.ClientError, boto3.exceptions.S3UploadFailedError: S3 refuses one.
    """
    bucket, prefix = parse_s3_uri(uri)
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path.stat().st_mtime >= changed_after)
    base = prefix.rstrip("/") + "/" if prefix.rstrip("/") else ""

    def upload(path: Path) -> None:
        client.upload_file(str(path), bucket, base + path.relative_to(directory).as_posix())

    with ThreadPoolExecutor(_PARALLEL_TRANSFERS) as pool:
        for _ in pool.map(upload, files):
            pass
    return len(files)


def upload_archive(client: Any, directory: Path, uri: str) -> None:
    """Packs `directory` as `tar.gz` and uploads it to exactly this URI."""
    bucket, key = parse_s3_uri(uri)
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        archive = Path(scratch) / "archive.tar.gz"
        pack(directory, archive)
        client.upload_file(str(archive), bucket, key)


def pack(directory: Path, archive: Path) -> None:
    """Writes a deterministic `tar.gz`: equal content gives equal bytes.

    Names are sorted, and owners, times and the compressor's header are blank. Level 1: weights
    hardly compress, and the higher levels cost seconds for a few per cent.
    """
    with (
        archive.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=1, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w") as tar,
    ):
        for path in _sorted_tree(directory):
            tar.add(path, arcname=path.relative_to(directory).as_posix(), recursive=False, filter=_anonymous)


def _sorted_tree(directory: Path) -> Iterable[Path]:
    return sorted(directory.rglob("*"), key=lambda path: path.relative_to(directory).parts)


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.mtime = 0
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
    return entry
