"""What Decode and Prepare cost at 1k, 10k and 50k images, and what a version with 1 % more images costs.

    python benchmarks/data_doctor.py [--sizes 1000,10000,50000] [--images DIRECTORY] [--json]

The images are generated: textured JPEGs of 20 classes, 240 to 960 pixels wide or high, 90 kB each on average, always
the same. They are made once, by all cores, and kept in DIRECTORY (4.5 GB for 50k); the work takes 8 GB more
for the blocks of 50k, and is removed.

Both jobs run as processes of their own under the container contract, on input folders as SageMaker fills them. The
backbone is the smallest of torchvision's with random weights, at 224 pixels, so that the doctor is measured and not
the network. Memory is the highest sum of the resident sizes of a job's processes, looked at five times a second;
pages that they share count more than once. CPU time is that of the job and of all processes it started.

The second version gives Decode the new images only, as Settle does, and the first version to build on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image
from rich.console import Console
from rich.table import Table

REPOSITORY = Path(__file__).resolve().parents[1]
CLASSES = 20
POLL_SECONDS = 0.2
GROWTH = 0.01
ENVIRONMENT = {
    "DATASET": "generated",
    "BACKBONE": "shufflenet_v2_x0_5",
    "IMAGE_SIZE": "224",
    "SEED": "0",
    "PRETRAINED": "false",
    "BLOCKS_URI": "s3://benchmark/prepared/generated/recipe/blocks/",
    # As in the container image and on the local cloud.
    "OMP_WAIT_POLICY": "PASSIVE",
}


@dataclass(frozen=True)
class Cost:
    """Seconds of wall and CPU time, and the peak of the process tree's resident memory in bytes."""

    wall: float
    cpu: float
    memory: int


def key_of(number: int) -> str:
    """The key of a generated image: its class goes around with its number."""
    return f"class-{number % CLASSES:02}/{number:06}.jpg"


def generate(number: int, folder: Path) -> None:
    """Writes one image: smooth random structure of its class's grain and colour, with noise over it."""
    file = folder / key_of(number)
    if file.exists():
        return
    random = np.random.default_rng(number)
    label = number % CLASSES
    width, height = (int(side) for side in random.integers(240, 961, size=2))
    grain = 5 + label % 5
    coarse = random.integers(0, 256, size=(grain, grain, 3), dtype=np.uint8)
    structure = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.int16)
    colour = np.random.default_rng(10**9 + label).integers(0, 256, size=3)
    noise = random.integers(-12, 13, size=(height, width, 1), dtype=np.int16)
    pixels = np.clip((structure + colour) // 2 + noise, 0, 255).astype(np.uint8)
    # A generation that is killed leaves no half an image under the image's name.
    part = file.with_suffix(".part")
    Image.fromarray(pixels).save(part, format="JPEG", quality=85)
    part.replace(file)


def generate_all(count: int, folder: Path) -> None:
    """Writes the images 0 to `count` - 1 that are not there yet, on all cores."""
    for label in range(CLASSES):
        (folder / key_of(label)).parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor() as pool:
        for _ in pool.map(generate, range(count), [folder] * count, chunksize=64):
            pass


def run_job(script: str, base: Path, version: int) -> Cost:
    """Runs an entry point to its end; ends the benchmark when it fails."""
    environment = {**os.environ, **ENVIRONMENT, "DATASET_VERSION": str(version), "SAGEMAKER_BASE_DIR": str(base)}
    before = children_seconds()
    started = time.perf_counter()
    log = base / f"{script}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, str(REPOSITORY / "training_code" / script)], env=environment, stdout=output, stderr=output
        )
    memory = 0
    while process.poll() is None:
        memory = max(memory, tree_memory(process.pid))
        time.sleep(POLL_SECONDS)
    wall = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"{script} failed:\n{log.read_text(errors='replace')[-4000:]}")
    return Cost(wall, children_seconds() - before, memory)


def children_seconds() -> float:
    """CPU seconds of all processes that ended below this one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def tree_memory(pid: int) -> int:
    """Sum of the resident sizes of a process and all below it, in bytes."""
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    return sum(map(resident, processes))


def resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        # It has ended since the tree was listed.
        return 0


def link_tree(source: Path, target: Path) -> None:
    """Hard links of all files below `source`: what SageMaker would have copied, at no cost."""
    shutil.copytree(source, target, copy_function=os.link, dirs_exist_ok=True)


def link_images(images: Path, target: Path, numbers: range) -> None:
    target.mkdir(parents=True)
    for number in numbers:
        file = target / key_of(number)
        file.parent.mkdir(exist_ok=True)
        os.link(images / key_of(number), file)


def seal(images: Path, folder: Path, version: int, count: int, added: range) -> None:
    """Writes what Settle writes of a version with the images 0 to `count` - 1."""
    folder.mkdir(parents=True)
    objects: list[dict[str, Any]] = [
        {
            "key": key_of(number),
            "size": (images / key_of(number)).stat().st_size,
            "etag": hashlib.sha256(key_of(number).encode()).hexdigest()[:32],
        }
        for number in range(count)
    ]
    objects.sort(key=lambda entry: entry["key"])
    (folder / "objects.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in objects))
    parent = version - 1 or None
    diff = {"parent": parent, "added": sorted(map(key_of, added)), "removed": [], "changed": []}
    (folder / "diff.json").write_text(json.dumps(diff))
    document = {
        "dataset": ENVIRONMENT["DATASET"],
        "version": version,
        "parent": parent,
        "content_hash": hashlib.sha256(json.dumps(objects).encode()).hexdigest(),
        "objects": count,
        "bytes": sum(entry["size"] for entry in objects),
        "added": len(added),
        "removed": 0,
        "changed": 0,
        "sealed_at": "2026-11-22T14:39:12Z",
    }
    (folder / "seal.json").write_text(json.dumps(document))


def run_version(images: Path, work: Path, version: int, count: int, new: range) -> dict[str, Cost]:
    """Decodes the `new` images and prepares the version of all `count`, on the version before if there is one.

    Below `work`, `blocks` is what the versions share, and `<version>` the jobs' own folder.
    """
    before, base = work / str(version - 1) / "processing" / "output", work / str(version)
    inputs, outputs = base / "processing" / "input", base / "processing" / "output"
    link_images(images, inputs / "dataset", new)
    if before.exists():
        link_tree(before / "prepared", inputs / "base")
        (inputs / "splits").mkdir()
        os.link(before / "version" / "splits.json", inputs / "splits" / "splits.json")
    decode = run_job("decode.py", base, version)
    link_tree(outputs / "blocks", work / "blocks")
    seal(images, inputs / "version", version, count, new)
    for name, source in (
        ("decoded", outputs / "decoded"),
        ("features", work / "blocks" / "features"),
        ("thumbnails", work / "blocks" / "thumbnails"),
    ):
        link_tree(source, inputs / name)
    return {"decode": decode, "prepare": run_job("prepare.py", base, version)}


def bytes_below(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def measure(images: Path, count: int) -> dict[str, Any]:
    """Both versions of one size: the first with `count` images, the second with 1 % more."""
    new = max(1, round(count * GROWTH))
    with tempfile.TemporaryDirectory(prefix="data-doctor-", dir=images.parent) as folder:
        work = Path(folder)
        first = run_version(images, work, 1, count, range(count))
        prepared = work / "1" / "processing" / "output"
        disk = {
            "images": sum((images / key_of(number)).stat().st_size for number in range(count)),
            "squares": bytes_below(work / "blocks" / "squares"),
            "features": bytes_below(work / "blocks" / "features"),
            "thumbnails": bytes_below(work / "blocks" / "thumbnails"),
            "version": bytes_below(prepared / "prepared") + bytes_below(prepared / "version"),
        }
        summary = json.loads((prepared / "prepared" / "summary.json").read_text())
        used = sum(sum(counts.values()) for counts in summary["counts"].values())
        second = run_version(images, work, 2, count + new, range(count, count + new))
    return {
        "images": count,
        "used": used,
        "new": new,
        "first": {name: asdict(cost) for name, cost in first.items()},
        "second": {name: asdict(cost) for name, cost in second.items()},
        "bytes": disk,
        "share": {
            kind: sum(getattr(cost, kind) for cost in second.values())
            / sum(getattr(cost, kind) for cost in first.values())
            for kind in ("wall", "cpu")
        },
    }


def show(results: list[dict[str, Any]]) -> None:
    table = Table(title=f"Decode and Prepare, {os.cpu_count()} cores, {platform.processor() or platform.machine()}")
    for column in ("images", "version", "job", "wall s", "CPU s", "images/s", "peak MiB"):
        table.add_column(column, justify="left" if column in ("version", "job") else "right")
    for result in results:
        for version, count in (("first", result["images"]), ("second", result["new"])):
            for job, cost in result[version].items():
                table.add_row(
                    f"{result['images']:,}",
                    "first" if version == "first" else f"+{result['new']:,}",
                    job,
                    f"{cost['wall']:.1f}",
                    f"{cost['cpu']:.1f}",
                    f"{(count if job == 'decode' else result['images']) / cost['wall']:.0f}",
                    f"{cost['memory'] / 2**20:.0f}",
                )
        table.add_section()
    console = Console()
    console.print(table)
    for result in results:
        sizes = ", ".join(f"{name} {size / 2**20:.0f}" for name, size in result["bytes"].items())
        console.print(f"{result['images']:,} images on disk, MiB: {sizes}; {result['used']:,} of them are used")
        console.print(
            f"{result['images']:,} images: a version with {GROWTH:.0%} more costs {result['share']['wall']:.1%} of the "
            f"first version's wall time and {result['share']['cpu']:.1%} of its CPU time"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1000,10000,50000", help="numbers of images, separated by commas")
    default = Path(tempfile.gettempdir()) / "droptune-generated-images" / "images"
    parser.add_argument("--images", type=Path, default=default, help=f"where the images are kept; default: {default}")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    sizes = [int(size) for size in options.sizes.split(",")]
    images: Path = options.images.resolve()
    count = max(size + max(1, round(size * GROWTH)) for size in sizes)
    print(f"generating {count:,} images in {images}, as far as they are missing", file=sys.stderr)
    generate_all(count, images)
    results = []
    for size in sizes:
        results.append(measure(images, size))
        print(f"measured {size:,} images", file=sys.stderr)
    if options.json:
        print(json.dumps(results, indent=1))
    else:
        show(results)


if __name__ == "__main__":
    main()
