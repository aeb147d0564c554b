"""What no gradient can learn, chosen from a small grid on validation pictures: how a model's output
is decoded into regions, and the parameters of the methods without learning."""

import itertools
from collections.abc import Callable

import numpy as np

from fusion_lib import checks, evaluation, metrics
from fusion_lib.classical import felzenszwalb_regions, gradient_watershed_regions, kmeans_regions
from fusion_lib.prediction import predict
from fusion_lib.regions import decode, has_regions, vote

# What a decoding is chosen from, for each form of the region task.
_MARKERS = {"smoothing": (0.5, 1.0, 2.0), "threshold": (0.5, 0.6, 0.7, 0.8, 0.9)}
DECODINGS: dict[str, dict[str, tuple]] = {
    "region": _MARKERS | {"edge_weight": (0.0, 0.5, 1.0)},
    "affinity": {"bias": (0.0, 0.1, 0.2), "smallest": (8, 16, 32), "edge_weight": (0.0, 0.2, 0.5)},
}
VOTE_WEIGHTS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
# Classical methods: function, and the grid its parameters are chosen from.
_MERGING = {"scale": (30, 100, 300, 1000), "smoothing": (0.5, 1.0), "min_size": (30, 100, 200)}
_FLOODING = {"smoothing": (2.0, 3.0, 4.0), "threshold": (0.005, 0.01, 0.015, 0.02, 0.03)}
CLASSICAL: dict[str, tuple[Callable, dict[str, tuple]]] = {
    "k-means": (kmeans_regions, {"clusters": (3, 4, 6, 8), "smoothing": (1.0, 2.0, 3.0)}),
    "Felzenszwalb": (felzenszwalb_regions, _MERGING),
    "gradient watershed": (gradient_watershed_regions, _FLOODING),
}


def best_of(grid: dict[str, tuple], score: Callable) -> dict:
    """The settings of a grid at which `score(**settings)` is highest; of equals, the first."""
    tried = (dict(zip(grid, values)) for values in itertools.product(*grid.values()))
    return max(tried, key=lambda settings: score(**settings))


def tune_decoding(model, dataset, size=None, joint: bool = True) -> dict:
    """The decoding that suits a data set best: by mean covering, then the vote's weight by mIoU.

    Args: size, as in `prediction.predict`; joint, False for no class edges and one vote a region.
    Returns: the arguments of `regions.fuse`; without the semantic task those of `regions.decode`.
    Raises: ValueError, the model has no region task, or there are no pictures.
    """
    samples = _samples(dataset)
    predicted = [predict(model, sample["image"], size) for sample in samples]
    tasks = list(predicted[0])
    checks.require(has_regions(tasks), f"model has the tasks {tasks}; expected the region task too")
    grid = DECODINGS["affinity" if "affinity" in tasks else "region"]
    grid = grid | ({} if joint else {"edge_weight": (0.0,)})
    if "semantic" not in tasks:
        del grid["edge_weight"]

    def mean_covering(**decoding) -> float:
        pairs = [(s["region"], decode(p, **decoding)) for s, p in zip(samples, predicted)]
        return float(np.mean([metrics.covering(*pair) for pair in pairs]))

    best = best_of(grid, mean_covering)
    if "semantic" not in tasks:
        return best
    decoded, classes = [decode(p, **best) for p in predicted], len(predicted[0]["semantic"])
    truth = np.concatenate([np.ravel(sample["semantic"]) for sample in samples])

    def miou(vote_weight: float) -> float:
        pairs = zip(predicted, decoded)
        voted = [vote(p["semantic"], region, vote_weight).ravel() for p, region in pairs]
        confusion = metrics.confusion_matrix(truth, np.concatenate(voted), classes)
        return metrics.semantic_scores(confusion)["miou"]

    return best | best_of({"vote_weight": VOTE_WEIGHTS if joint else (1.0,)}, miou)


def tune_classical(name: str, dataset) -> dict:
    """The parameters of a method in `CLASSICAL` with the highest mean covering on a data set."""
    method, grid = CLASSICAL[name]
    samples = _samples(dataset)
    return best_of(grid, lambda **values: partition_scores(method, values, samples)["covering"])


def partition_scores(method: Callable, parameters: dict, dataset) -> dict:
    """Means of `metrics.partition_scores` of `method(image, **parameters)` over a data set."""
    scores = []
    for sample in _samples(dataset):
        region = method(np.moveaxis(np.asarray(sample["image"]), 0, -1), **parameters)
        scores.append(metrics.partition_scores(sample["region"], region))
    return evaluation.mean_scores(scores)


def _samples(dataset) -> list[dict]:
    checks.require(len(dataset), "dataset has no pictures; expected at least one to choose by")
    return [dataset[index] for index in range(len(dataset))]
