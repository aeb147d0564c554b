"""Every task's metrics of a model over a data set."""

from __future__ import annotations

import numpy as np

from fusion_lib.losses import ALL_TARGET_KEYS
from fusion_lib.metrics import (
    PanopticQuality,
    confusion_matrix,
    covering,
    partition_scores,
    semantic_scores,
)
from fusion_lib.prediction import predict
from fusion_lib.regions import decode, fuse, has_regions, vote
from fusion_lib.scenes import connected_regions


def evaluate(
    model, dataset, decoding: dict, size: tuple[int, int] | None = None, panoptic: bool = True
) -> dict:
    """Every task's metrics of a model over a data set, each picture at its own resolution.

    Args:
        model: a `FusionModel` or `TwoNetworks`, with any tasks.
        dataset: yields samples as `datasets` does; its "image", "semantic" and "region" are used,
            and the labels of every further task of the model, under the task's name.
        decoding: arguments of `regions.fuse`; for a model with the region task alone, "smoothing"
            and "threshold".
        size: see `prediction.predict`.
        panoptic: also compute panoptic quality (classes named as in `scenes`).

    Returns:
        Depending on the tasks: "semantic" (argmax), "voted" (one class a region) and "fused" (the
            vote's weight as in
        `decoding`), each as `semantic_scores`; "partition", the means of `partition_scores`;
        "panoptic_quality" of the voted map; "areas", covering and panoptic quality of the argmax
        map's connected areas as regions; and under the name of each further task the
        `semantic_scores` of its argmax.

    Raises:
        ValueError: a sample lacks the labels of a further task.
    """
    num_classes = len(dataset.classes)
    confusions: dict[str, np.ndarray] = {}
    partitions, areas_covering = [], []
    quality = {name: PanopticQuality() for name in ("voted", "areas")} if panoptic else {}
    for index in range(len(dataset)):
        sample = dataset[index]
        true_semantic, true_region = np.asarray(sample["semantic"]), np.asarray(sample["region"])
        outputs, maps = predict(model, sample["image"], size), {}
        if has_regions(outputs):
            if "semantic" in outputs:
                maps["fused"], region = fuse(outputs, **decoding)
                maps["voted"] = vote(outputs["semantic"], region)
            else:
                region = decode(outputs, **decoding)
            partitions.append(partition_scores(true_region, region))
        if "semantic" in outputs:
            maps["semantic"] = outputs["semantic"].argmax(0)
            areas = connected_regions(maps["semantic"])
            areas_covering.append(covering(true_region, areas))
        if quality and "semantic" in outputs:
            quality["areas"].update(true_semantic, true_region, maps["semantic"], areas)
            if "voted" in maps:
                quality["voted"].update(true_semantic, true_region, maps["voted"], region)
        for name, labels in maps.items():
            confusions[name] = confusions.get(name, 0) + confusion_matrix(
                true_semantic, labels, num_classes
            )
        for task in (task for task in outputs if task not in ALL_TARGET_KEYS):
            if task not in sample:
                raise ValueError(
                    f"the sample has {sorted(sample)}; task {task!r} expects its labels as {task!r}"
                )
            confusion = confusion_matrix(sample[task], outputs[task].argmax(0), len(outputs[task]))
            confusions[task] = confusions.get(task, 0) + confusion
    scores: dict = {name: semantic_scores(confusion) for name, confusion in confusions.items()}
    if partitions:
        scores["partition"] = mean_scores(partitions)
    if areas_covering:
        scores["areas"] = {"covering": float(np.nanmean(areas_covering))}
        if quality:
            scores["areas"]["panoptic_quality"] = quality["areas"].compute()
    if quality and "voted" in confusions:
        scores["panoptic_quality"] = quality["voted"].compute()
    return scores


def mean_scores(scores: list[dict]) -> dict:
    """Mean of each entry over a list of dicts with equal keys; NaN entries (all-void pictures) are
    left out."""
    return {name: float(np.nanmean([one[name] for one in scores])) for name in scores[0]}
