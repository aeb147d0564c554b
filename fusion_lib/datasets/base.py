"""What every data set of the project yields.

A sample is {"image": tv_tensors.Image uint8 (3, H, W), "semantic": tv_tensors.Mask int64 (H, W)
with void 255, "region": tv_tensors.Mask int64 (H, W) with void -1}, and perhaps further label maps,
which are as "semantic". It passes through `transform`, if one is given.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset
from torchvision import tv_tensors

from fusion_lib import checks
from fusion_lib.scenes import SEMANTIC_VOID

Transform = Callable[[dict], dict] | None  # of a sample


class SegmentationDataset(Dataset):
    """A subclass names its `classes` (at most 254, else a ValueError) and reads the samples.

    Labels other than `checks.label_map` takes, or of another size than their image, are refused.
    """

    classes: tuple[str, ...]
    # The classes whose regions are single things, and those that are areas of stuff; None: unknown.
    things: tuple[int, ...] | None = None
    stuff: tuple[int, ...] | None = None
    further_classes: dict[str, tuple[str, ...]] = {}  # further label maps and their classes

    def __init__(self, transform: Transform = None):
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
            labels = checks.label_map(name, labels)
            checks.same_shape(**{name: labels, "the image": image[..., 0]})
            sample[name] = tv_tensors.Mask(torch.from_numpy(labels.astype(np.int64)))
        return sample if self.transform is None else self.transform(sample)


class PartlyLabelled(Dataset):
    """Another data set, transformed, with void semantic labels but at the indices `labelled`."""

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
    """`classes`, `things`, `stuff` or `further_classes` of a data set.

    Found behind `Subset` (so behind `random_split`), `ConcatDataset` and `PartlyLabelled`. A
    ValueError: there is none, or the parts of a `ConcatDataset` differ.
    """
    if isinstance(dataset, (Subset, PartlyLabelled)):
        return attribute(dataset.dataset, name)
    if isinstance(dataset, ConcatDataset):
        first, *others = (attribute(part, name) for part in dataset.datasets)
        for other in others:
            expected = f"{first}, as the first part of the ConcatDataset has"
            checks.expect(other == first, f"{name} of a part", other, expected)
        return first
    message = f"without {name}; expected a data set that sets {name}"
    checks.require(hasattr(dataset, name), f"dataset is a {type(dataset).__name__} {message}")
    return getattr(dataset, name)
