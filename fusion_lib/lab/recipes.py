"""The settings behind every number of the series, in one place, and the few lines that put them to
work.

Notebook 04 spells out what `fit` does; scoreboards and experiments call it. Settings were tried out
on validation pictures only; the experiment `tuning` holds the trials.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    RandomSampler,
    Subset,
    WeightedRandomSampler,
)
from torchvision.transforms import v2

from fusion_lib import (
    datasets,
    evaluation,
    metrics,
    models,
    prediction,
    targets,
    training,
    weighting,
)
from fusion_lib.affinities import OFFSETS, AffinityTarget
from fusion_lib.classical import felzenszwalb_regions, gradient_watershed_regions, kmeans_regions
from fusion_lib.engine import devices, processes
from fusion_lib.engine.resident import ResidentLoader
from fusion_lib.losses import FusionLoss
from fusion_lib.regions import decode, fuse, has_regions, vote
from fusion_lib.transforms import augmentation, evaluation_transform

TASKS = {"semantic": 8, "region": 3}  # classes of each task, on the scenes and on the photographs
AFFINITY_TASKS = {
    "semantic": 8,
    "affinity": len(OFFSETS),
}  # the region task in another form, see `affinities`
SURFACES_TASKS = {
    **TASKS,
    "surfaces": 3,
}  # a third task, which only the photographs have labels for
# What a decoding is chosen from, for each form of the region task.
DECODINGS = {
    "region": {
        "smoothing": (0.5, 1.0, 2.0),
        "threshold": (0.5, 0.6, 0.7, 0.8, 0.9),
        "edge_weight": (0.0, 0.5, 1.0),
    },
    "affinity": {"bias": (0.0, 0.1, 0.2), "smallest": (8, 16, 32), "edge_weight": (0.0, 0.2, 0.5)},
}


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run besides the model's tasks and the seed."""

    dataset: Callable  # split, transform -> SegmentationDataset
    size: tuple[int, int]  # (H, W) at which the network sees a picture
    tau: float  # the rim's limit, in pixels at that size; see targets.region_target
    smallest_crop: float
    light: float
    model: dict  # arguments of FusionModel besides outputs
    batch_size: int
    epochs: int
    learning_rate: float
    alpha: float = 1.0
    beta: float = 1.0
    weighting: str = "sum"  # see weighting.choose
    labels: float = (
        1.0  # share of the training pictures whose semantic labels are used; region labels all are
    )
    pictures: float = 1.0  # share of the training pictures that is used at all
    encoder_factor: float = 1.0  # share of the learning rate that the encoder gets
    # training pictures are kept on the device, resized before they are cropped; see `resident`
    resident: bool = False


SCENES = Recipe(
    dataset=datasets.Scenes,
    size=(64, 64),
    tau=2.0,
    smallest_crop=1.0,
    light=0.2,
    model={},
    batch_size=8,
    epochs=30,
    learning_rate=8e-3,
)
PHOTOGRAPHS = Recipe(
    dataset=datasets.StanfordBackground,
    size=(192, 256),
    tau=4.0,
    smallest_crop=0.4,
    light=0.3,
    model={"encoder": "lite0", "width": 32, "pretrained": True},
    batch_size=8,
    epochs=16,
    learning_rate=2e-3,
)
# For both tasks at once: a decoder a task, twice the weight for the regions (see the experiment
# `designs`), and as many epochs as fit into the time that two networks take.
PHOTOGRAPHS_FUSED = replace(
    PHOTOGRAPHS, beta=2.0, epochs=22, model={**PHOTOGRAPHS.model, "sharing": "decoders"}
)
PHOTOGRAPHS_WHOLE = replace(
    PHOTOGRAPHS, size=(240, 320), tau=5.0, epochs=22, resident=True
)  # at their own size; for a GPU
# Small and short, so that many runs fit into an hour of a laptop (notebook 10).
PHOTOGRAPHS_SMALL = replace(PHOTOGRAPHS, size=(96, 128), tau=2.0, epochs=6)
PHOTOGRAPHS_SCRATCH = replace(
    PHOTOGRAPHS,
    size=(120, 160),
    tau=2.5,
    model={"encoder": "small", "width": 16},
    epochs=30,
    learning_rate=8e-3,
)


def loaders(
    recipe: Recipe, outputs: dict[str, int], seed: int = 0
) -> tuple[DataLoader | ResidentLoader, DataLoader]:
    """Training and validation loaders of a recipe; targets are computed after the augmentation.

    With `recipe.labels` below 1, `seed` draws the pictures that keep their semantic labels; a
    larger share keeps those of a smaller one. Every epoch has as many pictures as with all labels,
    drawn with replacement: for a model that learns the region task too, half of them from all
    pictures and half from the labelled ones; for one that learns the
    semantic task alone, all of them from the labelled ones.

    With `recipe.pictures` below 1, `seed` draws the pictures there are, and a larger share holds
    those of a smaller. Every
    epoch has as many steps as with all: the pictures are gone through several times.

    Of several processes each gets its share: together they have batches of `recipe.batch_size`, and
    each validation
    picture once.

    Raises:
        ValueError: `recipe.labels` or `recipe.pictures` is not in (0, 1], or both are below 1; or
            several processes cannot share the batch, the labels or the pictures; or
            `recipe.resident` is combined with any of these.
    """
    shares = {"labels": recipe.labels, "pictures": recipe.pictures}
    for name, share in shares.items():
        if not 0 < share <= 1:
            raise ValueError(f"{name} is {share}; expected a share of the pictures in (0, 1]")
    if max(shares.values()) < 1:
        raise ValueError(
            f"labels is {recipe.labels} and pictures {recipe.pictures}; expected 1 for one of them"
        )
    if recipe.resident and (
        min(shares.values()) < 1 or "affinity" in outputs or processes.rank_and_count()[1] > 1
    ):
        raise ValueError(
            "resident is True; expected one process, all pictures and labels, and no affinities:"
            " leave it False here"
        )
    augment = augmentation(recipe.size, smallest_crop=recipe.smallest_crop, light=recipe.light)
    train = recipe.dataset("train", transform=v2.Compose([augment, *_targets(recipe, outputs)]))
    val = _validation_pictures(recipe, outputs)
    rank, sharers = processes.rank_and_count()
    if sharers > 1:
        if min(shares.values()) < 1 or recipe.batch_size % sharers:
            raise ValueError(
                f"labels is {recipe.labels}, pictures {recipe.pictures} and batch_size"
                f" {recipe.batch_size}, with {sharers} processes; expected all labels of all"
                " pictures, and a batch that divides into equal shares"
            )
        sampler = DistributedSampler(train, seed=seed, drop_last=True)
        train_loader = DataLoader(
            train, recipe.batch_size // sharers, sampler=sampler, drop_last=True
        )
        return train_loader, DataLoader(Subset(val, range(rank, len(val), sharers)), 20)
    val_loader, count = DataLoader(val, 20), len(train)
    drawn = np.random.default_rng(seed).permutation(count)
    if recipe.pictures < 1:
        few = Subset(train, drawn[: max(1, round(recipe.pictures * count))].tolist())
        return (
            DataLoader(
                few,
                recipe.batch_size,
                sampler=RandomSampler(few, num_samples=count),
                drop_last=True,
            ),
            val_loader,
        )
    if recipe.resident:
        crop_and_light = {"smallest_crop": recipe.smallest_crop, "light": recipe.light}
        device = devices.choose_device()
        return (
            ResidentLoader(
                recipe.dataset("train"),
                recipe.batch_size,
                recipe.size,
                recipe.tau,
                device,
                **crop_and_light,
            ),
            val_loader,
        )
    if recipe.labels == 1 or "semantic" not in outputs:
        return DataLoader(train, recipe.batch_size, shuffle=True, drop_last=True), val_loader
    labelled = drawn[: max(1, round(recipe.labels * count))]
    chances = np.full(count, 0.0 if "region" not in outputs else 0.5 / count)
    chances[labelled] += 0.5 / len(labelled)
    sampler = WeightedRandomSampler(chances, count)
    return (
        DataLoader(
            datasets.PartlyLabelled(train, labelled),
            recipe.batch_size,
            sampler=sampler,
            drop_last=True,
        ),
        val_loader,
    )


def _validation_pictures(recipe: Recipe, outputs: dict[str, int]):
    return recipe.dataset(
        "val", transform=v2.Compose([evaluation_transform(recipe.size), *_targets(recipe, outputs)])
    )


def _targets(recipe: Recipe, outputs: dict[str, int]) -> list[Callable]:
    """What is computed from the label maps of a sample, for the tasks that learn it."""
    return [targets.RegionTarget(recipe.tau)] * ("region" in outputs) + [AffinityTarget()] * (
        "affinity" in outputs
    )


def fit(
    recipe: Recipe,
    outputs: dict[str, int],
    seed: int = 0,
    folder: str | Path | None = None,
    build: Callable = models.FusionModel,
):
    """Build the model for the tasks in `outputs` and train it; returns it with its history.

    `build` makes the model of `outputs` and `recipe.model`, for example `models.TwoNetworks`. A run
    found in `folder` is resumed; with a weighting other than the plain sum no run can be, and
    `folder` is not used.
    """
    train_loader, val_loader = loaders(recipe, outputs, seed)
    weights = None
    if "region" in outputs:
        validation = _validation_pictures(recipe, outputs)
        weights = targets.class_weights(
            validation[index]["region_target"] for index in range(len(validation))
        )
    training.seed_everything(seed)
    model = build(outputs, **recipe.model)
    plain = recipe.weighting == "sum"
    history = training.train(
        model,
        FusionLoss(recipe.alpha, recipe.beta, weights),
        train_loader,
        val_loader,
        epochs=recipe.epochs,
        learning_rate=recipe.learning_rate,
        encoder_factor=recipe.encoder_factor,
        seed=seed,
        weighting=None if plain else weighting.choose(recipe.weighting),
        folder=folder if plain else None,
    )
    return model, history


def tune_decoding(model, recipe: Recipe, pictures: int = 100, joint: bool = True) -> dict:
    """The decoding that suits validation pictures best: regions by mean covering, then the vote's
    weight by mIoU.

    Returns the arguments of `regions.fuse` for a model of both tasks, whatever others it has (with
    `joint` False the class edges stay out and the vote's weight is 1), and of `regions.decode` for
    one without the semantic task.

    Raises:
        ValueError: the model has no region task.
    """
    val = recipe.dataset("val")
    samples = [val[index] for index in range(min(pictures, len(val)))]
    predicted = [prediction.predict(model, s["image"], seen(recipe)) for s in samples]
    if not has_regions(predicted[0]):
        raise ValueError(
            f"model has the tasks {list(predicted[0])}; expected the region task among them"
        )
    both = "semantic" in predicted[0]
    grid = DECODINGS["affinity" if "affinity" in predicted[0] else "region"]
    if not (both and joint):
        grid = grid | {"edge_weight": (0.0,)}
    tried = (dict(zip(grid, values)) for values in itertools.product(*grid.values()))

    def mean_covering(decoding: dict) -> float:
        return float(
            np.mean(
                [
                    metrics.covering(s["region"], decode(p, **decoding))
                    for s, p in zip(samples, predicted)
                ]
            )
        )

    def miou(vote_weight: float) -> float:
        maps = (vote(p["semantic"], r, vote_weight) for p, r in zip(predicted, decoded))
        pairs = zip(samples, maps)
        confusion = sum(
            metrics.confusion_matrix(s["semantic"], m, len(val.classes)) for s, m in pairs
        )
        return metrics.semantic_scores(confusion)["miou"]

    best = max(tried, key=mean_covering)
    if not both:
        return {name: best[name] for name in best if name != "edge_weight"}
    decoded = [decode(p, **best) for p in predicted]
    return best | {"vote_weight": max((0.0, 0.2, 0.4, 0.6, 0.8, 1.0), key=miou) if joint else 1.0}


def fused_maps(model, image, decoding: dict, size: tuple[int, int] | None = None):
    """argmax map, region map and voted map (one class a region), each (H, W), of one picture (3, H,
    W)."""
    outputs = prediction.predict(model, image, size)
    voted, region = fuse(outputs, **{**decoding, "vote_weight": 1.0})
    return outputs["semantic"].argmax(0), region, voted


def scores(model, recipe: Recipe, decoding: dict, split: str = "test") -> dict:
    """`evaluation.evaluate` on a split."""
    return evaluation.evaluate(model, recipe.dataset(split), decoding, seen(recipe))


def seen(recipe: Recipe) -> tuple[int, int] | None:
    """The size (H, W) at which `prediction.predict` shows the network a picture: scenes as they
    are."""
    return None if recipe.dataset is datasets.Scenes else recipe.size


# Classical methods: function, and the grid its parameters are chosen from on validation pictures.
CLASSICAL = {
    "k-means": (kmeans_regions, {"clusters": (3, 4, 6, 8), "smoothing": (1.0, 2.0, 3.0)}),
    "Felzenszwalb": (
        felzenszwalb_regions,
        {"scale": (30, 100, 300, 1000), "smoothing": (0.5, 1.0), "min_size": (30, 100, 200)},
    ),
    "gradient watershed": (
        gradient_watershed_regions,
        {"smoothing": (2.0, 3.0, 4.0), "threshold": (0.005, 0.01, 0.015, 0.02, 0.03)},
    ),
}


def tune_classical(name: str, dataset, pictures: int = 40) -> dict:
    """The parameters of a classical method with the highest mean covering on the first pictures of
    a data set."""
    method, grid = CLASSICAL[name]
    samples = [dataset[index] for index in range(min(pictures, len(dataset)))]
    settings = [dict(zip(grid, values)) for values in itertools.product(*grid.values())]
    return max(settings, key=lambda parameters: _covering(method, parameters, samples)["covering"])


def classical_scores(name: str, parameters: dict, dataset, pictures: int | None = None) -> dict:
    """Means of `metrics.partition_scores` of a classical method over a data set (or its first
    pictures)."""
    samples = (dataset[index] for index in range(len(dataset) if pictures is None else pictures))
    return _covering(CLASSICAL[name][0], parameters, samples)


def _covering(method, parameters, samples) -> dict:
    scores = []
    for sample in samples:
        region = method(np.moveaxis(np.asarray(sample["image"]), 0, -1), **parameters)
        scores.append(metrics.partition_scores(sample["region"], region))
    return evaluation.mean_scores(scores)
