"""From squares of 8-bit RGB (`images`) to what a network takes, and their random views for training."""

from __future__ import annotations

import numpy as np
import torch
from images import MEAN, STD
from numpy.typing import NDArray
from torchvision.transforms import v2


def normalise(pixels: torch.Tensor, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD) -> torch.Tensor:
    """uint8 pixels N x H x W x 3 to the float32 input N x 3 x H x W of a network (channels-last memory)."""
    scaled = pixels.permute(0, 3, 1, 2).to(torch.float32).div_(255)
    shape = (1, 3, 1, 1)
    offset = torch.tensor(mean, device=pixels.device).view(shape)
    scale = torch.tensor(std, device=pixels.device).view(shape)
    return scaled.sub_(offset).div_(scale)


def network_input(squares: NDArray[np.uint8]) -> torch.Tensor:
    """Squares N x S x S x 3 to the input N x 3 x S x S of a network that knows ImageNet's statistics."""
    return normalise(torch.from_numpy(np.ascontiguousarray(squares)))


def augmentation(image_size: int) -> v2.Transform:
    """Random crop of 35 to 100 % of the area and random mirroring, on uint8 images 3 x S x S.

    Draws from torch's global random state.
    """
    return v2.Compose(
        [
            v2.RandomResizedCrop(image_size, scale=(0.35, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
        ]
    )
