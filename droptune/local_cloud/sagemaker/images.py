"""Which program stands for a container image on this machine."""

import json
from dataclasses import dataclass, field
from pathlib import Path

PROGRAM_DIRECTORY = "/opt/program"


@dataclass(frozen=True)
class Image:
    """A container image's code on this machine.

    `program` is the folder that is `/opt/program` in the container; `train` and `serve` are the
    script and its arguments, relative to `program`; `preload` are the modules that a warm worker
    imports beforehand (none: every job starts a fresh interpreter).
    """

    name: str
    program: Path
    train: tuple[str, ...] = ()
    serve: tuple[str, ...] = ()
    preload: tuple[str, ...] = field(default=())

    def command(self, entry: tuple[str, ...]) -> list[str]:
        """The command line of `train` or `serve`: `["python3", "<program>/train.py", …]`."""
        script, *arguments = entry
        return ["python3", str(self.program / script), *arguments]

    def localized(self, argument: str) -> str:
        """`/opt/program/…` of a container entry point as a path of this machine."""
        if argument == PROGRAM_DIRECTORY or argument.startswith(PROGRAM_DIRECTORY + "/"):
            return str(self.program) + argument[len(PROGRAM_DIRECTORY) :]
        return argument


def repository_name(uri: str) -> str:
    """`droptune-training` of `123.dkr.ecr.us-east-1.amazonaws.com/droptune-training:tag`."""
    return uri.rsplit("/", 1)[-1].split("@", 1)[0].split(":", 1)[0]


def load_images(path: Path) -> dict[str, Image]:
    """Reads `images.json`: `{"<repository>": {"program", "train", "serve", "preload"}}`.

    Raises:
        ValueError: the file does not have this form, or a program's folder is missing.
    """
    try:
        document = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON document: {error}") from error
    images = {}
    for name, entry in document.items():
        if unknown := set(entry) - {"program", "train", "serve", "preload"}:
            raise ValueError(f"{path}: image {name!r} has unknown members {sorted(unknown)}")
        program = Path(entry.get("program", ""))
        if not program.is_absolute() or not program.is_dir():
            raise ValueError(f"{path}: the program of image {name!r} is no absolute folder: {program}")
        images[name] = Image(
            name=name,
            program=program,
            train=tuple(entry.get("train", ())),
            serve=tuple(entry.get("serve", ())),
            preload=tuple(entry.get("preload", ())),
        )
    return images
