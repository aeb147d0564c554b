"""Notebook 09: robustness."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import shipped

from claims.stored import Condition
from fusion_lib.lab import changes, experiments
from fusion_lib.lab.experiments import FUSED

SINGLE = {"miou": "semantic only", "covering": "region only"}
FAMILIES = {
    "light": ("dark", "bright", "gradient", "shadow", "cast"),
    "viewpoint": ("larger", "smaller", "rotation", "perspective"),
    **{name: (name,) for name in ("occlusion", "noise", "blur")},
}
LIGHT = {"scenes": 0.2, "photographs": 0.3}


def under_change(column: str, model: str, data: str = "scenes", light=None) -> pd.DataFrame:
    """A series of the runs of a model, one row a seed, for example one column a severity."""
    light = LIGHT[data] if light is None else light
    rows = experiments.results("robustness").query(
        "model == @model and data == @data and light == @light and epochs > @experiments.SHORT"
    )
    return pd.DataFrame(rows[column].tolist(), rows.seed).sort_index()


def lead(metric: str, change: str, data: str = "scenes", fused: str = FUSED) -> pd.DataFrame:
    """Fused minus single task, in points: one row a seed, one column a severity."""
    column = f"{metric}_{change}"
    return 100 * (under_change(column, fused, data) - under_change(column, SINGLE[metric], data))


def healed(model: str, change: str) -> pd.DataFrame:
    """Points of mIoU won by changes of light in training; as `lead`."""
    column = f"miou_{change}"
    return 100 * (under_change(column, model) - under_change(column, model, light=0.0))


def share_lost(model: str, family: str) -> float:
    """Percent of the unchanged mIoU that is lost at the highest severity, mean over a family."""
    means = pd.concat([under_change(f"miou_{name}", model) for name in FAMILIES[family]]).mean()
    return 100 * (1 - means[4] / means[0])


def left_on_photographs(*names: str) -> np.ndarray:
    """Percent of the unchanged mIoU, mean over the runs: one a change, of the single task and of
    the fused model."""
    curves = [
        under_change(f"miou_{name}", model, "photographs")
        for name in names
        for model in ("semantic only", "own blocks")
    ]
    return np.array([100 * (curve[4] / curve[0]).mean() for curve in curves])


def near_borders(column: str, model: str) -> pd.Series:
    """Of each run, the share of its errors nearer than two pixels to a border."""
    wrong = under_change(column, model)
    return wrong[[0, 1]].sum(axis=1) / wrong.sum(axis=1)


ENDS_09: dict[str, Condition] = {
    "Unchanged, every fused run names better than its single task, by 2 points or more": lambda: (
        lead("miou", "dark")[0].min() >= 2
    ),
    "In ten changes every fused run ends ahead in mIoU, at least by": lambda: (
        sum(lead("miou", name)[4].min() > 0 for name in changes.CHANGES) == 10
    ),
    "Averaged over the changes, the lead in mIoU shrinks in every run": lambda: (
        sum(lead("miou", name)[4] - lead("miou", name)[0] for name in changes.CHANGES).max() < 0
    ),
    "Larger, smaller, rotation: single and fused end below 25 points of mIoU, at most at": lambda: (
        all(
            under_change(f"miou_{name}", model)[4].mean() < 0.25
            for name in ("larger", "smaller", "rotation")
            for model in ("semantic only", FUSED)
        )
    ),
    "Photographs: at the end of blur every fused run names worse than its single task": lambda: (
        lead("miou", "blur", "photographs", "own blocks")[4].max() < 0
    ),
    "Single and fused lose shares of mIoU that differ at most by": lambda: all(
        abs(share_lost("semantic only", family) - share_lost(FUSED, family)) <= 6
        for family in FAMILIES
    ),
    "The fused model errs less at every distance from a border, at least by": lambda: (
        under_change("border_wrong", FUSED).mean()
        < under_change("border_wrong", "semantic only").mean()
    ).all(),
    "Photographs: cast, noise and blur leave less than 65% of the mIoU, at most": lambda: (
        left_on_photographs("cast", "noise", "blur").max() < 65
    ),
    "Photographs: dark, gradient and shadow leave more than 85%, at least": lambda: (
        left_on_photographs("dark", "gradient", "shadow").min() > 85
    ),
}
LARGER_AND_TURNED: dict[str, Condition] = {}
for _name in ("larger", "rotation"):
    LARGER_AND_TURNED |= {
        f"End of {_name}: every fused run has worse regions than its single task": partial(
            lambda name: lead("covering", name)[4].max() < -2, _name
        ),
        f"Severity 3 of {_name}: class edges cost, in covering": partial(
            lambda name: 2 < shipped.class_edges_cost(name) < 6, _name
        ),
    }
TREATED: dict[str, Condition] = {}
for _title, _model in (("semantic only", "semantic only"), ("fused", FUSED)):
    TREATED |= {
        f"{_title}: under noise augmentation wins over 10 points of mIoU in every run": partial(
            lambda model: healed(model, "noise")[4].min() > 10, _model
        ),
        f"{_title}: under bright light it wins little on average": partial(
            lambda model: healed(model, "bright")[4].mean() < 3, _model
        ),
        f"{_title}: on unchanged scenes it costs a little on average": partial(
            lambda model: -3 < healed(model, "bright")[0].mean() < 0, _model
        ),
    }
NEAR_BORDERS: dict[str, Condition] = {
    f"{title}: two thirds of every run's errors lie nearer than two pixels to a border": partial(
        lambda column, model: near_borders(column, model).min() > 2 / 3, column, model
    )
    for title, column, model in (
        ("semantic only", "border_wrong", "semantic only"),
        ("fused, argmax", "border_wrong", FUSED),
        ("fused, together", "border_wrong_fused", FUSED),
    )
}
GRAIN_40 = changes.GRAIN / 0.4
WEIGHTS_09: dict[str, Condition] = {
    "Of the pixels, bright light flips": lambda: 3 < shipped.flipped(light=1.6) < 6,
    "Of the pixels, other grain flips": lambda: 3 < shipped.flipped(grain=1) < 6,
    "Dimming light and grain costs less than half the accuracy that grain costs": lambda: (
        2 * shipped.accuracy_lost(light=0.4, noise=0.4 * changes.GRAIN)
        < shipped.accuracy_lost(noise=GRAIN_40)
    ),
    "Grain alone costs": lambda: shipped.accuracy_lost(noise=GRAIN_40) > 0,
}
CLAIMS = ENDS_09 | LARGER_AND_TURNED | TREATED | NEAR_BORDERS | WEIGHTS_09
