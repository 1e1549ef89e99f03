"""The same graph and the same pixels behind LitServe, with its batching: python litserve_server.py MODEL PORT."""

import sys
from pathlib import Path
from typing import Any

import litserve
import numpy as np
from fastapi import Request
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "training_code"))

import images
from artifact import Model, load

MAX_BATCH = 8
BATCH_SECONDS = 0.002


class Labels(litserve.LitAPI):  # type: ignore[misc]
    model: Model

    def setup(self, device: str) -> None:
        assert device == "cpu", device
        self.model = load(Path(sys.argv[1]))

    def decode_request(self, request: Request) -> NDArray[np.uint8]:
        # LitServe takes raw bodies as JSON only; a form's file is its way to send bytes.
        return images.decode_square(request["file"].file.read(), self.model.image_size)

    def batch(self, inputs: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        return np.stack(inputs)

    def predict(self, squares: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.model.probabilities(squares)

    def unbatch(self, output: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        return list(output)

    def encode_response(self, scores: NDArray[np.float32]) -> dict[str, Any]:
        best = (-scores).argsort()[:3]
        return {"predictions": [{"label": self.model.classes[row], "score": float(scores[row])} for row in best]}


if __name__ == "__main__":
    api = Labels(max_batch_size=MAX_BATCH, batch_timeout=BATCH_SECONDS, api_path="/invocations")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="warning")
