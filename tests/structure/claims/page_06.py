"""Notebook 06: scenes, few labels and photographs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from claims.stored import (
    Condition,
    by_seed,
    on_photographs,
    on_scenes,
    rates_on_validation,
    surely_above,
    unclear,
)
from fusion_lib import models
from fusion_lib.lab import recipes
from fusion_lib.lab.experiments import COMPARED, FUSED


def with_labels(share: float, model: str) -> pd.Series:
    """Scenes: mIoU by argmax with a share of the semantic labels, three seeds."""
    return by_seed("labels", "miou", model, epochs=30, labels=share)


def label_gain(share: float) -> pd.Series:
    """Scenes: fused minus semantic only, with a share of the semantic labels."""
    return with_labels(share, FUSED) - with_labels(share, COMPARED[0])


def delta(mious: tuple[pd.Series, pd.Series], coverings: tuple[pd.Series, pd.Series]) -> pd.Series:
    """Delta_m, one a seed; of both metrics the model's and the baseline's."""
    return (mious[0] / mious[1] + coverings[0] / coverings[1]) / 2 - 1


def delta_on_scenes(model: str) -> pd.Series:
    """Delta_m against both single tasks."""
    return delta(
        (on_scenes("miou", model), on_scenes("miou", COMPARED[0])),
        (on_scenes("covering", model), on_scenes("covering", COMPARED[1])),
    )


def own_and_two(column: str) -> tuple[pd.Series, pd.Series]:
    """Photographs: own decoders and two networks, in about equal time."""
    return on_photographs(column, "own decoders", 22), on_photographs(column, "two networks")


def own_minus_two(column: str) -> pd.Series:
    """Photographs: their differences."""
    own, two = own_and_two(column)
    return own - two


def together_minus_alone(column: str) -> pd.Series:
    """Photographs: what decoding together adds to two networks."""
    return on_photographs(f"{column}_fused", "two networks") - on_photographs(
        column, "two networks"
    )


def share_of_two(count: Callable) -> float:
    """What hard sharing takes, as a share of two networks' parameters or operations."""
    return count(models.FusionModel(recipes.TASKS)) / count(models.TwoNetworks(recipes.TASKS))


def operations(model) -> int:
    """Additions and multiplications of one forward pass for one scene."""
    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 3, 64, 64))
    return counter.get_total_flops()


SCENES: dict[str, Condition] = {
    "Scenes: learning together raises mIoU, surely by more than 4 points": lambda: surely_above(
        on_scenes("miou", FUSED) - on_scenes("miou", "semantic only"), 0.04
    ),
    "Scenes: the covering does not fall; on average it rises": lambda: surely_above(
        on_scenes("covering", FUSED) - on_scenes("covering", "region only")
    ),
    "Scenes: decoding together helps two networks, too": lambda: surely_above(
        on_scenes("miou_fused", "two networks") - on_scenes("miou", "two networks")
    ),
    "Scenes: Delta_m is surely above 0": lambda: surely_above(delta_on_scenes(FUSED)),
    "Scenes: attention is not surely better than hard sharing": lambda: (
        not surely_above(delta_on_scenes("attention") - delta_on_scenes(FUSED))
    ),
    "Scenes: gates are not surely better than hard sharing": lambda: (
        not surely_above(delta_on_scenes("gates") - delta_on_scenes(FUSED))
    ),
    "Scenes: of two networks' parameters, hard sharing has": lambda: (
        share_of_two(models.count_parameters) <= 0.55
    ),
    "Scenes: of two networks' operations, hard sharing has": lambda: (
        share_of_two(operations) <= 0.55
    ),
}
FEW_LABELS: dict[str, Condition] = {
    "Scenes, 10% of the labels: fused is surely at least 8 points above semantic only": lambda: (
        surely_above(label_gain(0.1), 0.08)
    ),
    "Scenes: with half of the labels fused is above semantic only with all, in every seed": (
        lambda: (with_labels(0.5, FUSED) - with_labels(1.0, COMPARED[0])).min() > 0
    ),
    **{
        f"Scenes, {share:.0%} of the labels: fused is surely above semantic only": partial(
            lambda share: surely_above(label_gain(share)), share
        )
        for share in (0.05, 0.25, 0.5, 1.0)
    },
}
PHOTOGRAPHS: dict[str, Condition] = {
    "Photographs, mIoU by argmax: own decoders (22 epochs) are above semantic only (16 epochs)": (
        lambda: surely_above(own_minus_two("miou"))
    ),
    "Photographs, mIoU, both decoded together: no difference seen between own decoders and two"
    " networks": lambda: unclear(own_minus_two("miou_fused")),
    "Photographs, mIoU: decoding together helps two networks, too": lambda: surely_above(
        together_minus_alone("miou")
    ),
    "Photographs, covering, each alone: no difference seen between own decoders and region only": (
        lambda: unclear(own_minus_two("covering"))
    ),
    "Photographs, covering, both decoded together: no difference seen between own decoders and two"
    " networks": lambda: unclear(own_minus_two("covering_fused")),
    "Photographs, covering: no difference seen between two networks decoded together and alone": (
        lambda: unclear(together_minus_alone("covering"))
    ),
    "Photographs, both decoded together: no difference seen between own decoders and two"
    " networks": lambda: unclear(delta(own_and_two("miou_fused"), own_and_two("covering_fused"))),
    "Photographs, 22 epochs, one run: by argmax semantic only is above own decoders by": lambda: (
        on_photographs("miou", "semantic only", 22)[0]
        > on_photographs("miou", "own decoders", 22)[0]
    ),
    "Photographs, 22 epochs, one run: in covering region only is above own decoders by": lambda: (
        on_photographs("covering", "region only", 22)[0]
        > on_photographs("covering", "own decoders", 22)[0]
    ),
    "Photographs: of two learning rates 0.002 is the better one for both single tasks, at least"
    " by": lambda: all(rates_on_validation(model).idxmax() == 0.002 for model in COMPARED[:2]),
}
CLAIMS = SCENES | FEW_LABELS | PHOTOGRAPHS
