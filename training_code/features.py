"""The frozen backbone's pass over squares: run once for an image, used by every training after."""

from __future__ import annotations

from pathlib import Path

import backbones
import network_inputs
import numpy as np
import torch
import weights
from numpy.typing import NDArray
from torch import nn


class FrozenBackbone:
    """A network without its head, ready to compute features."""

    def __init__(self, backbone: str, image_size: int, pretrained_from: Path | None) -> None:
        """Loads the weights found in `pretrained_from`; None asks for random ones.

        Raises JobError `UnknownBackbone`, `InvalidHyperParameter`, `WeightsMissing` or `WeightsCorrupt`.
        """
        self.feature_size = backbones.feature_size(backbone, image_size)
        self.weights_sha256: str | None = None
        if pretrained_from is not None:
            checked = weights.load(backbone, pretrained_from)
            self.weights_sha256 = checked.sha256
            network = weights.into_network(checked, backbone)
            print(f"Backbone {backbone}, weights {checked.file} (SHA-256 checked).", flush=True)
        else:
            network = backbones.create_random(backbone)
            print(f"Backbone {backbone} with RANDOM weights, as PRETRAINED=false asks.", flush=True)
        backbones.set_head(network, backbones.head_name(network, backbone), nn.Identity())
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._network = backbones.for_inference(network).to(self._device)
        self._augment = network_inputs.augmentation(image_size)

    def features(self, squares: NDArray[np.uint8], views: int, seeds: list[int]) -> NDArray[np.float32]:
        """Frozen features N x views x F of squares N x S x S x 3; view 0 is the plain image.

        The other views are drawn from one seed for each image, so that an image's views are the same
        whatever images it comes with.
        """
        found = np.empty((len(squares), views, self.feature_size), dtype=np.float32)
        with torch.inference_mode():
            found[:, 0] = self._pass(network_inputs.network_input(squares))
            for number, seed in enumerate(seeds if views > 1 else []):
                inputs = network_inputs.normalise(self._augmented(squares[number], views - 1, seed))
                found[number, 1:] = self._pass(inputs)
        return found

    def _augmented(self, square: NDArray[np.uint8], views: int, seed: int) -> torch.Tensor:
        pixels = torch.from_numpy(square).permute(2, 0, 1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            drawn = torch.stack([self._augment(pixels) for _ in range(views)])
        return drawn.permute(0, 2, 3, 1)

    def _pass(self, inputs: torch.Tensor) -> NDArray[np.float32]:
        result: NDArray[np.float32] = self._network(inputs.to(self._device)).cpu().numpy()
        return result
