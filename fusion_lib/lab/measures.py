"""What a declared run means: its recipe, its training, and what is measured on it. Which runs there
are, `grids` says."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Subset

from fusion_lib import datasets, metrics, models, prediction
from fusion_lib.lab import changes, recipes, rivals
from fusion_lib.lab.experiments import fingerprint
from fusion_lib.losses import ALL_TARGET_KEYS
from fusion_lib.models import encoders
from fusion_lib.regions import has_regions

# What a model learns, whether it is two networks, and which design FusionModel has.
MODELS = {
    "semantic only": (("semantic",), "hard"),
    "region only": (("region",), "hard"),
    "two networks": (("semantic", "region"), "hard"),
    "hard sharing": (("semantic", "region"), "hard"),
    "attention": (("semantic", "region"), "attention"),
    "own blocks": (("semantic", "region"), "blocks"),
    "own decoders": (("semantic", "region"), "decoders"),
    "gates": (("semantic", "region"), "gates"),
    "affinities": (("semantic", "affinity"), "hard"),
    "surfaces only": (("surfaces",), "hard"),
    "three tasks": (("semantic", "region", "surfaces"), "decoders"),
    **dict.fromkeys(rivals.DECODERS, (("semantic",), None)),
}
# How a network begins and what of its encoder learns: further arguments of FusionModel, and the
# encoder's share of the learning rate. The encoder has five stages.
STARTS = {
    "scratch": ({"pretrained": False}, 1.0),
    "frozen": ({"frozen_stages": 5}, 1.0),
    "partly frozen": ({"frozen_stages": 3}, 1.0),
    "discriminative": ({}, 0.1),
    "full": ({}, 1.0),
}
DATA = {
    "scenes": recipes.SCENES,
    "photographs": recipes.PHOTOGRAPHS,
    "small photographs": recipes.PHOTOGRAPHS_SMALL,
    "whole photographs": recipes.PHOTOGRAPHS_WHOLE,
}
RECIPE_FIELDS = {field.name for field in fields(recipes.Recipe)} - {
    "model"
}  # a run's "model" is a key of MODELS
# Fields that came after rows had been stored: settings hold them only where they differ from these.
LATER_FIELDS = {"pictures": 1.0, "encoder_factor": 1.0, "resident": False, "fold": 0}
# Learning rates with the highest validation score of the experiment `tuning`.
TUNED = {
    "semantic only": 4e-3,
    "region only": 1.6e-2,
    "hard sharing": 8e-3,
    "attention": 8e-3,
    "gates": 1.6e-2,
    "affinities": 1.6e-2,
}
# The same of `transfer_tuning`, `tasks_tuning` and `rivals_tuning`: model and start -> learning
# rate.
TUNED_STARTS = {
    ("own decoders", "scratch"): 9e-3,
    ("own decoders", "frozen"): 9e-3,
    ("own decoders", "partly frozen"): 9e-3,
    ("own decoders", "discriminative"): 9e-3,
    ("own decoders", "full"): 1e-3,
    ("semantic only", "scratch"): 9e-3,
    ("semantic only", "frozen"): 3e-3,
    ("semantic only", "partly frozen"): 3e-3,
    ("semantic only", "discriminative"): 9e-3,
    ("semantic only", "full"): 1e-3,
    ("region only", "discriminative"): 9e-3,
    ("surfaces only", "discriminative"): 9e-3,
    ("three tasks", "discriminative"): 9e-3,
    ("Unet", "discriminative"): 9e-3,
    ("FPN", "discriminative"): 2.7e-2,
    ("LRASPP", "discriminative"): 2.7e-2,
}
SHORT_EPOCH = {
    "train": 48,
    "val": 16,
}  # pictures of an epoch that is timed; of the photographs they are 429 and 143

SEMANTIC = (
    "miou",
    "pixel_accuracy",
    "iou",
    "covering_areas",
    "pq_areas",
)  # iou: one number a class
REGION = ("covering", "variation_of_information", "adapted_rand_error", "boundary_f")
VALIDATION = (
    "val_score",
    "val_miou_semantic",
    "val_miou_region",
)  # mIoU of the pixel classes; the score is their mean
SERIES = ("norm_semantic", "norm_region", "cosine")  # one number an epoch


def recipe_of(run: dict) -> recipes.Recipe:
    """The recipe of a run: that of its data, with the run's own entries and the tuned learning
    rate."""
    base = DATA[run.get("data", "scenes")]
    tuned = (
        {"learning_rate": TUNED[run["model"]]}
        if base is recipes.SCENES and run["model"] in TUNED
        else {}
    )
    if "alpha" in run:
        run = {**run, "beta": 1 - run["alpha"]}
    if "start" in run:
        tuned = {"learning_rate": TUNED_STARTS.get((run["model"], run["start"]))}
    start, encoder_factor = STARTS[run.get("start", "full")]
    own = {name: value for name, value in run.items() if name in RECIPE_FIELDS}
    if run.get("fold"):
        own["dataset"] = partial(base.dataset, fold=run["fold"])
    design = {**base.model, "sharing": MODELS[run["model"]][1], **start}
    if run["model"] in rivals.DECODERS:
        design = {"decoder": run["model"], "pretrained": True}
    return replace(base, **{**tuned, "encoder_factor": encoder_factor, **own}, model=design)


def settings(run: dict) -> dict:
    """All that decides a run's result."""
    if run["model"] == "two networks":
        return {"networks": [settings({**run, "model": f"{task} only"}) for task in recipes.TASKS]}
    dataset = recipe_of(run).dataset
    recipe = asdict(recipe_of(run)) | {
        "dataset": getattr(dataset, "func", dataset).__name__,
        "fold": run.get("fold", 0),
    }
    recipe = {
        name: value
        for name, value in recipe.items()
        if name not in LATER_FIELDS or value != LATER_FIELDS[name]
    }
    return recipe | {"model": run["model"], "design": recipe["model"], "seed": run["seed"]}


def train(run: dict, folder: Path | None):
    """Train the model of a run, or go on with what `folder` holds of it; returns it with its
    history.

    "two networks" are the semantic-only and the region-only network of the same seed, side by side.
    """
    if recipe_of(run).learning_rate is None:
        raise ValueError(
            f"model {run['model']!r} has no learning rate for the start {run['start']!r}; run the"
            " tuning experiment that tries it out, and enter the best into TUNED_STARTS"
        )
    if run["model"] != "two networks":
        return _fit(run, recipe_of(run), folder)
    outputs = _outputs(run)
    both, history = models.TwoNetworks(outputs, **recipe_of(run).model), []
    for task in outputs:
        alone = {**run, "model": f"{task} only"}
        network, epochs = train(alone, folder and folder.parent / fingerprint(settings(alone)))
        both.networks[task].load_state_dict(network.state_dict())
        history += epochs
    return both, history


def _fit(run: dict, recipe: recipes.Recipe, folder: Path | None):
    build = rivals.Rival if run["model"] in rivals.DECODERS else models.FusionModel
    return recipes.fit(recipe, _outputs(run), run["seed"], folder, build)


def _outputs(run: dict) -> dict[str, int]:
    classes = recipes.SURFACES_TASKS | recipes.AFFINITY_TASKS
    return {task: classes[task] for task in MODELS[run["model"]][0]}


def cost(history: list[dict]) -> dict:
    """Minutes of training and the highest memory in use, from a history."""
    return {
        "minutes": sum(e["seconds"] for e in history) / 60,
        "memory_mib": max(e["memory_mib"] for e in history),
    }


def on_validation(run: dict, folder: Path | None) -> dict:
    """Train, and report the score by which `training.train` picks its best epoch. The test pictures
    are not touched."""
    return _best(train(run, folder)[1])


def decoded_on_validation(run: dict, folder: Path | None) -> dict:
    """`on_validation`, and covering and mIoU after the decoding, chosen on the same pictures."""
    model, history = train(run, folder)
    recipe, tasks = recipe_of(run), MODELS[run["model"]][0]
    numbers = _best(history)
    if has_regions(tasks):
        scores = recipes.scores(model, recipe, recipes.tune_decoding(model, recipe), "val")
        numbers |= {"covering": scores["partition"]["covering"]}
        if "semantic" in tasks:
            numbers |= {"miou_fused": scores["fused"]["miou"]}
    return numbers


def _best(history: list[dict]) -> dict:
    best = max(history, key=lambda entry: entry["val_score"])
    return {name: best[name] for name in (*VALIDATION, "val_miou_surfaces") if name in best} | cost(
        history
    )


def on_test(run: dict, folder: Path | None) -> dict:
    """Train, choose the decoding on validation pictures, and measure everything on the test
    pictures."""
    model, history = train(run, folder)
    return _numbers(model, recipe_of(run)) | _series(history) | cost(history)


def under_changes(run: dict, folder: Path | None) -> dict:
    """Train, choose the decoding on unchanged validation pictures, and measure on test pictures
    under every change."""
    model, history = train(run, folder and folder.parent / fingerprint(settings(run)))
    recipe, tasks = recipe_of(run), MODELS[run["model"]][0]
    photographs = recipe.dataset is datasets.StanfordBackground
    decoding = recipes.tune_decoding(model, recipe) if "region" in tasks else {}
    which, pictures = (changes.PIXEL_CHANGES, 18) if photographs else (changes.CHANGES, 50)
    numbers = changes.curves(model, recipe.dataset, decoding, recipes.seen(recipe), which, pictures)
    if "semantic" in tasks:
        borders = changes.border_curves(
            model, recipe.dataset("test"), decoding, recipes.seen(recipe)
        )
        numbers |= {f"border_{name}": counts for name, counts in borders.items()}
    return numbers | cost(history)


def changed_settings(run: dict) -> dict:
    """`settings`, and the severities of every change."""
    return settings(run) | {
        "changes": {change.name: change.values for change in changes.CHANGES.values()}
    }


def on_few_test(run: dict, folder: Path | None) -> dict:
    """Train, choose the decoding on 40 validation pictures, and measure on the test pictures, in
    less time than `on_test`."""
    return _few_numbers(run, *train(run, folder))


def after_transfer(run: dict, folder: Path | None) -> dict:
    """`on_few_test`, and what became of an encoder that began with ImageNet weights, none of them
    frozen.

    "moved" is, for each stage, how far its weights went: the norm of the change over the norm
    before. "put_back" is the mIoU of the argmax when that stage alone gets its ImageNet weights and
    running statistics again (Zhang et al. 2022, "Are all layers created equal?", section 2).
    """
    model, history = train(run, folder)
    numbers, recipe = _few_numbers(run, model, history), recipe_of(run)
    if recipe.model["pretrained"] and not recipe.model.get("frozen_stages"):
        pairs = list(zip(encoders.backbone("lite0", pretrained=True).stages, model.encoder.stages))
        numbers["moved"] = [_moved(*pair) for pair in pairs]
        if "semantic" in model.config["outputs"]:
            numbers["put_back"] = [_put_back(model, recipe, *pair) for pair in pairs]
    return numbers


def _few_numbers(run: dict, model, history: list[dict]) -> dict:
    recipe, tasks = recipe_of(run), model.config["outputs"]
    decoding = recipes.tune_decoding(model, recipe, pictures=40) if has_regions(tasks) else {}
    scores = recipes.scores(model, recipe, decoding)
    numbers = {
        f"miou_{task}": scores[task]["miou"] for task in tasks if task not in ALL_TARGET_KEYS
    }
    if "semantic" in tasks:
        numbers |= {name: scores["semantic"][name] for name in ("miou", "pixel_accuracy")}
    if "partition" in scores:
        numbers["covering"] = scores["partition"]["covering"]
    if "fused" in scores:
        numbers["miou_fused"] = scores["fused"]["miou"]
    return numbers | cost(history)


def _moved(before, after) -> float:
    """Norm of the change of all parameters, over the norm that they had."""
    old, new = (
        torch.cat([p.detach().flatten().cpu() for p in stage.parameters()])
        for stage in (before, after)
    )
    return float((new - old).norm() / old.norm())


def _put_back(model, recipe: recipes.Recipe, before, after) -> float:
    """mIoU on the test pictures with a stage as it was."""
    trained = {name: values.clone() for name, values in after.state_dict().items()}
    after.load_state_dict(before.state_dict())
    try:
        return _argmax_miou(model, recipe)
    finally:
        after.load_state_dict(trained)


def _argmax_miou(model, recipe: recipes.Recipe) -> float:
    test, confusion = recipe.dataset("test"), 0
    for index in range(len(test)):
        sample = test[index]
        labels = prediction.predict(model, sample["image"], recipes.seen(recipe))[
            "semantic"
        ].argmax(0)
        confusion = confusion + metrics.confusion_matrix(
            sample["semantic"], labels, len(test.classes)
        )
    return metrics.semantic_scores(confusion)["miou"]


def beside_rivals(run: dict, folder: Path | None) -> dict:
    """Train, measure names on the test pictures, and time the run in turns with that of the
    semantic-only network.

    "val_curve" is the validation mIoU after each epoch. "pictures_a_second" are training pictures,
    in the median of five short epochs as `_short_epoch` has them; "time_ratio" is the median of the
    five quotients of this model's time and the semantic-only network's right after it.
    """
    model, history = train(run, folder)
    numbers = {
        "miou": _argmax_miou(model, recipe_of(run)),
        "val_curve": [entry["val_miou_semantic"] for entry in history],
    }
    pair = (run, {**run, "model": "semantic only", "beta": 1.0})
    seconds = np.array([[_short_epoch(one) for one in pair] for _ in range(6)])[
        1:
    ]  # the first warms up
    numbers |= {"pictures_a_second": SHORT_EPOCH["train"] / float(np.median(seconds[:, 0]))}
    numbers |= {"time_ratio": float(np.median(seconds[:, 0] / seconds[:, 1]))}
    return numbers | {"parameters": models.count_parameters(model)} | cost(history)


def _short_epoch(run: dict) -> float:
    """Seconds of an epoch of a fresh model, all of it: loader, steps, and the validation after
    it."""
    whole = recipe_of(run).dataset

    def first(split: str, transform=None) -> Subset:
        return Subset(whole(split, transform=transform), range(SHORT_EPOCH[split]))

    return _fit(run, replace(recipe_of(run), dataset=first, epochs=1), None)[1][0]["seconds"]


def _numbers(model, recipe: recipes.Recipe) -> dict:
    tasks = model.config["outputs"] if isinstance(model, models.FusionModel) else recipes.TASKS
    decoding = recipes.tune_decoding(model, recipe, joint=False) if has_regions(tasks) else {}
    scores = recipes.scores(model, recipe, decoding)
    numbers = {}
    if "semantic" in tasks:
        numbers |= {name: scores["semantic"][name] for name in ("miou", "pixel_accuracy")}
        numbers["iou"] = scores["semantic"]["iou"].tolist()
        numbers |= {
            f"{name}_areas": scores["areas"].get(full)
            for name, full in (("covering", "covering"), ("pq", "panoptic_quality"))
        }
    if "partition" in scores:
        numbers |= {name: scores["partition"][name] for name in REGION}
    numbers |= {
        f"miou_{task}": scores[task]["miou"] for task in tasks if task not in ALL_TARGET_KEYS
    }
    if "semantic" in tasks and has_regions(tasks):
        decoding = recipes.tune_decoding(model, recipe)
        joint = recipes.scores(model, recipe, decoding)
        numbers |= {name: decoding[name] for name in ("edge_weight", "vote_weight")}
        numbers |= {"miou_voted": scores["voted"]["miou"], "pq": scores.get("panoptic_quality")}
        numbers |= {
            "miou_fused": joint["fused"]["miou"],
            "covering_fused": joint["partition"]["covering"],
        }
        numbers |= {
            "iou_fused": joint["fused"]["iou"].tolist(),
            "pq_fused": joint.get("panoptic_quality"),
        }
    return {name: value for name, value in numbers.items() if value is not None}


def _series(history: list[dict]) -> dict:
    return {name: [entry[name] for entry in history] for name in SERIES if name in history[0]}
