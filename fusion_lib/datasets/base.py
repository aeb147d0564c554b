"""What every data set of the project yields, and how files become arrays.

Every data set yields samples
    {"image": tv_tensors.Image uint8 (3, H, W), "semantic": tv_tensors.Mask int64 (H, W), void 255,
     "region": tv_tensors.Mask int64 (H, W), void -1}
and passes them through `transform`, if one is given. A data set may have further label maps; they
are as "semantic".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset
from torchvision import tv_tensors

from fusion_lib.scenes import REGION_VOID, SEMANTIC_VOID


class SegmentationDataset(Dataset):
    """Samples of an image, its semantic labels, its region map and any further labels.

    A subclass names its `classes` (at most 254, void is 255) and reads the samples.
    """

    classes: tuple[str, ...]
    # The classes whose regions are single things, and those that are areas of stuff; None: unknown.
    things: tuple[int, ...] | None = None
    stuff: tuple[int, ...] | None = None
    further_classes: dict[str, tuple[str, ...]] = {}  # further label maps and their classes

    def __init__(self, transform: Callable[[dict], dict] | None = None):
        self.transform = transform
        if (count := len(getattr(self, "classes", ()))) >= SEMANTIC_VOID:
            raise ValueError(f"classes has {count} names; expected at most 254, for 255 is void")

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """image (H, W, 3) uint8, semantic (H, W) with void 255, region (H, W) with void -1."""
        raise NotImplementedError

    def read_further(self, index: int) -> dict[str, np.ndarray]:
        """The label maps that `further_classes` names, each (H, W) with void 255."""
        return {}

    def __getitem__(self, index: int) -> dict:
        image, semantic, region = self.read(index)
        sample = {"image": tv_tensors.Image(torch.from_numpy(np.array(image)).permute(2, 0, 1))}
        maps = {"semantic": semantic, "region": region, **self.read_further(index)}
        for name, labels in maps.items():
            if not np.issubdtype(labels.dtype, np.integer):
                raise TypeError(f"{name} has dtype {labels.dtype}; expected integers")
            if labels.shape != (size := image.shape[:2]):
                raise ValueError(
                    f"{name} has shape {labels.shape}; expected that of the image, {size}"
                )
            sample[name] = tv_tensors.Mask(torch.from_numpy(labels.astype(np.int64)))
        if (lowest := int(region.min(initial=0))) < REGION_VOID:
            raise ValueError(f"region holds id {lowest}; expected ids from 0 on, void -1")
        return sample if self.transform is None else self.transform(sample)


class PartlyLabelled(Dataset):
    """Another data set of which only some samples keep their semantic labels; the rest is void.

    Region maps and further label maps stay.

    Args: dataset, whose samples have been transformed; labelled, the indices that keep theirs.
    """

    def __init__(self, dataset: Any, labelled: Iterable[int]):
        self.dataset, self.labelled = dataset, frozenset(int(index) for index in labelled)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict:
        sample = self.dataset[index]
        if index in self.labelled:
            return sample
        return {**sample, "semantic": torch.full_like(sample["semantic"], SEMANTIC_VOID)}


def attribute(dataset: Any, name: str) -> Any:
    """An attribute of a data set of ours (`classes`, `things`, `stuff`, `further_classes`).

    It is found behind `Subset` (so behind `random_split`), `ConcatDataset` and `PartlyLabelled`.

    Raises:
        ValueError: the data set has no such attribute, or the parts of a `ConcatDataset` differ.
    """
    if isinstance(dataset, (Subset, PartlyLabelled)):
        return attribute(dataset.dataset, name)
    if isinstance(dataset, ConcatDataset):
        first, *others = (attribute(part, name) for part in dataset.datasets)
        if different := [other for other in others if other != first]:
            raise ValueError(
                f"the parts of the ConcatDataset differ in {name}: {first} and {different[0]};"
                " expected data sets with the same classes, things and stuff"
            )
        return first
    if not hasattr(dataset, name):
        raise ValueError(
            f"dataset is a {type(dataset).__name__} without {name}; expected a data set of"
            f" fusion_lib.datasets, or one of your own that sets {name}"
        )
    return getattr(dataset, name)
