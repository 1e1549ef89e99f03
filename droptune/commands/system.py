"""`up`, `down`, `status`, `env`: the local cloud itself."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape

from droptune.cli_output import Output, table
from droptune.errors import NotRunning

if TYPE_CHECKING:
    from droptune.local_cloud.lifecycle import Status


def up(home: Path, output: Output, *, backbone: str | None, quiet_seconds: int | None, port: int | None) -> None:
    """Starts the local cloud and prints its addresses."""
    from droptune.local_cloud.lifecycle import LocalCloud

    cloud = LocalCloud(home)
    cloud.up(backbone=backbone, quiet_seconds=quiet_seconds, port=port, on_progress=output.progress)
    state = cloud.status()

    def human(console: Console) -> None:
        _print_addresses(console, state)
        console.print("\nNext: [bold]droptune drop[/bold] FOLDER --wait", soft_wrap=True)

    output.result(asdict(state), human)


def down(home: Path, output: Output) -> None:
    """Ends the local cloud's processes."""
    from droptune.local_cloud.lifecycle import LocalCloud

    LocalCloud(home).down(on_progress=output.progress)
    output.result(
        {"running": False, "home": str(home)},
        lambda console: console.print(
            f"Down. The state stays in {escape(str(home))}; `droptune up` goes on from there.", soft_wrap=True
        ),
    )


def status(home: Path, output: Output) -> None:
    """Prints what runs.

    Raises:
        typer.Exit: with 3 if the local cloud is not, or not wholly, running.
    """
    from droptune.local_cloud.lifecycle import LocalCloud

    state = LocalCloud(home).status()

    def human(console: Console) -> None:
        services = table("service", "state", "pid", "port", right=("pid", "port"))
        for service in state.services:
            word = "down" if service.pid is None else "up" if service.healthy else "no answer"
            style = "green" if service.healthy else "red"
            services.add_row(service.name, f"[{style}]{word}[/{style}]", str(service.pid or "-"), str(service.port))
        if state.services:
            console.print(services)
            console.print()
        _print_addresses(console, state)
        if state.dead_letters:
            console.print(
                f"\n[red]{state.dead_letters} events of uploads could not be handled.[/red] "
                "Look at them with [bold]droptune redrive --dry-run[/bold].",
                soft_wrap=True,
            )
        if not state.running:
            console.print("\nStart it with [bold]droptune up[/bold].")

    output.result(asdict(state), human)
    if not state.running:
        raise typer.Exit(NotRunning.exit_code)


def env(home: Path, output: Output) -> None:
    """Prints the environment of the local cloud as shell commands.

    Raises:
        NotRunning: there is none.
    """
    from droptune.local_cloud.lifecycle import LocalCloud

    environment = LocalCloud(home).environment()
    if output.as_json:
        output.document(environment)
        return
    for name, value in environment.items():
        # Not rich's console, which would wrap and style what a shell reads.
        typer.echo(f"export {name}={shlex.quote(value)}")


def _print_addresses(console: Console, state: Status) -> None:
    facts = table("", "")
    facts.show_header = False
    word = "[green]running[/green]" if state.running else "[red]not running[/red]"
    facts.add_row("local cloud", word)
    facts.add_row("state", escape(state.home))
    for name, value in (
        ("AWS endpoint", state.endpoint_url),
        ("API", state.api_url),
        ("console", state.api_url and f"{state.api_url}/"),
        ("bucket", state.bucket),
        ("backbone", state.backbone),
    ):
        if value is not None:
            facts.add_row(name, escape(value))
    console.print(facts)
