"""`data`, `settings`: the datasets, their versions, and what the data doctor found in them."""

from __future__ import annotations

import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from droptune.cli_output import Output, local_time, parsed_time, table
from droptune.client import Cloud, Dataset, Settings, Version
from droptune.errors import ApiError, NotFound, OperationFailed, UsageError
from droptune.names import require_dataset

# The whole lists are on the doctor's page.
LISTED = 10
KINDS = (("added", "+", "green"), ("removed", "-", "red"), ("changed", "~", "yellow"))
SETTINGS = {"quiet_seconds": "no upload for", "max_wait_seconds": "but at most"}


def data(home: Path, output: Output, *, name: str | None, version: int | None, limit: int, open_it: bool) -> None:
    """Shows all datasets, the versions of one, or one version.

    Raises:
        UsageError: a version or a page is asked for without a dataset, or nothing can have the dataset's name.
        NotFound: the page of a dataset without a version is asked for.
        ApiError: there is no such dataset or version, or no page of it yet.
        OperationFailed: the page could not be written or opened.
    """
    if name is None and (version is not None or open_it):
        raise UsageError("Of which dataset?", hint="Name it: `droptune data NAME --version V`.", code="UsageError")
    require_dataset(name)
    with Cloud.connect(home) as cloud:
        if name is None:
            datasets = cloud.datasets()
            output.result(datasets, lambda console: _print_datasets(console, datasets))
        elif version is None and not open_it:
            dataset, versions = cloud.dataset(name), cloud.versions(name, limit)
            output.result(
                {"dataset": dataset, "versions": versions},
                lambda console: _print_versions(console, dataset, versions),
            )
        else:
            _show_version(home, output, cloud, name, version or _newest(cloud, name), open_it)


def settings(home: Path, output: Output, *, name: str, wanted: Mapping[str, int | None], reset: bool) -> None:
    """Shows how long the dataset's uploads are waited for, after changing what `wanted` names.

    Raises:
        UsageError: values and `reset` are given together, or nothing can have the dataset's name.
        ApiError: there is no such dataset.
    """
    require_dataset(name)
    given = {field: seconds for field, seconds in wanted.items() if seconds is not None}
    if given and reset:
        raise UsageError("--reset takes no values beside it.", hint="Give either the values or --reset.")
    with Cloud.connect(home) as cloud:
        change: dict[str, int | None] = dict.fromkeys(SETTINGS) if reset else dict(given)
        current = cloud.change_settings(name, change) if change else cloud.dataset(name)["settings"]
    output.result({"dataset": name, **current}, lambda console: _print_settings(console, name, current))


def _newest(cloud: Cloud, name: str) -> int:
    newest = cloud.dataset(name)["newest_version"]
    if newest is None:
        raise NotFound(
            f"Dataset '{name}' has no version yet.",
            hint="A run seals one when its uploads are over: see `droptune watch`.",
            code="UnknownVersion",
        )
    return newest


def _show_version(home: Path, output: Output, cloud: Cloud, name: str, number: int, open_it: bool) -> None:
    version = cloud.version(name, number)
    page = _fetch_page(home, cloud, name, number) if open_it else None
    url = cloud.doctor_url(name, number)
    output.result(
        {"dataset": name, **version, "page": page and str(page), "page_url": url},
        lambda console: _print_version(console, name, version, str(page or url)),
    )
    if page and not webbrowser.open(page.as_uri()):
        raise OperationFailed("No browser could be opened.", hint=f"Open {page} yourself.", code="NoBrowser")


def _fetch_page(home: Path, cloud: Cloud, name: str, number: int) -> Path:
    try:
        content = cloud.doctor_page(name, number)
    except ApiError as error:
        if error.code == "NotFound":
            error.hint = f"A run writes it when it has looked at every image: see `droptune runs --dataset {name}`."
        raise
    path = (home / "reports" / f"{name}-version-{number}.html").absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise OperationFailed(
            f"The page could not be written to {path}.",
            why=error.strerror,
            hint=f"Free some space, or open {cloud.doctor_url(name, number)} yourself.",
            code="CannotWrite",
        ) from error
    return path


def _print_datasets(console: Console, datasets: list[Dataset]) -> None:
    if not datasets:
        console.print("No dataset yet. Make one with [bold]droptune drop[/bold] FOLDER.")
        return
    rows = table("dataset", "versions", "live", "files", "MB", "last upload", "run", right=("versions", "files", "MB"))
    for dataset in datasets:
        rows.add_row(
            escape(dataset["name"]),
            str(dataset["versions"]),
            _number(dataset["live_version"], "v"),
            _number(dataset["objects"]),
            "-" if dataset["bytes"] is None else f"{dataset['bytes'] / 1e6:,.1f}",
            _short_time(dataset["last_upload_at"]),
            escape(dataset["run"] or "-"),
        )
    console.print(rows)
    console.print("\nMore with [bold]droptune data[/bold] NAME.")


def _print_versions(console: Console, dataset: Dataset, versions: list[Version]) -> None:
    name = escape(dataset["name"])
    if not versions:
        console.print(f"No version of {name} yet: a run seals one when its uploads are over.", soft_wrap=True)
        return
    rows = table(
        *("version", "images", "left out", "alike", "labels?", "changes", "sealed", ""),
        right=("images", "left out", "alike", "labels?"),
    )
    for version in versions:
        rows.add_row(
            f"v{version['version']}",
            _number(version["images"]),
            _number(version["quarantined"]),
            _number(version["duplicates"]),
            _number(version["suspected_labels"]),
            _changes(version),
            _short_time(version["sealed_at"]),
            "[green]live[/green]" if version["version"] == dataset["live_version"] else "",
        )
    console.print(rows)
    console.print(
        "\nalike: groups of images that look the same; labels?: labels that may be wrong.\n"
        f"More with [bold]droptune data[/bold] {name} --version V, pictures with --open.",
        soft_wrap=True,
    )


def _print_version(console: Console, name: str, version: Version, page: str) -> None:
    parent = f"against v{version['parent']}" if version["parent"] else "the first"
    console.print(
        f"[bold]{escape(name)} v{version['version']}[/bold], sealed {local_time(parsed_time(version['sealed_at']))}: "
        f"{version['objects']} files, {version['bytes'] / 1e6:,.1f} MB; {parent}: {_changes(version)}",
        soft_wrap=True,
    )
    diff = version.get("diff") or {}
    for kind, sign, style in KINDS if version["parent"] else ():
        _print_list(console, [f"[{style}]{sign}[/{style}] {escape(key)}" for key in diff.get(kind, [])])
    doctor = version.get("doctor")
    if doctor is None:
        console.print("\nThe data doctor has not looked at this version (yet).")
        return
    _print_classes(console, doctor["classes"])
    _print_findings(console, doctor)
    console.print(f"\nWith pictures: {page}", markup=False, soft_wrap=True)


def _print_classes(console: Console, classes: dict[str, dict[str, int]]) -> None:
    parts = ("images", "train", "valid", "test")
    rows = table("class", *parts, right=parts)
    for label, counts in classes.items():
        rows.add_row(escape(label), *(str(counts[part]) for part in parts))
    console.print()
    console.print(rows)


def _print_findings(console: Console, doctor: dict[str, Any]) -> None:
    for finding in doctor["findings"]:
        style = "yellow" if finding["severity"] == "warning" else "cyan"
        console.print(f"\n[{style}]{finding['severity']}:[/{style}] {escape(finding['message'])}", soft_wrap=True)
        console.print(f"  {finding['hint']}", markup=False, soft_wrap=True)
    for title, lines in (
        ("Left out", [f"{escape(f['file'])}: {escape(f['reason'])}" for f in doctor["quarantined"]]),
        ("Look the same", [escape(", ".join(group["files"])) for group in doctor["duplicates"]]),
        (
            "Labels that may be wrong",
            [
                f"{escape(f['file'])}: {escape(f['label'])}, or rather {escape(f['suggested'])}?"
                for f in doctor["suspected_labels"]
            ],
        ),
    ):
        if lines:
            console.print(f"\n[bold]{title}:[/bold]")
            _print_list(console, lines)


def _print_list(console: Console, lines: list[str]) -> None:
    for line in lines[:LISTED]:
        console.print(f"  {line}", soft_wrap=True)
    if len(lines) > LISTED:
        console.print("  …")


def _print_settings(console: Console, name: str, current: Settings) -> None:
    rows = table("a run waits until", "seconds", "", right=("seconds",))
    for field, words in SETTINGS.items():
        own = dict(current)[field]
        rows.add_row(
            f"{words} ({field})",
            str(current["defaults"][field] if own is None else own),
            "for all datasets" if own is None else f"for {escape(name)} alone",
        )
    console.print(rows)


def _changes(version: Version) -> str:
    counts = {"added": version["added"], "removed": version["removed"], "changed": version["changed"]}
    parts = [f"[{style}]{sign}{counts[kind]}[/{style}]" for kind, sign, style in KINDS if counts[kind]]
    return " ".join(parts) or "-"


def _number(value: int | None, prefix: str = "") -> str:
    return "-" if value is None else f"{prefix}{value}"


def _short_time(text: str | None) -> str:
    # Without its year and seconds: the rows fit 80 columns.
    return local_time(parsed_time(text))[5:16] if text else "-"
