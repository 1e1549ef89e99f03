"""Checkpoints of a training: one safetensors file, replaced as a whole, no pickle.

SageMaker copies the folder to S3 while the job runs, and back before a job starts again after its
instance was taken away; a half-written file must therefore never bear the final name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

FILE = "checkpoint.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass
class State:
    """A training after a whole number of epochs. Tensors are by state-dict name, on the CPU.

    `moments` holds AdamW's two running means per trained tensor, `steps` its step count; `best` the
    trained tensors of the best epoch so far, and `history` one entry an epoch.
    """

    trained: dict[str, torch.Tensor]
    best: dict[str, torch.Tensor]
    moments: dict[str, dict[str, torch.Tensor]]
    steps: int
    best_epoch: int
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Checkpoint:
    """Where a training's checkpoint lies; `fingerprint` tells which data and hyper-parameters it belongs to."""

    folder: Path
    fingerprint: str

    def save(self, state: State) -> None:
        tensors = {f"trained.{name}": tensor for name, tensor in state.trained.items()}
        # Copied, since after a best epoch both are the same tensors, and the format knows no sharing.
        tensors |= {f"best.{name}": tensor.clone() for name, tensor in state.best.items()}
        for moment in MOMENTS:
            tensors |= {f"{moment}.{name}": tensor for name, tensor in state.moments[moment].items()}
        about = {"steps": state.steps, "best_epoch": state.best_epoch, "history": state.history}
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f"{FILE}.partial"
        safetensors.torch.save_file(tensors, partial, {"fingerprint": self.fingerprint, "state": json.dumps(about)})
        partial.replace(self.folder / FILE)

    def load(self) -> State | None:
        """The checkpoint, or None (and a line on standard output) if there is none that fits."""
        file = self.folder / FILE
        if not file.is_file():
            return None
        try:
            with safetensors.safe_open(file, framework="pt") as opened:
                metadata = opened.metadata() or {}
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
        except safetensors.SafetensorError as error:
            print(f"The checkpoint cannot be read ({error}); starting from the beginning.", flush=True)
            return None
        if metadata.get("fingerprint") != self.fingerprint:
            print("The checkpoint is of other data or hyper-parameters; starting from the beginning.", flush=True)
            return None
        parts: dict[str, dict[str, torch.Tensor]] = {part: {} for part in ("trained", "best", *MOMENTS)}
        for key, tensor in tensors.items():
            part, name = key.split(".", 1)
            parts[part][name] = tensor
        about = json.loads(metadata["state"])
        return State(
            trained=parts["trained"],
            best=parts["best"],
            moments={moment: parts[moment] for moment in MOMENTS},
            steps=about["steps"],
            best_epoch=about["best_epoch"],
            history=about["history"],
        )
