"""Every task's metrics of a model over a data set."""

from collections import defaultdict
from contextlib import suppress
from typing import Any

import numpy as np

from fusion_lib import checks, metrics
from fusion_lib.datasets import attribute
from fusion_lib.losses import TARGET_KEYS
from fusion_lib.prediction import predict
from fusion_lib.regions import decode, fuse, has_regions, vote
from fusion_lib.scenes import connected_regions


def evaluate(model, dataset, decoding: dict, size=None, things=None, stuff=None) -> dict:
    """Every task's metrics of a model over a data set, each picture at its own resolution.

    Args: model, a `FusionModel` or `TwoNetworks`, with any tasks; dataset, of samples as `datasets`
        has them, with the labels of each further task under its name; decoding, arguments of
        `regions.fuse`, or of `regions.decode` without the semantic task; size, as in `predict`;
        things, stuff, ids of the classes, else the data set's, else no panoptic quality.
    Returns: depending on the tasks, "semantic" (argmax), "voted" (one class a region) and "fused"
        (the vote's weight as in `decoding`), each as `semantic_scores`; "partition", the means of
        `partition_scores`; "panoptic_quality" of the voted map; "areas", covering and panoptic
        quality of the argmax map's connected areas; in both the share of `touching_things` found;
        and under the name of each further task the `semantic_scores` of its argmax.
    Raises: ValueError, the data set is empty or does not name its classes; a sample lacks a further
        task's labels; a label is neither of the things nor of the stuff; or the model says NaN.
    """
    checks.require(len(dataset), "dataset is empty; expected at least one picture")
    num_classes = len(attribute(dataset, "classes"))
    if things is None and stuff is None:
        with suppress(ValueError):  # a data set of another making, or parts that do not agree
            things, stuff = attribute(dataset, "things"), attribute(dataset, "stuff")
    names = ("partition", "areas") if things is not None or stuff is not None else ()
    quality = {name: metrics.PanopticQuality(things or (), stuff or ()) for name in names}
    confusions: dict[str, Any] = defaultdict(int)
    partitions: dict[str, list[dict]] = defaultdict(list)
    touching: dict[str, Any] = defaultdict(lambda: np.zeros(2, int))
    for index in range(len(dataset)):
        sample = dataset[index]
        truth = np.asarray(sample["semantic"]), np.asarray(sample["region"])
        outputs, maps, divided = predict(model, sample["image"], size), {}, {}
        for task, values in outputs.items():
            told = f"the model's {task!r} holds NaN for picture {index}; expected numbers"
            checks.require(not np.isnan(values).any(), f"{told}: train it again")
            if task not in TARGET_KEYS:
                told = f"sample has {sorted(sample)}; task {task!r} expects its labels as {task!r}"
                checks.require(task in sample, told)
                pair = sample[task], values.argmax(0)
                confusions[task] += metrics.confusion_matrix(*pair, len(values))
        if has_regions(outputs):
            if "semantic" in outputs:
                maps["fused"], region = fuse(outputs, **decoding)
                maps["voted"] = vote(outputs["semantic"], region)
            else:
                region = decode(outputs, **decoding)
            divided["partition"] = region, "voted", metrics.partition_scores(truth[1], region)
        if "semantic" in outputs:
            maps["semantic"] = outputs["semantic"].argmax(0)
            areas = connected_regions(maps["semantic"])
            divided["areas"] = areas, "semantic", {"covering": metrics.covering(truth[1], areas)}
        for name, (region, named, found) in divided.items():
            partitions[name].append(found)
            touching[name] += metrics.touching_things(*truth, region, things or ())
            if quality and named in maps:
                quality[name].update(*truth, maps[named], region)
        for name, labels in maps.items():
            confusions[name] += metrics.confusion_matrix(truth[0], labels, num_classes)
    scores: dict = {name: metrics.semantic_scores(c) for name, c in confusions.items()}
    for name, pictures in partitions.items():
        scores[name] = mean_scores(pictures)
        touched, count = touching[name].tolist()
        if count:
            scores[name]["touching_recall"] = touched / count
    if quality and "areas" in scores:
        scores["areas"]["panoptic_quality"] = quality["areas"].compute()
    if quality and "voted" in scores:
        scores["panoptic_quality"] = quality["partition"].compute()
    return scores


def mean_scores(scores: list[dict]) -> dict:
    """Mean of each entry over dicts with equal keys; NaN (all-void pictures) is left out."""
    return {name: float(np.nanmean([one[name] for one in scores])) for name in scores[0]}
