"""The options and arguments that several commands share."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from droptune.cli_output import Output

DEFAULT_HOME = "~/.droptune"


@dataclass(frozen=True)
class Settings:
    """The global options, as they were given before the command."""

    state_dir: Path | None
    as_json: bool


StateDir = Annotated[
    Path | None,
    typer.Option(
        "--state-dir",
        metavar="DIR",
        help=f"Where the local cloud keeps all of its state. Default: $DROPTUNE_HOME or {DEFAULT_HOME}.",
        file_okay=False,
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
RunArgument = Annotated[
    str | None,
    typer.Argument(metavar="[RUN]", help="A run's id, or `latest`.", show_default=False),
]
DatasetArgument = Annotated[str, typer.Argument(metavar="NAME", help="A dataset.", show_default=False)]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until it is live; exit with 1 if it did not prove itself.")]


def resolve(context: typer.Context, state_dir: Path | None, as_json: bool) -> tuple[Path, Output]:
    """Returns the home directory and the output; an option after the command wins over one before it."""
    before: Settings = context.obj
    home = state_dir or before.state_dir or Path(os.environ.get("DROPTUNE_HOME") or DEFAULT_HOME)
    return home.expanduser(), Output(as_json or before.as_json)
