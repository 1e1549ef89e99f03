"""`predict`: images in, labels out, through the HTTP API."""

from __future__ import annotations

import mimetypes
from pathlib import Path
from typing import Any

import typer
from PIL import Image, UnidentifiedImageError
from rich.console import Console
from rich.markup import escape

from droptune.cli_output import Output, percent, table
from droptune.client import Cloud
from droptune.errors import ApiError, NotFound, OperationFailed, UsageError
from droptune.names import require_dataset

BAR_WIDTH = 12
# These concern the dataset or the system, so that every further image would meet them too.
FATAL_CODES = frozenset({"UnknownDataset", "NoLiveModel", "InvalidParameter", "ModelUnavailable"})


def predict(home: Path, output: Output, *, images: list[Path], dataset: str | None, top: int) -> None:
    """Classifies the images and prints the best labels of each.

    Raises:
        UsageError: several datasets have a live model and none was named, or the name cannot be one.
        NotFound: no dataset has a live model.
        ApiError: the named dataset has none.
        typer.Exit: with 1 if an image could not be classified; the others were.
    """
    require_dataset(dataset)
    with Cloud.connect(home) as cloud:
        dataset = dataset or only_live_dataset(cloud)
        results = [predicted(cloud, dataset, image, top) for image in images]
    answered = [result for result in results if "error" not in result]
    output.result(results, lambda console: print_predictions(console, answered))
    refused = [result for result in results if "error" in result]
    if not output.as_json:
        for result in refused:
            print_refusal(output.stderr, result)
    if refused:
        raise typer.Exit(OperationFailed.exit_code)


def predicted(cloud: Cloud, dataset: str, image: Path, top: int) -> dict[str, Any]:
    """Returns an image's `{"file", "predictions", "model_version"}`, or `{"file", "error"}`.

    Raises:
        ApiError: the dataset has no live model.
        NotRunning: the API does not answer.
    """
    try:
        body, content_type = _read(image)
        answer = cloud.predict(dataset, body, content_type, top)
    except ApiError as error:
        if error.code in FATAL_CODES:
            raise
        return {"file": str(image), **error.document()}
    except UsageError as error:
        return {"file": str(image), **error.document()}
    return {
        "file": str(image),
        "predictions": answer["predictions"],
        "model_version": answer["model_version"],
    }


def only_live_dataset(cloud: Cloud) -> str:
    """Returns the only dataset with a live model.

    Raises:
        NotFound: there is none.
        UsageError: there are several.
    """
    live = cloud.live_datasets()
    if len(live) == 1:
        return live[0]
    if not live:
        raise NotFound(
            "No dataset has a live model yet.",
            hint="Drop images with `droptune drop FOLDER --wait`; a model is live when its run has ended well.",
            code="NoLiveModel",
        )
    raise UsageError(
        f"{len(live)} datasets have a live model: {', '.join(live)}.",
        hint=f"Choose one with `--dataset {live[0]}`.",
        code="AmbiguousDataset",
    )


def print_predictions(console: Console, results: list[dict[str, Any]]) -> None:
    """Prints the labels of each image with their scores as bars; nothing if there is no image."""
    if not results:
        return
    rows = table("file", "label", "score", "", "model", right=("score",))
    for result in results:
        name = escape(Path(result["file"]).name)
        for rank, prediction in enumerate(result["predictions"]):
            bar = "█" * round(prediction["score"] * BAR_WIDTH)
            style = "bold green" if rank == 0 else "dim"
            rows.add_row(
                name if rank == 0 else "",
                f"[{style}]{escape(prediction['label'])}[/{style}]",
                percent(prediction["score"]),
                f"[{style}]{bar}[/{style}]",
                f"v{result['model_version']}" if rank == 0 else "",
            )
    console.print(rows)


def print_refusal(console: Console, result: dict[str, Any]) -> None:
    """Prints why an image has no labels, and what to do."""
    error = result["error"]
    console.print(
        f"[bold red]{escape(result['file'])}:[/bold red] {escape(error['message'])} {escape(error['hint'])}",
        soft_wrap=True,
    )


def _read(path: Path) -> tuple[bytes, str]:
    """Returns an image's bytes and media type, told by its content, not by its name.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        body = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{path} could not be read.", why=f"{error.strerror}.", hint="Check the path.", code="NoSuchPath"
        ) from error
    try:
        with Image.open(path) as image:
            content_type = image.get_format_mimetype()
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError):
        # The API says what is wrong with it.
        content_type, _ = mimetypes.guess_type(path.name)
    return body, content_type or "application/octet-stream"
