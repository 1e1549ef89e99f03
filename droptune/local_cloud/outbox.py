"""Keeps each mail that SES has accepted until the mailbox has it.

ministack offers a mail to SMTP once, and forgets it when nobody answers. Here it is a file before SES answers, and
the file goes when SMTP has taken the mail: neither a mailbox nor a gateway that is killed loses one. A kill between
the two brings a mail twice, which is the lesser evil.
"""

import json
import logging
import smtplib
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

logger = logging.getLogger("droptune.outbox")

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 10.0
SMTP_SECONDS = 10.0


class Outbox:
    """Mails on their way, one file each in `directory`, sent to 127.0.0.1:`port` by a thread of its own."""

    def __init__(self, directory: Path, port: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._port = port
        self._waiting = threading.Event()
        # The last life of the gateway may have left some.
        self._waiting.set()

    def start(self) -> None:
        """Begin to send, and go on as long as this process lives."""
        threading.Thread(target=self._run, daemon=True, name="outbox").start()

    def add(self, sender: str, recipients: Sequence[str], message: str) -> None:
        """Keep one mail until it is sent; on return the operating system has it.

        Raises:
            OSError: it cannot be written.
        """
        file = self._directory / f"{time.time_ns()}-{uuid.uuid4().hex[:8]}.json"
        partial = file.with_suffix(".tmp")
        partial.write_text(json.dumps({"sender": sender, "recipients": list(recipients), "message": message}))
        partial.replace(file)
        self._waiting.set()

    def send_all(self) -> None:
        """Send what waits, oldest first.

        Raises:
            OSError: the mailbox does not answer, or asks to try again later.
        """
        for file in sorted(self._directory.glob("*.json")):
            mail = json.loads(file.read_text())
            try:
                with smtplib.SMTP("127.0.0.1", self._port, timeout=SMTP_SECONDS) as connection:
                    connection.sendmail(mail["sender"], mail["recipients"], mail["message"])
            except (smtplib.SMTPResponseException, smtplib.SMTPRecipientsRefused, UnicodeError) as error:
                if not _is_permanent(error):
                    raise
                # It would be refused for ever, and hold up those behind it.
                refused = file.rename(file.with_suffix(".refused"))
                logger.error("the mailbox refuses a mail, which is kept as %s: %r", refused, error)
            else:
                file.unlink()

    def _run(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            self._waiting.wait()
            self._waiting.clear()
            try:
                self.send_all()
                pause = FIRST_PAUSE_SECONDS
            except OSError as error:
                if pause == FIRST_PAUSE_SECONDS:
                    logger.warning("a mail waits until the mailbox takes it: %r", error)
                self._waiting.set()
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def _is_permanent(error: Exception) -> bool:
    # RFC 5321, 4.2.1: 5yz is a permanent refusal, 4yz a transient one.
    match error:
        case smtplib.SMTPRecipientsRefused():
            return all(code >= 500 for code, _ in error.recipients.values())
        case smtplib.SMTPResponseException():
            return error.smtp_code >= 500
        case _:
            return True
