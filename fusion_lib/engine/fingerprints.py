"""What a loader gives, told apart by a few of its samples: so that no run goes on with others."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset, DistributedSampler, Subset

from fusion_lib import datasets
from fusion_lib.engine import processes

SAMPLES = 16  # of each loader, evenly spaced
SAME = 2e-3  # machines resize pictures in [0, 1] a little differently; label maps are exact


def fingerprint(split: str, loader: Any, seed: Callable[[int], None]) -> dict[str, Any]:
    """{"<split>_pictures", "<split>_classes", "<split>_order", "<split>_maps", "<split>_labels",
    "<split>_images"}, for `same`.

    A few samples are read as training reads them, each after `seed(number)`, so that masks,
    pictures, size, crop, light and tau all show; where they draw from a source of chance of their
    own, only the shapes count. Of a loader that holds its pictures itself all counts. So does every
    label map as it is before any transform, where a data set has them in memory or in files.
    """
    dataset, sampler = getattr(loader, "dataset", loader), getattr(loader, "sampler", None)
    while processes.rank_and_count()[1] > 1 and isinstance(dataset, Subset):
        dataset = dataset.dataset  # the subset is this process's share
    found: dict = {"pictures": len(dataset), "classes": None, "order": type(sampler).__name__}
    with suppress(ValueError):  # no data set of ours
        found["classes"] = [str(name) for name in datasets.attribute(dataset, "classes")]
    if isinstance(sampler, DistributedSampler):  # of several processes, whose number may change
        found["order"] = "RandomSampler" if sampler.shuffle else "SequentialSampler"

    def read(place: float) -> dict:
        seed(int(place))
        return dataset[int(place)]

    samples = [] if hasattr(dataset, "__getitem__") else [vars(loader)]
    if not samples:
        places = np.linspace(0, len(dataset) - 1, min(SAMPLES, len(dataset))).round()
        samples = [read(place) for place in places]
        if _held([read(0)]) != _held(samples[:1]):
            samples = [{k: str(getattr(v, "shape", "")) for k, v in s.items()} for s in samples]
    labels, images = _held(samples)
    maps = hashlib.sha256()
    for part in _maps(dataset):
        maps.update(part)
    found |= {"maps": maps.hexdigest()[:16], "labels": labels, "images": images}
    return {f"{split}_{name}": value for name, value in found.items()}


def _maps(dataset: Any) -> Iterator[Any]:
    """The bytes of all label maps, and of what chooses among them."""
    if isinstance(dataset, datasets.PartlyLabelled):
        yield str(sorted(dataset.labelled)).encode()
    elif isinstance(dataset, Subset) and [*dataset.indices] != [*range(len(dataset.indices))]:
        yield str(list(dataset.indices)).encode()
    if isinstance(dataset, (datasets.PartlyLabelled, Subset)):
        yield from _maps(dataset.dataset)
    elif isinstance(dataset, ConcatDataset):
        for part in dataset.datasets:
            yield from _maps(part)
    elif isinstance(dataset, (list, tuple)):
        yield _held(dataset)[0].encode()
    elif isinstance(dataset, datasets.Scenes):
        yield from map(np.ascontiguousarray, dataset._maps[1:])  # the first are the images
    elif isinstance(dataset, (datasets.FolderDataset, datasets.PascalVOC, datasets.Cityscapes)):
        for path in (path for _, *masks in dataset.files for path in masks):
            yield path.name.encode() + path.read_bytes()


def same(name: str, one: Any, other: Any) -> bool:
    """Whether two values of one setting are equal; of "..._images", nearly."""
    nearly = name.endswith("_images") and one and other and len(one) == len(other)
    return np.allclose(one, other, rtol=0, atol=SAME) if nearly else one == other


def _held(samples: Iterable[dict]) -> tuple[str, list[float]]:
    """A hash of names, shapes and whole numbers; the means of the images, the first pixels'
    weight being 1 and the last ones' 0."""
    labels, images = hashlib.sha256(), []
    for name, value in (pair for sample in samples for pair in sorted(sample.items())):
        if isinstance(value, torch.Tensor):
            labels.update(f"{name} {tuple(value.shape)}".encode())
            flat = value.as_subclass(torch.Tensor).cpu().flatten()
            if value.is_floating_point():
                weighted = flat.double().nan_to_num() * torch.linspace(1, 0, len(flat))
                images.append(round(weighted.mean().item(), 6))
            else:
                labels.update(flat.numpy().tobytes())
        elif isinstance(value, (int, float, str)):
            labels.update(f"{name} {value}".encode())
    return labels.hexdigest()[:16], images
