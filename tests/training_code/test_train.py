"""Train: both recipes, metric lines, resuming, stopping, the debug hook."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import artifact
import backbones
import checkpoints
import numpy as np
import prepared
import pytest
import safetensors.torch
import torch
import train

TrainingDir = Callable[..., Path]
RunJob = Callable[..., int]
Failure = Callable[[Path], dict[str, str]]
METRICS = ("train:loss", "train:accuracy", "validation:loss", "validation:accuracy")


def tensors(base: Path) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = safetensors.torch.load_file(base / "model" / "model.safetensors")
    return loaded


def manifest(base: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((base / "model" / "manifest.json").read_text(encoding="utf-8"))
    return document


def history(base: Path, *, timed: bool = False) -> list[dict[str, Any]]:
    entries = json.loads((base / "output" / "data" / "history.json").read_text(encoding="utf-8"))
    return entries if timed else [{k: v for k, v in entry.items() if k != "seconds"} for entry in entries]


def metric(name: str, output: str) -> list[float]:
    """What SageMaker finds with the metric definitions of the contract."""
    return [float(value) for value in re.findall(f"{name}=([0-9.eE+-]+|nan|inf);", output)]


def as_if_unbroken(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Equal but for rounding: sums are grouped by how memory is aligned, and what was read back lies elsewhere."""
    return first.keys() == second.keys() and all(
        torch.allclose(first[name], second[name], rtol=1e-4, atol=1e-6) for name in first
    )


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_head_learns_and_the_artefact_is_whole(
    training_dir: TrainingDir, run_job: RunJob, capsys: pytest.CaptureFixture[str]
) -> None:
    # GIVEN colours, which any network can tell apart
    base = training_dir(epochs="12", learning_rate="0.02", seed="3")

    # WHEN a head is trained on their cached features
    assert run_job(train, base) == 0
    lines = capsys.readouterr().out.strip().splitlines()

    # THEN there is a metric line an epoch, and the best one is printed last once more
    entries = history(base)
    assert [entry["epoch"] for entry in entries] == list(range(1, 13))
    best = max(entries, key=lambda entry: (entry["validation:accuracy"], -entry["validation:loss"]))
    assert len(lines) == 13
    assert lines[-1] == lines[best["epoch"] - 1] == train.metric_line(best)
    for name in METRICS:
        assert metric(name, "\n".join(lines))[:12] == pytest.approx([entry[name] for entry in entries], rel=1e-5)
    assert best["validation:accuracy"] >= 0.8
    assert entries[-1]["train:loss"] < entries[0]["train:loss"]

    # AND the artefact can be loaded, and gives what was measured
    model = artifact.load(base / "model")
    data = prepared.open_prepared(base / "input" / "data" / "prepared", base / "input" / "data" / "blocks")
    predicted = model.probabilities(data.images("valid")[:]).argmax(axis=1)
    accuracy = (predicted == data.labels("valid")).mean()
    assert accuracy == pytest.approx(best["validation:accuracy"])
    document = manifest(base)
    assert document["metrics"] == {name: best[name] for name in METRICS}
    assert document["hyper_parameters"]["seed"] == document["seed"] == 3
    assert document["pretrained_weights"] is None
    assert document["classes"] == ["blue", "green", "red"]
    assert (document["image_size"], document["resize"]) == (32, "letterbox")
    assert document["trained_on"] == ["train"]


def test_head_artefact_holds_the_head_alone(training_dir: TrainingDir, run_job: RunJob) -> None:
    base = training_dir(artifact="head")
    assert run_job(train, base) == 0
    assert tensors(base).keys() == {"fc.weight", "fc.bias"}
    assert manifest(base)["artifact"] == "head"


def test_same_seed_gives_the_same_model(training_dir: TrainingDir, run_job: RunJob) -> None:
    first, again, other = training_dir(), training_dir(), training_dir(seed="1")
    assert [run_job(train, base) for base in (first, again, other)] == [0, 0, 0]
    assert same(tensors(first), tensors(again))
    assert history(first) == history(again)
    assert not same(tensors(first), tensors(other))


def add_view(base: Path, shift: float) -> None:
    """Gives the features of all images a second view: the first plus `shift`."""
    for file in (base / "input" / "data" / "blocks" / prepared.FEATURES).iterdir():
        features = np.load(file)
        np.save(file, np.concatenate([features, features + np.float32(shift)], axis=1))


def test_each_step_draws_one_of_several_views(training_dir: TrainingDir, run_job: RunJob) -> None:
    # GIVEN features whose second view is shifted
    base = training_dir(artifact="head")
    one_view = training_dir(artifact="head")
    add_view(base, 1)

    # WHEN a head is trained on both, THEN it differs from one trained on the first alone
    assert run_job(train, base) == 0
    assert run_job(train, one_view) == 0
    assert not same(tensors(base), tensors(one_view))


def test_end_to_end_trains_the_last_stages_and_nothing_else(training_dir: TrainingDir, run_job: RunJob) -> None:
    # GIVEN the network before training
    before = backbones.create_random("regnet_x_400mf").state_dict()

    # WHEN the head and the last stage are trained on pixels
    base = training_dir(trainable_layers="1", epochs="2", batch_size="9")
    assert run_job(train, base) == 0

    # THEN their parameters have changed, and no others, nor any running statistic
    after = tensors(base)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    trained = {
        name for name in after if name.startswith(("fc.", "trunk_output.block4.")) and name.endswith(("weight", "bias"))
    }
    assert changed == trained
    # AND the artefact is a whole model
    assert artifact.load(base / "model").classes == ["blue", "green", "red"]
    # AND a trial's artefact holds what was trained
    trial = training_dir(trainable_layers="1", epochs="1", artifact="head")
    assert run_job(train, trial) == 0
    assert tensors(trial).keys() == trained


@pytest.mark.parametrize("recipe", [{}, {"trainable_layers": "1"}])
def test_stopped_training_resumes_as_if_unbroken(
    training_dir: TrainingDir,
    run_job: RunJob,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    recipe: dict[str, str],
) -> None:
    # GIVEN a training that gets SIGTERM when it prints its third epoch
    stopped, unbroken = training_dir(epochs="6", **recipe), training_dir(epochs="6", **recipe)
    original = train.metric_line

    def interrupting(entry: dict[str, Any]) -> str:
        if entry["epoch"] == 3:
            signal.raise_signal(signal.SIGTERM)
        return original(entry)

    with monkeypatch.context() as patch:
        patch.setattr(train, "metric_line", interrupting)
        assert run_job(train, stopped) == 0

    # THEN it has ended well, with a checkpoint and the best model so far
    assert "checkpoint written after epoch 3" in capsys.readouterr().out
    assert len(history(stopped)) == 3
    assert artifact.load(stopped / "model")

    # WHEN it is started again, and another one runs without a break
    assert run_job(train, stopped) == 0
    assert "Resuming after epoch 3" in capsys.readouterr().out
    assert run_job(train, unbroken) == 0

    # THEN both have the same history and the same model
    assert history(stopped) == [pytest.approx(entry, rel=1e-4, abs=1e-6) for entry in history(unbroken)]
    assert as_if_unbroken(tensors(stopped), tensors(unbroken))


def join_valid_to_train(base: Path) -> None:
    """Rewrites a training's index so that its train split holds valid's images too, after its own."""
    file = base / "input" / "data" / "prepared" / prepared.INDEX
    index = prepared.read_lines(file)
    joined = [{**image, "split": "train"} for split in ("train", "valid") for image in index if image["split"] == split]
    # They stay in valid as well: a training needs one.
    prepared.write_lines(file, joined + [image for image in index if image["split"] != "train"])


@pytest.mark.parametrize("recipe", [{}, {"trainable_layers": "1", "batch_size": "9"}])
def test_refit_trains_on_validation_too_and_measures_without(
    training_dir: TrainingDir,
    run_job: RunJob,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    recipe: dict[str, str],
) -> None:
    # GIVEN a training with a refit and one without
    given = {"epochs": "4", "learning_rate": "0.02", **recipe}
    refitted, plain = training_dir(refit="true", **given), training_dir(**given)
    assert run_job(train, plain) == 0
    plain_lines = capsys.readouterr().out.splitlines()
    assert run_job(train, refitted) == 0
    lines = capsys.readouterr().out.splitlines()

    # THEN metrics and history are those of the training with held-out validation images
    assert history(refitted) == history(plain)
    assert manifest(refitted)["metrics"] == manifest(plain)["metrics"]
    assert [line for line in lines if line.startswith("epoch=")] == plain_lines
    assert [line for line in lines if "validation:" in line] == plain_lines
    # AND the model is another one, trained on both
    assert manifest(refitted)["trained_on"] == ["train", "valid"]
    assert not same(tensors(refitted), tensors(plain))
    assert artifact.load(refitted / "model")

    # AND it is the one that a training on both splits has at that epoch
    best = 1 + plain_lines.index(plain_lines[-1])
    both = training_dir(**given)
    join_valid_to_train(both)
    monkeypatch.setattr(train, "rank", lambda entry: (entry["epoch"] == best, 0.0))
    assert run_job(train, both) == 0
    assert same(tensors(refitted), tensors(both))


def test_only_train_is_used_in_its_augmented_views(training_dir: TrainingDir, run_job: RunJob) -> None:
    # GIVEN two trainings whose second views differ, for the images of valid alone
    some, others = training_dir(refit="true", artifact="head"), training_dir(refit="true", artifact="head")
    for base, shift in ((some, 1), (others, 100)):
        add_view(base, 1)
        index = prepared.read_lines(base / "input" / "data" / "prepared" / prepared.INDEX)
        for image in index:
            if image["split"] == "valid":
                file = base / "input" / "data" / "blocks" / prepared.FEATURES / f"{image['block']}.npy"
                features = np.load(file)
                features[image["row"], 1] += shift
                np.save(file, features)

    # WHEN both are refitted
    assert [run_job(train, base) for base in (some, others)] == [0, 0]

    # THEN it makes no difference, neither in what is measured nor in what is trained
    assert manifest(some)["trained_on"] == ["train", "valid"]
    assert history(some) == history(others)
    assert same(tensors(some), tensors(others))


@pytest.mark.parametrize("recipe", [{}, {"trainable_layers": "1"}])
def test_stopped_refit_keeps_the_measured_model_and_resumes(
    training_dir: TrainingDir,
    run_job: RunJob,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    recipe: dict[str, str],
) -> None:
    # GIVEN a training whose best epoch is the third, and that gets SIGTERM after one epoch of its refit
    given = {"epochs": "4", **recipe}
    stopped, unbroken, plain = (
        training_dir(refit="true", **given),
        training_dir(refit="true", **given),
        training_dir(**given),
    )
    original_rank, original_snapshot = train.rank, train.snapshot
    monkeypatch.setattr(
        train,
        "rank",
        lambda entry: (entry["epoch"] == 3, 0.0) if "validation:loss" in entry else original_rank(entry),
    )

    def interrupting(before: checkpoints.State, entry: dict[str, Any], *others: Any) -> checkpoints.State:
        if "validation:loss" not in entry:
            signal.raise_signal(signal.SIGTERM)
        return original_snapshot(before, entry, *others)

    with monkeypatch.context() as patch:
        patch.setattr(train, "snapshot", interrupting)
        assert run_job(train, stopped) == 0

    # THEN the model is that of the training before, and says so
    assert "checkpoint written after epoch 1" in capsys.readouterr().out
    assert run_job(train, plain) == 0
    assert same(tensors(stopped), tensors(plain))
    assert manifest(stopped)["trained_on"] == ["train"]

    # WHEN it is started again, THEN only the rest of the refit is done, as if it had never stopped
    capsys.readouterr()
    assert run_job(train, stopped) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("Resuming")] == [
        "Resuming after epoch 4.",
        "Resuming after epoch 1.",
    ]
    assert run_job(train, unbroken) == 0
    assert as_if_unbroken(tensors(stopped), tensors(unbroken))
    assert manifest(stopped)["trained_on"] == ["train", "valid"]
    assert history(stopped) == [pytest.approx(entry, rel=1e-4, abs=1e-6) for entry in history(unbroken)]


@pytest.mark.slow
def test_sigterm_ends_the_process_well(training_dir: TrainingDir, start_script: Callable[..., Any]) -> None:
    # GIVEN a training of its own process that would take minutes
    base = training_dir(epochs="500", trainable_layers="1")
    process = start_script("train.py", base)
    assert process.stdout.readline().startswith("epoch=1;")

    # WHEN SIGTERM arrives
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)

    # THEN it ends with status 0, a model and a checkpoint
    assert (process.returncode, errors) == (0, "")
    assert artifact.load(base / "model")
    assert (base / "checkpoints" / checkpoints.FILE).is_file()
    assert len(history(base)) < 500


def test_checkpoints_of_other_data_or_settings_are_not_used(
    training_dir: TrainingDir, run_job: RunJob, capsys: pytest.CaptureFixture[str]
) -> None:
    # GIVEN a checkpoint of another training, and a damaged one
    base, other = training_dir(epochs="2"), training_dir(epochs="2", learning_rate="0.1")
    state = checkpoints.State(
        trained={"fc.weight": torch.zeros(1)}, best={}, moments={m: {} for m in checkpoints.MOMENTS},
        steps=1, best_epoch=1, history=[],
    )  # fmt: skip
    checkpoints.Checkpoint(base / "checkpoints", "fingerprint of another").save(state)
    (other / "checkpoints").mkdir()
    (other / "checkpoints" / checkpoints.FILE).write_bytes(b"half a file")

    # WHEN trainings find them, THEN they say so and start from the beginning
    for folder, reason in ((base, "other data"), (other, "cannot be read")):
        assert run_job(train, folder) == 0
        assert reason in capsys.readouterr().out
        assert len(history(folder)) == 2


def test_sigterm_before_the_first_epoch_leaves_no_model(
    training_dir: TrainingDir, run_job: RunJob, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # GIVEN SIGTERM while the data is still being opened
    opened = prepared.open_prepared

    def interrupted(*folders: Path) -> object:
        signal.raise_signal(signal.SIGTERM)
        return opened(*folders)

    monkeypatch.setattr(train, "open_prepared", interrupted)
    base = training_dir()

    # WHEN the training runs, THEN it ends well at once, and says that there is no model
    assert run_job(train, base) == 0
    assert "no model" in capsys.readouterr().out
    assert not (base / "model").exists()
    assert history(base) == []


@pytest.mark.slow
def test_debug_hook_writes_what_create_trial_reads(training_dir: TrainingDir, run_script: Callable[..., Any]) -> None:
    # GIVEN a training with the hook, as a process of its own (smdebug uses pkg_resources, which warns)
    base = training_dir(debug_hook="true", epochs="4", batch_size="6", learning_rate="0.02")
    finished = run_script("train.py", base, PYTHONWARNINGS="ignore")
    assert finished.returncode == 0, finished.stderr

    # THEN the metric lines are the only output
    assert all(line.startswith("epoch=") for line in finished.stdout.splitlines())
    assert finished.stderr == ""

    # AND smdebug's own reader finds losses, and weights and gradients of what was trained
    trial = read_trial(base / "output" / "data" / "tensors")
    assert set(trial["weights"]) == {"Head_weight"}
    assert set(trial["gradients"]) == {"gradient/Head_weight", "gradient/Head_bias"}
    (loss,) = trial["losses"]
    assert loss == "CrossEntropyLoss_output_0"
    # AND each epoch's three steps, and its validation, are there (4 x 3 steps are fewer than it saves at most)
    assert trial["train_steps"] == list(range(12))
    assert trial["eval_steps"] == list(range(4))
    assert trial["first_loss"] > trial["last_loss"] > 0


READ_TRIAL = """
import json, sys
from smdebug import modes
from smdebug.trials import create_trial
trial = create_trial(sys.argv[1])
loss = trial.tensor("CrossEntropyLoss_output_0")
steps = loss.steps(mode=modes.TRAIN)
names = lambda collection: trial.tensor_names(collection=collection)
print(json.dumps({
    "weights": names("weights"), "gradients": names("gradients"), "losses": names("losses"),
    "train_steps": steps, "eval_steps": loss.steps(mode=modes.EVAL),
    "first_loss": float(loss.value(steps[0], mode=modes.TRAIN)),
    "last_loss": float(loss.value(steps[-1], mode=modes.TRAIN)),
}))
"""


def read_trial(folder: Path) -> dict[str, Any]:
    # In a process of its own: create_trial waits for ever for a training that left nothing.
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READ_TRIAL, str(folder)],
        env={**os.environ, "SMDEBUG_LOG_LEVEL": "error"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    trial: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return trial


def lose_summary(data: Path) -> None:
    (data / "prepared" / "summary.json").unlink()


def lose_index(data: Path) -> None:
    (data / "prepared" / "index.jsonl").unlink()


def lose_features(data: Path) -> None:
    for file in (data / "blocks" / "features").iterdir():
        file.unlink()


def lose_squares(data: Path) -> None:
    shutil.rmtree(data / "blocks" / "squares")


def expect_other_weights(data: Path) -> None:
    file = data / "prepared" / "summary.json"
    document = json.loads(file.read_text(encoding="utf-8"))
    document["weights_sha256"] = "0" * 64
    file.write_text(json.dumps(document), encoding="utf-8")


@pytest.mark.parametrize(
    ("hyper_parameters", "spoil", "code", "named"),
    [
        ({"momentum": "0.9"}, None, "InvalidHyperParameter", "momentum"),
        ({"epochs": "0"}, None, "InvalidHyperParameter", "epochs"),
        ({"backbone": "resnet18"}, None, "InvalidHyperParameter", "prepared for 'regnet_x_400mf'"),
        ({"trainable_layers": "99"}, None, "InvalidHyperParameter", "trainable_layers"),
        ({}, lose_summary, "MissingInput", "summary.json"),
        ({}, lose_index, "MissingInput", "index.jsonl"),
        ({}, lose_features, "MissingInput", "blocks/features"),
        ({"trainable_layers": "1"}, lose_squares, "MissingInput", "blocks/squares"),
        ({}, expect_other_weights, "WeightsMissing", "regnet_x_400mf"),
    ],
)
def test_trainings_that_cannot_start(
    training_dir: TrainingDir,
    run_job: RunJob,
    failure: Failure,
    hyper_parameters: dict[str, str],
    spoil: Callable[[Path], None] | None,
    code: str,
    named: str,
) -> None:
    base = training_dir(**hyper_parameters)
    if spoil:
        spoil(base / "input" / "data")
    assert run_job(train, base, WEIGHTS_URL="") == 1
    document = failure(base)
    assert document["code"] == code
    assert named in document["message"]
    assert not (base / "model").exists()


def test_other_weights_than_the_features_came_from_are_refused(
    training_dir: TrainingDir, run_job: RunJob, failure: Failure
) -> None:
    # GIVEN weights with a good hash, but not those that Decode used
    base = training_dir()
    expect_other_weights(base / "input" / "data")
    state = backbones.create_random("regnet_x_400mf").state_dict()
    data = safetensors.torch.save(state)
    folder = base / "input" / "data" / "weights"
    folder.mkdir()
    (folder / "net.safetensors").write_bytes(data)
    (folder / "net.safetensors.sha256").write_text(hashlib.sha256(data).hexdigest(), encoding="utf-8")

    # WHEN a whole model is trained, THEN it is refused
    assert run_job(train, base) == 1
    assert failure(base)["code"] == "WeightsCorrupt"


@pytest.mark.parametrize("total", [1, 2, 5, 100])
def test_learning_rate_warms_up_and_ends_near_zero(total: int) -> None:
    factors = [train.learning_rate_factor(step, total) for step in range(total)]
    assert max(factors) == 1.0
    assert all(factor > 0 for factor in factors)
    if total == 100:
        assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
        assert factors[-1] < 0.001
        assert sorted(factors[5:], reverse=True) == factors[5:]


def test_best_epoch_by_accuracy_then_loss_then_earliest() -> None:
    def entry(accuracy: float, loss: float) -> dict[str, float]:
        return {"validation:accuracy": accuracy, "validation:loss": loss}

    assert train.rank(entry(0.9, 2.0)) > train.rank(entry(0.8, 0.1))
    assert train.rank(entry(0.9, 0.1)) > train.rank(entry(0.9, 0.2))
    assert train.rank(entry(0.9, 5.0)) > train.rank(entry(0.9, float("nan")))
    assert not train.rank(entry(0.9, 0.1)) > train.rank(entry(0.9, 0.1))
