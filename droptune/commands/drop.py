"""`drop`: a folder or an archive of labelled images becomes objects of a dataset."""

from __future__ import annotations

import mimetypes
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from droptune.cli_output import Output
from droptune.errors import OperationFailed, UsageError
from droptune.names import DATASET_RULE, is_dataset

if TYPE_CHECKING:
    from droptune.client import Cloud

# The forms of docs/reference/contracts.md.
ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar", ".zip")
SPLITS = frozenset({"train", "valid", "test"})
NO_DATA = frozenset({"Thumbs.db", "desktop.ini", "COPYRIGHT", "LICENSE"})
UPLOADS_AT_ONCE = 8


@dataclass(frozen=True)
class Plan:
    """What is to be uploaded.

    `files` maps paths relative to the dataset's folder (POSIX) to local files, `left_out` lists the files
    that are no data, and `unlabelled` those of `files` that lie in no class folder.
    """

    dataset: str
    files: dict[str, Path]
    left_out: tuple[str, ...]
    unlabelled: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(path.stat().st_size for path in self.files.values())

    @property
    def classes(self) -> dict[str, int]:
        """The number of files of each class folder."""
        return dict(sorted(Counter(filter(None, map(class_of, self.files))).items()))

    def key(self, relative: str) -> str:
        """Returns the S3 key of a file."""
        return f"datasets/{self.dataset}/{relative}"


def drop(home: Path, output: Output, *, path: Path, dataset: str | None, wait: bool) -> None:
    """Uploads `path`, and with `wait` follows the run that this starts.

    Raises:
        UsageError: the path or the dataset's name cannot be used.
        NotRunning: the local cloud is down.
        OperationFailed: an upload failed, or no run started.
        typer.Exit: with 1 if the run that was waited for failed.
    """
    from droptune.client import Cloud

    # Before the system is asked for: bad arguments are an error whether or not it runs.
    plan = planned(path, dataset)
    with Cloud.connect(home) as cloud:
        uploaded_at = upload(cloud, plan, output)
        document: dict[str, Any] = {
            "dataset": plan.dataset,
            "uploaded": len(plan.files),
            "bytes": plan.bytes,
            "classes": plan.classes,
            "left_out": list(plan.left_out),
            "unlabelled": list(plan.unlabelled),
        }
        if not output.as_json:
            print_counts(output.console, plan)
        if wait:
            _wait(cloud, plan, uploaded_at, output, document)
        else:
            next_step = "A run starts by itself. Follow it: [bold]droptune watch[/bold]"
            output.result(document, lambda console: console.print(next_step))


def _wait(cloud: Cloud, plan: Plan, uploaded_at: datetime, output: Output, document: dict[str, Any]) -> None:
    from droptune.cli_watch import show
    from droptune.watching import covering_run, follow

    output.progress("waiting for the run of these uploads")
    run = covering_run(cloud, plan.dataset, uploaded_at)
    view = show(follow(cloud, run["id"]), output)
    output.result({**document, "run": view.document()})
    if not view.succeeded:
        raise typer.Exit(OperationFailed.exit_code)


def planned(path: Path, dataset: str | None) -> Plan:
    """Returns what a drop of `path` uploads.

    Raises:
        UsageError: there is no such path, it is no folder or archive, holds no data or a file
            that cannot be read, or the dataset's
            name is not valid.
    """
    if not path.exists():
        raise UsageError(f"There is no {path}.", hint="Check the path.", code="NoSuchPath")
    if path.is_file():
        return _planned_archive(path, dataset)
    files: dict[str, Path] = {}
    left_out: list[str] = []
    for file in _walk(path):
        if not file.is_file():
            raise UsageError(
                f"{file} is no readable file.",
                why="It is a broken link or something special.",
                hint="Repair or remove it.",
                code="CannotRead",
            )
        relative = file.relative_to(path).as_posix()
        if is_data(relative):
            files[relative] = file
        else:
            left_out.append(relative)
    if not files:
        raise UsageError(
            f"{path} holds no images.",
            why=f"All it holds are {len(left_out)} files that are no data." if left_out else "It is empty.",
            hint="Put the images of each class into a folder of its own: PATH/cat/1.jpg, PATH/dog/2.jpg …",
            code="EmptyFolder",
        )
    unlabelled = [name for name in files if class_of(name) is None and not is_archive(name)]
    if len(unlabelled) == len(files):
        raise UsageError(
            f"{path} has no class folders.",
            why="A file's label is the name of the folder it lies in.",
            hint="Put the images of each class into a folder of its own: PATH/cat/1.jpg, PATH/dog/2.jpg …",
            code="NoClassFolders",
        )
    name = dataset_name(dataset, path.resolve().name)
    return Plan(name, files, tuple(left_out), tuple(unlabelled))


def _planned_archive(path: Path, dataset: str | None) -> Plan:
    suffix = next((suffix for suffix in ARCHIVE_SUFFIXES if path.name.lower().endswith(suffix)), None)
    if suffix is None:
        raise UsageError(
            f"{path} is neither a folder nor an archive.",
            hint=f"Drop a folder of class folders, or a {', '.join(ARCHIVE_SUFFIXES)} file of it.",
            code="UnsupportedFile",
        )
    return Plan(dataset_name(dataset, path.name[: -len(suffix)]), {path.name: path}, (), ())


def dataset_name(given: str | None, default: str) -> str:
    """Returns the dataset's name: the given one, or `default` if that is a valid name.

    Raises:
        UsageError: neither is valid.
    """
    name = default if given is None else given
    if is_dataset(name):
        return name
    suggestion = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:32].strip("-") or "my-photos"
    raise UsageError(
        f"'{name}' cannot name a dataset.",
        why=DATASET_RULE,
        hint=f"Name it with `--dataset {suggestion}`.",
        code="BadDatasetName",
    )


def is_data(relative: str) -> bool:
    """Returns whether a path below the dataset's folder counts as data (docs/reference/contracts.md)."""
    *folders, name = relative.split("/")
    return not (
        name.startswith(("_", "README"))
        or name in NO_DATA
        or any(part.startswith(".") or part == "__MACOSX" for part in (*folders, name))
    )


def is_archive(relative: str) -> bool:
    """Returns whether a path below the dataset's folder is an archive that the run unpacks."""
    return "/" not in relative and relative.lower().endswith(ARCHIVE_SUFFIXES)


def class_of(relative: str) -> str | None:
    """Returns the class of a file, which is its folder or its folder below a split; None if it has none."""
    folders = relative.split("/")[:-1]
    if folders and folders[0] in SPLITS:
        folders = folders[1:]
    return folders[0] if folders else None


def upload(cloud: Cloud, plan: Plan, output: Output) -> datetime:
    """Uploads the files of a plan and returns the time of the last upload, by the storage's clock.

    Raises:
        OperationFailed: a file could not be read or stored. The files before it are uploaded.
    """
    pool = ThreadPoolExecutor(UPLOADS_AT_ONCE)
    with _progress(output, plan) as uploaded:
        try:
            futures = {
                pool.submit(_upload_file, cloud, plan.key(name), path): path for name, path in plan.files.items()
            }
            for future in as_completed(futures):
                _raise_readable(future, futures[future])
                uploaded(futures[future].stat().st_size)
        finally:
            # After an error, or Ctrl-C, only the uploads on their way are waited for.
            pool.shutdown(cancel_futures=True)
    answer = cloud.s3.head_bucket(Bucket=cloud.bucket)
    return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])


def _raise_readable(future: Future[None], path: Path) -> None:
    try:
        future.result()
    except OSError as error:
        raise OperationFailed(
            f"{path} could not be read.",
            why=error.strerror,
            hint="Make it readable and drop again; what is uploaded already is simply replaced.",
            code="CannotRead",
        ) from error


def _upload_file(cloud: Cloud, key: str, path: Path) -> None:
    content_type, _ = mimetypes.guess_type(path.name)
    cloud.s3.upload_file(
        str(path), cloud.bucket, key, ExtraArgs={"ContentType": content_type or "application/octet-stream"}
    )


@contextmanager
def _progress(output: Output, plan: Plan) -> Iterator[Callable[[int], None]]:
    """Shows a bar on a terminal; yields a function that takes the bytes of each finished upload."""
    columns = (TextColumn("uploading"), BarColumn(), DownloadColumn())
    hidden = output.as_json or not output.stderr.is_terminal
    with Progress(*columns, console=output.stderr, transient=True, disable=hidden) as progress:
        task = progress.add_task("upload", total=plan.bytes)
        yield lambda size: progress.advance(task, size)


def print_counts(console: Console, plan: Plan) -> None:
    """Prints what was uploaded and what was not."""
    classes = plan.classes
    what = f"{_count(len(plan.files), 'file')} ({plan.bytes / 1e6:.1f} MB)"
    where = f" in {_count(len(classes), 'class', 'classes')}" if classes else ""
    console.print(f"Uploaded {what}{where} to dataset [bold]{plan.dataset}[/bold].", soft_wrap=True)
    if plan.left_out:
        console.print(f"Left out {_count(len(plan.left_out), 'file')} (no data): {_names(plan.left_out)}.")
    if plan.unlabelled:
        console.print(
            f"[yellow]{_count(len(plan.unlabelled), 'file')} in no class folder[/yellow], "
            f"so without a label: {_names(plan.unlabelled)}."
        )


def _names(names: tuple[str, ...]) -> str:
    shown = ", ".join(escape(name) for name in names[:5])
    return f"{shown} …" if len(names) > 5 else shown


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _walk(root: Path) -> Iterator[Path]:
    """Yields the files below a folder in a fixed order, following links but no circle of them."""
    seen: set[Path] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = Path(folder).resolve()
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield from (Path(folder, name) for name in sorted(names))
