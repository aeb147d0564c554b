"""What a loader gives, told apart by a few of its pictures: so that no run goes on with others."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from fusion_lib.engine import processes

SAMPLES = 16  # of each loader, evenly spaced
SAME = 2e-3  # machines resize pictures in [0, 1] a little differently; label maps are exact


def fingerprint(split: str, loader, seed) -> dict[str, Any]:
    """Number of pictures, names of the classes, and what a few samples hold.

    The samples are read from the loader's data set as training reads them, after `seed(number)`,
    so that masks, pictures, size, crop, light and tau all show. Where a data set draws from a
    source of chance of its own and never gives the same again, only the shapes count.

    Args:
        split: begins the names of what is returned.
        loader: a `DataLoader`, a sequence of batches, or a loader that holds its pictures itself.
        seed: seeds all sources of chance.

    Returns:
        {"<split>_pictures", "<split>_classes", "<split>_labels", "<split>_images"}, of
        simple types, to be compared by `same`.
    """
    count = processes.rank_and_count()[1]
    dataset = getattr(loader, "dataset", loader)
    while count > 1 and isinstance(dataset, Subset):  # this process's share
        dataset = dataset.dataset
    if hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__"):
        pictures, few = len(dataset), min(SAMPLES, len(dataset))
        places = [round(k * (pictures - 1) / max(1, few - 1)) for k in range(few)]
        samples = [_seeded(dataset, place, seed) for place in places]
        if samples and _held(_seeded(dataset, places[0], seed)) != _held(samples[0]):
            samples = [{k: torch.tensor(v.shape) for k, v in _tensors(s).items()} for s in samples]
    else:
        pictures, samples = len(loader), [vars(loader)]
    found = {
        "pictures": pictures,
        "classes": _classes(dataset),
        "labels": [_digest(sample) for sample in samples],
        "images": [number for sample in samples for number in _projections(sample)],
    }
    return {f"{split}_{name}": value for name, value in found.items()}


def same(name: str, one, other) -> bool:
    """Whether two values of one setting are equal; of "..._images", nearly."""
    if not name.endswith("_images") or not one or not other or len(one) != len(other):
        return one == other
    return all(math.isclose(a, b, abs_tol=SAME) for a, b in zip(one, other))


def _seeded(dataset, place: int, seed) -> dict:
    seed(place)
    return dataset[place]


def _held(sample: dict) -> tuple[str, list[float]]:
    return _digest(sample), _projections(sample)


def _tensors(sample: dict) -> dict[str, Tensor]:
    return {k: v.as_subclass(Tensor) for k, v in sample.items() if isinstance(v, Tensor)}


def _digest(sample: dict) -> str:
    """Of shapes and whole numbers, in hexadecimal digits."""
    digest = hashlib.sha256()
    for name, value in sorted(sample.items()):
        if isinstance(value, Tensor):
            exact = not value.is_floating_point()
            digest.update(f"{name} {tuple(value.shape)}".encode())
            digest.update(value.cpu().contiguous().numpy().tobytes() if exact else b"")
        elif isinstance(value, (int, float, str)):
            digest.update(f"{name} {value}".encode())
    return digest.hexdigest()[:16]


def _projections(sample: dict) -> list[float]:
    """Of each float tensor its mean, and its mean under weights that fall from 1 to 0."""
    found = []
    for _, value in sorted(_tensors(sample).items()):
        if value.is_floating_point() and value.numel():
            flat = value.double().nan_to_num().cpu().flatten()
            found += [flat.mean().item(), (flat * torch.linspace(1, 0, len(flat))).mean().item()]
    return found


def _classes(dataset) -> list[str] | None:
    while dataset is not None:
        if names := getattr(dataset, "classes", None):
            return list(names)
        dataset = getattr(dataset, "dataset", None)
    return None
