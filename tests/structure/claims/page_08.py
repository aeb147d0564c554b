"""Notebook 08: attention, gates and affinities."""

from __future__ import annotations

from functools import partial

import pandas as pd
import shipped
import torch

from claims.stored import Condition, by_seed, on_scenes, unclear
from fusion_lib import intervals
from fusion_lib.lab.experiments import FUSED

METRICS = {
    "mIoU": "miou",
    "covering": "covering",
    "mIoU decoded together": "miou_fused",
    "covering decoded together": "covering_fused",
    "panoptic quality": "pq",
}


def over(model: str, metric: str, other: str = FUSED) -> pd.Series:
    """Scenes, five seeds: a design minus another one, in points of a metric of `METRICS`."""
    column = METRICS[metric]
    results = "heads" if model == "affinities" else "fusion"
    return 100 * (by_seed(results, column, model, epochs=30) - on_scenes(column, other))


def surely_below(values) -> bool:
    """Student's t interval of the mean lies below 0."""
    return intervals.t_interval(values)[1] < 0


ATTENTION: dict[str, Condition] = {
    f"Attention and hard sharing: no difference in {metric} that five seeds can show": partial(
        lambda metric: unclear(over("attention", metric)), metric
    )
    for metric in METRICS
}
GATES: dict[str, Condition] = {
    f"Gates gain no {metric} over hard sharing that five seeds can show": partial(
        lambda metric: unclear(over("gates", metric)), metric
    )
    for metric in ("mIoU", "covering", "covering decoded together")
} | {
    f"{title} lose {metric}": partial(
        lambda model, metric: surely_below(over(model, metric)), title.lower(), metric
    )
    for title, metrics in (
        ("Gates", ("mIoU decoded together", "panoptic quality")),
        ("Affinities", ("mIoU", "mIoU decoded together", "panoptic quality")),
    )
    for metric in metrics
}
ABOVE_SINGLE: dict[str, Condition] = {
    f"{model}: more than 5 points of mIoU above the semantic-only network": partial(
        lambda model: over(model, "mIoU", "semantic only").mean() > 5, model
    )
    for model in (FUSED, "attention", "gates")
}
DESIGNS_08: dict[str, Condition] = {
    "The largest mean gain of attention or gates stays below half a point": lambda: (
        max(over(model, metric).mean() for model in ("attention", "gates") for metric in METRICS)
        < 0.5
    ),
    "Attention: the pair that loses most mIoU": lambda: (
        round(over("attention", "mIoU").min(), 1) == -1.2
    ),
    "Attention: the pair that gains most mIoU": lambda: (
        round(over("attention", "mIoU").max(), 1) == 1.3
    ),
    "Affinities raise the ceiling of the covering": lambda: (
        round(shipped.ceiling_raised(), 1) == 4.8
    ),
    "Affinities change the covering by less than a quarter of that": lambda: (
        abs(over("affinities", "covering").mean()) < shipped.ceiling_raised() / 4
    ),
    "Decoded together, too, affinities change the covering by less than a quarter of that": (
        lambda: (
            abs(over("affinities", "covering decoded together").mean())
            < shipped.ceiling_raised() / 4
        )
    ),
    "With affinities, too, every run names better than the semantic-only run of its seed": lambda: (
        over("affinities", "mIoU", "semantic only").min() > 0
    ),
}
WEIGHTS_08: dict[str, Condition] = {
    "Masks held open cost, in mIoU": lambda: (
        1 < shipped.miou("attention") - shipped.miou("attention", torch.ones_like) < 2.5
    ),
    "Gates held closed cost, in mIoU": lambda: (
        0.5 < shipped.miou("gates") - shipped.miou("gates", torch.zeros_like) < 1.5
    ),
    "The semantic mask is more open in cores than on boundaries": lambda: (
        shipped.wider_in_cores("attention", "semantic") > 0.05
    ),
    "So is the gate from region to semantic": lambda: (
        shipped.wider_in_cores("gates", "region to semantic") > 0.05
    ),
    "The region mask is more open on boundaries than in cores": lambda: (
        shipped.wider_in_cores("attention", "region") < -0.05
    ),
    "So is the gate from semantic to region": lambda: (
        shipped.wider_in_cores("gates", "semantic to region") < -0.05
    ),
} | {
    f"{task.capitalize()} mask: classes differ by less than boundary and core": partial(
        lambda task: (
            shipped.spread_over_classes(task) < abs(shipped.wider_in_cores("attention", task))
        ),
        task,
    )
    for task in ("semantic", "region")
}
CLAIMS = ATTENTION | GATES | ABOVE_SINGLE | DESIGNS_08 | WEIGHTS_08
