"""Packages the Lambda code and the template: what is deployed on AWS and on the local cloud alike.

`chalice package --merge-template` writes a SAM template from `chalice_app/app.py` and merges
`state_machine/resources.json` into it, with the files `state_machine/*.asl.json` as the state machines' definitions.

The libraries in `chalice_app/requirements.txt` are taken from this machine's environment, where the lock has put
them, and not downloaded again: packaging needs no network, and the zip holds the very files that were tested. They
must be pure Python, since the zip runs on Lambda's Linux whatever this machine is.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from droptune.errors import OperationFailed

ROOT = Path(__file__).resolve().parent.parent
APP = ROOT / "chalice_app"
RESOURCES = ROOT / "state_machine" / "resources.json"
# The template's state machines and their definitions.
DEFINITIONS = {
    "StateMachine": ROOT / "state_machine" / "retrain.asl.json",
    "PredictionsMachine": ROOT / "state_machine" / "predictions.asl.json",
    "ReleasesMachine": ROOT / "state_machine" / "release.asl.json",
}

# The Lambda runtime brings these itself.
PROVIDED_BY_LAMBDA = frozenset({"boto3", "botocore", "s3transfer"})
# The console's own files, the API's description and its page, beside the modules.
FILE_SUFFIXES = frozenset({".css", ".html", ".js", ".json", ".svg"})
HTTP_METHODS = ("delete", "get", "head", "options", "patch", "post", "put")
# zip knows no time before 1980; one fixed time keeps the bytes of an unchanged tree the same.
ZIP_TIME = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Package:
    """What a deployment needs.

    Attributes:
        template: the CloudFormation template (JSON, with the SAM transform); each function's `CodeUri` is
            `./deployment.zip`, to be replaced by where the code was uploaded to.
        code: the zip of all Lambda functions.
        content_hash: SHA-256 (hex) over everything that the package is made from.
    """

    template: Path
    code: Path
    content_hash: str


def package(output_directory: Path) -> Package:
    """Build the package into `output_directory`, unless it is there already and nothing has changed.

    Raises:
        OperationFailed: a required library is missing, differs from its pin or is no pure Python, or Chalice
            refuses the application.
    """
    requirements = _required_distributions(APP / "requirements.txt")
    content_hash = _content_hash(requirements)
    result = Package(output_directory / "sam.json", output_directory / "deployment.zip", content_hash)
    stamp = output_directory / "content-hash"
    if stamp.is_file() and stamp.read_text() == content_hash and result.template.is_file() and result.code.is_file():
        return result
    output_directory.mkdir(parents=True, exist_ok=True)
    # A package that is replaced half-way must not look whole.
    stamp.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="droptune-package-") as scratch:
        app = Path(scratch) / "app"
        for source in _sources():
            target = app / source.relative_to(APP)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        for distribution in requirements:
            _copy_distribution(distribution, app / "vendor")
        merge = Path(scratch) / "resources.json"
        merge.write_text(json.dumps(_resources()))
        built = Path(scratch) / "package"
        _run_chalice(app, merge, built)
        _write_deterministic_zip(built / "deployment.zip", result.code)
        template = json.loads((built / "sam.json").read_text())
        _route_every_request(template["Resources"]["RestAPI"]["Properties"]["DefinitionBody"])
    result.template.write_text(json.dumps(template, indent=1, sort_keys=True) + "\n")
    stamp.write_text(content_hash)
    return result


def _sources() -> list[Path]:
    """Return what Chalice packages; the folder may also hold caches of tools, which must not change the hash."""
    kept = {".py", *FILE_SUFFIXES}
    files = sorted(path for path in (APP / "chalicelib").rglob("*") if path.suffix in kept)
    return [APP / "app.py", APP / ".chalice" / "config.json", *files]


def _resources() -> dict[str, Any]:
    """Return resources.json with the state machines' definitions in their places, byte for byte."""
    resources: dict[str, Any] = json.loads(RESOURCES.read_text())
    for name, definition in DEFINITIONS.items():
        resources["Resources"][name]["Properties"]["DefinitionString"] = definition.read_text()
    return resources


def _route_every_request(definition: dict[str, Any]) -> None:
    """Send every path and method to the API's function.

    API Gateway itself would answer what no route serves with 403 "Missing Authentication Token"; the function answers
    404 or 405 in the API's one error shape.
    """
    paths = definition["paths"]
    integration = paths["/health"]["get"]["x-amazon-apigateway-integration"]
    for path in [*paths, "/", "/{proxy+}"]:
        names = re.findall(r"{(\w+)\+?}", path)
        operation = {
            "responses": {"200": {"description": "200 response"}},
            "parameters": [{"name": name, "in": "path", "required": True, "type": "string"} for name in names],
            "x-amazon-apigateway-integration": integration,
        }
        methods = paths.setdefault(path, {})
        for method in HTTP_METHODS:
            methods.setdefault(method, operation)


def _run_chalice(app: Path, merge: Path, output: Path) -> None:
    # Chalice asks for a region before it does anything; the template names none. It makes no call, but stumbles over a
    # profile of the user's shell that does not exist.
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "PYTHON"))}
    environment = inherited | {
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        # Bytecode names the time of its source: it would make each zip another.
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-c", "import sys; from chalice.cli import main; sys.exit(main())", "package"]
    options = ["--pkg-format", "cloudformation", "--template-format", "json", "--merge-template", str(merge)]
    done = subprocess.run([*command, *options, str(output)], cwd=app, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise OperationFailed(
            "The Lambda code could not be packaged.",
            why=(done.stderr or done.stdout).strip()[-2000:],
            hint="Mend chalice_app/ and try again; `chalice package` in that folder shows the same error.",
            code="PackagingFailed",
        )


def _required_distributions(requirements: Path) -> list[metadata.Distribution]:
    """Return the pinned distributions and all that they need, sorted by name, from this environment."""
    found: dict[str, metadata.Distribution] = {}
    lines = [line.partition("#")[0].strip() for line in requirements.read_text().splitlines()]
    pins = dict(line.split("==") for line in lines if line)
    waiting = sorted(pins)
    while waiting:
        name = waiting.pop()
        if name in found or name in PROVIDED_BY_LAMBDA:
            continue
        distribution = _installed(name)
        if name in pins and distribution.version != pins[name]:
            raise OperationFailed(
                f"{name} {distribution.version} is installed, but the Lambda code needs {pins[name]}.",
                hint="Run `make clean` and `make demo` to install what the lock says.",
                code="PackagingFailed",
            )
        found[name] = distribution
        # A requirement with "extra ==" belongs to an optional part that the code does not use.
        needed = [line for line in distribution.requires or [] if "extra ==" not in line]
        waiting += [re.split(r"[\s<>=!~;\[(]", line, maxsplit=1)[0].lower().replace("_", "-") for line in needed]
    return [found[name] for name in sorted(found)]


def _installed(name: str) -> metadata.Distribution:
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError as error:
        raise OperationFailed(
            f"{name} is needed by the Lambda code, but is not installed.",
            hint="Run `make clean` and `make demo` to install what the lock says.",
            code="PackagingFailed",
        ) from error
    if "Root-Is-Purelib: true" not in (distribution.read_text("WHEEL") or ""):
        raise OperationFailed(
            f"{name} holds compiled code for this machine, which Lambda cannot run.",
            hint="Take it out of chalice_app/requirements.txt, or use a library of pure Python.",
            code="PackagingFailed",
        )
    return distribution


def _files(distribution: metadata.Distribution) -> list[metadata.PackagePath]:
    """Return the distribution's modules: no scripts (`..`), caches, or records of how it was installed."""
    kept = {"METADATA", "WHEEL", "LICENSE", "entry_points.txt"}
    return sorted(
        file
        for file in distribution.files or []
        if ".." not in file.parts
        and "__pycache__" not in file.parts
        and (not file.parts[0].endswith(".dist-info") or file.name in kept)
    )


def _copy_distribution(distribution: metadata.Distribution, vendor: Path) -> None:
    for file in _files(distribution):
        target = vendor / str(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(str(file.locate()), target)


def _write_deterministic_zip(source: Path, target: Path) -> None:
    """Rewrite Chalice's zip, whose order is the file system's, in sorted order with one time for all."""
    with zipfile.ZipFile(source) as given, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as written:
        for name in sorted(given.namelist()):
            entry = zipfile.ZipInfo(name, ZIP_TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            # Lambda runs the code as another user: readable by all.
            entry.external_attr = 0o644 << 16
            written.writestr(entry, given.read(name))


def _content_hash(requirements: list[metadata.Distribution]) -> str:
    digest = hashlib.sha256()
    for path in [*_sources(), APP / "requirements.txt", RESOURCES, *DEFINITIONS.values(), Path(__file__)]:
        digest.update(f"{path.relative_to(ROOT)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    for distribution in [*requirements, metadata.distribution("chalice")]:
        digest.update(f"{distribution.name}=={distribution.version}\0".encode())
    return digest.hexdigest()
