"""The declared experiments behind notebooks 06 to 09: which runs there are, and what is measured on each."""

from __future__ import annotations

import itertools
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from fusion_lib import backbones, changes, datasets, metrics, models, recipes, rivals, training
from fusion_lib.experiments import Experiment, fingerprint
from fusion_lib.losses import ALL_TARGET_KEYS
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
# How a network begins and what of its encoder learns: further arguments of FusionModel, and the encoder's share of the
# learning rate. The encoder has five stages.
STARTS = {
    "scratch": ({"pretrained": False}, 1.0),
    "frozen": ({"frozen_stages": 5}, 1.0),
    "partly frozen": ({"frozen_stages": 3}, 1.0),
    "discriminative": ({}, 0.1),
    "full": ({}, 1.0),
}
FUSED = "hard sharing"  # FusionModel's default, the design that the experiments chose
DATA = {"scenes": recipes.SCENES, "photographs": recipes.PHOTOGRAPHS, "small photographs": recipes.PHOTOGRAPHS_SMALL,
        "whole photographs": recipes.PHOTOGRAPHS_WHOLE}
RECIPE_FIELDS = {field.name for field in fields(recipes.Recipe)} - {"model"}  # a run's "model" is a key of MODELS
# Fields that came after rows had been stored: settings hold them only where they differ from these.
LATER_FIELDS = {"pictures": 1.0, "encoder_factor": 1.0, "resident": False, "fold": 0}
COMPARED = ("semantic only", "region only", "two networks", "hard sharing", "attention", "gates")
DESIGNS = ("hard sharing", "own blocks", "own decoders")  # tried out on photographs
TRIED = ("semantic only", "region only", "hard sharing", "attention", "gates", "affinities")  # "two networks" are the first two
# Learning rates with the highest validation score of the experiment `tuning`.
TUNED = {"semantic only": 4e-3, "region only": 1.6e-2, "hard sharing": 8e-3, "attention": 8e-3, "gates": 1.6e-2,
         "affinities": 1.6e-2}
# The same of `transfer_tuning`, `tasks_tuning` and `rivals_tuning`: model and start -> learning rate.
TUNED_STARTS = {
    ("own decoders", "scratch"): 9e-3, ("own decoders", "frozen"): 9e-3, ("own decoders", "partly frozen"): 9e-3,
    ("own decoders", "discriminative"): 9e-3, ("own decoders", "full"): 1e-3,
    ("semantic only", "scratch"): 9e-3, ("semantic only", "frozen"): 3e-3, ("semantic only", "partly frozen"): 3e-3,
    ("semantic only", "discriminative"): 9e-3, ("semantic only", "full"): 1e-3,
    ("region only", "discriminative"): 9e-3, ("surfaces only", "discriminative"): 9e-3, ("three tasks", "discriminative"): 9e-3,
}  # fmt: skip
SHORT = 3  # epochs of the one run of each experiment that a notebook repeats live

SEMANTIC = ("miou", "pixel_accuracy", "iou", "covering_areas", "pq_areas")  # iou: one number a class
REGION = ("covering", "variation_of_information", "adapted_rand_error", "boundary_f")
VALIDATION = ("val_score", "val_miou_semantic", "val_miou_region")  # mIoU of the pixel classes; the score is their mean
DECODED = ("covering", "miou_fused")
SERIES = ("norm_semantic", "norm_region", "cosine")  # one number an epoch
METHODS = ("uncertainty", "DWA", "FAMO", "geometric mean", "random", "observed sum", "PCGrad", "MGDA", "UPGrad",
           "Aligned-MTL", "IMTL-G")  # fmt: skip
JOINT = ("miou_voted", "pq", "miou_fused", "iou_fused", "covering_fused", "pq_fused", "edge_weight", "vote_weight")
CURVES = tuple(f"{metric}_{change}" for metric in changes.MEASURED for change in changes.CHANGES)  # one number a severity
BORDERS = ("border_pixels", "border_wrong", "border_wrong_fused")  # one number a distance
SINGLE_AND_FUSED = ("semantic only", "region only", FUSED)


def recipe_of(run: dict) -> recipes.Recipe:
    """The recipe of a run: that of its data, with the run's own entries and the tuned learning rate."""
    base = DATA[run.get("data", "scenes")]
    tuned = {"learning_rate": TUNED[run["model"]]} if base is recipes.SCENES and run["model"] in TUNED else {}
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
    recipe = asdict(recipe_of(run)) | {"dataset": getattr(dataset, "func", dataset).__name__, "fold": run.get("fold", 0)}
    recipe = {name: value for name, value in recipe.items() if name not in LATER_FIELDS or value != LATER_FIELDS[name]}
    return recipe | {"model": run["model"], "design": recipe["model"], "seed": run["seed"]}


def train(run: dict, folder: Path | None):
    """Train the model of a run, or go on with what `folder` holds of it; returns it with its history.

    "two networks" are the semantic-only and the region-only network of the same seed, side by side.
    """
    classes = recipes.SURFACES_TASKS | recipes.AFFINITY_TASKS
    outputs = {task: classes[task] for task in MODELS[run["model"]][0]}
    if recipe_of(run).learning_rate is None:
        raise ValueError(
            f"model {run['model']!r} has no learning rate for the start {run['start']!r}; run the tuning experiment that tries it out, "
            "and enter the best into TUNED_STARTS"
        )
    if run["model"] != "two networks":
        build = rivals.Rival if run["model"] in rivals.DECODERS else models.FusionModel
        return recipes.fit(recipe_of(run), outputs, run["seed"], folder, build)
    both, history = models.TwoNetworks(outputs, **recipe_of(run).model), []
    for task in outputs:
        alone = {**run, "model": f"{task} only"}
        network, epochs = train(alone, folder and folder.parent / fingerprint(settings(alone)))
        both.networks[task].load_state_dict(network.state_dict())
        history += epochs
    return both, history


def cost(history: list[dict]) -> dict:
    """Minutes of training and the highest memory in use, from a history."""
    return {"minutes": sum(e["seconds"] for e in history) / 60, "memory_mib": max(e["memory_mib"] for e in history)}


def on_validation(run: dict, folder: Path | None) -> dict:
    """Train, and report the score by which `training.train` picks its best epoch. The test pictures are not touched."""
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
    return {name: best[name] for name in (*VALIDATION, "val_miou_surfaces") if name in best} | cost(history)


def on_test(run: dict, folder: Path | None) -> dict:
    """Train, choose the decoding on validation pictures, and measure everything on the test pictures."""
    model, history = train(run, folder)
    return _numbers(model, recipe_of(run)) | _series(history) | cost(history)


def under_changes(run: dict, folder: Path | None) -> dict:
    """Train, choose the decoding on unchanged validation pictures, and measure on test pictures under every change."""
    model, history = train(run, folder and folder.parent / fingerprint(settings(run)))
    recipe, tasks = recipe_of(run), MODELS[run["model"]][0]
    photographs = recipe.dataset is datasets.StanfordBackground
    decoding = recipes.tune_decoding(model, recipe) if "region" in tasks else {}
    which, pictures = (changes.PIXEL_CHANGES, 18) if photographs else (changes.CHANGES, 50)
    numbers = changes.curves(model, recipe.dataset, decoding, recipes.seen(recipe), which, pictures)
    if "semantic" in tasks:
        borders = changes.border_curves(model, recipe.dataset("test"), decoding, recipes.seen(recipe))
        numbers |= {f"border_{name}": counts for name, counts in borders.items()}
    return numbers | cost(history)


def changed_settings(run: dict) -> dict:
    """`settings`, and the severities of every change."""
    return settings(run) | {"changes": {change.name: change.values for change in changes.CHANGES.values()}}


def on_few_test(run: dict, folder: Path | None) -> dict:
    """Train, choose the decoding on 40 validation pictures, and measure on the test pictures, in less time than `on_test`."""
    return _few_numbers(run, *train(run, folder))


def after_transfer(run: dict, folder: Path | None) -> dict:
    """`on_few_test`, and what became of an encoder that began with ImageNet weights, none of them frozen.

    "moved" is, for each stage, how far its weights went: the norm of the change over the norm before. "put_back" is the
    mIoU of the argmax when that stage alone gets its ImageNet weights and running statistics again (Zhang et al. 2022, "Are
    all layers created equal?", section 2).
    """
    model, history = train(run, folder)
    numbers, recipe = _few_numbers(run, model, history), recipe_of(run)
    if recipe.model["pretrained"] and not recipe.model.get("frozen_stages"):
        pairs = list(zip(backbones.backbone("lite0", pretrained=True).stages, model.encoder.stages))
        numbers["moved"] = [_moved(*pair) for pair in pairs]
        if "semantic" in model.config["outputs"]:
            numbers["put_back"] = [_put_back(model, recipe, *pair) for pair in pairs]
    return numbers


def _few_numbers(run: dict, model, history: list[dict]) -> dict:
    recipe, tasks = recipe_of(run), model.config["outputs"]
    decoding = recipes.tune_decoding(model, recipe, pictures=40) if has_regions(tasks) else {}
    scores = recipes.scores(model, recipe, decoding)
    numbers = {f"miou_{task}": scores[task]["miou"] for task in tasks if task not in ALL_TARGET_KEYS}
    if "semantic" in tasks:
        numbers |= {name: scores["semantic"][name] for name in ("miou", "pixel_accuracy")}
    if "partition" in scores:
        numbers["covering"] = scores["partition"]["covering"]
    if "fused" in scores:
        numbers["miou_fused"] = scores["fused"]["miou"]
    return numbers | cost(history)


def _moved(before, after) -> float:
    """Norm of the change of all parameters, over the norm that they had."""
    old, new = (torch.cat([p.detach().flatten().cpu() for p in stage.parameters()]) for stage in (before, after))
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
        labels = training.predict(model, sample["image"], recipes.seen(recipe))["semantic"].argmax(0)
        confusion = confusion + metrics.confusion_matrix(sample["semantic"], labels, len(test.classes))
    return metrics.semantic_scores(confusion)["miou"]


def beside_rivals(run: dict, folder: Path | None) -> dict:
    """Train, measure names on the test pictures, and time a training step in turns with the semantic-only network's.

    "val_curve" is the validation mIoU after each epoch. "step_ratio" is the median of five quotients of neighbouring
    steps (forward and backward pass of a batch), this model's over the semantic-only network's.
    """
    model, history = train(run, folder)
    recipe = recipe_of(run)
    numbers = {"miou": _argmax_miou(model, recipe), "val_curve": [entry["val_miou_semantic"] for entry in history]}
    alone = models.FusionModel({"semantic": recipes.TASKS["semantic"]}, **recipe_of({**run, "model": "semantic only"}).model)
    device = next(model.parameters()).device
    pair = [network.to(device, memory_format=torch.channels_last).train() for network in (model, alone)]
    images = torch.rand(recipe.batch_size, 3, *recipe.size, device=device).contiguous(memory_format=torch.channels_last)
    times = np.array([[training.time_step(network, images, repeats=3) for network in pair] for _ in range(5)])
    numbers |= {"step_ms": float(np.median(times[:, 0])), "step_ratio": float(np.median(times[:, 0] / times[:, 1]))}
    return numbers | {"parameters": models.count_parameters(model)} | cost(history)


def _numbers(model, recipe: recipes.Recipe) -> dict:
    tasks = model.config["outputs"] if isinstance(model, models.FusionModel) else recipes.TASKS
    decoding = recipes.tune_decoding(model, recipe, joint=False) if has_regions(tasks) else {}
    scores = recipes.scores(model, recipe, decoding)
    numbers = {}
    if "semantic" in tasks:
        numbers |= {name: scores["semantic"][name] for name in ("miou", "pixel_accuracy")}
        numbers["iou"] = scores["semantic"]["iou"].tolist()
        numbers |= {f"{name}_areas": scores["areas"].get(full) for name, full in (("covering", "covering"), ("pq", "panoptic_quality"))}
    if "partition" in scores:
        numbers |= {name: scores["partition"][name] for name in REGION}
    numbers |= {f"miou_{task}": scores[task]["miou"] for task in tasks if task not in ALL_TARGET_KEYS}
    if "semantic" in tasks and has_regions(tasks):
        decoding = recipes.tune_decoding(model, recipe)
        joint = recipes.scores(model, recipe, decoding)
        numbers |= {name: decoding[name] for name in ("edge_weight", "vote_weight")}
        numbers |= {"miou_voted": scores["voted"]["miou"], "pq": scores.get("panoptic_quality")}
        numbers |= {"miou_fused": joint["fused"]["miou"], "covering_fused": joint["partition"]["covering"]}
        numbers |= {"iou_fused": joint["fused"]["iou"].tolist(), "pq_fused": joint.get("panoptic_quality")}
    return {name: value for name, value in numbers.items() if value is not None}


def _series(history: list[dict]) -> dict:
    return {name: [entry[name] for entry in history] for name in SERIES if name in history[0]}


def _grid(**values) -> tuple[dict, ...]:
    return tuple(dict(zip(values, combination)) for combination in itertools.product(*values.values()))


TEST = (*SEMANTIC, *REGION, *JOINT)
SMALL = {"data": ("small photographs",), "epochs": (6,)}
FEW_TEST = ("miou", "pixel_accuracy", "covering", "miou_fused", "miou_surfaces")
RATES = (1e-3, 3e-3, 9e-3, 2.7e-2)  # tried out; where the encoder learns at the full rate, lower ones
LOW_RATES = (3e-4, 1e-3, 3e-3, 9e-3)
BEST_START = "discriminative"  # in `transfer_tuning`, single and fused
FEW = (0.05, 0.1, 0.25, 0.5)  # shares of the photographs


# Epochs of the experiment `rivals`, for about equal time by a rough timing of whole steps: to be checked before it is run.
EQUALLY_LONG = {"semantic only": 10, "own decoders": 8, "Unet": 8, "FPN": 11, "LRASPP": 12}


def _single_and_fused(seed: tuple[int, ...], **which) -> tuple[dict, ...]:
    common = {**SMALL, "seed": seed}
    fused = _grid(**common, beta=(2.0,), **which, model=("own decoders",))
    return fused + _grid(**common, beta=(1.0,), **which, model=("semantic only",))


EXPERIMENTS = {
    "tuning": Experiment(
        "Learning rates tried out on validation scenes, the same number for every model.",
        _grid(seed=(0,), learning_rate=(4e-3, 8e-3, 1.6e-2), model=TRIED),
        VALIDATION, settings, on_validation,
    ),
    "designs": Experiment(
        "Photographs, 6 epochs: learning rates, designs and the weight beta of the region task, tried out on validation pictures.",
        _grid(data=("photographs",), epochs=(6,), seed=(0,), learning_rate=(2e-3, 4e-3), beta=(1.0,), model=COMPARED[:2])
        + _grid(data=("photographs",), epochs=(6,), seed=(0,), learning_rate=(2e-3,), beta=(1.0, 2.0), model=DESIGNS),
        (*VALIDATION, *DECODED), settings, decoded_on_validation,
    ),
    "transfer_tuning": Experiment(
        "Small photographs: learning rates for every start, single and fused, tried out on validation pictures.",
        _single_and_fused((0,), start=tuple(STARTS)[:4], learning_rate=RATES)
        + _single_and_fused((0,), start=("full",), learning_rate=LOW_RATES),
        VALIDATION, settings, on_validation,
    ),
    "tasks_tuning": Experiment(
        "Small photographs: learning rates for other tasks alone and for three tasks, tried out on validation pictures.",
        _grid(**SMALL, seed=(0,), beta=(1.0,), start=(BEST_START,), learning_rate=RATES, model=("region only", "surfaces only"))
        + _grid(**SMALL, seed=(0,), beta=(2.0,), start=(BEST_START,), learning_rate=RATES, model=("three tasks",)),
        (*VALIDATION, "val_miou_surfaces"), settings, on_validation,
    ),
    "full_resolution": Experiment(
        "Photographs at their own size, five folds, from scratch and from ImageNet, single and fused. For a GPU.",
        tuple({"data": "whole photographs", "seed": 0, "fold": fold, "start": start, "beta": 2.0 if model == "own decoders" else 1.0,
               "model": model} for fold in range(5) for start in (BEST_START, "scratch") for model in (*COMPARED[:2], "own decoders")),
        TEST, settings, on_test,
    ),
    "rivals_tuning": Experiment(
        "Small photographs: learning rates for decoders of other libraries, tried out on validation pictures.",
        _grid(**SMALL, seed=(0,), beta=(1.0,), start=(BEST_START,), learning_rate=RATES, model=rivals.DECODERS),
        VALIDATION, settings, on_validation,
    ),
    "transfer": Experiment(
        "Small photographs, fold 0: five ways to start, single and fused.",
        sum((_single_and_fused((seed,), start=tuple(STARTS))
             + _grid(**SMALL, seed=(seed,), beta=(1.0,), start=(BEST_START,), model=("region only",)) for seed in range(3)), ()),
        (*FEW_TEST, "moved", "put_back"), settings, after_transfer,
    ),
    "few_photographs": Experiment(
        "Small photographs, fold 0, a share of them: four starts, single and fused. `transfer` has all of them.",
        _single_and_fused((0, 1, 2), pictures=FEW, start=("frozen", BEST_START))
        + _single_and_fused((0, 1, 2), pictures=(FEW[0], FEW[2]), start=("partly frozen", "full")),
        FEW_TEST, settings, on_few_test,
    ),
    "surfaces": Experiment(
        "Small photographs, fold 0: the surfaces as a third task, and alone. `transfer` has the two tasks.",
        sum((_grid(**SMALL, seed=(seed,), beta=(1.0,), start=(BEST_START,), model=("surfaces only",))
             + _grid(**SMALL, seed=(seed,), beta=(2.0,), start=(BEST_START,), model=("three tasks",)) for seed in range(3)), ()),
        FEW_TEST, settings, on_few_test,
    ),
    "rivals": Experiment(
        "Small photographs, fold 0: decoders of other libraries on the same encoder, as many epochs each as take equally long.",
        tuple({"data": "small photographs", "epochs": epochs, "seed": seed, "beta": 2.0 if model == "own decoders" else 1.0,
               "start": BEST_START, "model": model} for seed in range(3) for model, epochs in EQUALLY_LONG.items()),
        ("miou", "val_curve", "step_ms", "step_ratio", "parameters"), settings, beside_rivals,
    ),
    "fusion": Experiment(
        "Single tasks, two networks and the fused designs on scenes, five seeds each.",
        _grid(epochs=(30,), seed=tuple(range(5)), model=COMPARED) + _grid(epochs=(SHORT,), seed=(0,), model=(FUSED,)),
        TEST, settings, on_test,
    ),
    "heads": Experiment(
        "The region task learned as affinities; scenes, five seeds. Hard sharing in `fusion` has the classroom head.",
        _grid(epochs=(30,), seed=tuple(range(5)), model=("affinities",)), TEST, settings, on_test,
    ),
    "photographs": Experiment(
        "Single tasks, two networks and fused models on Stanford Background, fold 0; the designs tried out in `designs`, three seeds.",
        _grid(data=("photographs",), epochs=(16,), seed=(0, 1, 2), beta=(1.0,), model=COMPARED[:3])
        + _grid(data=("photographs",), epochs=(22,), seed=(0, 1, 2), beta=(2.0,), model=("own decoders",))
        + _grid(data=("photographs",), epochs=(22,), seed=(0,), beta=(1.0,), model=COMPARED[:2])
        + _grid(data=("photographs",), epochs=(16,), seed=(0, 1, 2), beta=(2.0,), model=("own blocks",))
        + _grid(data=("photographs",), epochs=(16,), seed=(0,), beta=(1.0,), model=(FUSED,)),
        TEST, settings, on_test,
    ),
    "labels": Experiment(
        "A share of the semantic labels, all region labels; scenes, three seeds each.",
        _grid(epochs=(30,), seed=(0, 1, 2), labels=(0.1, 0.05, 0.25, 0.5, 1.0), model=("semantic only", FUSED))
        + _grid(epochs=(SHORT,), seed=(0,), labels=(0.1,), model=(FUSED,)),
        TEST, settings, on_test,
    ),
    "weighting": Experiment(
        "Fixed weights alpha and beta = 1 - alpha, and the methods that set weights by themselves; scenes, three seeds each.",
        _grid(epochs=(30,), seed=(0, 1, 2), weighting=("sum",), alpha=(0.1, 0.25, 0.5, 0.75, 0.9), model=(FUSED,))
        + _grid(epochs=(30,), seed=(0, 1, 2), weighting=METHODS, alpha=(0.5,), model=(FUSED,))
        + _grid(epochs=(SHORT,), seed=(0,), weighting=("observed sum",), alpha=(0.5,), model=(FUSED,)),
        (*TEST, *SERIES), settings, on_test,
    ),
    "alphas": Experiment(
        "alpha, with beta = 1 - alpha, tried out on validation scenes: the plain sum's tuning.",
        _grid(epochs=(30,), seed=(0,), weighting=("sum",), alpha=(0.1, 0.25, 0.5, 0.75, 0.9), model=(FUSED,)),
        VALIDATION, settings, on_validation,
    ),
    "robustness": Experiment(
        "Single and fused, trained with and without changes of the light, tested under changes of many kinds.",
        _grid(data=("scenes",), epochs=(30,), seed=(0, 1, 2), light=(0.2, 0.0), beta=(1.0,), model=SINGLE_AND_FUSED)
        + _grid(data=("photographs",), epochs=(16,), seed=(0, 1, 2), light=(0.3,), beta=(1.0,), model=SINGLE_AND_FUSED[:2])
        + _grid(data=("photographs",), epochs=(16,), seed=(0, 1, 2), light=(0.3,), beta=(2.0,), model=("own blocks",))
        + _grid(data=("scenes",), epochs=(SHORT,), seed=(0,), light=(0.2,), beta=(1.0,), model=(FUSED,)),
        (*CURVES, *BORDERS), changed_settings, under_changes,
    ),
}  # fmt: skip
