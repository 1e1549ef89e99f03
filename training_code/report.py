"""One self-contained page about a model: verdict, numbers, mistakes, curves, settings.

The page loads nothing from elsewhere, follows the reader's light or dark mode, fits a phone and prints.
"""

from __future__ import annotations

import base64
import io
import math
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

TEMPLATE = "report.html.j2"
THUMBNAIL_PIXELS = 160
THUMBNAIL_QUALITY = 80
# A wider table can be read neither on a phone nor on paper; the list of confused pairs remains.
MAX_MATRIX_CLASSES = 40
# A plot's drawing area and the room around it for labels, in the units of its viewBox.
PLOT_WIDTH, PLOT_HEIGHT = 300, 150
MARGIN_LEFT, MARGIN_TOP, MARGIN_RIGHT, MARGIN_BOTTOM = 34, 10, 10, 22
TICKS = 4


def render(
    evaluation: dict[str, Any],
    *,
    matrix: NDArray[np.int64],
    per_class: list[dict[str, Any]],
    counts: dict[str, dict[str, int]],
    mistakes: list[dict[str, Any]],
    history: list[dict[str, Any]],
    tuning: dict[str, Any] | None,
    quarantined: list[dict[str, str]],
) -> str:
    """The page as HTML. `matrix` is classes x classes (row: true); `mistakes` hold `pixels` S x S x 3."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.filters["number"] = number
    return environment.get_template(TEMPLATE).render(
        evaluation=evaluation,
        verdict=verdict(evaluation),
        per_class=per_class,
        counts=counts,
        rows=matrix_rows(matrix, evaluation["classes"]) if len(matrix) <= MAX_MATRIX_CLASSES else [],
        mistakes=[{**mistake, "thumbnail": thumbnail(mistake["pixels"])} for mistake in mistakes],
        plots=plots(history),
        best_epoch=best_epoch(history),
        tuning=tuning,
        quarantined=quarantined,
    )


def percent(share: float) -> str:
    """A share of 1 as text: whole percents, since no test split here is large enough for more."""
    return f"{round(share * 100)} %"


def number(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def verdict(evaluation: dict[str, Any]) -> str:
    """One or two sentences that a person who reads nothing else should know."""
    low, high = evaluation["accuracy_interval"]
    sentence = (
        f"The model labels {percent(evaluation['accuracy'])} of {evaluation['test_images']} images right "
        f"that it never saw (95 % confidence interval: {percent(low)} to {percent(high)})."
    )
    champion = evaluation["champion"]
    if champion is None:
        return f"{sentence} There is no model in service to compare it with."
    difference = evaluation["accuracy"] - champion["accuracy"]
    compared = "as good as" if difference == 0 else "better than" if difference > 0 else "worse than"
    return (
        f"{sentence} On the same images it is {compared} version {champion['version']}, "
        f"which is in service and labels {percent(champion['accuracy'])} right."
    )


def matrix_rows(matrix: NDArray[np.int64], classes: list[str]) -> list[dict[str, Any]]:
    """Table rows of the confusion matrix; `share` is a cell's share of its row, 0 to 1."""
    return [
        {
            "label": label,
            "cells": [
                {"count": int(count), "share": float(count / max(1, matrix[row].sum())), "right": row == column}
                for column, count in enumerate(matrix[row])
            ],
        }
        for row, label in enumerate(classes)
    ]


def thumbnail(pixels: NDArray[np.uint8]) -> str:
    """An image S x S x 3 as a small JPEG in a data URI."""
    image = Image.fromarray(pixels).resize((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=THUMBNAIL_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def best_epoch(history: list[dict[str, Any]]) -> int | None:
    """The epoch whose model was kept: highest validation accuracy, ties by lower validation loss."""
    if not history:
        return None
    best = max(history, key=lambda entry: (entry["validation:accuracy"], -entry["validation:loss"]))
    return int(best["epoch"])


def plots(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The learning curves, accuracy and loss, as lines ready for SVG; none for fewer than two epochs."""
    if len(history) < 2:
        return []
    losses = [entry[f"{split}:loss"] for entry in history for split in ("train", "validation")]
    highest = max([loss for loss in losses if math.isfinite(loss)], default=1.0)
    top = TICKS * _round_step(highest / TICKS) if highest > 0 else 1.0
    return [_plot("Accuracy", "accuracy", history, 1.0), _plot("Loss", "loss", history, top)]


def _round_step(step: float) -> float:
    """The next round number (1, 2, 2.5 or 5 times a power of ten) not below `step`."""
    power = math.pow(10, math.floor(math.log10(step)))
    return min(factor * power for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if factor * power >= step)


def _plot(title: str, metric: str, history: list[dict[str, Any]], top: float) -> dict[str, Any]:
    first, last = int(history[0]["epoch"]), int(history[-1]["epoch"])

    def x_of(epoch: float) -> float:
        return round(MARGIN_LEFT + PLOT_WIDTH * (epoch - first) / (last - first), 1)

    def y_of(value: float) -> float:
        return round(MARGIN_TOP + PLOT_HEIGHT * (1 - value / top), 1)

    return {
        "title": title,
        "width": MARGIN_LEFT + PLOT_WIDTH + MARGIN_RIGHT,
        "height": MARGIN_TOP + PLOT_HEIGHT + MARGIN_BOTTOM,
        "left": MARGIN_LEFT,
        "right": MARGIN_LEFT + PLOT_WIDTH,
        "bottom": MARGIN_TOP + PLOT_HEIGHT,
        "first": first,
        "last": last,
        "ticks": [{"y": y_of(top * step / TICKS), "text": f"{top * step / TICKS:.2g}"} for step in range(TICKS + 1)],
        "lines": [
            {
                "name": name,
                "points": " ".join(
                    f"{x_of(entry['epoch'])},{y_of(entry[f'{split}:{metric}'])}"
                    for entry in history
                    if math.isfinite(entry[f"{split}:{metric}"])
                ),
            }
            for name, split in (("training", "train"), ("validation", "validation"))
        ],
    }
