"""What the commands print: one JSON document for machines, or text that fits a terminal of 80 columns.

Standard output holds results, standard error holds progress and errors. With `--json`, standard output
holds exactly one JSON document, which is the error's where there is one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from droptune.errors import DroptuneError

INTERRUPTED = 130
STATUS_STYLES = {
    "RUNNING": "cyan",
    "SUCCEEDED": "green",
    "FAILED": "red",
    "TIMED_OUT": "red",
    "ABORTED": "red",
}


class Output:
    """Prints in one of the two forms.

    Args:
        as_json: print JSON documents.
    """

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        # soft_wrap is per call: tables are fitted to the terminal, sentences are left to it.
        self.console = Console(highlight=False)
        self.stderr = Console(stderr=True, highlight=False)

    def document(self, document: Any) -> None:
        """Prints a JSON document."""
        json.dump(document, sys.stdout, indent=2, ensure_ascii=False)
        sys.stdout.write("\n")

    def result(self, document: Any, human: Callable[[Console], None] | None = None) -> None:
        """Prints `document` as JSON, or lets `human`, if there is more to say, print to the console."""
        if self.as_json:
            self.document(document)
        elif human is not None:
            human(self.console)

    def progress(self, line: str) -> None:
        """Prints one line of progress; silent with `--json`."""
        if not self.as_json:
            self.stderr.print(f"[dim]…[/dim] {escape(line)}", soft_wrap=True)

    def error(self, error: DroptuneError) -> None:
        """Prints an error: what, why, and what to do next."""
        if self.as_json:
            self.document(error.document())
            return
        self.stderr.print(f"[bold red]error:[/bold red] {escape(error.message)}", soft_wrap=True)
        if error.why:
            self.stderr.print(f"[bold]why:[/bold] {escape(error.why)}", soft_wrap=True)
        self.stderr.print(f"[bold]next step:[/bold] {escape(error.hint)}", soft_wrap=True)


def exit_code(action: Callable[[], int], output: Output) -> int:
    """Returns what `action` returns, or after printing a foreseeable error that error's exit code.

    Raises:
        Exception: an error that nobody foresaw, with its traceback.
    """
    try:
        return action()
    except DroptuneError as error:
        foreseen = error
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        from droptune.client import translated

        known = translated(error)
        if known is None:
            raise
        foreseen = known
    output.error(foreseen)
    return foreseen.exit_code


def table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """Returns an empty table without a frame; the columns named in `right` are aligned there."""
    result = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        result.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return result


def status_text(status: str, verdict: str | None = None) -> str:
    """Returns a run's status as coloured markup, with its verdict where there is one."""
    word = status.lower().replace("_", " ")
    if verdict and status == "SUCCEEDED":
        word = verdict
    style = "yellow" if verdict == "rejected" else STATUS_STYLES.get(status, "white")
    return f"[{style}]{word}[/{style}]"


def percent(value: float | None) -> str:
    """Returns a fraction of 0 to 1 as a percentage with one decimal, `-` for none."""
    return "-" if value is None else f"{value:.1%}"


def parsed_time(text: str | None) -> datetime | None:
    """Returns an ISO 8601 time in UTC; a time without a zone is taken as UTC."""
    if not text:
        return None
    time = datetime.fromisoformat(text)
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


def local_time(time: datetime | None) -> str:
    """Returns a time in the machine's own zone, to the second."""
    return "-" if time is None else time.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def duration(seconds: float | None) -> str:
    """Returns seconds as `m:ss` or `h:mm:ss`, `-` for none."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
