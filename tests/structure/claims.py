"""What the pages claim about stored results: each sentence beside the condition that holds it up.

A page prints its claims with `tables.show_claims`; a sentence is the same here, letter by letter.
Conditions take no argument and are worked out from the results files alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from fusion_lib import intervals, models
from fusion_lib.lab import experiments, measures, recipes
from fusion_lib.lab.experiments import BEST_START, COMPARED, FUSED, METHODS, SEEDS


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


# Notebook 06


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


Condition = Callable[[], bool]
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
    "Scenes: hard sharing has at most 0.55 of the parameters": lambda: (
        share_of_two(models.count_parameters) <= 0.55
    ),
    "Scenes: hard sharing has at most 0.55 of the operations": lambda: (
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
    "Photographs: of two learning rates 0.002 is the better one for both single tasks": lambda: all(
        rates_on_validation(model).idxmax() == 0.002 for model in COMPARED[:2]
    ),
}

# Notebook 07

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
CLAIMS: dict[str, dict[str, Condition]] = {"06": SCENES | FEW_LABELS | PHOTOGRAPHS, "07": WEIGHTING}


# Notebook 10, photographs from ImageNet. Its rows are of fold 0 unless `fold_gains` makes them.
KINDS = {"single": "semantic only", "fused": "own decoders"}
FROM_IMAGENET = tuple(measures.STARTS)[1:]


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
CLAIMS["10"] = (
    _of_starts("single", KINDS["single"])
    | _of_starts("fused", KINDS["fused"])
    | TRANSFER
    | _of_layers("Fully fine-tuned", "full")
    | _of_layers("With the slower encoder", BEST_START)
)
