"""Decode: every new file read once, under limits, into pixels, frozen features and facts.

Features
    - Reads any folder of files, and archives at its top, which are unpacked one after the other (`files`,
      `archives`). Which class a file belongs to is not asked here: Prepare finds that from the records.
    - Decodes in worker processes under limits of bytes, pixels, memory and seconds (`workers`): a file that
      exceeds one, or that crashes its decoder, is listed with the reason, and nothing else is lost.
    - Decodes no content twice: not in one job, and not when the base version's records know it already.
    - Runs the frozen backbone over the images while the workers go on with the next ones.
    - The same input, environment and machine give the same bytes, whatever the number of workers.

Trade-offs
    - Pixels are stored at the network's input size: small on disk, but a training on augmented crops enlarges
      them again.
    - AUGMENTED_VIEWS adds randomly cropped and mirrored views of each image to its features. Each view costs
      as much time as the plain one, and on small sets it changes accuracy by less than its own scatter
      (benchmarks/training_accuracy.py), so the default is none.
    - Results are taken in the order of the keys, so that memory stays bounded: behind a slow file the workers
      get at most `decode_job.MAX_AHEAD` files further.

Environment
    DATASET, BACKBONE, IMAGE_SIZE (default 224), SEED (default 0), AUGMENTED_VIEWS (default 0), WEIGHTS_URL
    (used when the weights folder is empty), PRETRAINED (default true; false builds random weights, for tests
    of the mechanics), SAGEMAKER_BASE_DIR.

Errors (JobError codes; see docs/reference/contracts.md)
    WeightsMissing, WeightsCorrupt, UnknownBackbone, InvalidHyperParameter (a bad environment variable),
    MissingInput (a base without records), OutOfMemory, InternalError. Bad files are none: they are records.

Each worker process imports this file anew (see `workers`), so nothing at its top may import torch.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import contract
from decode_job import Job, Outputs, Settings
from workers import Workers

MAX_AUGMENTED_VIEWS = 16
SMALLEST_IMAGE, LARGEST_IMAGE = 32, 1024


def main() -> None:
    started = time.monotonic()
    settings = read_settings()
    decoded = contract.processing_output("decoded")
    # Beside the output, on the volume whose size the job chooses; the system's /tmp may be small.
    with tempfile.TemporaryDirectory(prefix="scratch-", dir=decoded.parent) as scratch, Workers() as workers:
        # Not at the top, as the workers do without it; they start while this imports torch.
        from features import FrozenBackbone

        weights = contract.processing_input("weights") if settings.pretrained else None
        backbone = FrozenBackbone(settings.backbone, settings.image_size, weights)
        outputs = Outputs(decoded, contract.processing_output("blocks"), Path(scratch), contract.current_host())
        job = Job(settings, workers, backbone, outputs, started)
        job.run(contract.processing_input("dataset"), contract.processing_input("base"))


def read_settings() -> Settings:
    # Required as in the other jobs, though nothing here is written under its name.
    contract.environment_text("DATASET")
    return Settings(
        backbone=contract.environment_text("BACKBONE"),
        image_size=contract.environment_integer("IMAGE_SIZE", SMALLEST_IMAGE, LARGEST_IMAGE, default=224),
        seed=contract.environment_integer("SEED", 0, 2**32 - 1, default=0),
        augmented_views=contract.environment_integer("AUGMENTED_VIEWS", 0, MAX_AUGMENTED_VIEWS, default=0),
        pretrained=contract.environment_flag("PRETRAINED", default=True),
    )


if __name__ == "__main__":
    sys.exit(contract.run(main, contract.processing_failure_file()))
