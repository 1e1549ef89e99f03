"""Pretrained weights: find the file, check its hash, only then read it.

A `.pth` file carries the start of its SHA-256 in its name, as all of torchvision's do
(`resnet50-11ad3fa6.pth`); a `.safetensors` file lies beside a `.sha256` file. The bytes that were hashed
are the bytes that are read, so nothing can change in between.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import re
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import backbones
import safetensors
import safetensors.torch
import torch
import torchvision
from contract import JobError
from torch import nn

HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.pth$")
TORCHVISION_LICENSE = "BSD-3-Clause"
DOWNLOAD_TIMEOUT_SECONDS = 60
# DenseNet's published files are older than its code: torchvision renames these keys when it loads them
# itself (torchvision.models.densenet).
OLD_DENSENET_KEY = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.((?:[12])\.\w+)$")


@dataclass(frozen=True)
class Weights:
    """A checked weights file: its name, full SHA-256 (hex), licence if known, and tensors by name."""

    file: str
    sha256: str
    license: str | None
    tensors: dict[str, torch.Tensor]

    def described(self) -> dict[str, str | None]:
        return {"file": self.file, "sha256": self.sha256, "license": self.license}


def load(backbone: str, directory: Path) -> Weights:
    """The weights of `backbone` from `directory` (or its folder of that name), else from `WEIGHTS_URL`.

    Raises JobError `WeightsMissing` when neither has a file, and `WeightsCorrupt` when the hash does not
    fit, cannot be known, or the content is no state dict.
    """
    file = _find(backbone, directory)
    if file is not None:
        return _read(backbone, file)
    url = os.environ.get("WEIGHTS_URL", "").strip()
    if not url:
        names = ", ".join(_torchvision_files(backbone)) or "<name>-<hash>.pth"
        raise JobError(
            "WeightsMissing",
            f"There are no pretrained weights for the backbone {backbone!r}.",
            f"Put torchvision's file ({names}) under weights/{backbone}/ in the bucket, "
            "or set WEIGHTS_URL to its address.",
        )
    with tempfile.TemporaryDirectory() as folder:
        return _read(backbone, _fetch(backbone, url, Path(folder)))


def into_network(weights: Weights, backbone: str) -> nn.Module:
    """A network of 1,000 classes (or as many as the file has) that holds the weights.

    Raises JobError `WeightsCorrupt` when names or shapes are not those of the backbone.
    """
    network = backbones.create_on_meta(backbone)
    name = backbones.head_name(network, backbone)
    matrix = weights.tensors.get(f"{name}.weight")
    head = network.get_submodule(name)
    if matrix is not None and matrix.ndim == 2 and isinstance(head, nn.Linear):
        with torch.device("meta"):
            replacement = nn.Linear(head.in_features, matrix.shape[0], bias=head.bias is not None)
        backbones.set_head(network, name, replacement)
    try:
        network.load_state_dict(weights.tensors, assign=True)
    except RuntimeError as error:
        raise JobError(
            "WeightsCorrupt",
            f"The weights file {weights.file} does not belong to the backbone {backbone!r}: {error}",
            "Use torchvision's own file for this backbone.",
        ) from error
    return network


def _torchvision_files(backbone: str) -> list[str]:
    return [Path(entry.url).name for entry in torchvision.models.get_model_weights(backbone)]


def _find(backbone: str, directory: Path) -> Path | None:
    found = [
        file
        for folder in (directory, directory / backbone)
        if folder.is_dir()
        for file in sorted(folder.iterdir())
        if file.suffix in (".pth", ".safetensors")
    ]
    if len(found) > 1:
        own = _torchvision_files(backbone)
        found = [file for file in found if file.name in own] or found
    if len(found) > 1:
        raise JobError(
            "WeightsCorrupt",
            f"There are several weights files for {backbone!r}: {', '.join(file.name for file in found)}.",
            f"Keep one file under weights/{backbone}/.",
        )
    return found[0] if found else None


def _fetch(backbone: str, url: str, folder: Path) -> Path:
    file = folder / Path(urllib.parse.urlparse(url).path).name
    addresses = [(url, file)]
    if file.suffix == ".safetensors":
        addresses.append((f"{url}.sha256", Path(f"{file}.sha256")))
    for address, target in addresses:
        if urllib.parse.urlparse(address).scheme not in ("https", "file"):
            raise JobError(
                "WeightsMissing",
                f"WEIGHTS_URL is {url!r}, which is no https or file address.",
                f"Set WEIGHTS_URL to the address of the weights of {backbone}.",
            )
        print(f"Fetching {address}", flush=True)
        try:
            with urllib.request.urlopen(address, timeout=DOWNLOAD_TIMEOUT_SECONDS) as answer:  # noqa: S310 - scheme checked above
                target.write_bytes(answer.read())
        except (urllib.error.URLError, TimeoutError, OSError) as error:
            raise JobError(
                "WeightsMissing",
                f"The weights of {backbone!r} could not be fetched from {address}: {error}",
                f"Check the address, or put the file under weights/{backbone}/ in the bucket.",
            ) from error
    return file


def _read(backbone: str, file: Path) -> Weights:
    data = file.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    expected = _expected_hash(file)
    if not digest.startswith(expected):
        raise JobError(
            "WeightsCorrupt",
            f"The SHA-256 of {file.name} begins with {digest[: len(expected)]}, not with {expected}.",
            "The file is damaged or was changed: fetch it again from where it was published.",
        )
    try:
        if file.suffix == ".safetensors":
            tensors = safetensors.torch.load(data)
        else:
            tensors = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        tensors = {OLD_DENSENET_KEY.sub(r"\1\2", name): tensor for name, tensor in tensors.items()}
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, AttributeError) as error:
        raise _no_state_dict(file, str(error)) from error
    except safetensors.SafetensorError as error:
        raise _no_state_dict(file, str(error)) from error
    license_ = TORCHVISION_LICENSE if file.name in _torchvision_files(backbone) else None
    return Weights(file.name, digest, license_, tensors)


def _no_state_dict(file: Path, cause: str) -> JobError:
    return JobError(
        "WeightsCorrupt",
        f"{file.name} holds no state dict: {cause}",
        "Use a file that torchvision publishes, or one written by safetensors.",
    )


def _expected_hash(file: Path) -> str:
    beside = Path(f"{file}.sha256")
    if beside.is_file():
        # The format of sha256sum: the hash, two spaces, the file's name.
        words = beside.read_text(encoding="utf-8").split()
        if words and re.fullmatch(r"[0-9a-f]{64}", words[0].lower()):
            return words[0].lower()
    elif match := HASH_IN_NAME.search(file.name):
        return match.group(1)
    raise JobError(
        "WeightsCorrupt",
        f"There is no SHA-256 to check {file.name} against.",
        f"Name a .pth file <name>-<first 8 hex digits of its SHA-256>.pth, "
        f"or put {file.name}.sha256 (as sha256sum writes it) beside it.",
    )
