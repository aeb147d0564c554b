"""Every task's metrics of a model over a data set."""

from contextlib import suppress

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
        has them, with the labels of every further task of the model under the task's name;
        decoding, arguments of `regions.fuse`, or of `regions.decode` without the semantic task;
        size, see `prediction.predict`; things, stuff, ids of the classes of either kind, by default
        the data set's.
    Returns: depending on the tasks, "semantic" (argmax), "voted" (one class a region) and "fused"
        (the vote's weight as in `decoding`), each as `semantic_scores`; "partition", the means of
        `partition_scores`; "panoptic_quality" of the voted map; "areas", covering and panoptic
        quality of the argmax map's connected areas as regions; and under the name of each further
        task the `semantic_scores` of its argmax. No panoptic quality without things and stuff.
    Raises: ValueError, the data set is empty or does not name its classes; a sample lacks a further
        task's labels; a label is neither of the things nor of the stuff; or the model says NaN.
    """
    checks.require(len(dataset), "dataset is empty; expected at least one picture")
    num_classes = len(attribute(dataset, "classes"))
    if things is None and stuff is None:
        with suppress(ValueError):  # a data set of another making, or parts that do not agree
            things, stuff = attribute(dataset, "things"), attribute(dataset, "stuff")
    names = ("voted", "areas") if things is not None or stuff is not None else ()
    quality = {name: metrics.PanopticQuality(things or (), stuff or ()) for name in names}
    confusions: dict[str, np.ndarray] = {}
    partitions: dict[str, list[dict]] = {"partition": [], "areas": []}
    touching: dict[str, np.ndarray] = {"partition": np.zeros(2, int), "areas": np.zeros(2, int)}
    for index in range(len(dataset)):
        sample = dataset[index]
        true_semantic, true_region = np.asarray(sample["semantic"]), np.asarray(sample["region"])
        outputs, maps, pairs = predict(model, sample["image"], size), {}, {}
        for task, values in outputs.items():
            told = f"the model's {task!r} holds NaN for picture {index}; expected numbers"
            checks.require(not np.isnan(values).any(), f"{told}: train it again")
            if task not in TARGET_KEYS:
                told = f"sample has {sorted(sample)}; task {task!r} expects its labels as {task!r}"
                checks.require(task in sample, told)
                pairs[task] = sample[task], values.argmax(0), len(values)
        if has_regions(outputs):
            if "semantic" in outputs:
                maps["fused"], region = fuse(outputs, **decoding)
                maps["voted"] = vote(outputs["semantic"], region)
            else:
                region = decode(outputs, **decoding)
            partitions["partition"].append(metrics.partition_scores(true_region, region))
            touching["partition"] += metrics.touching_things(
                true_semantic, true_region, region, things or ()
            )
        if "semantic" in outputs:
            maps["semantic"] = outputs["semantic"].argmax(0)
            areas = connected_regions(maps["semantic"])
            partitions["areas"].append({"covering": metrics.covering(true_region, areas)})
            touching["areas"] += metrics.touching_things(
                true_semantic, true_region, areas, things or ()
            )
            if quality:
                quality["areas"].update(true_semantic, true_region, maps["semantic"], areas)
        if quality and "voted" in maps:
            quality["voted"].update(true_semantic, true_region, maps["voted"], region)
        pairs |= {name: (true_semantic, labels, num_classes) for name, labels in maps.items()}
        for name, pair in pairs.items():
            confusions[name] = confusions.get(name, 0) + metrics.confusion_matrix(*pair)
    scores: dict = {name: metrics.semantic_scores(c) for name, c in confusions.items()}
    scores |= {name: mean_scores(found) for name, found in partitions.items() if found}
    for name, (found, count) in touching.items():
        if name in scores and count:
            scores[name]["touching_recall"] = found / int(count)
    if quality and "areas" in scores:
        scores["areas"]["panoptic_quality"] = quality["areas"].compute()
    if quality and "voted" in scores:
        scores["panoptic_quality"] = quality["voted"].compute()
    return scores


def mean_scores(scores: list[dict]) -> dict:
    """Mean of each entry over dicts with equal keys; NaN (all-void pictures) is left out."""
    return {name: float(np.nanmean([one[name] for one in scores])) for name in scores[0]}
