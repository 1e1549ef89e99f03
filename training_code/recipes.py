"""The two ways to train: a head on cached frozen features, or the backbone's last stages end to end.

A recipe says what is trained, how a batch comes about and how the result is put together; the training
loop in train.py is the same for both.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import backbones
import network_inputs
import numpy as np
import torch
import weights
from contract import JobError
from hyper_parameters import HyperParameters
from numpy.typing import NDArray
from prepared import Prepared
from torch import nn
from torch.utils.data import ConcatDataset

# Pretrained stages are near their optimum already: at the head's learning rate they would forget it.
BACKBONE_LEARNING_RATE_SHARE = 0.1
# Validation needs no gradients, but end to end it still holds a batch of images in memory.
VALIDATION_BATCH = 64
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Recipe:
    """What train.py's loop works on.

    `trained` maps torchvision's state-dict names to the parameters that are trained; `learning_rates`
    the same names to their peak learning rate. `training_mode()` prepares the modules for an epoch.
    `training_batches()` yields the `training_images` images once, as inputs and labels on the device;
    `validation_batches()` yields what is held out, or is None when nothing is.
    """

    model: nn.Module
    trained: dict[str, nn.Parameter]
    learning_rates: dict[str, float]
    training_images: int
    training_mode: Callable[[], object]
    training_batches: Callable[[], Iterator[Batch]]
    validation_batches: Callable[[], Iterator[Batch]] | None


def create(
    parameters: HyperParameters,
    data: Prepared,
    network: nn.Module | None,
    device: torch.device,
    splits: tuple[str, ...] = ("train",),
) -> Recipe:
    """The recipe that the hyper-parameters ask for, on the images of `splits`.

    Validates on `valid` unless that is trained on as well. `network` is left as it is; a head on features
    needs none. The new head's first weights come from the hyper-parameter `seed`.
    """
    torch.manual_seed(parameters.seed)
    if parameters.trainable_layers and network is not None:
        return _end_to_end(parameters, data, copy.deepcopy(network), device, splits)
    return _head_on_features(parameters, data, device, splits)


def _head_on_features(
    parameters: HyperParameters, data: Prepared, device: torch.device, splits: tuple[str, ...]
) -> Recipe:
    """Trains a linear head on features N x V x F; each step draws one of a training image's V views.

    All other splits have their augmented views too, but only plain ones are looked at: what is measured is
    measured on plain images, and a refit weighs no image by the split that it happens to lie in.
    """
    name = backbones.head_name(backbones.create_on_meta(parameters.backbone), parameters.backbone)
    size = int(data.summary["feature_size"])
    head = backbones.Head(size, len(data.classes), parameters.dropout).to(device)
    parts = [training_views(data, split) for split in splits]
    features = torch.from_numpy(np.concatenate(parts)).to(device)
    labels = torch.from_numpy(np.concatenate([data.labels(split) for split in splits])).to(device)
    valid_features = torch.from_numpy(data.features("valid")[:, 0].copy()).to(device)
    valid_labels = torch.from_numpy(data.labels("valid")).to(device)

    def training_batches() -> Iterator[Batch]:
        for rows in torch.split(torch.randperm(len(labels)), parameters.batch_size):
            views = torch.randint(features.shape[1], (len(rows),))
            rows, views = rows.to(device), views.to(device)
            yield features[rows, views], labels[rows]

    def validation_batches() -> Iterator[Batch]:
        yield valid_features, valid_labels

    trained = {f"{name}.{key}": parameter for key, parameter in head.named_parameters()}
    return Recipe(
        model=head,
        trained=trained,
        learning_rates=dict.fromkeys(trained, parameters.learning_rate),
        training_images=len(labels),
        training_mode=head.train,
        training_batches=training_batches,
        validation_batches=None if "valid" in splits else validation_batches,
    )


def training_views(data: Prepared, split: str) -> NDArray[np.float32]:
    """Features N x V x F to train on: all views of `train`; of another split the plain one V times."""
    features = data.features(split)
    return features if split == "train" else features[:, :1].repeat(features.shape[1], axis=1)


def _end_to_end(
    parameters: HyperParameters, data: Prepared, network: nn.Module, device: torch.device, splits: tuple[str, ...]
) -> Recipe:
    """Trains the head and the last `trainable_layers` stages on randomly cropped and mirrored pixels.

    Frozen stages stay in evaluation mode, and so does every batch normalisation: on small sets its running
    statistics would drift away from the pretrained ones.

    Raises JobError `InvalidHyperParameter` when the network has fewer stages.
    """
    stages = backbones.stages(network, parameters.backbone)
    if parameters.trainable_layers > len(stages):
        raise JobError(
            "InvalidHyperParameter",
            f"The hyper-parameter trainable_layers is {parameters.trainable_layers}.",
            f"Set trainable_layers from 0 to {len(stages)}, the number of stages of {parameters.backbone}.",
        )
    head_name = backbones.head_name(network, parameters.backbone)
    head = backbones.Head(int(data.summary["feature_size"]), len(data.classes), parameters.dropout)
    backbones.set_head(network, head_name, head)
    network.requires_grad_(False)
    head.requires_grad_(True)
    unfrozen: list[nn.Module] = [head]
    for stage in stages[-parameters.trainable_layers :]:
        for module in stage:
            module.requires_grad_(True)
            unfrozen.append(module)
    network.to(device).to(memory_format=torch.channels_last)

    def training_mode() -> None:
        network.eval()
        for module in unfrozen:
            module.train()
            for part in module.modules():
                if isinstance(part, BATCH_NORMS):
                    part.eval()

    # Not one array: the splits may exceed the memory, and stay on disk this way. ConcatDataset asks for no
    # more than a length and rows, whatever its type says.
    parts: list[Any] = [data.images(split) for split in splits]
    pixels = ConcatDataset[Any](parts)
    labels = np.concatenate([data.labels(split) for split in splits])
    valid_pixels, valid_labels = data.images("valid"), data.labels("valid")
    augment = network_inputs.augmentation(int(data.summary["image_size"]))

    def training_batches() -> Iterator[Batch]:
        for rows in torch.split(torch.randperm(len(labels)), parameters.batch_size):
            chosen = torch.from_numpy(np.stack([pixels[row] for row in rows.tolist()])).permute(0, 3, 1, 2)
            augmented = torch.stack([augment(image) for image in chosen]).permute(0, 2, 3, 1)
            targets = torch.from_numpy(labels[rows.numpy()])
            yield network_inputs.normalise(augmented.to(device)), targets.to(device)

    def validation_batches() -> Iterator[Batch]:
        for start in range(0, len(valid_labels), VALIDATION_BATCH):
            block = slice(start, start + VALIDATION_BATCH)
            inputs = network_inputs.network_input(np.array(valid_pixels[block]))
            yield inputs.to(device), torch.from_numpy(np.array(valid_labels[block])).to(device)

    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    backbone_rate = parameters.learning_rate * BACKBONE_LEARNING_RATE_SHARE
    return Recipe(
        model=network,
        trained=trained,
        learning_rates={
            name: parameters.learning_rate if name.startswith(f"{head_name}.") else backbone_rate for name in trained
        },
        training_images=len(labels),
        training_mode=training_mode,
        training_batches=training_batches,
        validation_batches=None if "valid" in splits else validation_batches,
    )


def pretrained_network(
    parameters: HyperParameters, data: Prepared, load: Callable[[], weights.Weights]
) -> tuple[nn.Module, weights.Weights | None]:
    """The backbone that the features were computed with, and its weights file (None: random weights).

    Raises JobError `WeightsCorrupt` when the weights at hand are other ones: a head fits one backbone only.
    """
    expected = data.summary["weights_sha256"]
    if expected is None:
        return backbones.create_random(parameters.backbone), None
    checked = load()
    if checked.sha256 != expected:
        raise JobError(
            "WeightsCorrupt",
            f"The weights file {checked.file} is not the one that the prepared features came from.",
            "Give Prepare and Train the same weights folder, or prepare the data again.",
        )
    return weights.into_network(checked, parameters.backbone), checked
