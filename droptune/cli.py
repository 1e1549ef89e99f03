"""The `droptune` command: its words, options and exit codes.

Each command lives in `droptune.commands` and is imported when it is called, so that `--help` does not wait
for the AWS clients.

Exit codes: 0 it worked; 1 the run or the operation failed; 2 the arguments cannot be used; 3 the local cloud
is not running; 4 the named dataset, run,
model or mail does not exist; 130 interrupted.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.main import get_command

from droptune.cli_options import DatasetArgument, Json, RunArgument, Settings, StateDir, Wait, resolve
from droptune.cli_output import Output, exit_code
from droptune.errors import UsageError

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
        "3 not running · 4 no such dataset, run, model or mail · 130 interrupted."
    ),
)


@app.callback()
def droptune(context: typer.Context, state_dir: StateDir = None, as_json: Json = False) -> None:
    """Drop labelled images into S3 and get back a tuned, explained and deployed classifier, and a mail that
    says so. Everything runs on this machine: no AWS account, no Docker.
    """
    context.obj = Settings(state_dir, as_json)


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

    home, output = resolve(context, state_dir, as_json)
    system.up(home, output, backbone=backbone, quiet_seconds=quiet_seconds, port=port)


@app.command(rich_help_panel=SYSTEM)
def down(context: typer.Context, state_dir: StateDir = None, as_json: Json = False) -> None:
    """End every process that `up` started. Uploads, runs and models stay, and serve again after `up`."""
    from droptune.commands import system

    system.down(*resolve(context, state_dir, as_json))


@app.command(rich_help_panel=SYSTEM)
def status(context: typer.Context, state_dir: StateDir = None, as_json: Json = False) -> None:
    """Show what runs and where: processes, ports, addresses. Exits with 3 if the local cloud is down."""
    from droptune.commands import system

    system.status(*resolve(context, state_dir, as_json))


@app.command(rich_help_panel=SYSTEM)
def env(context: typer.Context, state_dir: StateDir = None, as_json: Json = False) -> None:
    """Print the environment for any AWS client, as shell commands: `eval "$(droptune env)"`."""
    from droptune.commands import system

    system.env(*resolve(context, state_dir, as_json))


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

    command(*resolve(context, state_dir, as_json), path=path, dataset=dataset, wait=wait)


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

    command(*resolve(context, state_dir, as_json), run=run, dataset=dataset, next_run=next_run)


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

    command(*resolve(context, state_dir, as_json), dataset=dataset, limit=limit)


@app.command(rich_help_panel=DATA)
def data(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A dataset. Default: list all.", show_default=False)
    ] = None,
    version: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="V",
            help="Show what changed in this version and what is wrong with its images.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, metavar="N", help="At most this many versions.")] = 20,
    open_it: Annotated[
        bool,
        typer.Option(
            "--open", help="Open the data doctor's page, with pictures, in the browser. Default: the newest version's."
        ),
    ] = False,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Show the datasets, a dataset's versions, or a version: what changed, and what the data doctor found."""
    from droptune.commands.data import data as command

    command(*resolve(context, state_dir, as_json), name=name, version=version, limit=limit, open_it=open_it)


@app.command(rich_help_panel=DATA)
def settings(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A dataset.", show_default=False)],
    quiet_seconds: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=7200,
            metavar="SECONDS",
            help="How long no upload must come before a run seals the dataset.",
            show_default=False,
        ),
    ] = None,
    max_wait_seconds: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=7200,
            metavar="SECONDS",
            help="How long uploads that go on and on may keep a run waiting.",
            show_default=False,
        ),
    ] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Go back to what holds for all datasets.")] = False,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Show or change how long a run waits for the uploads of one dataset."""
    from droptune.commands.data import settings as command

    wanted = {"quiet_seconds": quiet_seconds, "max_wait_seconds": max_wait_seconds}
    command(*resolve(context, state_dir, as_json), name=name, wanted=wanted, reset=reset)


@app.command(rich_help_panel=DATA)
def redrive(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List them, and move nothing.")] = False,
    drop: Annotated[bool, typer.Option("--drop", help="Delete for good those that can never be handled.")] = False,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Put back the events of uploads that could not be handled and ended in the dead-letter queue."""
    from droptune.commands.redrive import redrive as command

    command(*resolve(context, state_dir, as_json), dry_run=dry_run, drop=drop)


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

    command(*resolve(context, state_dir, as_json), images=images, dataset=dataset, top=top)


@app.command(rich_help_panel=RESULTS)
def models(
    context: typer.Context,
    dataset: DatasetArgument,
    limit: Annotated[int, typer.Option(min=1, max=100, metavar="N", help="At most this many.")] = 25,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """List a dataset's models, newest first: which is live, which were approved, and how good they are."""
    from droptune.commands.models import models as command

    command(*resolve(context, state_dir, as_json), dataset=dataset, limit=limit)


@app.command(rich_help_panel=RESULTS)
def approve(
    context: typer.Context,
    dataset: DatasetArgument,
    version: Annotated[int, typer.Argument(metavar="VERSION", min=1, help="A model's version.", show_default=False)],
    wait: Wait = False,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Make a model live although it was rejected. It has to prove itself first; else the one before stays."""
    from droptune.commands.models import approve as command

    command(*resolve(context, state_dir, as_json), dataset=dataset, version=version, wait=wait)


@app.command(rich_help_panel=RESULTS)
def rollback(
    context: typer.Context,
    dataset: DatasetArgument,
    version: Annotated[
        int | None,
        typer.Argument(
            metavar="[VERSION]",
            min=1,
            help="A model's version. Default: the approved one before the live one.",
            show_default=False,
        ),
    ] = None,
    wait: Wait = False,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Make an earlier, approved model live again. It has to prove itself first; else the one before stays."""
    from droptune.commands.models import rollback as command

    command(*resolve(context, state_dir, as_json), dataset=dataset, version=version, wait=wait)


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

    command(*resolve(context, state_dir, as_json), number=1 if last else number)


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

    command(*resolve(context, state_dir, as_json), run=run, to=to, open_it=open_it)


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
