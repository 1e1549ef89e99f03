"""The `droptune` command: its words, options and exit codes.

Each command lives in `droptune.commands` and is imported when it is called, so that `--help` does not wait
for the AWS clients.

Exit codes: 0 it worked; 1 the run or the operation failed; 2 the arguments cannot be used; 3 the local cloud
is not running; 4 the named run, model or mail does not exist; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from typer.main import get_command

from droptune.cli_output import Output, exit_code
from droptune.errors import UsageError

DEFAULT_HOME = "~/.droptune"
SYSTEM, DATA, RESULTS = "The system", "Images in", "Results out"

app = typer.Typer(
    name="droptune",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=(
        "[bold]Start here:[/bold] droptune up, then droptune drop my-photos --wait, then "
        "droptune predict photo.jpg.\n\n"
        "[bold]Exit codes:[/bold] 0 it worked · 1 the run or the operation failed · 2 wrong arguments · "
        "3 not running · 4 no such run, model or mail · 130 interrupted."
    ),
)


@dataclass(frozen=True)
class Settings:
    """The global options, as they were given before the command."""

    state_dir: Path | None
    as_json: bool


StateDir = Annotated[
    Path | None,
    typer.Option(
        "--state-dir",
        metavar="DIR",
        help=f"Where the local cloud keeps all of its state. Default: $DROPTUNE_HOME or {DEFAULT_HOME}.",
        file_okay=False,
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
RunArgument = Annotated[
    str | None,
    typer.Argument(metavar="[RUN]", help="A run's id, or `latest`.", show_default=False),
]


@app.callback()
def droptune(context: typer.Context, state_dir: StateDir = None, as_json: Json = False) -> None:
    """Drop labelled images into S3 and get back a tuned, explained and deployed classifier, and a mail that
    says so. Everything runs on this machine: no AWS account, no Docker.
    """
    context.obj = Settings(state_dir, as_json)


def _resolve(context: typer.Context, state_dir: Path | None, as_json: bool) -> tuple[Path, Output]:
    """Returns the home directory and the output; an option after the command wins over one before it."""
    before: Settings = context.obj
    home = state_dir or before.state_dir or Path(os.environ.get("DROPTUNE_HOME") or DEFAULT_HOME)
    return home.expanduser(), Output(as_json or before.as_json)


@app.command(rich_help_panel=SYSTEM)
def up(
    context: typer.Context,
    backbone: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The pretrained torchvision network that runs build on. Default: mobilenet_v2.",
            show_default=False,
        ),
    ] = None,
    quiet_seconds: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="SECONDS",
            help="How long a dataset must get no upload before its run seals it. Default: 5.",
            show_default=False,
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65534,
            metavar="PORT",
            help="The port of all AWS services; the API gets the next one. Default: a free one.",
            show_default=False,
        ),
    ] = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Start the local cloud and deploy the stack into it. Twice is harmless."""
    from droptune.commands import system

    home, output = _resolve(context, state_dir, as_json)
    system.up(home, output, backbone=backbone, quiet_seconds=quiet_seconds, port=port)


@app.command(rich_help_panel=SYSTEM)
def down(context: typer.Context, state_dir: StateDir = None, as_json: Json = False) -> None:
    """End every process that `up` started. Uploads, runs and models stay, and serve again after `up`."""
    from droptune.commands import system

    system.down(*_resolve(context, state_dir, as_json))


@app.command(rich_help_panel=SYSTEM)
def status(context: typer.Context, state_dir: StateDir = None, as_json: Json = False) -> None:
    """Show what runs and where: processes, ports, addresses. Exits with 3 if the local cloud is down."""
    from droptune.commands import system

    system.status(*_resolve(context, state_dir, as_json))


@app.command(rich_help_panel=SYSTEM)
def env(context: typer.Context, state_dir: StateDir = None, as_json: Json = False) -> None:
    """Print the environment for any AWS client, as shell commands: `eval "$(droptune env)"`."""
    from droptune.commands import system

    system.env(*_resolve(context, state_dir, as_json))


@app.command(rich_help_panel=DATA)
def drop(
    context: typer.Context,
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="A folder with one folder of images per class (or train/, valid/ and test/ folders of "
            "such), or a .zip, .tar, .tar.gz or .tgz file of it.",
            show_default=False,
        ),
    ],
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The dataset to add the images to. Default: the name of the folder or file.",
            show_default=False,
        ),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow the run these images start; exit with its result.")
    ] = False,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Upload images. That alone starts a run: check, tune, train, test, deploy, mail."""
    from droptune.commands.drop import drop as command

    command(*_resolve(context, state_dir, as_json), path=path, dataset=dataset, wait=wait)


@app.command(rich_help_panel=DATA)
def watch(
    context: typer.Context,
    run: RunArgument = None,
    dataset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only runs of this dataset.", show_default=False)
    ] = None,
    next_run: Annotated[bool, typer.Option("--next", help="Wait for a run that has not started yet.")] = False,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Show a run live until it ends. Default: the newest. Exits with 1 if the run failed."""
    from droptune.commands.runs import watch as command

    command(*_resolve(context, state_dir, as_json), run=run, dataset=dataset, next_run=next_run)


@app.command(rich_help_panel=DATA)
def runs(
    context: typer.Context,
    dataset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only runs of this dataset.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, metavar="N", help="At most this many.")] = 20,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """List the runs, newest first: status, versions, accuracy on the test images."""
    from droptune.commands.runs import runs as command

    command(*_resolve(context, state_dir, as_json), dataset=dataset, limit=limit)


@app.command(rich_help_panel=RESULTS)
def predict(
    context: typer.Context,
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE...", help="JPEG, PNG or WebP files.", show_default=False)
    ],
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Whose live model to ask. Default: the only dataset that has one.",
            show_default=False,
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, max=1000, metavar="N", help="How many labels per image.")] = 3,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Classify images with a live model, over HTTP. Exits with 1 if one of them could not be classified."""
    from droptune.commands.predict import predict as command

    command(*_resolve(context, state_dir, as_json), images=images, dataset=dataset, top=top)


@app.command(rich_help_panel=RESULTS)
def mail(
    context: typer.Context,
    number: Annotated[
        int | None,
        typer.Argument(metavar="[N]", min=1, help="Print mail N; 1 is the newest.", show_default=False),
    ] = None,
    last: Annotated[bool, typer.Option("--last", help="Print the newest mail: the same as `mail 1`.")] = False,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """List the mails that runs have sent, newest first, or print one."""
    from droptune.commands.mail import mail as command

    command(*_resolve(context, state_dir, as_json), number=1 if last else number)


@app.command(rich_help_panel=RESULTS)
def report(
    context: typer.Context,
    run: RunArgument = None,
    to: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where to put it. Default: reports/RUN.html in the state directory.",
            show_default=False,
        ),
    ] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Fetch a run's report, one HTML page, and print where it is. Default: the newest run."""
    from droptune.commands.runs import report as command

    command(*_resolve(context, state_dir, as_json), run=run, to=to, open_it=open_it)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # A parse error comes before there are parsed options.
    output = Output("--json" in arguments)

    def command() -> int:
        try:
            code = get_command(app).main(arguments, prog_name="droptune", standalone_mode=False)
        except typer.TyperException as error:
            context = getattr(error, "ctx", None)
            path = context.command_path if context else "droptune"
            raise UsageError(error.format_message(), hint=f"Try `{path} --help`.") from error
        return code if isinstance(code, int) else 0

    return exit_code(command, output)


if __name__ == "__main__":
    sys.exit(main())
