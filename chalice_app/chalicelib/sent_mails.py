"""``GET /runs/{id}/mail``: the mail of a run, kept beside its results.

A mail that does not arrive, or that nobody was named for, can still be read.
"""

import json
from typing import Any

from chalicelib import names, runs, storage, times
from chalicelib.errors import NotFound


def keep(run: dict[str, Any], mail: dict[str, str]) -> None:
    """Write the mail of a run into the bucket.

    Args:
        run: as in `notifications.write_mail`.
        mail: ``{"subject", "text", "html"}``.
    """
    document = {
        "run": run["run"],
        "written_at": times.to_text(times.now()),
        "from": run["config"]["mail"]["from"],
        "to": run["config"]["mail"]["to"],
        **mail,
    }
    storage.write(names.mail_key(run["dataset"], run["run"]), json.dumps(document, ensure_ascii=False))


def read(run: str) -> dict[str, Any]:
    """The mail of a run. Raises UnknownRun, or NotFound before there is one."""
    record = runs.require_run(run)
    body = storage.read(names.mail_key(record["dataset"], run))
    if body is None:
        raise NotFound(
            f"No mail was written about run '{run}'.",
            "A mail is written when a run ends, if the stack has a sender and receivers (MailFrom, MailTo).",
        )
    document: dict[str, Any] = json.loads(body)
    return document
