"""SageMaker Debugger's hook (smdebug): losses, and weights and gradients of what is trained.

`smdebug.trials.create_trial(folder)` reads what is saved. Debugger, the service, has ended for new
accounts; the library writes plain files and needs no service.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

from torch import nn

# Saved steps over a whole training: enough to see a curve, few enough to cost little.
SAVED_STEPS = 50


class DebugHook:
    """Saves tensors of the training steps and losses of the validation steps."""

    def __init__(self, hook: Any, modes: Any) -> None:
        self._hook = hook
        self._modes = modes

    def training(self) -> None:
        self._hook.set_mode(self._modes.TRAIN)

    def validation(self) -> None:
        self._hook.set_mode(self._modes.EVAL)

    def close(self) -> None:
        self._hook.close()


def attach(model: nn.Module, loss: nn.Module, folder: Path, total_steps: int) -> DebugHook:
    """Registers a hook that saves about `SAVED_STEPS` of `total_steps` below `folder`.

    Parameters without `requires_grad` are left out: a frozen weight is the same in every step. What an
    earlier run of the same job left in `folder` is removed, since the hook refuses to add to it.
    """
    # Read when smdebug is imported: no chatter among the metric lines, and no profiler, whose support
    # for PyTorch ended with version 2.0.
    os.environ.setdefault("SMDEBUG_LOG_LEVEL", "error")
    os.environ["SMPROFILER_CONFIG_PATH"] = os.devnull
    from smdebug.core.modes import ModeKeys
    from smdebug.core.save_config import SaveConfig
    from smdebug.pytorch import Hook

    if folder.exists():
        shutil.rmtree(folder)
    hook = Hook(
        out_dir=str(folder),
        save_config=SaveConfig(save_interval=max(1, total_steps // SAVED_STEPS)),
        include_collections=["losses", "weights", "biases", "gradients"],
    )
    prefix = re.escape(type(model).__name__)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    for collection, ending in (("weights", "weight"), ("biases", "bias")):
        hook.get_collection(collection).include_regex = [
            f"^{prefix}_{re.escape(name)}$" for name in trained if name.endswith(ending)
        ]
    hook.register_module(model)
    hook.register_loss(loss)
    return DebugHook(hook, ModeKeys)
