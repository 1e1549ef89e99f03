"""Torchvision's classification networks: build, give them pretrained weights, swap the head, pick stages.

The head is a network's last linear layer; what flows into it are the features. That holds for ResNet,
ResNeXt, RegNet, MobileNet, EfficientNet, ConvNeXt, DenseNet, ViT, Swin, MaxViT, ShuffleNet, MNASNet, VGG
and AlexNet alike, so none of them is named here.
"""

from __future__ import annotations

import functools

import torch
import torchvision
from contract import JobError
from torch import nn
from torch.fx.experimental.optimization import fuse
from torch.nn import functional

# Their forward returns auxiliary classifiers beside the scores while training.
WITH_AUXILIARY_OUTPUTS = ("googlenet", "inception_v3")
# Weights of a network that is random on purpose come from this seed, so that Prepare and Train, two
# processes on two machines, build the same one.
RANDOM_WEIGHTS_SEED = 0
# A module that holds nearly all of a network's parameters is a wrapper around stages, not a stage.
WRAPPER_SHARE = 0.9


class Head(nn.Linear):
    """The last layer: dropout on the features (while training), then linear.

    The dropout has no parameters and no name of its own, so state dicts keep torchvision's names.
    """

    def __init__(self, feature_size: int, classes: int, dropout: float) -> None:
        super().__init__(feature_size, classes)
        self.dropout = dropout

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features N x F to scores N x classes."""
        return super().forward(functional.dropout(features, self.dropout, self.training))


def create(backbone: str) -> nn.Module:
    """A network by torchvision's name, with torchvision's random initial weights and 1,000 classes.

    Raises JobError `UnknownBackbone` for names torchvision does not know as a classification model, and
    for the few networks without a single linear layer at their end.
    """
    known = torchvision.models.list_models(module=torchvision.models)
    if backbone not in known or backbone in WITH_AUXILIARY_OUTPUTS:
        raise JobError(
            "UnknownBackbone",
            f"The backbone {backbone!r} is no network that can be used here.",
            "Choose a classification model of torchvision.models, for example resnet50 or mobilenet_v2.",
        )
    network: nn.Module = torchvision.models.get_model(backbone, weights=None)
    head_name(network, backbone)
    return network


def create_on_meta(backbone: str) -> nn.Module:
    """Like `create`, but without memory or numbers: for names, shapes, and weights to be assigned to."""
    try:
        with torch.device("meta"):
            return create(backbone)
    except NotImplementedError:
        # RegNet and MaxViT compute their layout with tensors, which "meta" cannot do.
        return create(backbone).to("meta")


def create_random(backbone: str) -> nn.Module:
    """Like `create`, with the same random weights at every call (and the caller's random state kept)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_WEIGHTS_SEED)
        return create(backbone)


def head_name(network: nn.Module, backbone: str) -> str:
    """Dotted name of the last linear layer, such as `fc` or `classifier.1`.

    Raises JobError `UnknownBackbone` if the network does not end in one (SqueezeNet).
    """
    names: list[str] = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not names:
        raise JobError(
            "UnknownBackbone",
            f"The backbone {backbone!r} has no linear layer at its end.",
            "Choose another network, for example resnet50 or mobilenet_v2.",
        )
    return names[-1]


def set_head(network: nn.Module, name: str, head: nn.Module) -> None:
    network.set_submodule(name, head)


def for_inference(network: nn.Module) -> nn.Module:
    """The network in evaluation mode, each batch normalisation folded into the convolution before it.

    Its scores are the same but for rounding (about 1e-5), in about half of the time on a CPU. The network
    that was given is used up.
    """
    fast: nn.Module = fuse(network.requires_grad_(False).eval(), inplace=True)
    return fast.to(memory_format=torch.channels_last)


@functools.cache
def feature_size(backbone: str, image_size: int) -> int:
    """Number of features F that flow into the head, found with one pass without numbers.

    Raises JobError `UnknownBackbone`, or `InvalidHyperParameter` when the network takes no images of
    `image_size` pixels (vision transformers take one size only).
    """
    network = create_on_meta(backbone)
    set_head(network, head_name(network, backbone), nn.Identity())
    network.eval()
    try:
        features = network(torch.empty(1, 3, image_size, image_size, device="meta"))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise JobError(
            "InvalidHyperParameter",
            f"The backbone {backbone!r} takes no images of {image_size} pixels: {error}",
            "Set IMAGE_SIZE to 224, or choose another backbone.",
        ) from error
    return int(features.shape[1])


def stages(network: nn.Module, backbone: str) -> list[list[nn.Module]]:
    """The network's stages from input to output, without the head; each a list of modules.

    A stage is what torchvision's authors wrote as one: `layer1` to `layer4` of ResNet, the blocks of
    `features` in MobileNet, the encoder's layers in ViT. Modules without a weight matrix (norms) belong to
    the stage before them.
    """
    head = network.get_submodule(head_name(network, backbone))
    grouped: list[list[nn.Module]] = []
    for module in _unwrap(network, head):
        has_matrix = any(parameter.ndim >= 2 for parameter in module.parameters())
        if has_matrix or not grouped:
            grouped.append([module])
        else:
            grouped[-1].append(module)
    return grouped


def _unwrap(module: nn.Module, head: nn.Module) -> list[nn.Module]:
    sizes = [(child, _count(child, head)) for child in module.children()]
    total = sum(size for _, size in sizes)
    parts: list[nn.Module] = []
    for child, size in sizes:
        holds_head = any(part is head for part in child.modules())
        inner = sum(_count(grandchild, head) > 0 for grandchild in child.children())
        if holds_head or (size > WRAPPER_SHARE * total and inner > 1) or (size == total and inner == 1):
            parts += _unwrap(child, head)
        elif size:
            parts.append(child)
    return parts


def _count(module: nn.Module, head: nn.Module) -> int:
    left_out = {id(parameter) for parameter in head.parameters()}
    return sum(parameter.numel() for parameter in module.parameters() if id(parameter) not in left_out)
