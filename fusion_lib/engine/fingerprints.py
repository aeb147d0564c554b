"""What a loader gives, told apart by a few of its samples: so that no run goes on with others."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DistributedSampler, Subset

from fusion_lib import datasets
from fusion_lib.datasets import PartlyLabelled, attribute
from fusion_lib.engine import processes

SAMPLES = 16  # of each loader, evenly spaced
SAME = 2e-3  # machines resize pictures in [0, 1] a little differently; label maps are exact


def fingerprint(split: str, loader: Any, seed: Callable[[int], None]) -> dict[str, Any]:
    """{"<split>_pictures", "<split>_classes", "<split>_order", "<split>_maps", "<split>_labels",
    "<split>_images"}, for `same`.

    Of a `DataLoader` or a sequence of batches a few samples are read as training reads them, each
    after `seed(number)`, so that masks, pictures, size, crop, light and tau all show. Where they
    are drawn from a source of chance of their own, only the shapes count. Of a loader that holds
    its pictures itself all that it holds counts. Every label map counts, as it is before any
    transform, where a data set has them in memory or in files.
    """
    dataset, classes = getattr(loader, "dataset", loader), None
    while processes.rank_and_count()[1] > 1 and isinstance(dataset, Subset):
        dataset = dataset.dataset  # the subset is this process's share
    with suppress(ValueError):  # no data set of ours
        classes = [str(name) for name in attribute(dataset, "classes")]

    def read(place: int) -> dict:
        seed(place)
        return dataset[place]

    if not hasattr(dataset, "__getitem__"):
        samples = [vars(loader)]
    else:
        places = np.linspace(0, len(dataset) - 1, min(SAMPLES, len(dataset))).round()
        samples = [read(int(place)) for place in places]
        if samples and _held([read(0)]) != _held(samples[:1]):
            samples = [{k: str(getattr(v, "shape", "")) for k, v in s.items()} for s in samples]
    labels, images = _held(samples)
    maps = hashlib.sha256()
    _add_maps(maps, dataset)
    found: dict[str, Any] = {"pictures": len(dataset), "classes": classes}
    found |= {"order": _order(loader), "maps": maps.hexdigest()[:16]}
    found |= {"labels": labels, "images": images}
    return {f"{split}_{name}": value for name, value in found.items()}


def _order(loader: Any) -> str:
    """How pictures are drawn; the same in one process as in several, whose number may change."""
    sampler = getattr(loader, "sampler", None)
    if isinstance(sampler, DistributedSampler):
        return "RandomSampler" if sampler.shuffle else "SequentialSampler"
    return type(sampler).__name__


def _add_maps(digest: Any, dataset: Any) -> None:
    if isinstance(dataset, ConcatDataset):
        for part in dataset.datasets:
            _add_maps(digest, part)
    if isinstance(dataset, PartlyLabelled):
        digest.update(str(sorted(dataset.labelled)).encode())
    elif isinstance(dataset, Subset) and [*dataset.indices] != [*range(len(dataset.indices))]:
        digest.update(str(list(dataset.indices)).encode())
    if isinstance(dataset, (PartlyLabelled, Subset)):
        _add_maps(digest, dataset.dataset)
    elif isinstance(dataset, (list, tuple)) and len(dataset) and isinstance(dataset[0], dict):
        digest.update(_held(dataset)[0].encode())
    elif isinstance(dataset, datasets.Scenes):
        for values in dataset._maps[1:]:  # the first are the images
            digest.update(np.ascontiguousarray(values))
    elif isinstance(dataset, (datasets.FolderDataset, datasets.PascalVOC, datasets.Cityscapes)):
        for path in (path for _, *masks in dataset.files for path in masks):
            digest.update(path.name.encode() + path.read_bytes())


def same(name: str, one: Any, other: Any) -> bool:
    """Whether two values of one setting are equal; of "..._images", nearly."""
    if not name.endswith("_images") or not one or not other or len(one) != len(other):
        return one == other
    return np.allclose(one, other, rtol=0, atol=SAME)


def _held(samples: Sequence[dict]) -> tuple[str, list[float]]:
    """A hash of names, shapes and whole numbers; the means of the images, the first pixels'
    weight being 1 and the last ones' 0."""
    labels, images = hashlib.sha256(), []
    for name, value in (pair for sample in samples for pair in sorted(sample.items())):
        if isinstance(value, Tensor):
            labels.update(f"{name} {tuple(value.shape)}".encode())
            flat = value.as_subclass(Tensor).cpu().flatten()
            if value.is_floating_point():
                weighted = flat.double().nan_to_num() * torch.linspace(1, 0, len(flat))
                images.append(round(weighted.mean().item(), 6))
            else:
                labels.update(flat.numpy().tobytes())
        elif isinstance(value, (int, float, str)):
            labels.update(f"{name} {value}".encode())
    return labels.hexdigest()[:16], images
