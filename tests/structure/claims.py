"""What the pages claim about stored results: each sentence beside the condition that holds it up.

A page prints its claims with `tables.show_claims`; a sentence is the same here, letter by letter.
Conditions take no argument and are worked out from the results files and the shipped weights.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import shipped
import torch
from torch.utils.flop_counter import FlopCounterMode

from fusion_lib import intervals, models
from fusion_lib.lab import changes, experiments, recipes
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


# Notebook 08: what stands between the tasks, and another region head.

METRICS = {
    "mIoU": "miou",
    "covering": "covering",
    "mIoU, together": "miou_fused",
    "covering, together": "covering_fused",
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
    for metric in ("mIoU", "covering", "covering, together")
} | {
    f"{title} lose {metric}": partial(
        lambda model, metric: surely_below(over(model, metric)), title.lower(), metric
    )
    for title, metrics in (
        ("Gates", ("mIoU, together", "panoptic quality")),
        ("Affinities", ("mIoU", "mIoU, together", "panoptic quality")),
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
    "Decoded together, too": lambda: (
        abs(over("affinities", "covering, together").mean()) < shipped.ceiling_raised() / 4
    ),
    "With affinities, too, every run names better than the semantic-only run of its seed": lambda: (
        over("affinities", "mIoU", "semantic only").min() > 0
    ),
}
WEIGHTS_08: dict[str, Condition] = {
    "Masks held open cost 1 to 2.5 points of mIoU": lambda: (
        1 < shipped.miou("attention") - shipped.miou("attention", torch.ones_like) < 2.5
    ),
    "Gates held closed cost 0.5 to 1.5 points of mIoU": lambda: (
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
CLAIMS["08"] = ATTENTION | GATES | ABOVE_SINGLE | DESIGNS_08 | WEIGHTS_08


# Notebook 09: changes; scenes trained with changes of light of 0.2, where nothing else is said.

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
    "Single and fused lose shares of mIoU that differ by at most 6, here by": lambda: all(
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
        f"Severity 3 of {_name}: class edges account for 2 to 6 points of covering": partial(
            lambda name: 2 < shipped.class_edges_cost(name) < 6, _name
        ),
    }
TREATED: dict[str, Condition] = {}
for _title, _model in (("semantic only", "semantic only"), ("fused", FUSED)):
    TREATED |= {
        f"{_title}: under noise augmentation wins over 10 points of mIoU in every run": partial(
            lambda model: healed(model, "noise")[4].min() > 10, _model
        ),
        f"{_title}: under bright light it wins less than 3 on average": partial(
            lambda model: healed(model, "bright")[4].mean() < 3, _model
        ),
        f"{_title}: on unchanged scenes it costs up to 3 on average": partial(
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
    "Bright light flips 3 to 6% of the pixels": lambda: 3 < shipped.flipped(light=1.6) < 6,
    "Other grain flips 3 to 6% of the pixels": lambda: 3 < shipped.flipped(grain=1) < 6,
    "Dimming light and grain costs less than half the accuracy that grain costs": lambda: (
        2 * shipped.accuracy_lost(light=0.4, noise=0.4 * changes.GRAIN)
        < shipped.accuracy_lost(noise=GRAIN_40)
    ),
    "Grain alone costs": lambda: shipped.accuracy_lost(noise=GRAIN_40) > 0,
}
CLAIMS["09"] = ENDS_09 | LARGER_AND_TURNED | TREATED | NEAR_BORDERS | WEIGHTS_09
