"""The mailbox: a real SMTP client sends, the reader reads."""

from __future__ import annotations

import os
import signal
import smtplib
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path

import pytest

from droptune.local_cloud.mailbox import messages


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "state" / "mail"


@pytest.fixture
def server(directory: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    command = [
        sys.executable,
        "-m",
        "droptune.local_cloud.mailbox",
        "--directory",
        str(directory),
        "--port",
        "0",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1]
        yield process, int(address.rpartition(":")[2])
        process.kill()


def mail(subject: str, text: str = "", html: str = "") -> EmailMessage:
    message = EmailMessage()
    message["Subject"] = subject
    message["From"] = "droptune@example.com"
    message["To"] = "owner@example.com, second@example.com"
    if text:
        message.set_content(text)
    if html and text:
        message.add_alternative(html, subtype="html")
    elif html:
        message.set_content(html, subtype="html")
    return message


def test_mails_are_kept_word_for_word_and_listed_newest_first(
    server: tuple[subprocess.Popen[str], int], directory: Path
) -> None:
    # GIVEN two mails, one with awkward text
    _, port = server
    text = "Zürich\n.a line that begins with a dot\nFrom the start\n"
    with smtplib.SMTP("127.0.0.1", port) as client:
        for message in (
            mail("first: größer", text, "<p>Zürich</p>"),
            mail("second", html="<p>only HTML</p>"),
        ):
            # Not send_message(): it writes "From " at the start of a line as ">From ".
            client.sendmail(message["From"], ["owner@example.com"], message.as_bytes(policy=SMTP))

    # WHEN they are read
    newest, oldest = messages(directory)

    # THEN both parts come back as they were sent
    assert (oldest.subject, oldest.text, oldest.html) == ("first: größer", text, "<p>Zürich</p>\n")
    assert oldest.sender == "droptune@example.com"
    assert oldest.recipients == ("owner@example.com", "second@example.com")
    assert (newest.subject, newest.text, newest.html) == ("second", "", "<p>only HTML</p>\n")
    assert newest.path.is_file()


def test_it_listens_on_the_loopback_address_only(server: tuple[subprocess.Popen[str], int]) -> None:
    import psutil

    # GIVEN a running mailbox
    process, port = server

    # WHEN its sockets are listed
    addresses = {c.laddr for c in psutil.Process(process.pid).net_connections() if c.status == "LISTEN"}

    # THEN there is this one
    assert addresses == {("127.0.0.1", port)}


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_ends_it_with_0_even_with_an_open_connection(
    server: tuple[subprocess.Popen[str], int], name: signal.Signals
) -> None:
    # GIVEN a mailbox with a client that does not hang up
    process, port = server
    with smtplib.SMTP("127.0.0.1", port) as client:
        client.noop()

        # WHEN it is told to stop
        os.kill(process.pid, name)

        # THEN it ends well
        assert process.wait(timeout=30) == 0
        client.close()


def test_a_taken_port_is_an_error_with_the_cause(server: tuple[subprocess.Popen[str], int], directory: Path) -> None:
    # GIVEN a port in use
    _, port = server

    # WHEN a second mailbox wants it
    command = [sys.executable, "-m", "droptune.local_cloud.mailbox", "--directory", str(directory)]
    second = subprocess.run([*command, "--port", str(port)], capture_output=True, text=True, check=False)

    # THEN it says so
    assert second.returncode == 1
    assert f"127.0.0.1:{port}" in second.stderr
    assert "address already in use" in second.stderr.lower()
    assert "Traceback" not in second.stderr


def test_no_directory_is_no_mail(tmp_path: Path) -> None:
    assert messages(tmp_path / "absent") == []


@pytest.mark.parametrize(
    ("raw", "text", "date"),
    [
        (
            b"Subject: x\nDate: Sun, 22 Nov 2026 15:39:12 +0100\n\nbody\n",
            "body\n",
            datetime(2026, 11, 22, 14, 39, 12, tzinfo=UTC),
        ),
        (
            b"Subject: x\nDate: Sun, 22 Nov 2026 14:39:12 -0000\n\nbody\n",
            "body\n",
            datetime(2026, 11, 22, 14, 39, 12, tzinfo=UTC),
        ),
        (b"Subject: x\nDate: yesterday\n\nbody\n", "body\n", datetime(2026, 1, 1, tzinfo=UTC)),
        (b"Subject: x\n\nbody\n", "body\n", datetime(2026, 1, 1, tzinfo=UTC)),
        (
            b"Content-Type: text/plain; charset=x-unknown\n\nf\xc3\xbcr\n",
            "für\n",
            datetime(2026, 1, 1, tzinfo=UTC),
        ),
    ],
    ids=["zone", "unknown zone", "bad date", "no date", "unknown charset"],
)
def test_odd_mails_are_readable(directory: Path, raw: bytes, text: str, date: datetime) -> None:
    # GIVEN a mail of another program, which arrived at the turn of the year
    path = directory / "new" / "1.odd"
    path.parent.mkdir(parents=True)
    path.write_bytes(raw)
    arrival = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    os.utime(path, (arrival, arrival))

    # WHEN it is read
    (message,) = messages(directory)

    # THEN text and date are there
    assert (message.text, message.date) == (text, date)
