"""`models`, `approve`, `rollback`: which models there are, and which one is live."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape

from droptune.api_client import Client, Models, Release
from droptune.cli_output import Output, local_time, parsed_time, percent, table
from droptune.client import Cloud
from droptune.errors import OperationFailed
from droptune.names import require_dataset


def models(home: Path, output: Output, *, dataset: str, limit: int) -> None:
    """Lists a dataset's models, newest first.

    Raises:
        UsageError: the dataset's name cannot be one.
        ApiError: there is no such dataset.
    """
    require_dataset(dataset)
    with _client(home) as client:
        found = client.models(dataset, limit)
    output.result(found, lambda console: _print_models(console, found))


def approve(home: Path, output: Output, *, dataset: str, version: int, wait: bool) -> None:
    """Makes a model live, whatever the gate said of it.

    Raises:
        UsageError: the dataset's name cannot be one.
        ApiError: there is no such model, or it is live.
        typer.Exit: with 1 if it did not prove itself; the model before serves.
    """
    require_dataset(dataset)
    with _client(home) as client:
        _follow(client, output, client.approve(dataset, version), wait)


def rollback(home: Path, output: Output, *, dataset: str, version: int | None, wait: bool) -> None:
    """Makes an approved model live again; without a version the approved one before the live one.

    Raises:
        UsageError: the dataset's name cannot be one.
        OperationFailed: no version is named, and there is none before the live one.
        ApiError: there is no such model, it is not approved, or it is live.
        typer.Exit: with 1 if it did not prove itself; the model before serves.
    """
    require_dataset(dataset)
    with _client(home) as client:
        _follow(client, output, client.roll_back(dataset, version or _before(client.models(dataset, 100))), wait)


def _before(found: Models) -> int:
    live = found["live"]
    earlier = [
        model["version"]
        for model in found["models"]
        if model["status"] == "Approved" and (live is None or model["version"] < live)
    ]
    if not earlier:
        raise OperationFailed(
            f"Dataset '{found['dataset']}' has no approved model before the live one.",
            hint=f"See `droptune models {found['dataset']}`, and name a version.",
            code="NoEarlierModel",
        )
    return earlier[0]


def _client(home: Path) -> Client:
    with Cloud.connect(home) as cloud:
        return Client(cloud.api_url)


def _follow(client: Client, output: Output, release: Release, wait: bool) -> None:
    if wait:
        output.progress(f"bringing version {release['version']} of {release['dataset']} live")
        release = client.wait_for_release(release["id"])
    output.result(release, lambda console: _print_release(console, release))
    if release["error"] is not None:
        raise typer.Exit(OperationFailed.exit_code)


def _print_release(console: Console, release: Release) -> None:
    name = f"Version {release['version']} of {escape(release['dataset'])}"
    error = release["error"]
    if error is not None:
        console.print(f"[bold red]{name} is not live.[/bold red] {escape(error['message'])} {escape(error['hint'])}")
    elif release["status"] == "RUNNING":
        console.print(f"{name} is on its way. See [bold]droptune models {escape(release['dataset'])}[/bold].")
    else:
        console.print(f"[bold green]{name} is live.[/bold green]")


def _print_models(console: Console, found: Models) -> None:
    if not found["models"]:
        console.print(f"Dataset {escape(found['dataset'])} has no model yet. Follow its run: droptune watch")
        return
    rows = table("model", "status", "accuracy", "run", "registered", right=("model", "accuracy"))
    for model in found["models"]:
        live = model["version"] == found["live"]
        rows.add_row(
            f"v{model['version']}",
            "[bold green]live[/bold green]" if live else escape(model["status"].lower()),
            percent(model["accuracy"]),
            escape(model["run"] or "-"),
            local_time(parsed_time(model["created_at"]))[5:16],
        )
    console.print(rows)
