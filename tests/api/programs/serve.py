"""Serve, without a network: the bytes of an image decide its labels, so that other bytes get other labels.

A body that begins with a word of `PROBLEMS` is refused as the real server refuses it.
"""

import hashlib
import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MODEL = json.loads((Path(os.environ["SAGEMAKER_BASE_DIR"]) / "model/model.json").read_text())
PROBLEMS = {
    b"no image": (400, "InvalidImage"),
    b"no map": (400, "ExplainUnavailable"),
    b"huge": (413, "ImageTooLarge"),
    b"busy": (429, "Overloaded"),
    b"broken": (500, "InternalError"),
}


class Handler(BaseHTTPRequestHandler):
    """`/ping` and `/invocations`."""

    def do_GET(self) -> None:
        self.answer(200, {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        for word, (status, code) in PROBLEMS.items():
            if body.startswith(word):
                self.answer(status, {"error": {"code": code, "message": f"It is {code}.", "hint": "Do this."}})
                return
        attributes = dict(pair.split("=") for pair in self.headers["X-Amzn-SageMaker-Custom-Attributes"].split(","))
        digest = hashlib.sha256(body).digest()
        classes = sorted(MODEL["classes"], key=lambda label: hashlib.sha256(digest + label.encode()).digest())
        if MODEL.get("constant"):
            classes = MODEL["classes"]
        scores = [round(0.9 / (rank + 1), 6) for rank in range(len(classes))]
        found = [{"label": label, "score": score} for label, score in zip(classes, scores, strict=True)]
        document: dict[str, object] = {"predictions": found[: int(attributes["top_k"])], "model": {}}
        if attributes.get("explain") == "true":
            document["heatmap"] = "iVBORw0KGgo="
        self.answer(200, document)

    def answer(self, status: int, document: object) -> None:
        """Send `document` as JSON."""
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    address = (os.environ["SAGEMAKER_BIND_TO_HOST"], int(os.environ["SAGEMAKER_BIND_TO_PORT"]))
    ThreadingHTTPServer(address, Handler).serve_forever()
