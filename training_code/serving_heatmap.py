"""Which part of a picture speaks for a label, as a small grey picture."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def heatmap(feature_map: NDArray[np.float32], weights: NDArray[np.float32], size: int) -> NDArray[np.uint8]:
    """Class activation map of one image: `size` x `size`, 0 (says nothing for the label, or speaks against it) to 255.

    `feature_map` is F x H x W, and `weights` F, the label's row of the head. For a network whose features are
    the mean of that map, Grad-CAM is this map up to a factor: the gradient of a linear head is its weights.
    Zhou et al., Learning Deep Features for Discriminative Localization (arXiv:1512.04150), equation 2;
    Selvaraju et al., Grad-CAM (arXiv:1610.02391), section 3.1, from which the cut at zero is.
    """
    activation = np.maximum(np.tensordot(weights, feature_map, axes=1), 0)
    highest = float(activation.max())
    # Nothing speaks for the label: black everywhere, not noise stretched to white.
    scaled = activation * (255 / highest) if highest > 0 else activation
    image = Image.fromarray(scaled.astype(np.float32)).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image).round().astype(np.uint8)


def as_png(pixels: NDArray[np.uint8]) -> str:
    """The base64 text of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")
