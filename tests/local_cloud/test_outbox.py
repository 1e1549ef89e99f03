"""Mails on their way to the mailbox, with a real SMTP server at the other end."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller

from droptune.local_cloud.outbox import Outbox
from tests.end_to_end.conftest import free_port_pair

MESSAGE = "Subject: hello\n\nline\n"


class Handler:
    """Answers each recipient as `answers` says, and keeps what it is sent."""

    def __init__(self) -> None:
        self.answers: dict[str, str] = {}
        self.received: list[tuple[str, list[str], bytes]] = []

    async def handle_RCPT(self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any) -> str:  # noqa: N802 (aiosmtpd's name)
        envelope.rcpt_tos.append(address)
        return self.answers.get(address, "250 OK")

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 (aiosmtpd's name)
        self.received.append((envelope.mail_from, envelope.rcpt_tos, envelope.content))
        return "250 OK"


@pytest.fixture
def server() -> Iterator[tuple[Handler, int]]:
    handler, port = Handler(), free_port_pair()
    controller = Controller(handler, hostname="127.0.0.1", port=port)
    controller.start()
    yield handler, port
    controller.stop()


def test_mails_go_in_the_order_in_which_they_came(server: tuple[Handler, int], tmp_path: Path) -> None:
    # GIVEN two mails, and a process that ends before they are sent
    handler, port = server
    for number in (1, 2):
        Outbox(tmp_path, port).add("a@x.test", [f"{number}@x.test"], MESSAGE)
    # WHEN the next one sends what waits
    Outbox(tmp_path, port).send_all()
    # THEN both arrive, and nothing waits
    assert handler.received == [("a@x.test", [f"{n}@x.test"], b"Subject: hello\r\n\r\nline\r\n") for n in (1, 2)]
    assert list(tmp_path.iterdir()) == []


def test_a_mail_that_is_to_come_again_later_waits(server: tuple[Handler, int], tmp_path: Path) -> None:
    # GIVEN a server that asks to come back
    handler, port = server
    handler.answers["busy@x.test"] = "451 later"
    outbox = Outbox(tmp_path, port)
    outbox.add("a@x.test", ["busy@x.test"], MESSAGE)
    # WHEN the mail is offered
    with pytest.raises(OSError, match="later"):
        outbox.send_all()
    # THEN it waits, and goes when the server takes it
    handler.answers.clear()
    outbox.send_all()
    assert [recipients for _, recipients, _ in handler.received] == [["busy@x.test"]]


@pytest.mark.parametrize(("recipient", "message"), [("nobody@x.test", MESSAGE), ("owner@x.test", "Subject: ü\n\n")])
def test_a_mail_that_can_never_go_holds_up_no_other(
    server: tuple[Handler, int], tmp_path: Path, recipient: str, message: str
) -> None:
    # GIVEN a mail that is refused for good, or is no mail at all, before another
    handler, port = server
    handler.answers["nobody@x.test"] = "550 unknown"
    outbox = Outbox(tmp_path, port)
    outbox.add("a@x.test", [recipient], message)
    outbox.add("a@x.test", ["next@x.test"], MESSAGE)
    # WHEN they are sent
    outbox.send_all()
    # THEN the other one arrives, and the first is kept for a person to look at
    assert [recipients for _, recipients, _ in handler.received] == [["next@x.test"]]
    (kept,) = tmp_path.iterdir()
    assert kept.suffix == ".refused"
    assert recipient in kept.read_text()
