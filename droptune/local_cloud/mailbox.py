"""The local mailbox: an SMTP server that keeps every mail in a Maildir, and the reader of that Maildir.

Run as `python -m droptune.local_cloud.mailbox --directory MAILDIR --port PORT`. It listens on 127.0.0.1
only, prints one line once it accepts mail, and ends with 0 on SIGTERM or SIGINT. A mail is acknowledged
after it is on disk (Maildir's `tmp` to `new` rename), so a killed mailbox loses no acknowledged mail.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from email.utils import parsedate_to_datetime
from pathlib import Path

HOST = "127.0.0.1"
# SESv2 accepts messages of up to 40 MB: https://docs.aws.amazon.com/ses/latest/dg/quotas.html
MAX_MESSAGE_BYTES = 40 * 1024 * 1024


@dataclass(frozen=True)
class Message:
    """One mail of the mailbox.

    `text` and `html` are the decoded bodies, empty where the mail has no such part. `date` is the mail's
    own date, or the time of its arrival where it has none; always in UTC.
    """

    path: Path
    subject: str
    sender: str
    recipients: tuple[str, ...]
    date: datetime
    text: str
    html: str


def default_directory(home: Path) -> Path:
    """Returns the Maildir of the local cloud whose state lies in `home`."""
    return home / "mail"


def messages(directory: Path) -> list[Message]:
    """Returns the mails of a Maildir, newest arrival first; none if the directory does not exist."""
    files = [path for part in ("new", "cur") for path in (directory / part).glob("*") if path.is_file()]
    # A Maildir name begins with the time of delivery and holds a counter, which orders the mails of
    # one clock tick.
    files.sort(key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)
    return [_read(path) for path in files]


def _read(path: Path) -> Message:
    mail = message_from_bytes(path.read_bytes(), policy=policy.default)
    return Message(
        path=path,
        subject=_header(mail, "Subject"),
        sender=_header(mail, "From"),
        recipients=tuple(part.strip() for part in _header(mail, "To").split(",") if part.strip()),
        date=_date(mail, path),
        text=_body(mail, "plain"),
        html=_body(mail, "html"),
    )


def _header(mail: EmailMessage, name: str) -> str:
    # A folded header may keep its line break when its encoding is broken.
    return " ".join(str(mail[name] or "").split())


def _date(mail: EmailMessage, path: Path) -> datetime:
    try:
        date = parsedate_to_datetime(_header(mail, "Date"))
    except ValueError:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    # "-0000" says UTC with an unknown local zone (RFC 5322, 3.3) and is parsed as a naive time.
    return date.astimezone(UTC) if date.tzinfo else date.replace(tzinfo=UTC)


def _body(mail: EmailMessage, kind: str) -> str:
    part = mail.get_body(preferencelist=(kind,))
    if part is None:
        return ""
    try:
        # SMTP's line ends survive inside a base64 part.
        return str(part.get_content()).replace("\r\n", "\n")
    except LookupError:  # a charset that Python does not know
        payload = part.get_payload(decode=True)
        return payload.decode("utf-8", "replace") if isinstance(payload, bytes) else str(payload)


async def serve(directory: Path, port: int) -> None:
    """Receives mail on 127.0.0.1:`port` (0: any free one) into `directory` until SIGTERM or SIGINT.

    Raises:
        OSError: the port is taken or the directory cannot be written.
    """
    from aiosmtpd.handlers import Mailbox
    from aiosmtpd.smtp import SMTP

    directory.parent.mkdir(parents=True, exist_ok=True)
    handler = Mailbox(directory)
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopped.set)
    server = await loop.create_server(
        lambda: SMTP(
            handler,
            data_size_limit=MAX_MESSAGE_BYTES,
            enable_SMTPUTF8=True,
            hostname="droptune.localhost",
            ident="droptune mailbox",
        ),
        host=HOST,
        port=port,
    )
    bound = server.sockets[0].getsockname()[1]
    print(f"mailbox listens on {HOST}:{bound}", flush=True)
    await stopped.wait()
    # Not wait_closed(): since Python 3.12 it waits for clients that may never hang up.
    server.close()


def main(arguments: list[str] | None = None) -> int:
    """Runs the SMTP server; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m droptune.local_cloud.mailbox", description=__doc__)
    parser.add_argument("--directory", type=Path, required=True, help="the Maildir; made if absent")
    parser.add_argument("--port", type=int, required=True, help="the TCP port on 127.0.0.1; 0 takes a free one")
    options = parser.parse_args(arguments)
    try:
        asyncio.run(serve(options.directory, options.port))
    except OSError as error:
        print(
            f"mailbox cannot start on {HOST}:{options.port} with {options.directory}: {error}",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
