"""Made-up maps and models that several tests use."""

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from fusion_lib.datasets import SegmentationDataset
from fusion_lib.lab.recipes import Recipe
from fusion_lib.models import FusionModel
from fusion_lib.scenes import CLASSES
from fusion_lib.targets import region_target

SEEDS = range(25)


def random_region_map(seed: int, void: bool = True) -> np.ndarray:
    """A Voronoi partition with stripes, single pixels and void patches: (H, W) int64 with arbitrary
    ids, void -1."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(6, 28, 2)
    sites = rng.random((rng.integers(2, 9), 2)) * (height, width)
    y, x = np.mgrid[:height, :width]
    nearest = ((y[..., None] - sites[:, 0]) ** 2 + (x[..., None] - sites[:, 1]) ** 2).argmin(-1)
    region = rng.permutation(1000)[: len(sites)][nearest]
    region[rng.integers(height)] = 2000  # a line one pixel wide
    region[:, rng.integers(width)] = 2001
    region[rng.integers(height), rng.integers(width)] = 2002  # a region of one pixel
    if void:
        top, left = rng.integers(height), rng.integers(width)
        region[top : top + rng.integers(1, 5), left : left + rng.integers(1, 9)] = -1
    return region.astype(np.int64)


def blobs(seed: int, size: int = 48, sites: int = 6) -> np.ndarray:
    """A Voronoi partition into large, connected regions, ids 0..R-1."""
    rng = np.random.default_rng(seed)
    places = np.stack(
        np.meshgrid([size / 6, size / 2, 5 * size / 6], [size / 4, 3 * size / 4]), -1
    ).reshape(-1, 2)
    places = places[:sites] + rng.uniform(-size / 14, size / 14, (sites, 2))
    y, x = np.mgrid[:size, :size]
    nearest = ((y[..., None] - places[:, 0]) ** 2 + (x[..., None] - places[:, 1]) ** 2).argmin(-1)
    return np.unique(nearest, return_inverse=True)[1].reshape(size, size)


def permuted_ids(region: np.ndarray, seed: int) -> np.ndarray:
    """The same partition under other ids; void stays -1."""
    rng = np.random.default_rng(seed)
    ids = np.unique(region[region >= 0])
    new = dict(zip(ids.tolist(), rng.permutation(5000)[: len(ids)].tolist()))
    return np.array([[new.get(int(i), -1) for i in row] for row in region])


def one_hot(labels: np.ndarray, classes: int, certainty: float = 1.0) -> np.ndarray:
    """(C, H, W) probabilities that give `certainty` to the label and the rest to the other
    classes."""
    rest = (1 - certainty) / (classes - 1)
    return np.stack([np.where(labels == c, certainty, rest) for c in range(classes)])


def tiny_model(seed: int = 0, outputs=None) -> FusionModel:
    torch.manual_seed(seed)
    return FusionModel({"semantic": 3, "region": 3} if outputs is None else outputs, width=4)


def tiny_samples(count: int, size: int = 16, seed: int = 0) -> list[dict]:
    """Pictures whose left part is bright (class 1) and right part dark (class 0), with some
    void."""
    rng = np.random.default_rng(seed)
    samples = []
    for _ in range(count):
        region = (
            (np.arange(size)[None] < rng.integers(5, size - 5)).repeat(size, 0).astype(np.int64)
        )
        semantic = region.copy()
        semantic[0, :3] = 255
        image = np.clip(0.2 + 0.6 * region + 0.05 * rng.standard_normal((3, size, size)), 0, 1)
        samples.append(
            {
                "image": torch.tensor(image, dtype=torch.float32),
                "semantic": torch.from_numpy(semantic),
                "region": torch.from_numpy(region),
                "region_target": torch.from_numpy(region_target(region, 2)),
            }
        )
    return samples


def tiny_loaders(
    train: int = 6, val: int = 2, batch_size: int = 2, shuffle: bool = True
) -> tuple[DataLoader, DataLoader]:
    return (
        DataLoader(tiny_samples(train), batch_size, shuffle=shuffle),
        DataLoader(tiny_samples(val, seed=1), batch_size),
    )


class Blobs(SegmentationDataset):
    """Six areas a picture; red carries the semantic label, green the region target, blue the number
    of the picture."""

    classes = CLASSES
    COUNTS = {"train": 40, "val": 6, "test": 4}

    def __init__(self, split, transform=None):
        super().__init__(transform)
        self.split = split

    def __len__(self):
        return self.COUNTS[self.split]

    def read(self, index):
        seed = index + 1000 * ("train", "val", "test").index(self.split)
        region = blobs(seed, size=24)
        semantic = np.random.default_rng(seed).integers(0, 8, 6)[region]
        semantic[:2] = 255
        image = [
            np.where(semantic == 255, 0, semantic) * 20,
            region_target(region, 2.0) * 100,
            np.full_like(region, index),
        ]
        return np.stack(image, -1).astype(np.uint8), semantic, region


RECIPE = Recipe(
    dataset=Blobs,
    size=(24, 24),
    tau=2.0,
    smallest_crop=1.0,
    light=0.0,
    model={"width": 4},
    batch_size=4,
    epochs=1,
    learning_rate=1e-2,
)


class Reads(nn.Module):
    """Stands in for a network: turns the colours of `Blobs` into logits, under noise that is the
    same for every call.

    Args: noise, the standard deviations of the semantic and of the region logits' noise; right
    logits gain 6 and 2.
    """

    def __init__(self, *tasks, noise=(3.0, 1.0)):
        super().__init__()
        self.tasks, self.weight = tasks, nn.Parameter(torch.zeros(1))
        self.noise = dict(zip(("semantic", "region"), noise))

    def forward(self, images):
        values = (images * 255).round().long()
        hot = {
            "semantic": nn.functional.one_hot(values[:, 0] // 20, 8),
            "region": nn.functional.one_hot(values[:, 1] // 100, 3),
        }
        logits = {}
        for task in self.tasks:
            right = {"semantic": 6.0, "region": 2.0}[task] * hot[task].movedim(-1, 1)
            noise = torch.randn(right.shape[1:], generator=torch.Generator().manual_seed(len(task)))
            logits[task] = right + self.noise[task] * noise + self.weight
        return logits
