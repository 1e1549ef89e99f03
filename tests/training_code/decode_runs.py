"""Runs of Decode as a process of its own, with the memory that it and its workers take."""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import contract
import psutil

DECODE = Path(contract.__file__).parent / "decode.py"
ENVIRONMENT = {
    "DATASET": "shapes",
    "BACKBONE": "regnet_x_400mf",
    "IMAGE_SIZE": "32",
    "SEED": "0",
    "PRETRAINED": "false",
    "OMP_NUM_THREADS": "1",
}
SAMPLE_SECONDS = 0.02


@dataclass(frozen=True)
class DecodeRun:
    """A run that has ended: `peak_rss` is in bytes, over the process and all that it started."""

    status: int
    output: str
    seconds: float
    peak_rss: int
    base: Path

    @property
    def decoded(self) -> Path:
        return self.base / "processing" / "output" / "decoded"

    @property
    def blocks(self) -> Path:
        return self.base / "processing" / "output" / "blocks"

    def records(self) -> list[dict[str, Any]]:
        """Of all hosts, in the order in which they were written."""
        files = sorted(self.decoded.glob("records-*.jsonl"))
        return [json.loads(line) for file in files for line in file.read_text("utf-8").split("\n") if line]


def run_decode(dataset: Path, base: Path, cores: int | None = None, **environment: str) -> DecodeRun:
    """Runs decode.py on the folder `dataset`, below `base` in place of /opt/ml.

    Other inputs (`base`, `weights`) and `config/resourceconfig.json` may lie below `base` already. By
    default the backbone is small and has random weights. `cores` lets it use no more than that (Linux).
    """

    def restrict() -> None:
        if cores and sys.platform == "linux":
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])

    inputs = base / "processing" / "input"
    inputs.mkdir(parents=True, exist_ok=True)
    if not (inputs / "dataset").exists():
        (inputs / "dataset").symlink_to(dataset)
    started = time.monotonic()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, str(DECODE)],
            env={**os.environ, **ENVIRONMENT, "SAGEMAKER_BASE_DIR": str(base), **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=restrict,
        )
        peak = 0
        while process.poll() is None:
            peak = max(peak, tree_rss(process.pid))
            time.sleep(SAMPLE_SECONDS)
        log.seek(0)
        return DecodeRun(process.returncode, log.read(), time.monotonic() - started, peak, base)


def tree_rss(pid: int) -> int:
    """Bytes in memory of a process and its descendants; what they share counts once for each."""
    total = 0
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in processes:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total
