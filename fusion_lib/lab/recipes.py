"""The settings behind every number of the series, tried out on validation pictures only (see the
experiment `tuning`), and what puts them to work. Notebook 04 spells out what `fit` does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch.utils import data
from torch.utils.data import DataLoader, RandomSampler, Subset
from torchvision.transforms import v2

from fusion_lib import checks, datasets, models, targets, training, tuning, weighting
from fusion_lib.affinities import OFFSETS, AffinityTarget
from fusion_lib.engine import devices, processes
from fusion_lib.engine.resident import ResidentLoader
from fusion_lib.evaluation import evaluate
from fusion_lib.losses import FusionLoss
from fusion_lib.prediction import predict
from fusion_lib.regions import fuse
from fusion_lib.transforms import augmentation, evaluation_transform

TASKS = {"semantic": 8, "region": 3}  # classes of each task, on the scenes and on the photographs
AFFINITY_TASKS = {"semantic": 8, "affinity": len(OFFSETS)}  # the region task in another form
SURFACES_TASKS = {**TASKS, "surfaces": 3}  # the third task has labels on the photographs alone


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
    labels: float = 1.0  # share of the training pictures whose semantic labels are used
    pictures: float = 1.0  # share of the training pictures that is used at all
    encoder_factor: float = 1.0  # share of the learning rate that the encoder gets
    resident: bool = False  # training pictures are kept on the device, see engine.resident


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
# At their own size; for a GPU.
PHOTOGRAPHS_WHOLE = replace(PHOTOGRAPHS, size=(240, 320), tau=5.0, epochs=22, resident=True)
# Small and short, so that many runs fit into an hour of a laptop (notebook 10).
PHOTOGRAPHS_SMALL = replace(PHOTOGRAPHS, size=(96, 128), tau=2.0, epochs=6)
SMALL_ENCODER = {"encoder": "small", "width": 16}
PHOTOGRAPHS_SCRATCH = replace(
    PHOTOGRAPHS, size=(120, 160), tau=2.5, model=SMALL_ENCODER, epochs=30, learning_rate=8e-3
)


def loaders(
    recipe: Recipe, outputs: dict[str, int], seed: int = 0
) -> tuple[DataLoader | ResidentLoader, DataLoader]:
    """Training and validation loaders of a recipe; targets are computed after the augmentation.

    With `recipe.labels` or `recipe.pictures` below 1, `seed` draws the pictures that keep their
    semantic labels, or that there are; a larger share holds those of a smaller one, and every epoch
    has as many pictures as with all. Several processes share batches and validation pictures.
    Raises ValueError for a share out of (0, 1], and for what does not go together: both shares
    below 1; several processes, with a share or a batch they cannot divide; `recipe.resident`, with
    a share, affinities or several processes."""
    rank, sharers = processes.rank_and_count()
    _check(recipe, outputs, sharers)
    val = _validation_pictures(recipe, outputs)
    if sharers > 1:
        val = Subset(val, range(rank, len(val), sharers))
    return _training_loader(recipe, outputs, seed, sharers), DataLoader(val, 20)


def _check(recipe: Recipe, outputs: dict[str, int], sharers: int) -> None:
    labels, pictures = recipe.labels, recipe.pictures
    for name, share in (("labels", labels), ("pictures", pictures)):
        checks.expect(0 < share <= 1, name, share, "a share of the pictures in (0, 1]")
    if labels < 1 and pictures < 1:
        raise ValueError(f"labels is {labels} and pictures {pictures}; expected 1 for one of them")
    few = labels < 1 or pictures < 1
    wrong = recipe.resident and (few or "affinity" in outputs or sharers > 1)
    expected = "one process, all pictures and labels, and no affinities: leave it False here"
    checks.expect(not wrong, "resident", True, expected)
    if sharers > 1 and (few or recipe.batch_size % sharers):
        given = f"labels is {labels}, pictures {pictures} and batch_size {recipe.batch_size}"
        expected = "all labels of all pictures, and a batch that divides into equal shares"
        raise ValueError(f"{given}, with {sharers} processes; expected {expected}")


def _training_loader(recipe: Recipe, outputs: dict[str, int], seed: int, sharers: int):
    crop, light = recipe.smallest_crop, recipe.light
    if recipe.resident:
        kept = recipe.dataset("train"), recipe.batch_size, recipe.size, recipe.tau
        return ResidentLoader(*kept, devices.choose_device(), crop, light)
    augment = augmentation(recipe.size, smallest_crop=crop, light=light)
    train = recipe.dataset("train", transform=v2.Compose([augment, *_targets(recipe, outputs)]))
    drawn = np.random.default_rng(seed).permutation(len(train)).tolist()
    sampler = RandomSampler(train)
    if sharers > 1:
        sampler = data.DistributedSampler(train, seed=seed, drop_last=True)
    elif recipe.pictures < 1:
        few = Subset(train, drawn[: max(1, round(recipe.pictures * len(train)))])
        train, sampler = few, RandomSampler(few, num_samples=len(train))
    elif recipe.labels < 1 and "semantic" in outputs:
        labelled = drawn[: max(1, round(recipe.labels * len(train)))]
        sampler = _few_labels(labelled, len(train), alone="region" not in outputs)
        train = datasets.PartlyLabelled(train, labelled)
    return DataLoader(train, recipe.batch_size // sharers, sampler=sampler, drop_last=True)


def _few_labels(labelled: list[int], count: int, alone: bool) -> data.WeightedRandomSampler:
    """As many pictures as there are, drawn with replacement: for the semantic task alone all from
    the labelled ones, beside the region task half from these and half from all."""
    chances = np.full(count, 0.0 if alone else 0.5 / count)
    chances[labelled] += 0.5 / len(labelled)
    return data.WeightedRandomSampler(chances, count)


def _validation_pictures(recipe: Recipe, outputs: dict[str, int]):
    steps = [evaluation_transform(recipe.size), *_targets(recipe, outputs)]
    return recipe.dataset("val", transform=v2.Compose(steps))


def _targets(recipe: Recipe, outputs: dict[str, int]) -> list[Callable]:
    """What is computed from the label maps of a sample, for the tasks that learn it."""
    made = {"region": targets.RegionTarget(recipe.tau), "affinity": AffinityTarget()}
    return [target for task, target in made.items() if task in outputs]


def fit(
    recipe: Recipe,
    outputs: dict[str, int],
    seed: int = 0,
    folder: str | Path | None = None,
    build: Callable = models.FusionModel,
):
    """Build the model for the tasks in `outputs` and train it; returns it with its history.

    `build` makes the model of `outputs` and `recipe.model`, for example `models.TwoNetworks`. A run
    found in `folder` is resumed, but for weightings other than the plain sum: no such run can be.
    """
    train_loader, val_loader = loaders(recipe, outputs, seed)
    weights = None
    if "region" in outputs:
        val = _validation_pictures(recipe, outputs)
        weights = targets.class_weights(val[i]["region_target"] for i in range(len(val)))
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
    """`tuning.tune_decoding` on the first validation pictures."""
    val = recipe.dataset("val")
    first = Subset(val, range(min(pictures, len(val))))
    return tuning.tune_decoding(model, first, seen(recipe), joint)


def fused_maps(model, image, decoding: dict, size: tuple[int, int] | None = None):
    """argmax, region and voted map (one class a region), each (H, W), of a picture (3, H, W)."""
    outputs = predict(model, image, size)
    voted, region = fuse(outputs, **{**decoding, "vote_weight": 1.0})
    return outputs["semantic"].argmax(0), region, voted


def scores(model, recipe: Recipe, decoding: dict, split: str = "test") -> dict:
    """`evaluation.evaluate` on a split."""
    return evaluate(model, recipe.dataset(split), decoding, seen(recipe))


def seen(recipe: Recipe) -> tuple[int, int] | None:
    """The size (H, W) at which `predict` shows the network a picture; scenes as they are."""
    return None if recipe.dataset is datasets.Scenes else recipe.size
