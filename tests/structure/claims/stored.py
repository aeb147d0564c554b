"""Stored rows as the conditions of several pages read them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from fusion_lib import intervals
from fusion_lib.lab import experiments
from fusion_lib.lab.experiments import BEST_START

Condition = Callable[[], bool]


def by_seed(name: str, column: str, model: str, **which) -> pd.Series:
    """A column of an experiment for one model, indexed by the seeds."""
    rows = experiments.results(name)
    for key, value in {"model": model, **which}.items():
        rows = rows[rows[key] == value]
    return rows.set_index("seed")[column].sort_index().astype(float)


def on_scenes(column: str, model: str) -> pd.Series:
    """As notebook 06 compares on scenes: five seeds, 30 epochs."""
    return by_seed("fusion", column, model, epochs=30)


def on_photographs(column: str, model: str, epochs: int = 16) -> pd.Series:
    """As notebook 06 compares on photographs: three seeds, epochs of equal time."""
    return by_seed("photographs", column, model, epochs=epochs)


def fold_gains(column: str, alone: str) -> np.ndarray:
    """Notebook 10, five folds: own decoders minus a single task, in points."""
    rows = pd.concat(
        [experiments.results("transfer").query("seed == 0"), experiments.results("folds")]
    )
    table = (
        rows[rows.start == BEST_START]
        .fillna({"fold": 0})
        .pivot(index="fold", columns="model", values=column)
    )
    return 100 * (table["own decoders"] - table[alone]).to_numpy(float)


def surely_above(values, bound: float = 0.0) -> bool:
    """Student's t interval of the mean lies above the bound."""
    return intervals.t_interval(values)[0] > bound


def unclear(values) -> bool:
    """0 lies in Student's t interval of the mean."""
    low, high = intervals.t_interval(values)
    return low < 0 < high


def rates_on_validation(model: str) -> pd.Series:
    """Photographs: validation score of each learning rate that was tried out."""
    return (
        experiments.results("designs").query("model == @model").set_index("learning_rate").val_score
    )
