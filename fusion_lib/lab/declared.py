"""A declared run: what decides its result. It is a dict: "model" (of `MODELS`), "seed", and where
they matter "data" (of `DATA`), "start" (of `STARTS`), the `KNOBS` of the data, and fields of
`recipes.Recipe`."""

from dataclasses import fields, replace
from functools import partial

from fusion_lib.lab import changes, recipes, rivals

SEMANTIC, BOTH, SURFACES = {"semantic": 8}, recipes.TASKS, {"surfaces": 3}
# What a model learns (task -> classes), and which design FusionModel has.
MODELS: dict[str, tuple[dict[str, int], str | None]] = {
    "semantic only": (SEMANTIC, "hard"),
    "region only": ({"region": 3}, "hard"),
    "two networks": (BOTH, "hard"),  # the two above, of the same seed, side by side
    "hard sharing": (BOTH, "hard"),
    "attention": (BOTH, "attention"),
    "own blocks": (BOTH, "blocks"),
    "own decoders": (BOTH, "decoders"),
    "gates": (BOTH, "gates"),
    "affinities": (recipes.AFFINITY_TASKS, "hard"),
    "surfaces only": (SURFACES, "hard"),
    "three tasks": (BOTH | SURFACES, "decoders"),
    **dict.fromkeys(rivals.DECODERS, (SEMANTIC, None)),
}
# How a network begins and which of its encoder's five stages learn: further arguments of
# FusionModel, and the encoder's share of the learning rate.
STARTS: dict[str, tuple[dict, float]] = {
    "scratch": ({"pretrained": False}, 1.0),
    "frozen": ({"frozen_stages": 5}, 1.0),
    "partly frozen": ({"frozen_stages": 3}, 1.0),
    "discriminative": ({}, 0.1),
    "full": ({}, 1.0),
}
# Recipe, and what stored settings call the data set, whatever its class is called now.
DATA = {
    "scenes": (recipes.SCENES, "Scenes"),
    "second edition": (recipes.SCENES_SECOND, "Scenes, second edition"),
    "photographs": (recipes.PHOTOGRAPHS, "StanfordBackground"),
    "small photographs": (recipes.PHOTOGRAPHS_SMALL, "StanfordBackground"),
    "whole photographs": (recipes.PHOTOGRAPHS_WHOLE, "StanfordBackground"),
}
# Learning rates with the highest validation score in the tuning experiments, for a start or data.
TUNED = {
    "scenes": {"semantic only": 4e-3, "region only": 1.6e-2, "hard sharing": 8e-3}
    | {"attention": 8e-3, "gates": 1.6e-2, "affinities": 1.6e-2},
    "scratch": {"own decoders": 9e-3, "semantic only": 9e-3},
    "frozen": {"own decoders": 9e-3, "semantic only": 3e-3},
    "partly frozen": {"own decoders": 9e-3, "semantic only": 3e-3},
    "full": {"own decoders": 1e-3, "semantic only": 1e-3},
    "discriminative": {"own decoders": 9e-3, "semantic only": 9e-3, "region only": 9e-3}
    | {"surfaces only": 9e-3, "three tasks": 9e-3, "Unet": 9e-3, "FPN": 2.7e-2, "LRASPP": 2.7e-2},
}
# Fields of a recipe that came later: settings name them only where they are not at their default.
LATER = ("pictures", "encoder_factor", "resident", "weight_decay", "regions")
KNOBS = {"fold": 0, "hidden_borders": None}  # of a data set, and where they are not named


def recipe_of(run: dict) -> recipes.Recipe:
    """The recipe of a run's data, with the tuned learning rate and the run's own entries."""
    model, data = run["model"], run.get("data", "scenes")
    base, tuned = DATA[data][0], TUNED.get(run.get("start", data))
    design, encoder_factor = STARTS[run.get("start", "full")]
    design = {**base.model, "sharing": MODELS[model][1], **design}
    if model in rivals.DECODERS:
        design = {"decoder": model, "pretrained": True}
    own: dict = {"learning_rate": tuned.get(model)} if tuned else {}
    own |= {field.name: run[field.name] for field in fields(base) if field.name in run}
    if "alpha" in run:
        own["beta"] = 1 - run["alpha"]
    if knobs := _knobs(run):
        own["dataset"] = partial(base.dataset, **knobs)
    return replace(base, **{**own, "model": design, "encoder_factor": encoder_factor})


def settings(run: dict) -> dict:
    """All that decides a run's result, as JSON can hold it."""
    if run["model"] == "two networks":
        return {"networks": [settings({**run, "model": f"{task} only"}) for task in BOTH]}
    recipe = recipe_of(run)
    pairs = [(field, getattr(recipe, field.name)) for field in fields(recipe)]
    named = {f.name: v for f, v in pairs if f.name not in LATER or v != f.default}
    named |= _knobs(run) | ({"rival": run["rival"]} if run.get("rival", "none") != "none" else {})
    named |= {"dataset": DATA[run.get("data", "scenes")][1], "design": named.pop("model")}
    return named | {"model": run["model"], "seed": run["seed"]}


def settings_and_changes(run: dict) -> dict:
    """`settings`, and the severities of every change."""
    return settings(run) | {"changes": {c.name: c.values for c in changes.CHANGES.values()}}


def _knobs(run: dict) -> dict:
    return {name: run[name] for name, usual in KNOBS.items() if run.get(name, usual) != usual}
