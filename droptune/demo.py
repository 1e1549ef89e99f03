"""The whole way once: from example photos to a live classifier and a mail. Called by `make demo`.

It starts the local cloud, drops the example photos but one of each class, follows the run, and asks the live
model about the photos it has never seen. The system stays up. A second demo finds the data unchanged, trains
nothing and asks the model that serves.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shlex
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from droptune.cli_options import DEFAULT_HOME
from droptune.cli_output import Output, duration, exit_code, percent, table
from droptune.cli_watch import show
from droptune.client import Cloud
from droptune.commands.drop import Plan, planned, print_counts, upload
from droptune.commands.mail import show as show_mail
from droptune.commands.predict import predicted
from droptune.errors import OperationFailed
from droptune.local_cloud.mailbox import Message, default_directory, messages
from droptune.watching import RunView, covering_run, follow

DATASET = "tuxpaint-photos"
PHOTOS = Path(__file__).parents[1] / "examples" / DATASET
MAIL_SECONDS = 15.0


def demo(home: Path, output: Output, photos: Path = PHOTOS) -> int:
    """Runs the demo and returns its exit code: 0 if the run ended well and the live model answered.

    Raises:
        DroptuneError: the system did not start, or one of the steps failed.
    """
    from droptune.local_cloud.lifecycle import LocalCloud

    console = output.console
    _heading(console, "1. The local cloud")
    local = LocalCloud(home)
    local.up(on_progress=output.progress)
    environment = local.environment()
    with Cloud(environment) as cloud:
        console.print(f"AWS endpoint {environment['AWS_ENDPOINT_URL']}, API {cloud.api_url}", soft_wrap=True)
        return _from_photos_to_mail(cloud, home, output, photos)


def _from_photos_to_mail(cloud: Cloud, home: Path, output: Output, photos: Path) -> int:
    console = output.console
    _heading(console, "2. Drop the photos")
    plan, held_out = split(planned(photos, DATASET))
    mails_before = len(messages(default_directory(home)))
    began = time.monotonic()
    uploaded_at = upload(cloud, plan, output)
    print_counts(console, plan)
    console.print(f"One photo of each class ({len(held_out)}) stays here: the model never sees it.", soft_wrap=True)

    _heading(console, "3. The run")
    run = covering_run(cloud, DATASET, uploaded_at)
    view = show(follow(cloud, run["id"]), output)
    if not view.succeeded:
        console.print(f"\nIts mail says more: {_program()}{_option(home)} mail --last", soft_wrap=True)
        return OperationFailed.exit_code
    console.print(f"\nFrom the drop to here: {duration(time.monotonic() - began)}.")

    _heading(console, "4. Photos it has never seen, through the API")
    right = predict_held_out(cloud, console, held_out)
    console.print(
        f"\n{right} of {len(held_out)} right. Small classes weigh as much as large ones here; "
        "the accuracy on the run's own test images is the fairer measure.",
        soft_wrap=True,
    )

    _heading(console, "5. The mail")
    mail = _mail_of(view, home, mails_before)
    if mail is None:
        console.print("Nothing was trained, and the mailbox is empty.")
    else:
        show_mail(console, mail)

    _heading(console, "How to go on")
    _print_next_steps(console, home, cloud, view, next(iter(held_out.values())))
    return 0


def split(plan: Plan) -> tuple[Plan, dict[str, Path]]:
    """Returns the plan without one photo of each class, and those photos by class.

    The photo with the smallest SHA-256 is taken: a choice that is always the same and that nobody made.
    """
    held_out: dict[str, Path] = {}
    for path in sorted(plan.files.values(), key=lambda path: hashlib.sha256(path.read_bytes()).digest()):
        held_out.setdefault(path.parent.name, path)
    kept = {name: path for name, path in plan.files.items() if path not in held_out.values()}
    return replace(plan, files=kept), dict(sorted(held_out.items()))


def predict_held_out(cloud: Cloud, console: Console, held_out: dict[str, Path]) -> int:
    """Asks the live model about each photo, prints its answers, and returns how many are right.

    Raises:
        OperationFailed: a photo got no answer.
    """
    rows = table("photo", "is", "predicted", "score", "model", right=("score",))
    name = rows.columns[0]
    name.no_wrap, name.overflow, name.max_width = True, "ellipsis", 32
    right = 0
    for label, path in held_out.items():
        result = predicted(cloud, DATASET, path, top=1)
        if "error" in result:
            error = result["error"]
            raise OperationFailed(error["message"], hint=error["hint"], code=error["code"])
        best = result["predictions"][0]
        right += best["label"] == label
        mark = "[green]✓[/green]" if best["label"] == label else "[red]✗[/red]"
        rows.add_row(
            escape(path.name),
            label,
            f"{mark} {escape(best['label'])}",
            percent(best["score"]),
            f"v{result['model_version']}",
        )
    console.print(rows)
    return right


def _mail_of(view: RunView, home: Path, mails_before: int) -> Message | None:
    """Returns the mail about a run, or the newest there is if the run had nothing to do.

    Raises:
        OperationFailed: no mail came. It is on its way when the run ends, so it may take a moment.
    """
    deadline = time.monotonic() + MAIL_SECONDS
    while True:
        found = messages(default_directory(home))
        if len(found) > mails_before:
            return found[0]
        if view.run["verdict"] == "unchanged":
            return next(iter(found), None)
        if time.monotonic() > deadline:
            raise OperationFailed(
                f"No mail about run {view.run['id']} arrived within {MAIL_SECONDS:.0f} seconds.",
                hint=f"See the mailbox's state with `{_program()}{_option(home)} status`.",
                code="NoMail",
            )
        time.sleep(0.2)


def _print_next_steps(console: Console, home: Path, cloud: Cloud, view: RunView, photo: Path) -> None:
    droptune = f"{_program()}{_option(home)}"
    predict_url = f"{cloud.api_url}/predict/{DATASET}"
    for what, command in (
        ("your own photos", f"{droptune} drop FOLDER --wait"),
        ("predict", f"{droptune} predict {shlex.quote(_short(photo))}"),
        ("the same over HTTP", f"curl -H 'Content-Type: image/jpeg' --data-binary @{_short(photo)} {predict_url}"),
        ("all of it in a browser", f"{cloud.api_url}/"),
        ("the report", f"{droptune} report {view.run['id']} --open"),
        ("all runs", f"{droptune} runs"),
        ("any AWS client", f'eval "$({droptune} env)" && aws s3 ls'),
        ("stop", f"{droptune} down"),
    ):
        console.print(f"[dim]{what}[/dim]")
        # One line each, to be copied whole.
        console.print(f"  {command}", markup=False, soft_wrap=True)
    console.print("\nThe system stays up until you stop it; its state outlives that.", soft_wrap=True)


def _program() -> str:
    """Returns how to call the command from here: by its name if the shell finds it, else by its path."""
    here = Path(sys.executable).with_name("droptune")
    found = shutil.which("droptune")
    return "droptune" if found and Path(found).resolve() == here.resolve() else _short(here)


def _option(home: Path) -> str:
    default = home == Path(os.environ.get("DROPTUNE_HOME") or DEFAULT_HOME).expanduser()
    return "" if default else f" --state-dir {shlex.quote(str(home))}"


def _short(path: Path) -> str:
    """Returns a path as it is said from the current folder, if it lies below it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _heading(console: Console, text: str) -> None:
    console.print(f"\n[bold cyan]{text}[/bold cyan]")


def main(arguments: list[str] | None = None) -> int:
    """Runs the demo from the command line and returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m droptune.demo", description=__doc__)
    default = os.environ.get("DROPTUNE_HOME") or DEFAULT_HOME
    parser.add_argument("--state-dir", type=Path, default=Path(default), help=f"default: {default}")
    home: Path = parser.parse_args(arguments).state_dir.expanduser()
    output = Output(as_json=False)
    return exit_code(lambda: demo(home, output), output)


if __name__ == "__main__":
    sys.exit(main())
