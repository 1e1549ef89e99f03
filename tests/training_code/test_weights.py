"""Weights files: found, checked, and only then read. And the networks they go into."""

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path

import backbones
import pytest
import safetensors.torch
import torch
import weights
from contract import JobError
from torch import nn

BACKBONE = "shufflenet_v2_x0_5"
# One of every family whose structure differs.
FAMILIES = {
    "resnet18": "fc",
    "mobilenet_v2": "classifier.1",
    "mobilenet_v3_small": "classifier.3",
    "efficientnet_b0": "classifier.1",
    "convnext_tiny": "classifier.2",
    "densenet121": "classifier",
    "regnet_y_400mf": "fc",
    "shufflenet_v2_x0_5": "fc",
    "vit_b_32": "heads.head",
    "swin_t": "head",
    "maxvit_t": "classifier.5",
}


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return backbones.create_random(BACKBONE).state_dict()


def save_pth(folder: Path, content: object, name: str = "net") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(content, folder / "raw")
    digest = hashlib.sha256((folder / "raw").read_bytes()).hexdigest()
    return (folder / "raw").rename(folder / f"{name}-{digest[:8]}.pth")


def save_safetensors(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    data = safetensors.torch.save(tensors)
    (folder / "net.safetensors").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    (folder / "net.safetensors.sha256").write_text(f"{digest}  net.safetensors\n", encoding="utf-8")
    return folder / "net.safetensors"


@pytest.mark.parametrize("save", [save_pth, save_safetensors])
@pytest.mark.parametrize("below", ["", BACKBONE])
def test_checked_files_are_loaded(
    tmp_path: Path, state: dict[str, torch.Tensor], save: Callable[..., Path], below: str
) -> None:
    # GIVEN a weights file whose hash fits, in the folder or in the backbone's folder
    file = save(tmp_path / below, state)

    # WHEN it is loaded into a network
    loaded = weights.load(BACKBONE, tmp_path)
    network = weights.into_network(loaded, BACKBONE)

    # THEN the network holds it, and the file is described
    assert torch.equal(network.state_dict()["conv1.0.weight"], state["conv1.0.weight"])
    assert loaded.described() == {
        "file": file.name,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "license": None,
    }


@pytest.mark.parametrize("scheme", ["file", "none"])
def test_address_is_used_when_the_folder_is_empty(
    tmp_path: Path, state: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    # GIVEN an empty weights folder, and perhaps an address
    file = save_safetensors(tmp_path / "elsewhere", state)
    if scheme == "file":
        monkeypatch.setenv("WEIGHTS_URL", file.as_uri())
        # WHEN the weights are loaded, THEN they come from there
        assert weights.load(BACKBONE, tmp_path / "empty").file == "net.safetensors"
    else:
        monkeypatch.delenv("WEIGHTS_URL", raising=False)
        # WHEN they are loaded, THEN the error names torchvision's file and the next step
        with pytest.raises(JobError) as caught:
            weights.load(BACKBONE, tmp_path / "empty")
        assert caught.value.code == "WeightsMissing"
        assert "shufflenetv2_x0.5-f707e7126e.pth" in caught.value.hint


@pytest.mark.parametrize("url", ["ftp://example.com/net-00000000.pth", "file:///nowhere/net-00000000.pth"])
def test_addresses_that_do_not_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("WEIGHTS_URL", url)
    with pytest.raises(JobError) as caught:
        weights.load(BACKBONE, tmp_path)
    assert caught.value.code == "WeightsMissing"


class Bomb:
    """Unpickling it would create a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.file,))


def test_hash_is_checked_before_anything_is_unpickled(tmp_path: Path) -> None:
    # GIVEN a file with code in it, under a name whose hash does not fit
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "net-00000000.pth").write_bytes(pickle.dumps(Bomb(tmp_path / "boom")))

    # WHEN it is loaded, THEN the hash is the reason, and nothing has run
    with pytest.raises(JobError, match="begins with") as caught:
        weights.load(BACKBONE, tmp_path / "weights")
    assert caught.value.code == "WeightsCorrupt"
    assert not (tmp_path / "boom").exists()


def test_code_in_a_file_with_the_right_hash_does_not_run(tmp_path: Path) -> None:
    # GIVEN the same with a hash that fits
    save_pth(tmp_path / "weights", {"x": Bomb(tmp_path / "boom")})

    # WHEN it is loaded, THEN it is refused all the same
    with pytest.raises(JobError, match="no state dict") as caught:
        weights.load(BACKBONE, tmp_path / "weights")
    assert caught.value.code == "WeightsCorrupt"
    assert not (tmp_path / "boom").exists()


def rename_without_hash(folder: Path, state: dict[str, torch.Tensor]) -> None:
    save_pth(folder, state).rename(folder / "net.pth")


def lose_sha256_file(folder: Path, state: dict[str, torch.Tensor]) -> None:
    Path(f"{save_safetensors(folder, state)}.sha256").unlink()


def change_a_byte(folder: Path, state: dict[str, torch.Tensor]) -> None:
    file = save_safetensors(folder, state)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def save_two(folder: Path, state: dict[str, torch.Tensor]) -> None:
    save_pth(folder, state)
    save_safetensors(folder, state)


@pytest.mark.parametrize("spoil", [rename_without_hash, lose_sha256_file, change_a_byte, save_two])
def test_files_that_cannot_be_trusted(
    tmp_path: Path, state: dict[str, torch.Tensor], spoil: Callable[..., None]
) -> None:
    spoil(tmp_path, state)
    with pytest.raises(JobError) as caught:
        weights.load(BACKBONE, tmp_path)
    assert caught.value.code == "WeightsCorrupt"


def test_weights_of_another_network_are_refused(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    save_safetensors(tmp_path, state)
    with pytest.raises(JobError, match="does not belong") as caught:
        weights.into_network(weights.load("resnet18", tmp_path), "resnet18")
    assert caught.value.code == "WeightsCorrupt"


@pytest.mark.parametrize(("backbone", "name"), FAMILIES.items())
def test_head_features_and_stages_of_every_family(backbone: str, name: str) -> None:
    # GIVEN a network of the family
    network = backbones.create_on_meta(backbone)

    # WHEN its head is replaced
    assert backbones.head_name(network, backbone) == name
    stages = backbones.stages(network, backbone)
    size = backbones.feature_size(backbone, 224)
    with torch.device("meta"):
        backbones.set_head(network, name, backbones.Head(size, 7, dropout=0.1))

    # THEN it gives scores of the new classes
    assert network.eval()(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 7)
    # AND its stages are several, hold weights, and leave out the head
    head = network.get_submodule(name)
    assert len(stages) > 1
    assert all(any(True for module in stage for _ in module.parameters()) for stage in stages)
    assert not any(part is head for stage in stages for module in stage for part in module.modules())


def test_stages_of_resnet_are_its_layers() -> None:
    network = backbones.create_on_meta("resnet50")
    last = backbones.stages(network, "resnet50")[-4:]
    assert [stage[0] for stage in last] == [getattr(network, f"layer{number}") for number in (1, 2, 3, 4)]


def test_old_densenet_names_are_understood(tmp_path: Path) -> None:
    # GIVEN DenseNet's weights with the names that torchvision's published files have
    state = backbones.create_random("densenet121").state_dict()
    old = {
        name.replace("norm1", "norm.1").replace("conv2", "conv.2") if "denselayer" in name else name: tensor
        for name, tensor in state.items()
    }
    assert old.keys() != state.keys()
    save_safetensors(tmp_path, old)

    # WHEN they are loaded, THEN they fit
    network = weights.into_network(weights.load("densenet121", tmp_path), "densenet121")
    assert network.state_dict().keys() == state.keys()


@pytest.mark.parametrize("backbone", ["squeezenet1_0", "googlenet", "resnet51", "", "fasterrcnn_resnet50_fpn"])
def test_unknown_backbones(backbone: str) -> None:
    with pytest.raises(JobError) as caught:
        backbones.create(backbone)
    assert caught.value.code == "UnknownBackbone"


def test_image_size_that_a_network_does_not_take() -> None:
    with pytest.raises(JobError, match="takes no images of 192 pixels"):
        backbones.feature_size("vit_b_32", 192)


def test_random_weights_are_always_the_same_and_leave_the_random_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = backbones.create_random(BACKBONE).state_dict()
    assert torch.equal(torch.rand(1), expected)
    second = backbones.create_random(BACKBONE).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_head_drops_features_while_training_only() -> None:
    head = backbones.Head(64, 3, dropout=0.5)
    features = torch.ones(1, 64)
    assert torch.equal(head.eval()(features), nn.functional.linear(features, head.weight, head.bias))
    assert not torch.equal(head.train()(features), head.eval()(features))
