"""Train: a classifier from prepared data, with the hyper-parameters of docs/reference/contracts.md.

Features
    - trainable_layers=0 trains a linear head on the frozen features that Decode cached: an epoch takes
      milliseconds, and no image is touched.
    - trainable_layers=k trains the head and the backbone's last k stages end to end on augmented pixels;
      everything else stays frozen, and every batch normalisation held still.
    - AdamW; the learning rate warms up linearly over 5 % of the steps, then falls along a cosine to zero.
    - One metric line an epoch. The best epoch (validation accuracy, ties by lower validation loss) is kept,
      and its line is printed once more at the end.
    - refit=true trains once more from the start when the best epoch is known, on train and valid together and
      for as many epochs; that model is kept. All metrics are those of the first training, in which valid was
      held out.
    - Resumes from a checkpoint, and ends as if it had never stopped: each epoch seeds its own randomness.
    - The model is exported as the graph that is served, quantised to int8 unless that costs accuracy (quantize).
    - SIGTERM ends the training at the next step: the checkpoint and the best model so far are written, and
      the exit status is 0.
    - debug_hook=true saves tensors that `smdebug.trials.create_trial` reads.

Trade-offs
    - The validation loss is plain cross-entropy, also with label_smoothing, so that trials compare.
    - Checkpoints hold the state at an epoch's end, so an interrupted epoch is done again.
    - A refitted model has no measurement of its own before Evaluate: nothing was held out from it but test.
    - The end-to-end recipe augments on one CPU thread; a fast GPU will wait for it.

Errors (JobError codes; see docs/reference/contracts.md)
    InvalidHyperParameter (unknown name, value out of range, backbone other than the prepared one),
    MissingInput (no prepared data), WeightsMissing, WeightsCorrupt, UnknownBackbone, OutOfMemory,
    InternalError.
"""

from __future__ import annotations

import hashlib
import json
import math
import signal
import sys
import time
from collections.abc import Iterable
from typing import Any

import checkpoints
import contract
import debugging
import export
import hyper_parameters
import images
import recipes
import torch
import torchvision
import weights
from checkpoints import Checkpoint
from contract import JobError
from hyper_parameters import HyperParameters
from prepared import SUMMARY, Prepared, open_prepared
from torch import nn

VERSION = "0.1.0"
WARM_UP_SHARE = 0.05
# Often enough to lose little, seldom enough that SageMaker's copying to S3 costs nothing.
CHECKPOINT_SECONDS = 30
REFIT_SPLITS = ("train", "valid")


class StopRequest:
    """Becomes true when SIGTERM arrives. SageMaker kills 120 seconds after it."""

    def __init__(self) -> None:
        self._arrived = False
        signal.signal(signal.SIGTERM, self._arrive)

    def _arrive(self, *_: object) -> None:
        self._arrived = True

    def __bool__(self) -> bool:
        return self._arrived


def main() -> None:
    stop = StopRequest()
    parameters = hyper_parameters.read(contract.hyper_parameters_file())
    data = open_prepared(contract.channel("prepared"), contract.channel("blocks"))
    check_backbone(parameters, data)

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network, pretrained = None, None
    if parameters.trainable_layers or parameters.artifact == "model":
        network, pretrained = recipes.pretrained_network(
            parameters, data, lambda: weights.load(parameters.backbone, contract.channel("weights"))
        )

    fingerprint = fingerprint_of(parameters, data)
    checkpoint = Checkpoint(contract.checkpoint_dir(), fingerprint)
    recipe = recipes.create(parameters, data, network, device)
    state = train(recipe, parameters, parameters.epochs, checkpoint, stop, hooked=parameters.debug_hook)
    (contract.output_data_dir() / "history.json").write_text(json.dumps(state.history, indent=1), "utf-8")
    if not state.history:
        print("Stopped before the first epoch ended: there is no model.", flush=True)
        return
    best = state.history[state.best_epoch - 1]

    trained, trained_on = state.best, ["train"]
    if parameters.refit and not stop:
        checkpoint.save(state)
        print(f"Refitting on train and valid together, to the end of epoch {state.best_epoch}.", flush=True)
        recipe = recipes.create(parameters, data, network, device, splits=REFIT_SPLITS)
        checkpoint = Checkpoint(contract.checkpoint_dir() / "refit", f"{fingerprint} to {state.best_epoch}")
        refitted = train(recipe, parameters, state.best_epoch, checkpoint, stop, hooked=False)
        # Half a refit would be worse than none.
        if len(refitted.history) == state.best_epoch:
            trained, trained_on = refitted.trained, list(REFIT_SPLITS)
    export.save(
        contract.model_dir(),
        trained if parameters.artifact == "head" or network is None else {**network.state_dict(), **trained},
        {**manifest(parameters, data, pretrained, best), "trained_on": trained_on},
        data if parameters.quantize else None,
    )
    print(metric_line(best), flush=True)


def check_backbone(parameters: HyperParameters, data: Prepared) -> None:
    prepared_for = data.summary["backbone"]
    if parameters.backbone != prepared_for:
        raise JobError(
            "InvalidHyperParameter",
            f"The hyper-parameter backbone is {parameters.backbone!r}, but the data was prepared for {prepared_for!r}.",
            f"Set backbone to {prepared_for}, or prepare the data again.",
        )


def train(
    recipe: recipes.Recipe,
    parameters: HyperParameters,
    last_epoch: int,
    checkpoint: Checkpoint,
    stop: StopRequest,
    hooked: bool,
) -> checkpoints.State:
    """The training loop, up to `last_epoch` of the schedule. Returns the state after the last whole epoch."""
    optimizer = torch.optim.AdamW(
        [{"params": [parameter], "peak": recipe.learning_rates[name]} for name, parameter in recipe.trained.items()],
        lr=parameters.learning_rate,
        weight_decay=parameters.weight_decay,
    )
    loss_function = nn.CrossEntropyLoss(label_smoothing=parameters.label_smoothing)
    total_steps = parameters.epochs * math.ceil(recipe.training_images / parameters.batch_size)

    resumed = checkpoint.load()
    state = resumed or checkpoints.State({}, {}, {}, steps=0, best_epoch=0)
    if resumed:
        restore(resumed, recipe, optimizer)
        print(f"Resuming after epoch {len(state.history)}.", flush=True)
    hook = None
    if hooked and len(state.history) < last_epoch:
        folder = contract.output_data_dir() / "tensors"
        hook = debugging.attach(recipe.model, loss_function, folder, total_steps)

    saved_at = time.monotonic()
    for epoch in range(len(state.history) + 1, last_epoch + 1):
        started = time.monotonic()
        # Every epoch has its own seed, so that a resumed training draws what an unbroken one would.
        torch.manual_seed(parameters.seed * 1_000 + epoch)
        recipe.training_mode()
        if hook:
            hook.training()
        seen, loss_sum, right = 0, 0.0, 0
        step = state.steps
        for inputs, labels in recipe.training_batches():
            if stop:
                break
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * learning_rate_factor(step, total_steps)
            scores = recipe.model(inputs)
            loss = loss_function(scores, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            seen += len(labels)
            loss_sum += loss.item() * len(labels)
            right += int((scores.argmax(dim=1) == labels).sum())
        if stop:
            break

        entry = {"epoch": epoch, "train:loss": loss_sum / seen, "train:accuracy": right / seen}
        if recipe.validation_batches:
            if hook:
                hook.validation()
            entry |= validate(recipe.model, recipe.validation_batches(), loss_function if hook else None)
            print(metric_line(entry), flush=True)
        entry["seconds"] = round(time.monotonic() - started, 3)
        state = snapshot(state, entry, recipe, optimizer, step)
        if time.monotonic() - saved_at > CHECKPOINT_SECONDS:
            checkpoint.save(state)
            saved_at = time.monotonic()

    if stop and state.history:
        checkpoint.save(state)
        print(f"Stopped by SIGTERM; checkpoint written after epoch {len(state.history)}.", flush=True)
    if hook:
        hook.close()
    return state


def validate(model: nn.Module, batches: Iterable[recipes.Batch], hooked_loss: nn.Module | None) -> dict[str, float]:
    """Mean cross-entropy and accuracy over the validation split.

    `hooked_loss` is called as well, so that the debug hook, which listens to it, sees the validation loss.
    """
    model.eval()
    seen, loss_sum, right = 0, 0.0, 0
    with torch.inference_mode():
        for inputs, labels in batches:
            scores = model(inputs)
            if hooked_loss:
                hooked_loss(scores, labels)
            loss_sum += nn.functional.cross_entropy(scores, labels, reduction="sum").item()
            right += int((scores.argmax(dim=1) == labels).sum())
            seen += len(labels)
    return {"validation:loss": loss_sum / seen, "validation:accuracy": right / seen}


def learning_rate_factor(step: int, total_steps: int) -> float:
    """Share of the peak learning rate at a step: linear warm-up, then half a cosine (arXiv:1608.03983)."""
    warm_up = max(1, round(WARM_UP_SHARE * total_steps))
    if step < warm_up:
        return (step + 1) / warm_up
    progress = (step - warm_up) / max(1, total_steps - warm_up)
    return 0.5 * (1 + math.cos(math.pi * progress))


def snapshot(
    before: checkpoints.State,
    entry: dict[str, Any],
    recipe: recipes.Recipe,
    optimizer: torch.optim.Optimizer,
    steps: int,
) -> checkpoints.State:
    """The state after one more epoch, on the CPU and independent of the running training."""
    trained = {name: on_cpu(parameter) for name, parameter in recipe.trained.items()}
    history = [*before.history, entry]
    is_best = not before.history or rank(entry) > rank(before.history[before.best_epoch - 1])
    return checkpoints.State(
        trained=trained,
        best=trained if is_best else before.best,
        moments={
            moment: {name: on_cpu(optimizer.state[parameter][moment]) for name, parameter in recipe.trained.items()}
            for moment in checkpoints.MOMENTS
        },
        steps=steps,
        best_epoch=len(history) if is_best else before.best_epoch,
        history=history,
    )


def on_cpu(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def rank(entry: dict[str, Any]) -> tuple[float, float]:
    """Sorts epochs from worse to better. A loss that is not a number (a diverged training) sorts last.

    Without a validation there is nothing to choose by, and the newest epoch is the best.
    """
    if "validation:loss" not in entry:
        return entry["epoch"], 0.0
    loss = entry["validation:loss"]
    return entry["validation:accuracy"], -loss if math.isfinite(loss) else -math.inf


def restore(state: checkpoints.State, recipe: recipes.Recipe, optimizer: torch.optim.Optimizer) -> None:
    with torch.no_grad():
        for name, parameter in recipe.trained.items():
            parameter.copy_(state.trained[name])
    content = optimizer.state_dict()
    content["state"] = {
        index: {
            "step": torch.tensor(float(state.steps)),
            **{moment: state.moments[moment][name] for moment in checkpoints.MOMENTS},
        }
        for index, name in enumerate(recipe.trained)
    }
    optimizer.load_state_dict(content)


def fingerprint_of(parameters: HyperParameters, data: Prepared) -> str:
    summary = (data.folder / SUMMARY).read_bytes()
    described = json.dumps(parameters.described(), sort_keys=True).encode()
    return hashlib.sha256(described + summary).hexdigest()


def metric_line(entry: dict[str, Any]) -> str:
    names = ("train:loss", "train:accuracy", "validation:loss", "validation:accuracy")
    return f"epoch={entry['epoch']}; " + " ".join(f"{name}={entry[name]:.6g};" for name in names)


def manifest(
    parameters: HyperParameters, data: Prepared, pretrained: weights.Weights | None, best: dict[str, Any]
) -> dict[str, Any]:
    summary = data.summary
    return {
        "backbone": parameters.backbone,
        "classes": data.classes,
        "image_size": summary["image_size"],
        "resize": images.RESIZE,
        "mean": list(images.MEAN),
        "std": list(images.STD),
        "interpolation": images.INTERPOLATION,
        "dropout": parameters.dropout,
        "artifact": parameters.artifact,
        "metrics": {name: value for name, value in best.items() if ":" in name},
        "hyper_parameters": parameters.described(),
        "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__, "droptune": VERSION},
        # Null, too, for a trial's head: it never opened the weights, only features made with them.
        "pretrained_weights": pretrained.described() if pretrained else None,
        "dataset": summary["dataset"],
        "dataset_version": summary["version"],
        "seed": parameters.seed,
    }


if __name__ == "__main__":
    sys.exit(contract.run(main, contract.training_failure_file()))
