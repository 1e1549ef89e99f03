"""Serve, without a network: labels every image with the first class, unless told to misbehave.

A class called `liar` makes it answer wrongly, one called `mute` keeps it from starting.
"""

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from container import BASE  # type: ignore[import-not-found]  # found beside the program

MODEL = json.loads((BASE / "model/model.json").read_text())
PROBLEMS = {
    b"no image": (400, {"code": "InvalidImage", "message": "The body is no image.", "hint": "Send a JPEG."}),
    b"huge": (413, {"code": "ImageTooLarge", "message": "The image is too large.", "hint": "Make it smaller."}),
    b"broken": (500, {"code": "InternalError", "message": "The model broke.", "hint": "Look at the log."}),
}


class Handler(BaseHTTPRequestHandler):
    """`/ping` and `/invocations`."""

    def do_GET(self) -> None:
        self.answer(200, {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if body in PROBLEMS:
            status, error = PROBLEMS[body]
            self.answer(status, {"error": error})
            return
        classes = MODEL["classes"]
        if "liar" in classes:
            classes = classes[::-1]
        count = int(self.headers["X-Amzn-SageMaker-Custom-Attributes"].removeprefix("top_k="))
        predictions = [{"label": label, "score": 0.9 / (rank + 1)} for rank, label in enumerate(classes)]
        self.answer(200, {"predictions": predictions[:count], "model": {}})

    def answer(self, status: int, document: object) -> None:
        """Send `document` as JSON."""
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    if "mute" in MODEL["classes"]:
        sys.exit("this server does not start")
    address = (os.environ["SAGEMAKER_BIND_TO_HOST"], int(os.environ["SAGEMAKER_BIND_TO_PORT"]))
    ThreadingHTTPServer(address, Handler).serve_forever()
