"""`runs`, `watch`, `report`: what became of the uploads."""

from __future__ import annotations

import webbrowser
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape

from droptune.cli_output import Output, local_time, parsed_time, percent, status_text, table
from droptune.client import Cloud, Run
from droptune.errors import ApiError, NotFound, OperationFailed
from droptune.names import require_dataset

LATEST = "latest"
RUN_FIELDS = (
    "id",
    "dataset",
    "status",
    "verdict",
    "started_at",
    "ended_at",
    "dataset_version",
    "model_version",
    "accuracy",
)


def runs(home: Path, output: Output, *, dataset: str | None, limit: int) -> None:
    """Lists the runs, newest first.

    Raises:
        UsageError: the dataset's name cannot be one.
    """
    require_dataset(dataset)
    with Cloud.connect(home) as cloud:
        found = cloud.runs(dataset, limit)
    documents = [{field: run.get(field) for field in RUN_FIELDS} for run in found]
    output.result(documents, lambda console: _list(console, found, dataset))


def watch(home: Path, output: Output, *, run: str | None, dataset: str | None, next_run: bool) -> None:
    """Shows a run until it ends.

    Raises:
        UsageError: the dataset's name cannot be one.
        ApiError: there is no such run.
        typer.Exit: with 1 if it failed.
    """
    from droptune import watching
    from droptune.cli_watch import show

    require_dataset(dataset)
    with Cloud.connect(home) as cloud:
        if run is None or run == LATEST:
            newest = None if next_run else cloud.newest_run(dataset)
            if newest is None:
                output.progress("waiting for a run; start one with `droptune drop` (Ctrl-C ends)")
                newest = watching.next_run(cloud, dataset)
            run = newest["id"]
        view = show(watching.follow(cloud, run), output)
    output.result(view.document())
    if not view.succeeded:
        raise typer.Exit(OperationFailed.exit_code)


def report(home: Path, output: Output, *, run: str | None, to: Path | None, open_it: bool) -> None:
    """Fetches a run's report into a file.

    Raises:
        NotFound: there is no run yet.
        ApiError: there is no such run, or it has no report.
    """
    cloud = Cloud.connect(home)
    if run is None or run == LATEST:
        newest = cloud.newest_run()
        if newest is None:
            raise NotFound("There is no run yet.", hint="Start one with `droptune drop FOLDER`.", code="UnknownRun")
        run = newest["id"]
    try:
        page = cloud.report(run)
    except ApiError as error:
        if error.code == "NotFound":
            error.hint = f"A run writes it when it has evaluated its model. See `droptune watch {run}`."
        raise
    path = (to or home / "reports" / f"{run}.html").absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(page)
    except OSError as error:
        raise OperationFailed(
            f"The report could not be written to {path}.",
            why=error.strerror,
            hint="Choose another place with `--output FILE`.",
            code="CannotWrite",
        ) from error
    output.result(
        {"run": run, "path": str(path), "url": f"{cloud.api_url}/runs/{run}/report"},
        # A path is there to be copied whole.
        lambda console: console.print(str(path), markup=False, soft_wrap=True),
    )
    if open_it and not webbrowser.open(path.as_uri()):
        raise OperationFailed("No browser could be opened.", hint=f"Open {path} yourself.", code="NoBrowser")


def _list(console: Console, found: list[Run], dataset: str | None) -> None:
    if not found:
        of = f" of dataset {escape(dataset)}" if dataset else ""
        name = f" --dataset {escape(dataset)}" if dataset else ""
        console.print(f"No run{of} yet. Start one with [bold]droptune drop[/bold] FOLDER{name}.", soft_wrap=True)
        return
    rows = table("run", "status", "data", "model", "accuracy", "started", right=("data", "model", "accuracy"))
    for run in found:
        rows.add_row(
            escape(run["id"]),
            status_text(run["status"], run["verdict"]),
            _version(run["dataset_version"]),
            _version(run["model_version"]),
            percent(run["accuracy"]),
            # Without its year and seconds: the row fits 80 columns with the longest run id.
            local_time(parsed_time(run["started_at"]))[5:16],
        )
    console.print(rows)


def _version(number: int | None) -> str:
    return "-" if number is None else f"v{number}"
