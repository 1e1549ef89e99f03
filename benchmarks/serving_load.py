"""Sends one file after the other to a server on this machine, and says how long the answers took.

    python benchmarks/serving_load.py URL FOLDER --callers 8 --seconds 10 [--rate 5] [--content-type image/jpeg]

Each caller sends its next request when its last one was answered. With `--rate`, requests are due at fixed times
instead, so many a second in all, and an answer's time counts from when its request was due: a server that falls
behind shows it. Prints one JSON document: requests, failures, requests a second, and quantiles in milliseconds.
"""

import argparse
import http.client
import itertools
import json
import statistics
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit


class Load:
    def __init__(self, url: str, bodies: list[bytes], content_type: str, seconds: float, rate: float | None) -> None:
        self._parts = urlsplit(url)
        self._bodies = bodies
        self._headers = {"Content-Type": content_type, "Accept": "application/json"}
        self._numbers = itertools.count()
        self._rate = rate
        self._begin = time.perf_counter() + 0.1
        self._end = self._begin + seconds
        self.milliseconds: list[float] = []
        self.failures = 0

    def call(self) -> None:
        """One caller, until the time is over."""
        connection = http.client.HTTPConnection(self._parts.hostname or "", self._parts.port, timeout=120)
        while True:
            number = next(self._numbers)
            due = self._begin + number / self._rate if self._rate else max(self._begin, time.perf_counter())
            if due >= self._end:
                break
            time.sleep(max(0.0, due - time.perf_counter()))
            body = self._bodies[number % len(self._bodies)]
            connection.request("POST", self._parts.path, body, self._headers)
            answer = connection.getresponse()
            answer.read()
            self.milliseconds.append((time.perf_counter() - due) * 1000)
            self.failures += answer.status != 200
        connection.close()

    def result(self) -> dict[str, float]:
        quantiles = statistics.quantiles(self.milliseconds, n=100, method="inclusive")
        return {
            "requests": len(self.milliseconds),
            "failures": self.failures,
            "per_second": len(self.milliseconds) / (time.perf_counter() - self._begin),
            "p50_ms": quantiles[49],
            "p99_ms": quantiles[98],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--callers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--content-type", default="image/jpeg")
    options = parser.parse_args()
    bodies = [file.read_bytes() for file in sorted(options.folder.iterdir())]
    load = Load(options.url, bodies, options.content_type, options.seconds, options.rate)
    callers = [threading.Thread(target=load.call) for _ in range(options.callers)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    print(json.dumps(load.result()))


if __name__ == "__main__":
    main()
