"""Prepare: from whatever was dropped to training-ready arrays, the bad files listed and left out.

Features
    - Reads class folders, train/valid/test folders, and archives of either (`dataset`, `archives`).
    - Decodes every image wholly, so that a truncated one is found here and not in the midst of a training.
    - Leaves out copies that contradict themselves: one content in two classes, or in two of the user's splits.
    - Splits deterministically by content (`dataset.assign_splits`).
    - Runs the frozen backbone once over all images; a trial then trains only a head on what came out.
    - The same input, environment and machine give the same bytes.

Trade-offs
    - Pixels are stored at the network's input size: small on disk, but a training on augmented crops enlarges
      them again.
    - AUGMENTED_VIEWS adds randomly cropped and mirrored views of each training image to its features. Each
      view costs as much time as the plain one, and on small sets it changes accuracy by less than its own
      scatter (benchmarks/training_accuracy.py), so the default is none.

Environment
    DATASET, DATASET_VERSION, BACKBONE, IMAGE_SIZE (default 224), SEED (default 0), AUGMENTED_VIEWS
    (default 0), WEIGHTS_URL (used when the weights folder is empty), PRETRAINED (default true; false builds
    random weights, for tests of the mechanics), SAGEMAKER_BASE_DIR.

Errors (JobError codes; see docs/reference/contracts.md)
    EmptyDataset, NoUsableImages, UnsafeArchive (nothing but refused archives), TooFewClasses, TooFewImages,
    WeightsMissing, WeightsCorrupt, UnknownBackbone, InvalidHyperParameter (a bad environment variable),
    OutOfMemory, InternalError.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import backbones
import contract
import dataset
import images
import network_inputs
import numpy as np
import torch
import weights
from numpy.typing import NDArray
from prepared import SUMMARY
from torch import nn

# On CPUs small batches are faster by half: their buffers stay small enough for malloc to reuse them.
BATCH_IMAGES = 8
MAX_FILE_BYTES = 100 * 1024**2
MAX_AUGMENTED_VIEWS = 16
SMALLEST_IMAGE, LARGEST_IMAGE = 32, 1024
# Lines of progress over one pass through the data.
PROGRESS_LINES = 10


@dataclass(frozen=True)
class Settings:
    """The job's parameters, read from the environment."""

    dataset: str
    version: int
    backbone: str
    image_size: int
    seed: int
    augmented_views: int
    pretrained: bool


def main() -> None:
    started = time.monotonic()
    settings = read_settings()
    network, checked = frozen_backbone(settings)
    target = contract.processing_output("prepared")
    # Beside the output, on the volume whose size the job chooses; the system's /tmp may be small.
    with tempfile.TemporaryDirectory(prefix="scratch-", dir=target.parent) as folder:
        scratch = Path(folder)
        (scratch / "archives").mkdir()
        listing = dataset.read_listing(contract.processing_input("dataset"), scratch / "archives")
        say(f"Found {len(listing.candidates)} files in class folders, {listing.ignored} ignored.", started)

        squares, usable = decode_all(listing, settings.image_size, scratch / "squares")
        usable = leave_out_contradictions(usable, listing)
        classes = dataset.check_classes(settings.dataset, listing, list(usable.values()))
        splits = dataset.assign_splits(list(usable.values()), settings.seed)
        say(f"{len(usable)} usable images in {len(classes)} classes.", started)

        counts: dict[str, dict[str, int]] = {}
        for split in dataset.SPLITS:
            rows = [row for row, image in usable.items() if splits[image.key] == split]
            labels = np.array([classes.index(usable[row].label) for row in rows], dtype=np.int64)
            counts[split] = {label: int((labels == index).sum()) for index, label in enumerate(classes)}
            np.save(target / f"labels-{split}.npy", labels)
            write_json(target / f"files-{split}.json", [usable[row].key for row in rows])
            chosen = copy_rows(squares, rows, target / f"images-{split}.npy")
            views = 1 + (settings.augmented_views if split == "train" else 0)
            np.save(target / f"features-{split}.npy", features_of(chosen, network, settings, views))
            say(f"{split}: {len(rows)} images, features of {views} view(s) each.", started)

    summary = {
        "dataset": settings.dataset,
        "version": settings.version,
        "classes": classes,
        "backbone": settings.backbone,
        "image_size": settings.image_size,
        "feature_size": backbones.feature_size(settings.backbone, settings.image_size),
        "counts": counts,
        "quarantined": [asdict(entry) for entry in listing.quarantined],
        "ignored": listing.ignored,
        "weights_sha256": checked.sha256 if checked else None,
        "seed": settings.seed,
    }
    # Last, so that a folder with a summary is a whole one.
    write_json(target / SUMMARY, summary)
    say(f"Done; {len(listing.quarantined)} files left out.", started)


def say(line: str, started: float) -> None:
    print(f"[{time.monotonic() - started:6.1f} s] {line}", flush=True)


def read_settings() -> Settings:
    return Settings(
        dataset=contract.environment_text("DATASET"),
        version=contract.environment_integer("DATASET_VERSION", 1, 10**9),
        backbone=contract.environment_text("BACKBONE"),
        image_size=contract.environment_integer("IMAGE_SIZE", SMALLEST_IMAGE, LARGEST_IMAGE, default=224),
        seed=contract.environment_integer("SEED", 0, 2**32 - 1, default=0),
        augmented_views=contract.environment_integer("AUGMENTED_VIEWS", 0, MAX_AUGMENTED_VIEWS, default=0),
        pretrained=contract.environment_flag("PRETRAINED", default=True),
    )


def frozen_backbone(settings: Settings) -> tuple[nn.Module, weights.Weights | None]:
    """The network without its head, ready to compute features, and the weights file it came from."""
    backbones.feature_size(settings.backbone, settings.image_size)
    checked = None
    if settings.pretrained:
        checked = weights.load(settings.backbone, contract.processing_input("weights"))
        network = weights.into_network(checked, settings.backbone)
        print(f"Backbone {settings.backbone}, weights {checked.file} (SHA-256 checked).", flush=True)
    else:
        network = backbones.create_random(settings.backbone)
        print(f"Backbone {settings.backbone} with RANDOM weights, as PRETRAINED=false asks.", flush=True)
    backbones.set_head(network, backbones.head_name(network, settings.backbone), nn.Identity())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return backbones.for_inference(network).to(device), checked


def decode_all(
    listing: dataset.Listing, size: int, scratch: Path
) -> tuple[NDArray[np.uint8], dict[int, dataset.Image]]:
    """Decodes all candidates; bad ones are added to `listing.quarantined`.

    Returns squares (candidates x size x size x 3, on disk at `scratch`, since they may exceed the memory)
    and the usable images by row, in the order of their keys.
    """
    candidates = listing.candidates
    squares = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
        scratch, mode="w+", dtype=np.uint8, shape=(len(candidates), size, size, 3)
    )

    def decode(row: int) -> dataset.Image | images.BadImage:
        candidate = candidates[row]
        try:
            data = read_limited(candidate.path)
            squares[row] = images.decode_square(data, size)
        except images.BadImage as error:
            return error
        digest = hashlib.sha256(data).hexdigest()
        return dataset.Image(candidate.key, candidate.label, candidate.split, digest)

    usable: dict[int, dataset.Image] = {}
    # Threads, not processes: Pillow lets go of the interpreter lock while it decodes and scales.
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for row, result in enumerate(pool.map(decode, range(len(candidates)))):
            if isinstance(result, dataset.Image):
                usable[row] = result
            else:
                key = candidates[row].key
                listing.quarantined.append(dataset.Quarantined(key, result.reason, result.hint))
            if is_milestone(row, row + 1, len(candidates)):
                print(f"Decoded {row + 1} of {len(candidates)} files.", flush=True)
    listing.quarantined.sort(key=lambda entry: entry.file)
    return squares, usable


def leave_out_contradictions(usable: dict[int, dataset.Image], listing: dataset.Listing) -> dict[int, dataset.Image]:
    """`usable` without the images that `dataset.contradictions` finds, which go to `listing.quarantined`."""
    found = dataset.contradictions(list(usable.values()))
    listing.quarantined.extend(found)
    listing.quarantined.sort(key=lambda entry: entry.file)
    left_out = {entry.file for entry in found}
    return {row: image for row, image in usable.items() if image.key not in left_out}


def is_milestone(before: int, done: int, total: int) -> bool:
    """Whether another of `PROGRESS_LINES` equal parts of the work is done."""
    return before * PROGRESS_LINES // total != done * PROGRESS_LINES // total


def read_limited(path: Path) -> bytes:
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise images.BadImage(
            f"The file is too large ({size:,} bytes; the limit is {MAX_FILE_BYTES:,}).", "Scale it down."
        )
    return path.read_bytes()


def copy_rows(squares: NDArray[np.uint8], rows: list[int], target: Path) -> NDArray[np.uint8]:
    """Copies rows into a .npy file of their own, block by block, and returns that file's array."""
    copied: NDArray[np.uint8] = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
        target, mode="w+", dtype=np.uint8, shape=(len(rows), *squares.shape[1:])
    )
    for block in batches(len(rows)):
        copied[block] = squares[rows[block]]
    return copied


def features_of(squares: NDArray[np.uint8], network: nn.Module, settings: Settings, views: int) -> NDArray[np.float32]:
    """Frozen features N x views x F of squares N x S x S x 3; view 0 is the plain image."""
    device = next(network.parameters()).device
    augment = network_inputs.augmentation(settings.image_size)
    size = backbones.feature_size(settings.backbone, settings.image_size)
    features = np.empty((len(squares), views, size), dtype=np.float32)
    with torch.inference_mode(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        for block in batches(len(squares)):
            plain = network_inputs.network_input(squares[block])
            features[block, 0] = network(plain.to(device)).cpu().numpy()
            for view in range(1, views):
                pixels = torch.from_numpy(squares[block]).permute(0, 3, 1, 2)
                augmented = torch.stack([augment(image) for image in pixels])
                inputs = network_inputs.normalise(augmented.permute(0, 2, 3, 1))
                features[block, view] = network(inputs.to(device)).cpu().numpy()
            if is_milestone(block.start, block.stop, len(squares)):
                print(f"Features of {block.stop} of {len(squares)} images.", flush=True)
    return features


def batches(count: int) -> Iterator[slice]:
    for start in range(0, count, BATCH_IMAGES):
        yield slice(start, min(start + BATCH_IMAGES, count))


def write_json(file: Path, content: object) -> None:
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n", "utf-8")


if __name__ == "__main__":
    sys.exit(contract.run(main, contract.processing_failure_file()))
