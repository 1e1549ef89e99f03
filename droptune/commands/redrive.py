"""`redrive`: events of uploads that could not be handled, and their way back."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from droptune.cli_output import Output, table
from droptune.client import Cloud
from droptune.dead_letters import DeadLetter, DeadLetterQueue
from droptune.errors import OperationFailed

BEGINNING = 80
FAILED_EACH_TIME = "Its handler failed each time; its log says why."


def redrive(home: Path, output: Output, *, dry_run: bool, drop: bool) -> None:
    """Lists the messages of the dead-letter queue and puts back those that may be handled now.

    Args:
        home: the state directory.
        output: where to print.
        dry_run: only list them.
        drop: delete those that can never be handled.

    Raises:
        NotRunning: the local cloud is down.
        OperationFailed: SQS did not take some of them; they stay where they were.
    """
    with Cloud.connect(home) as cloud:
        queue = DeadLetterQueue(cloud.sqs, cloud.outputs["UploadDeadLetterQueueUrl"], cloud.outputs["UploadQueueUrl"])
        letters = queue.receive()
        hopeless = [letter for letter in letters if letter.reason is not None]
        done: list[DeadLetter] = []
        try:
            if not output.as_json:
                _list(output.console, letters)
            if not dry_run:
                done += queue.put_back(letter for letter in letters if letter.reason is None)
            put_back = len(done)
            if drop and not dry_run:
                queue.delete(hopeless)
                done += hopeless
        finally:
            gone = set(done)
            kept = [letter for letter in letters if letter not in gone]
            queue.release(kept)
    dropped = len(done) - put_back
    document = {
        "dead_letters": [
            {
                "key": letter.key,
                "event": letter.event,
                "reason": letter.reason,
                "messages": count,
                "body": letter.body[:BEGINNING],
            }
            for letter, count in _groups(letters)
        ],
        "messages": len(letters),
        "put_back": put_back,
        "dropped": dropped,
        "kept": len(kept),
        "dry_run": dry_run,
    }
    refused = 0 if dry_run else len(letters) - len(hopeless) - put_back
    if refused:
        raise OperationFailed(
            f"{refused} of {len(letters)} messages could not be put back; they stay in the dead-letter queue.",
            hint="Run `droptune redrive` again.",
            code="NotPutBack",
        )
    output.result(document, lambda console: _tell(console, put_back, dropped, len(kept), dry_run, bool(hopeless)))


def _groups(letters: list[DeadLetter]) -> list[tuple[DeadLetter, int]]:
    """One message of each kind with how many there are, the most first."""
    kinds = {_kind(letter): letter for letter in letters}
    counts = Counter(map(_kind, letters))
    return [(kinds[kind], count) for kind, count in counts.most_common()]


def _kind(letter: DeadLetter) -> tuple[str, str | None, str | None]:
    # What names no object is told by its beginning.
    return letter.key or letter.body[:BEGINNING], letter.event, letter.reason


def _list(console: Console, letters: list[DeadLetter]) -> None:
    if not letters:
        console.print("The dead-letter queue is empty: every upload was handled.")
        return
    rows = table("messages", "event", "object", "why", right=("messages",))
    for letter, count in _groups(letters):
        rows.add_row(
            str(count), letter.event or "-", escape(_kind(letter)[0]), escape(letter.reason or FAILED_EACH_TIME)
        )
    console.print(rows)


def _tell(console: Console, put_back: int, dropped: int, kept: int, dry_run: bool, hopeless: bool) -> None:
    if not (put_back or dropped or kept):
        return
    if dry_run:
        console.print(f"\n{kept} in all; nothing was moved. Put them back with [bold]droptune redrive[/bold].")
        return
    console.print(f"\n{put_back} put back, {dropped} dropped, {kept} kept.")
    if kept and hopeless:
        console.print("Those kept can never be handled; delete them with [bold]droptune redrive --drop[/bold].")
