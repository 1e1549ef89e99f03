"""How fast the endpoint answers, beside the stock SageMaker stack, LitServe, and the engine without any server.

    python benchmarks/serving.py [--seconds 10] [--backbones resnet50,mobilenet_v2] [--only ours,litserve] [--json]

Exports ResNet50 for 133 classes (random weights) and MobileNetV2, and sends each server photos of 2 megapixels and
about 320 kB, made of the example photos. Servers and load run on this machine, one server after the other; each gets
a caller of its own, then eight, then half of what it answered to eight at fixed times. The stock stack is the code of
SageMaker's PyTorch containers (sagemaker-pytorch-inference on TorchServe) as shipped and with one worker; it needs
Java. Both peers get an environment of their own in build/, which lacks only what this project's has already.
"""

import argparse
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "benchmarks" / "peers"
ENVIRONMENT = ROOT / "build" / "serving-peers"
sys.path.insert(0, str(ROOT / "training_code"))

PHOTOS = 16
PHOTO_SIZE = (1632, 1224)
PHOTO_BYTES = 320_000
BOUNDARY = "droptune-benchmark"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
CALLERS = 8
START_SECONDS = 180
REQUIREMENTS = ["litserve==0.2.19", "python-multipart", "torchserve==0.12.0", "retrying", "enum-compat"]
# Without what they require: their own limits on versions are older than this project's.
STOCK = ["sagemaker-pytorch-inference==2.0.25", "sagemaker-inference==1.10.1"]


@dataclass
class Server:
    """How a server is started; `{port}` in its command and environment is the port to answer on."""

    name: str
    command: list[str]
    path: str
    environment: dict[str, str] = field(default_factory=dict)
    bodies: str = "photos"
    content_type: str = "image/jpeg"


class Photos:
    """The example photos as prepared data, for calibrating: the splits are every fifth photo."""

    def __init__(self) -> None:
        import images

        files = sorted((ROOT / "examples" / "tuxpaint-photos").glob("*/*.jpg"))
        squares = np.stack([images.decode_square(file.read_bytes(), 224) for file in files])
        classes = sorted({file.parent.name for file in files})
        labels = np.array([classes.index(file.parent.name) for file in files])
        held = np.arange(len(files)) % 5 == 0
        self._squares = {"train": squares[~held], "valid": squares[held]}
        self._labels = {"train": labels[~held], "valid": labels[held]}

    def images(self, split: str) -> NDArray[np.uint8]:
        squares: NDArray[np.uint8] = self._squares[split]
        return squares

    def labels(self, split: str) -> NDArray[np.int64]:
        labels: NDArray[np.int64] = self._labels[split]
        return labels


def write_photos(folder: Path) -> None:
    """Example photos, enlarged: as files in `photos`, and each as an HTML form with a file in `forms`."""
    (folder / "photos").mkdir(parents=True)
    (folder / "forms").mkdir()
    files = sorted((ROOT / "examples" / "tuxpaint-photos").glob("*/*.jpg"))
    for number, file in enumerate(files[:: len(files) // PHOTOS][:PHOTOS]):
        with Image.open(file) as image:
            large = image.convert("RGB").resize(PHOTO_SIZE, Image.Resampling.BICUBIC)
        # Enlarged photos are smooth, and compress too well: grain as of a small sensor makes up for it.
        grain = np.random.default_rng(number).normal(0, 7, (PHOTO_SIZE[1], PHOTO_SIZE[0], 1))
        grainy = Image.fromarray(np.clip(np.asarray(large) + grain, 0, 255).astype(np.uint8))
        for quality in range(95, 20, -5):
            buffer = io.BytesIO()
            grainy.save(buffer, format="JPEG", quality=quality)
            if buffer.tell() <= PHOTO_BYTES:
                break
        (folder / "photos" / f"{number:02}").write_bytes(buffer.getvalue())
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="photo.jpg"\r\n'
        form = (
            f"{head}Content-Type: image/jpeg\r\n\r\n".encode() + buffer.getvalue() + f"\r\n--{BOUNDARY}--\r\n".encode()
        )
        (folder / "forms" / f"{number:02}").write_bytes(form)


def write_models(folder: Path, backbone: str, classes: int) -> None:
    """The same network as our artefact below `ours/model`, and as the stock stack wants it below `stock/model`."""
    import backbones
    import export
    import images
    import torch

    network = backbones.create_random(backbone)
    name = backbones.head_name(network, backbone)
    torch.manual_seed(0)
    size = network.get_submodule(name).in_features
    assert isinstance(size, int)
    backbones.set_head(network, name, backbones.Head(size, classes, 0.2))
    manifest = {
        "backbone": backbone,
        "classes": [f"class {number}" for number in range(classes)],
        "image_size": 224,
        "resize": images.RESIZE,
        "mean": list(images.MEAN),
        "std": list(images.STD),
        "interpolation": images.INTERPOLATION,
        "dropout": 0.2,
        "artifact": "model",
        "versions": {},
        "dataset": "benchmark",
        "dataset_version": 1,
    }
    data: Any = Photos()
    export.save(folder / "ours" / "model", network.state_dict(), manifest, data)
    stock = folder / "stock" / "model"
    (stock / "code").mkdir(parents=True)
    shutil.copy(PEERS / "inference.py", stock / "code")
    (stock / "about.json").write_text(json.dumps({"backbone": backbone, "classes": classes}))
    torch.save(network.state_dict(), stock / "model.pth")


def make_environment() -> Path:
    """The peers' virtual environment; returns its interpreter. What this project has is not installed again."""
    python = ENVIRONMENT / "bin" / "python"
    if not (ENVIRONMENT / "complete").exists():
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(ENVIRONMENT)], check=True)
        install = [str(Path(sys.executable).parent / "uv"), "pip", "install", "--quiet", "--python", str(python)]
        subprocess.run([*install, *REQUIREMENTS], check=True)
        subprocess.run([*install, "--no-deps", *STOCK], check=True)
        (site,) = (ENVIRONMENT / "lib").glob("python*/site-packages")
        (site / "project.pth").write_text(sysconfig.get_path("purelib") + "\n")
        (ENVIRONMENT / "complete").touch()
    return python


def servers(folder: Path, wanted: list[str]) -> list[Server]:
    found = []
    if "ours" in wanted:
        environment = {
            "SAGEMAKER_BASE_DIR": str(folder / "ours"),
            "SAGEMAKER_BIND_TO_HOST": "127.0.0.1",
            "SAGEMAKER_BIND_TO_PORT": "{port}",
        }
        command = [sys.executable, str(ROOT / "training_code" / "serve.py")]
        found.append(Server("ours", command, "/invocations", environment))
    if "litserve" in wanted:
        command = [str(make_environment()), str(PEERS / "litserve_server.py"), str(folder / "ours" / "model"), "{port}"]
        found.append(Server("litserve", command, "/invocations", {}, "forms", FORM))
    if "stock" in wanted and shutil.which("java"):
        found += [stock_server(folder / "stock", workers) for workers in (0, 1)]
    return found


def stock_server(base: Path, workers: int) -> Server:
    """What `sagemaker_pytorch_serving_container.torchserve` starts, on free ports of the loopback interface.

    That module itself writes to /etc and listens on all interfaces. `workers` 0 leaves their number as shipped:
    one a core.
    """
    python = make_environment()
    (package,) = (ENVIRONMENT / "lib").glob("python*/site-packages/sagemaker_pytorch_serving_container")
    lines = [(package / "etc" / "default-ts.properties").read_text()]
    lines += [f"{kind}_address=http://127.0.0.1:{free_port()}" for kind in ("management", "metrics")]
    lines += [f"grpc_{kind}_port={free_port()}" for kind in ("inference", "management")]
    lines += [f"default_service_handler={package / 'handler_service.py'}:handle"]
    if workers:
        lines.append(f"default_workers_per_model={workers}")
    config = base / f"torchserve-{workers}.properties"
    config.write_text("\n".join(lines) + "\ninference_address=http://127.0.0.1:PORT\n")
    (base / "models").mkdir(exist_ok=True)
    command = [
        str(python.parent / "torchserve"),
        "--start",
        "--foreground",
        "--model-store",
        str(base / "models"),
        "--ts-config",
        str(config),
        "--log-config",
        str(package / "etc" / "log4j2.xml"),
        "--models",
        f"model={base / 'model'}",
    ]
    environment = {
        "SAGEMAKER_BASE_DIR": str(base),
        "SAGEMAKER_PROGRAM": "inference.py",
        "SAGEMAKER_SUBMIT_DIRECTORY": str(base / "model" / "code"),
        "PYTHONPATH": str(base / "model" / "code"),
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "LOG_LOCATION": str(base / "logs"),
        "METRICS_LOCATION": str(base / "logs"),
    }
    name = "stock, one worker" if workers else "stock as shipped"
    return Server(name, command, "/predictions/model", environment)


@contextmanager
def running(server: Server, body: bytes) -> Iterator[tuple[str, psutil.Process, float]]:
    """The server's address, its process, and the seconds until its first answer."""
    port = free_port()
    filled = [part.replace("{port}", str(port)) for part in server.command]
    for part in filled:
        if part.endswith(".properties"):
            Path(part).write_text(Path(part).read_text().replace(":PORT\n", f":{port}\n"))
    environment = {name: value.replace("{port}", str(port)) for name, value in server.environment.items()}
    began = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            filled,
            env={**os.environ, **environment},
            cwd=tempfile.gettempdir(),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            url = f"http://127.0.0.1:{port}{server.path}"
            while not answers(url, body, server.content_type):
                if process.poll() is not None or time.perf_counter() - began > START_SECONDS:
                    log.seek(0)
                    raise SystemExit(f"{server.name} does not answer:\n{log.read().decode(errors='replace')[-3000:]}")
                time.sleep(0.02)
            yield url, psutil.Process(process.pid), time.perf_counter() - began
        finally:
            # The group of its own is all that it has started.
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def answers(url: str, body: bytes, content_type: str) -> bool:
    request = urllib.request.Request(url, body, {"Content-Type": content_type, "Accept": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False


def measure(server: Server, folder: Path, seconds: float) -> dict[str, Any]:
    bodies = folder / server.bodies
    with running(server, (bodies / "00").read_bytes()) as (url, process, start):

        def load(*options: str) -> dict[str, float]:
            command = [sys.executable, str(ROOT / "benchmarks" / "serving_load.py"), url, str(bodies)]
            command += ["--content-type", server.content_type, *options]
            result: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            assert not result["failures"], (server.name, options, result)
            return result

        load("--seconds", "2", "--callers", "2")
        one = load("--seconds", str(seconds))
        eight = load("--seconds", str(seconds), "--callers", str(CALLERS))
        rate = eight["per_second"] / 2
        # A hundred requests, for a 99th of them to be more than one; not longer than a minute for the slowest.
        longer = min(60.0, max(seconds, 100 / rate))
        half = load("--seconds", str(longer), "--callers", str(2 * CALLERS), "--rate", str(rate))
        members = [process, *process.children(recursive=True)]
        return {
            "start_seconds": start,
            "one_p50_ms": one["p50_ms"],
            "one_p99_ms": one["p99_ms"],
            "eight_per_second": eight["per_second"],
            "eight_p50_ms": eight["p50_ms"],
            "half_load_p50_ms": half["p50_ms"],
            "half_load_p99_ms": half["p99_ms"],
            "memory_mb": sum(member.memory_info().rss for member in members) / 1e6,
        }


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        return int(opened.getsockname()[1])


def report(backbone: str, results: dict[str, dict[str, Any]], bare: dict[str, float]) -> None:
    table = Table(title=f"{backbone}, 2-megapixel photos, {os.cpu_count()} cores")
    columns = [
        ("1 caller p50", "one_p50_ms", "ms"),
        ("p99", "one_p99_ms", "ms"),
        ("8 callers", "eight_per_second", "/s"),
        ("p50", "eight_p50_ms", "ms"),
        ("half load p50", "half_load_p50_ms", "ms"),
        ("p99", "half_load_p99_ms", "ms"),
        ("memory", "memory_mb", "MB"),
        ("first answer", "start_seconds", "s"),
    ]
    table.add_column("server")
    for title, *_ in columns:
        table.add_column(title, justify="right")
    for name, result in results.items():
        table.add_row(name, *(f"{result[key]:.1f} {unit}" for _, key, unit in columns))
    console = Console(width=130)
    console.print(table)
    console.print(
        f"Engine alone: {bare['engine_ms']:.1f} ms; {bare['engine_per_second']:.1f}/s in batches of "
        f"{bare['best_batch']:.0f}; with decoding ({bare['decode_ms']:.1f} ms a photo) "
        f"{bare['decoding_per_second']:.1f}/s"
    )
    ours = results.get("ours")
    if ours:
        for name, other in results.items():
            if other is not ours:
                console.print(
                    f"ours against {name}: {other['one_p50_ms'] / ours['one_p50_ms']:.1f} times as fast for 1 caller, "
                    f"{ours['eight_per_second'] / other['eight_per_second']:.1f} times the answers for 8, "
                    f"{other['memory_mb'] / ours['memory_mb']:.1f} times less memory"
                )
        console.print(
            f"ours against the engine: {ours['eight_per_second'] / bare['engine_per_second']:.2f} of its best rate, "
            f"{ours['eight_per_second'] / bare['decoding_per_second']:.2f} of that with decoding; "
            f"p99 at half load {ours['half_load_p99_ms'] / ours['half_load_p50_ms']:.1f} times p50"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10, help="length of each load")
    parser.add_argument("--backbones", default="resnet50,mobilenet_v2")
    parser.add_argument("--only", default="ours,litserve,stock", help="servers, separated by commas")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    # So that the servers are ended with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    everything: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="droptune-serving-") as temporary:
        bodies = Path(temporary) / "bodies"
        write_photos(bodies)
        for backbone in options.backbones.split(","):
            folder = Path(temporary) / backbone
            subprocess.run([sys.executable, __file__, "--write-models", str(folder), backbone], check=True)
            command = [
                sys.executable,
                str(PEERS / "bare_engine.py"),
                str(folder / "ours" / "model"),
                str(bodies / "photos"),
                "3",
            ]
            bare = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            results = {
                server.name: measure(server, bodies, options.seconds)
                for server in servers(folder, options.only.split(","))
            }
            everything[backbone] = {"bare": bare, **results}
            if not options.json:
                report(backbone, results, bare)
    if options.json:
        print(json.dumps(everything, indent=1))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--write-models"]:
        # In a process of its own: the load must not share its cores with torch's threads.
        write_models(Path(sys.argv[2]), sys.argv[3], 133)
    else:
        main()
