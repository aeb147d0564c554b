"""Notebook 07: weights of the tasks."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from claims.stored import Condition, by_seed, on_scenes
from fusion_lib.lab import experiments
from fusion_lib.lab.experiments import FUSED, METHODS, SEEDS

MOVING = ("uncertainty", "FAMO")  # methods whose mIoU leaves the noise


def of_weighting(metric: str, method: str, alpha: float = 0.5) -> pd.Series:
    """Scenes, in points: a method's runs, three seeds."""
    return 100 * by_seed("weighting", metric, FUSED, epochs=30, weighting=method, alpha=alpha)


def above_equal(metric: str, method: str, alpha: float = 0.5) -> pd.Series:
    """A method, or another alpha of the plain sum, minus equal weights."""
    return of_weighting(metric, method, alpha) - of_weighting(metric, "sum")


def equal_sums(metric: str) -> list[pd.Series]:
    """Runs of three kinds that ought to be equal, of the same seeds."""
    ones = 100 * on_scenes(metric, FUSED).loc[[*SEEDS]]
    return [of_weighting(metric, "sum"), ones, of_weighting(metric, "observed sum")]


def beyond_noise(metric: str, method: str) -> int:
    """Sign of a mean difference that exceeds twice the noise of a mean, else 0."""
    equal, ones, observed = equal_sums(metric)
    twins = [equal - ones, equal - observed]
    twins.append(of_weighting(metric, "PCGrad") - of_weighting(metric, "UPGrad"))
    noise = np.sqrt(np.mean(np.square(twins))) / np.sqrt(len(SEEDS))
    mean = above_equal(metric, method).mean()
    return int(np.sign(mean)) if abs(mean) > 2 * noise else 0


def less_above_all_equal(metric: str, method: str) -> bool:
    """The lead shrinks when all equal sums take the place of equal weights."""
    pooled = of_weighting(metric, method) - sum(equal_sums(metric)) / 3
    return 0 < pooled.mean() < above_equal(metric, method).mean()


def cosines(method: str | None = None) -> np.ndarray:
    """Mean cosine of every epoch, of one method or of all that record it."""
    rows = experiments.results("weighting").query("epochs == 30")
    rows = rows if method is None else rows[rows.weighting == method]
    return np.concatenate(rows.cosine.dropna().tolist())


def between(low: float, values: np.ndarray, high: float) -> float:
    """Share of the values in the open interval."""
    return float(((values > low) & (values < high)).mean())


def alpha_scores() -> pd.Series:
    """Validation score of each alpha."""
    return experiments.results("alphas").set_index("alpha").val_score


WEIGHTING: dict[str, Condition] = {
    "of five trials on validation scenes, equal weights score highest; their lead": lambda: (
        alpha_scores().idxmax() == 0.5
    ),
    **{
        f"equal weights have over 3 points of mIoU more than alpha {alpha}": partial(
            lambda alpha: above_equal("miou", "sum", alpha).mean() < -3, alpha
        )
        for alpha in (0.1, 0.9)
    },
    **{
        f"equal weights have at least 1 point of covering more than alpha {alpha}": partial(
            lambda alpha: above_equal("covering", "sum", alpha).mean() <= -1, alpha
        )
        for alpha in (0.75, 0.9)
    },
    "beyond twice the noise of a mean, uncertainty weighting gains mIoU": lambda: (
        beyond_noise("miou", "uncertainty") == 1
    ),
    "against the mean of all three equal sums, uncertainty weighting gains less": lambda: (
        less_above_all_equal("miou", "uncertainty")
    ),
    "beyond twice the noise of a mean, FAMO loses mIoU, and it does so in every pair": lambda: (
        beyond_noise("miou", "FAMO") == -1 and above_equal("miou", "FAMO").max() < 0
    ),
    "the other methods' mIoU stays within twice the noise of a mean; the largest change": lambda: (
        not any(beyond_noise("miou", name) for name in METHODS if name not in MOVING)
    ),
    "beyond twice the noise of a mean, FAMO gains covering": lambda: (
        beyond_noise("covering", "FAMO") == 1
    ),
    "beyond twice the noise of a mean, MGDA gains covering": lambda: (
        beyond_noise("covering", "MGDA") == 1
    ),
    "MGDA loses mIoU in every pair": lambda: above_equal("miou", "MGDA").max() < 0,
    "every epoch of the observed sum has a mean cosine above 0.15; the lowest": lambda: (
        cosines("observed sum").min() > 0.15
    ),
    "of the observed sum's epochs, over 90% have a mean cosine between 0.3 and 0.65": lambda: (
        between(0.3, cosines("observed sum"), 0.65) > 0.9
    ),
    "of all methods' epochs, less than 2% have a negative mean cosine": lambda: (
        (cosines() < 0).mean() < 0.02
    ),
}
CLAIMS = WEIGHTING
