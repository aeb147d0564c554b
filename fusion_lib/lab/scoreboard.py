"""Scoreboards: one row a method, tested on a recipe's test pictures, as a Markdown table."""

from __future__ import annotations

from pathlib import Path

from torch.utils.data import Subset

from fusion_lib import tuning
from fusion_lib.engine import checkpoints
from fusion_lib.lab import recipes

TASKS_OF = {
    "semantic only": ("semantic",),
    "region only": ("region",),
    "fused": ("semantic", "region"),
}
# What the reader sees, and where `evaluation.evaluate` has it.
COLUMNS: dict[str, tuple[str, ...]] = {
    "mIoU argmax": ("semantic", "miou"),
    "mIoU vote": ("voted", "miou"),
    "mIoU fused": ("fused", "miou"),
    "pixel accuracy": ("semantic", "pixel_accuracy"),
    "covering": ("partition", "covering"),
    "VI bits": ("partition", "variation_of_information"),
    "adapted Rand error": ("partition", "adapted_rand_error"),
    "PQ": ("panoptic_quality",),
    "minutes": ("minutes",),
}


def classical_rows(recipe: recipes.Recipe, names: tuple[str, ...], pictures: int) -> dict:
    """Rows of classical methods, parameters chosen on the first validation pictures."""
    first, test = Subset(recipe.dataset("val"), range(pictures)), recipe.dataset("test")
    rows = {}
    for name in names:
        parameters = tuning.tune_classical(name, first)
        partition = tuning.partition_scores(tuning.CLASSICAL[name][0], parameters, test)
        rows[name] = _row({"partition": partition})
    return rows


def learned_row(recipe: recipes.Recipe, name: str, folder: Path | None, seed: int = 0) -> dict:
    """Train one of `TASKS_OF` and test it; a fused one is saved in `folder`."""
    tasks = {task: recipes.TASKS[task] for task in TASKS_OF[name]}
    model, history = recipes.fit(recipe, tasks, seed, folder)
    decoding = recipes.tune_decoding(model, recipe) if "region" in tasks else {}
    if folder is not None and len(tasks) == 2:
        path = folder / "model.safetensors"
        checkpoints.save_checkpoint(model, path, decoding=decoding, size=recipe.size)
    return tested_row(model, recipe, decoding, minutes(history))


def tested_row(model, recipe: recipes.Recipe, decoding: dict, minutes: float) -> dict:
    """Row of a trained model, as far as its tasks go."""
    return _row(recipes.scores(model, recipe, decoding) | {"minutes": minutes})


def minutes(history: list[dict]) -> float:
    """Of all epochs, also of those before an interruption."""
    return sum(entry["seconds"] for entry in history) / 60


def table(rows: dict[str, dict], title: str) -> str:
    """A Markdown table; columns that no row has are left out."""
    columns = [column for column in COLUMNS if any(column in row for row in rows.values())]
    lines = [title, "", f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, row in rows.items():
        cells = [f"{row[c]:.{1 if c == 'minutes' else 3}f}" if c in row else "" for c in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _row(scores: dict) -> dict:
    row = {}
    for column, (group, *metric) in COLUMNS.items():
        if group in scores:
            row[column] = scores[group][metric[0]] if metric else scores[group]
    return row
