"""Rivals of the fused model where few pictures have names: names that a trained model gives to the
others (pseudo-labels, Lee 2013), and a network that begins with what regions have taught it."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from fusion_lib import models, prediction, regions
from fusion_lib.lab import recipes

RIVALS = ("pseudo-labels", "voted pseudo-labels", "region pretraining")  # values of a run's "rival"


def renamed(recipe: recipes.Recipe, teacher, seed: int, voted: bool) -> recipes.Recipe:
    """The recipe with names for all training pictures: the true ones of the share that
    `recipe.labels` and the seed keep, for the others those of the teacher, each pixel by itself,
    or (`voted`) one for each true region. Validation and test pictures stay as they are."""
    train = recipe.dataset("train")
    named = set(recipes.kept_pictures(recipe.labels, len(train), seed))
    names = []
    for index in range(len(train)):
        _, semantic, region = train.read(index)
        if index not in named:
            logits = prediction.predict(teacher, train[index]["image"], recipes.seen(recipe))
            region = np.where(region < 0, region.max() + 1, region)  # void votes, too
            semantic = regions.vote(logits["semantic"], region, float(voted))
        names.append(semantic)

    def maps(index: int) -> tuple:
        return names[index], train.read(index)[2]

    def dataset(split: str, transform: Callable | None = None):
        if split == "train":
            return recipes.Relabelled(train, maps, transform)
        return recipe.dataset(split, transform=transform)

    return replace(recipe, dataset=dataset, labels=1.0)


def begun_with(trained) -> Callable:
    """What builds a `FusionModel` whose encoder begins as that of a trained one."""

    def build(outputs: dict[str, int], **options) -> models.FusionModel:
        model = models.FusionModel(outputs, **options)
        model.encoder.load_state_dict(trained.encoder.state_dict())
        return model

    return build
