"""Notebook 10: photographs from ImageNet."""

from __future__ import annotations

import numpy as np
import pandas as pd

from claims.stored import Condition, by_seed, fold_gains, unclear
from fusion_lib.lab import declared, experiments
from fusion_lib.lab.experiments import BEST_START

KINDS = {"single": "semantic only", "fused": "own decoders"}
FROM_IMAGENET = tuple(declared.STARTS)[1:]


def gains_of_start(start: str, other: str, model: str) -> pd.Series:
    """mIoU of one start minus another's, seed by seed, in points."""
    return 100 * (
        by_seed("transfer", "miou", model, start=start)
        - by_seed("transfer", "miou", model, start=other)
    )


def gains_of_fusion(start: str, share: float = 1.0) -> pd.Series:
    """mIoU of own decoders minus names alone, seed by seed, in points."""
    which = {"start": start} | ({} if share == 1 else {"pictures": share})
    name = "transfer" if share == 1 else "few_photographs"
    own, alone = (by_seed(name, "miou", KINDS[kind], **which) for kind in ("fused", "single"))
    return 100 * (own - alone)


def of_stages(column: str, start: str) -> np.ndarray:
    """How far the five stages went, or the points of mIoU that putting one back costs: means."""
    rows = experiments.results("transfer").query("model == 'own decoders' and start == @start")
    values = np.stack(rows[column])
    if column == "put_back":
        values = 100 * (rows.miou.to_numpy(float)[:, None] - values)
    return values.mean(0)


def gain_of_third_task(column: str) -> pd.Series:
    """Three tasks minus two (for surfaces: minus one), seed by seed, in points."""
    three = by_seed("surfaces", column, "three tasks", start=BEST_START)
    if column == "miou_surfaces":
        return 100 * (three - by_seed("surfaces", column, "surfaces only", start=BEST_START))
    return 100 * (three - by_seed("transfer", column, "own decoders", start=BEST_START))


def best_rival_is_not_ahead(name: str, points: float) -> bool:
    """Of the other decoders this one has the highest mean; it leads ours by less than `points`."""
    means = experiments.results("rivals").groupby("model").miou.mean().drop("semantic only")
    ours = by_seed("rivals", "miou", "semantic only").mean()
    return bool(means.idxmax() == name and 100 * (means.max() - ours) < points)


def _of_starts(kind: str, model: str) -> dict[str, Condition]:
    return {
        f"From ImageNet, even the worst start beats scratch by more than 6 points in every seed,"
        f" {kind}": lambda: all(
            gains_of_start(start, "scratch", model).min() > 6 for start in FROM_IMAGENET
        ),
        f"Freezing all five stages beats freezing three in every seed, {kind}": lambda: (
            gains_of_start("frozen", "partly frozen", model).min() > 0
        ),
        f"The slower encoder beats freezing all five stages in every seed, {kind}": lambda: (
            gains_of_start("discriminative", "frozen", model).min() > 0
        ),
        f"On average, letting all stages learn beats freezing three, {kind}": lambda: (
            gains_of_start("full", "partly frozen", model).mean() > 0
        ),
    }


def _of_layers(name: str, start: str) -> dict[str, Condition]:
    return {
        f"{name}, the last stage goes more than three times as far as the first": lambda: (
            of_stages("moved", start)[4] > 3 * of_stages("moved", start)[0]
        ),
        f"{name}, putting the last stage back costs less than a tenth of what the first costs": (
            lambda: of_stages("put_back", start)[4] < 0.1 * of_stages("put_back", start)[0]
        ),
    }


def _frozen_and_few() -> bool:
    found = np.concatenate([gains_of_fusion("frozen", share) for share in experiments.FEW])
    return len(found) == 12 and found.min() > 0 and found.mean() < 1


TRANSFER: dict[str, Condition] = {
    "5 to 50%, frozen, where fusion can do nothing: fused is ahead in all 12 pairs all the same, by"
    " less than a point on average": _frozen_and_few,
    "All photographs, slower encoder: fused minus single, 0 lies in the interval": lambda: unclear(
        gains_of_fusion(BEST_START)
    ),
    "All photographs, slower encoder: fused and single differ by less than half a point in each of"
    " the five folds": lambda: abs(fold_gains("miou", "semantic only")).max() < 0.5,
    "A third task changes names by less than half a point in every seed": lambda: (
        gain_of_third_task("miou").abs().max() < 0.5
    ),
    "The other two tasks make surfaces worse in no seed": lambda: (
        gain_of_third_task("miou_surfaces").min() >= 0
    ),
    "In equal time, the best of the other decoders, FPN, is less than half a point ahead of ours": (
        lambda: best_rival_is_not_ahead("FPN", 0.5)
    ),
}
CLAIMS = (
    _of_starts("single", KINDS["single"])
    | _of_starts("fused", KINDS["fused"])
    | TRANSFER
    | _of_layers("Fully fine-tuned", "full")
    | _of_layers("With the slower encoder", BEST_START)
)
