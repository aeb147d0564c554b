"""What is measured on the trained model of a declared run, see `declared`."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from torch.utils.data import Subset

from fusion_lib import checks, datasets, metrics, models, prediction
from fusion_lib.lab import changes, declared, few_names, recipes, rivals
from fusion_lib.lab.declared import recipe_of, settings
from fusion_lib.lab.runner import fingerprint
from fusion_lib.models import encoders
from fusion_lib.regions import has_regions

SHORT_EPOCH = {"train": 48, "val": 16}  # pictures; of the photographs they are 429 and 143

VALIDATION = ("val_score", "val_miou_semantic", "val_miou_region")  # the score is their mean
SERIES = ("norm_semantic", "norm_region", "cosine")  # one number an epoch
# Columns of results files, and where they stand in the scores of `evaluation.evaluate`. "joint" are
# those of a model of both tasks whose regions are decoded with the help of its class edges.
TEST = {
    "miou": "semantic.miou",
    "pixel_accuracy": "semantic.pixel_accuracy",
    "iou": "semantic.iou",  # one number a class
    "covering_areas": "areas.covering",
    "pq_areas": "areas.panoptic_quality",
    "covering": "partition.covering",
    "variation_of_information": "partition.variation_of_information",
    "adapted_rand_error": "partition.adapted_rand_error",
    "boundary_f": "partition.boundary_f",
    "miou_voted": "voted.miou",
    "pq": "panoptic_quality",
    "miou_fused": "joint.fused.miou",
    "iou_fused": "joint.fused.iou",
    "covering_fused": "joint.partition.covering",
    "pq_fused": "joint.panoptic_quality",
    "edge_weight": "joint.decoding.edge_weight",
    "vote_weight": "joint.decoding.vote_weight",
}
# What a label is worth: names by argmax, voted, decoded together; regions alone, and together.
WORTH = {name: TEST[name] for name in ("miou", "miou_voted", "miou_fused", "covering_areas")}
WORTH |= {name: TEST[name] for name in ("covering", "covering_fused", "pq_areas", "pq", "pq_fused")}
WORTH |= {"touching_areas": "areas.touching_recall", "touching": "partition.touching_recall"}
WORTH |= {"boundary_f": TEST["boundary_f"], "boundary_f_fused": "joint.partition.boundary_f"}
WORTH |= {"touching_fused": "joint.partition.touching_recall"}
SHARED = ("miou", "pixel_accuracy", "covering", "miou_fused")  # `MAIN` decodes but once
MAIN = {name: TEST[name].removeprefix("joint.") for name in SHARED}
MAIN["miou_surfaces"] = "surfaces.miou"


def train(run: dict, scratch: Path | None):
    """Train the model of a run, or go on with what its folder in `scratch` holds; returns model and
    history. Where another process trains the same run, wait for its end, and take what it got.
    Raises ValueError where no learning rate was tuned."""
    recipe, outputs = recipe_of(run), declared.MODELS[run["model"]][0]
    if run["model"] == "two networks":
        both, history = models.TwoNetworks(outputs, **recipe.model), []
        for task in outputs:
            network, epochs = train({**run, "model": f"{task} only"}, scratch)
            both.networks[task].load_state_dict(network.state_dict())
            history += epochs
        return both, history
    none = f"model {run['model']!r} has no learning rate for the start {run.get('start')!r}"
    advice = "run the tuning experiment, and enter the best into TUNED"
    checks.require(recipe.learning_rate is not None, f"{none}; {advice}")
    recipe, build = _rival(run, recipe, scratch)
    if scratch is None:
        return _fit(run, recipe, build=build)
    scratch.mkdir(parents=True, exist_ok=True)
    folder = scratch / fingerprint(settings(run))
    with FileLock(f"{folder}.lock"):
        return _fit(run, recipe, folder, build)


def _rival(run: dict, recipe: recipes.Recipe, scratch: Path | None):
    """Recipe and build of a run, after what its "rival" has to train before, see `few_names`."""
    rival = run.get("rival", "none")
    if rival == "region pretraining":
        before = {**run, "rival": "none", "model": "region only", "labels": 1.0}
        return recipe, few_names.begun_with(train(before, scratch)[0])
    if rival in few_names.RIVALS:
        teacher = train({**run, "rival": "none"}, scratch)[0]
        voted = rival == "voted pseudo-labels"
        recipe = few_names.renamed(recipe, teacher, run["seed"], voted)
    return recipe, None


def _fit(run: dict, recipe: recipes.Recipe, folder: Path | None = None, build=None):
    own = rivals.Rival if run["model"] in rivals.DECODERS else models.FusionModel
    outputs = declared.MODELS[run["model"]][0]
    return recipes.fit(recipe, outputs, run["seed"], folder, build or own)


def train_and(measure: Callable, run: dict, scratch: Path | None) -> dict:
    """Train a run, and measure the model: `measure` is one of the functions below, (run, model,
    history) -> {column: number or list of numbers}. Adds what the training took."""
    model, history = train(run, scratch)
    memory = max(epoch["memory_mib"] for epoch in history)
    return measure(run, model, history) | {"minutes": minutes(history), "memory_mib": memory}


def minutes(history: list[dict]) -> float:
    """Of all epochs, also of those before an interruption."""
    return sum(entry["seconds"] for entry in history) / 60


def chosen(columns: dict[str, str], scores: dict) -> dict:
    """{column: number or list of numbers} of what there is in nested scores; `columns` says where,
    for example "semantic.miou"."""
    flat = pd.json_normalize(scores).iloc[0]
    return {c: np.asarray(flat[path]).tolist() for c, path in columns.items() if path in flat}


def _decoding(run: dict, model, **how) -> dict:
    """Chosen on validation pictures, see `recipes.tune_decoding`; without regions there is none."""
    regions = has_regions(declared.MODELS[run["model"]][0])
    return recipes.tune_decoding(model, recipe_of(run), **how) if regions else {}


def validation_scores(run: dict, model, history: list[dict]) -> dict:
    """The best epoch, as `training.train` picks it. No test picture is touched."""
    best = max(history, key=lambda epoch: epoch["val_score"])
    return {name: best[name] for name in (*VALIDATION, "val_miou_surfaces") if name in best}


def decoded_validation_scores(run: dict, model, history: list[dict]) -> dict:
    """`validation_scores`, and covering and mIoU decoded as is best on the same pictures."""
    decoding = _decoding(run, model)
    scores = recipes.scores(model, recipe_of(run), decoding, "val")
    columns = {name: MAIN[name] for name in ("covering", "miou_fused")}
    return validation_scores(run, model, history) | chosen(columns, scores)


def full_test_scores(run: dict, model, history: list[dict]) -> dict:
    """All of `TEST` and `SERIES`, with a decoding chosen on validation pictures."""
    recipe = recipe_of(run)
    scores = recipes.scores(model, recipe, _decoding(run, model, joint=False))
    if "partition" in scores and "semantic" in scores:
        decoding = _decoding(run, model)
        scores["joint"] = recipes.scores(model, recipe, decoding) | {"decoding": decoding}
    series = {name: [epoch[name] for epoch in history] for name in SERIES if name in history[0]}
    return chosen(TEST, scores) | series


def worth_scores(run: dict, model, history: list[dict], split: str = "test") -> dict:
    """All of `WORTH`, with a decoding chosen on validation pictures by their true regions."""
    recipe = recipe_of(run)
    scores = recipes.scores(model, recipe, _decoding(run, model, joint=False), split)
    if "partition" in scores and "semantic" in scores:
        scores["joint"] = recipes.scores(model, recipe, _decoding(run, model), split)
    best = max(history, key=lambda epoch: epoch["val_score"])
    return chosen(WORTH, scores) | {"best_epoch": best["epoch"]}


def main_test_scores(run: dict, model, history: list[dict]) -> dict:
    """`MAIN` alone, in less time: with a decoding chosen on 40 validation pictures."""
    return chosen(MAIN, recipes.scores(model, recipe_of(run), _decoding(run, model, pictures=40)))


def scores_and_encoder_changes(run: dict, model, history: list[dict]) -> dict:
    """`main_test_scores`, and for each stage of an encoder that began with ImageNet weights, none
    frozen: "moved", the norm of its weights' change over the norm before, and "put_back", the mIoU
    of the argmax when it alone gets its ImageNet weights and running statistics again (Zhang et al.
    2022, "Are all layers created equal?", section 2)."""
    numbers, recipe = main_test_scores(run, model, history), recipe_of(run)
    if recipe.model["pretrained"] and not recipe.model.get("frozen_stages"):
        stages = encoders.backbone("lite0", pretrained=True).stages
        numbers["moved"] = [_moved(*pair) for pair in zip(stages, model.encoder.stages)]
        if "semantic" in declared.MODELS[run["model"]][0]:
            numbers["put_back"] = [_put_back(model, recipe, *one) for one in enumerate(stages)]
    return numbers


def _moved(*stages) -> float:
    old, new = (torch.cat([p.detach().flatten().cpu() for p in s.parameters()]) for s in stages)
    return float((new - old).norm() / old.norm())


def _put_back(model, recipe: recipes.Recipe, number: int, before) -> float:
    model = copy.deepcopy(model)
    model.encoder.stages[number].load_state_dict(before.state_dict())
    return _argmax_miou(model, recipe)


def _argmax_miou(model, recipe: recipes.Recipe) -> float:
    test, size, confusion = recipe.dataset("test"), recipes.seen(recipe), 0
    for sample in (test[index] for index in range(len(test))):
        labels = prediction.predict(model, sample["image"], size)["semantic"].argmax(0)
        confusion += metrics.confusion_matrix(sample["semantic"], labels, len(test.classes))
    return metrics.semantic_scores(confusion)["miou"]


def scores_under_changes(run: dict, model, history: list[dict]) -> dict:
    """Test pictures under every change, decoded as suits unchanged validation pictures."""
    recipe, decoding = recipe_of(run), _decoding(run, model)
    photographs, size = recipe.dataset is datasets.StanfordBackground, recipes.seen(recipe)
    which, pictures = (changes.PIXEL_CHANGES, 18) if photographs else (changes.CHANGES, 50)
    numbers = changes.curves(model, recipe.dataset, decoding, size, which, pictures)
    if "semantic" in declared.MODELS[run["model"]][0]:
        borders = changes.border_curves(model, recipe.dataset("test"), decoding, size)
        numbers |= {f"border_{name}": counts for name, counts in borders.items()}
    return numbers


def score_and_speed(run: dict, model, history: list[dict]) -> dict:
    """How well the model names test pictures ("val_curve": validation pictures, after each epoch),
    and how fast it trains: training pictures a second in the median of five short epochs (loader,
    steps, validation), and the median of the five quotients of this model's time and the
    semantic-only network's right after it."""
    pair = (run, {**run, "model": "semantic only", "beta": 1.0})
    seconds = np.array([[_short_epoch(one) for one in pair] for _ in range(6)])
    ours, other = seconds[1:].T  # the first warms up
    return {
        "miou": _argmax_miou(model, recipe_of(run)),
        "val_curve": [epoch["val_miou_semantic"] for epoch in history],
        "pictures_a_second": SHORT_EPOCH["train"] / float(np.median(ours)),
        "time_ratio": float(np.median(ours / other)),
        "parameters": models.count_parameters(model),
    }


def _short_epoch(run: dict) -> float:
    """Seconds of an epoch of a fresh model on the first pictures."""
    recipe = recipe_of(run)

    def first(split: str, transform=None) -> Subset:
        return Subset(recipe.dataset(split, transform=transform), range(SHORT_EPOCH[split]))

    _, (epoch,) = _fit(run, replace(recipe, dataset=first, epochs=1))
    return epoch["seconds"]
