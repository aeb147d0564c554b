"""What the shipped weights do with test scenes, where a page claims it: as its cells measure it."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from torchvision.transforms import v2

from fusion_lib import affinities, datasets, metrics, prediction, regions, scenes, targets
from fusion_lib import transforms as fusion_transforms
from fusion_lib.engine import checkpoints, files
from fusion_lib.lab import changes

CLASSES = datasets.Scenes.classes


@cache
def model_and_decoding(name: str):
    """One trained model: "fused", "attention" or "gates"; ready to predict."""
    model, facts = checkpoints.load_checkpoint(files.data_file(f"{name}_scenes.safetensors"))
    return model.eval(), facts["decoding"]


@cache
def batch() -> dict:
    """All test scenes, with their region targets."""
    prepare = v2.Compose([fusion_transforms.evaluation_transform(), targets.RegionTarget(tau=2)])
    test = datasets.Scenes("test", prepare)
    return torch.utils.data.default_collate([test[index] for index in range(len(test))])


@cache
def openings(name: str) -> dict[str, torch.Tensor]:
    """Mean opening at each pixel, (100, H, W): of masks by task, of gates by "one to other"."""
    model, _ = model_and_decoding(name)
    with torch.no_grad():
        features = model.features(batch()["image"])
        if name == "gates":
            features = {task: block(features) for task, block in model.sharing.own.items()}
        return {part: opened.mean(1) for part, opened in model.sharing.open(features).items()}


def wider_in_cores(name: str, part: str) -> float:
    """By how much it opens wider in cores than on boundaries."""
    opened, target = openings(name)[part], batch()["region_target"]
    core, boundary = (opened[target == c].mean() for c in (targets.CORE, targets.BOUNDARY))
    return float(core - boundary)


def spread_over_classes(task: str) -> float:
    """Of the attention mask, in cores: the widest class's mean opening minus the narrowest's."""
    opened, semantic = openings("attention")[task], batch()["semantic"]
    core = batch()["region_target"] == targets.CORE
    means = [float(opened[core & (semantic == c)].mean()) for c in range(len(CLASSES))]
    return max(means) - min(means)


def miou(name: str, held=None) -> float:
    """mIoU of argmax in points; held, of an opening another one, for example `torch.ones_like`."""
    model, _ = model_and_decoding(name)
    if held is not None:
        compute, model = model.sharing.open, copy.deepcopy(model)
        model.sharing.open = lambda features: {
            part: held(opened) for part, opened in compute(features).items()
        }
    with torch.no_grad():
        labels = model(batch()["image"])["semantic"].argmax(1)
    confusion = metrics.confusion_matrix(torch.as_tensor(batch()["semantic"]), labels, len(CLASSES))
    return 100 * metrics.semantic_scores(confusion)["miou"]


@cache
def ceiling_raised() -> float:
    """Points of covering by which true affinities decode better than true boundary, rim, core."""
    gains = []
    for region in np.asarray(batch()["region"]):
        classes, pairs = targets.region_target(region, tau=2.0), affinities.affinity_target(region)
        shares = np.stack([np.where(classes == 255, 1 / 3, classes == c) for c in range(3)])
        classroom = regions.decode_regions(shares)
        mutex = affinities.decode_affinities(np.where(pairs == 255, 0.5, pairs), smallest=1)
        gains.append(metrics.covering(region, mutex) - metrics.covering(region, classroom))
    return 100 * float(np.mean(gains))


def class_edges_cost(change: str) -> float:
    """Points of covering won at severity 3 by decoding the fused model without class edges."""
    model, decoding = model_and_decoding("fused")
    together = {key: value for key, value in decoding.items() if key != "vote_weight"}
    gains = []
    for one in changes.Changed(datasets.Scenes, "test", change, 3, pictures=50):
        outputs = prediction.predict(model, one["image"])
        found = [
            regions.decode(outputs, **settings)
            for settings in (together | {"edge_weight": 0.0}, together)
        ]
        without, with_edges = (metrics.covering(one["region"], region) for region in found)
        gains.append(without - with_edges)
    return 100 * float(np.mean(gains))


@cache
def photographed(grain: int = 0, **knobs) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted class of all pixels that are not void, 50 test scenes rendered again."""
    model, _ = model_and_decoding("fused")
    truths, labels = [], []
    for index in changes.Changed(datasets.Scenes, "test", "dark", 0, pictures=50).indices:
        scene = scenes.sample_scene(scenes.SPLITS["test"][index])
        image = scenes.render(replace(scene, seed=scene.seed + grain), **knobs)[0]
        outputs = prediction.predict(model, torch.from_numpy(image).permute(2, 0, 1))
        truths.append(scenes.render(scene)[1])
        labels.append(outputs["semantic"].argmax(0))
    truth = np.stack(truths)
    valid = truth != scenes.SEMANTIC_VOID
    return truth[valid], np.stack(labels)[valid]


def flipped(grain: int = 0, **knobs) -> float:
    """Percent of the pixels whose predicted class is another one than in the unchanged scenes."""
    return 100 * float((photographed(grain, **knobs)[1] != photographed()[1]).mean())


def accuracy_lost(**knobs) -> float:
    """Percent of the pixels: right ones in the unchanged scenes minus those in changed ones."""
    (truth, before), (_, after) = photographed(), photographed(**knobs)
    return 100 * float((truth == before).mean() - (truth == after).mean())
