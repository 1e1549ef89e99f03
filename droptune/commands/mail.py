"""`mail`: the local mailbox."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from droptune.cli_output import Output, local_time, table
from droptune.errors import NotFound
from droptune.local_cloud.mailbox import Message, default_directory, messages


def mail(home: Path, output: Output, *, number: int | None) -> None:
    """Lists the mails, newest first, or prints the one with this number (1 is the newest).

    The mailbox is a directory: this works while the local cloud is down.

    Raises:
        NotFound: there is no mail of this number.
    """
    found = messages(default_directory(home))
    if number is None:
        output.result([_document(message) for message in found], lambda console: _list(console, found))
        return
    if number > len(found):
        raise NotFound(
            f"There is no mail {number}.",
            why=f"The mailbox holds {len(found)}.",
            hint="List them with `droptune mail`. A run sends its mail when it ends.",
            code="UnknownMail",
        )
    message = found[number - 1]
    output.result(_document(message), lambda console: show(console, message))


def show(console: Console, message: Message) -> None:
    """Prints one mail as text."""
    for name, value in (
        ("Subject", message.subject),
        ("From", message.sender),
        ("To", ", ".join(message.recipients)),
        ("Date", local_time(message.date)),
    ):
        console.print(f"[bold]{name}:[/bold] {escape(value)}", soft_wrap=True)
    console.print()
    if message.text:
        console.print(message.text.rstrip(), markup=False, soft_wrap=True)
    else:
        console.print(f"This mail has no text part; its HTML is in {message.path}", markup=False, soft_wrap=True)


def _list(console: Console, found: list[Message]) -> None:
    if not found:
        console.print("No mail yet. A run sends one when it ends.")
        return
    rows = table("#", "date", "subject", right=("#",))
    for number, message in enumerate(found, start=1):
        rows.add_row(str(number), local_time(message.date), escape(message.subject))
    console.print(rows)
    console.print("\nRead one with [bold]droptune mail[/bold] N.")


def _document(message: Message) -> dict[str, Any]:
    return {
        "subject": message.subject,
        "from": message.sender,
        "to": list(message.recipients),
        "date": message.date.isoformat(),
        "text": message.text,
        "html_length": len(message.html),
        "path": str(message.path),
    }
