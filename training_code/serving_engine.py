"""The compiled network: OpenVINO on the cores that this process may use. No torch here.

Everything that imports OpenVINO imports it from here: OpenVINO and NNCF report their use to a server of
their makers' as soon as they are imported, unless the module that would send it is missing.
"""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

# None in sys.modules makes an import fail (https://docs.python.org/3/reference/import.html), and both then
# use a stub of their own. It has to be there before the first import of either.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import openvino as openvino  # noqa: E402 - exported on, to whoever needs it without the reports

if TYPE_CHECKING:
    from collections.abc import Callable

INPUT = "squares"
PROBABILITIES, FEATURES, FEATURE_MAP = "probabilities", "features", "feature_map"
# More gains no more images a second on two cores, and each image of a batch waits for the whole of it.
MAX_BATCH = 8
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Outputs:
    """What the network says about N squares.

    `probabilities` N x classes; `features` N x F, the input of the head; `feature_map` N x F x H x W, whose
    mean over H and W the features are, or None if it was not asked for.
    """

    probabilities: NDArray[np.float32]
    features: NDArray[np.float32]
    feature_map: NDArray[np.float32] | None


class Engine:
    """A network compiled for this machine. Not thread-safe: one thread calls `infer`, which uses all cores."""

    def __init__(self, network: openvino.Model, threads: int | None = None) -> None:
        """Raises RuntimeError when OpenVINO cannot compile the network. `threads`: None for all cores."""
        self._compiled = openvino.Core().compile_model(
            network,
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "NUM_STREAMS": "1",
                "INFERENCE_NUM_THREADS": str(threads or available_cores()),
                # Else processors that have bfloat16 would round to it, and answer differently from others.
                "INFERENCE_PRECISION_HINT": "f32",
                # Pinned threads of two servers on one machine would wait for the same core beside an idle one.
                "ENABLE_CPU_PINNING": "NO",
            },
        )
        self._request = self._compiled.create_infer_request()
        self._outputs = {name: output for output in self._compiled.outputs for name in output.names}

    @property
    def has_feature_map(self) -> bool:
        """Whether the features are the mean of a map over places, as they are in most convolutional networks."""
        return FEATURE_MAP in self._outputs

    def infer(self, squares: NDArray[np.uint8], with_map: bool = False) -> Outputs:
        """What the network says about squares N x S x S x 3, RGB; more than `MAX_BATCH` at a time gain nothing.

        `with_map` asks for the feature map, which only a network that `has_feature_map` gives.
        """
        self._request.infer([np.ascontiguousarray(squares)], share_inputs=True)
        return Outputs(
            self._copy(PROBABILITIES),
            self._copy(FEATURES),
            self._copy(FEATURE_MAP) if with_map else None,
        )

    def probabilities(self, squares: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Class probabilities N x classes of any number of squares."""
        starts = range(0, len(squares), MAX_BATCH)
        return np.concatenate([self.infer(squares[start : start + MAX_BATCH]).probabilities for start in starts])

    def _copy(self, name: str) -> NDArray[np.float32]:
        # The request's own memory is overwritten by the next inference.
        return np.array(self._request.get_tensor(self._outputs[name]).data)


def read_network(graph: bytes, weights: bytes) -> openvino.Model:
    """A network from the two files of OpenVINO's intermediate representation.

    Raises RuntimeError when they are not that.
    """
    return openvino.Core().read_model(model=graph, weights=weights)


def available_cores() -> int:
    """The cores that this process may use: those of its CPU affinity, and of its container's quota.

    The quota is that of control groups, version 2 or 1:
    https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _cores_of_quota(CGROUP) or cores))


def _cores_of_quota(cgroup: Path) -> int | None:
    readers: list[Callable[[], list[str]]] = [
        lambda: (cgroup / "cpu.max").read_text().split(),
        lambda: [(cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period")],
    ]
    for read in readers:
        try:
            quota, period = read()
        except OSError:  # no control groups here, or those of the other version
            continue
        return math.ceil(int(quota) / int(period)) if quota not in ("max", "-1") else None
    return None
