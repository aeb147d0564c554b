"""A whole data set on the device: batches are cut, augmented and given their targets there, so that
nothing waits.

Meant for GPUs, where a loader on the CPU cannot keep up. What comes out is what `datasets`,
`transforms.augmentation` and `targets.RegionTarget` give, with two exceptions: pictures are resized
before they are cropped, so that a crop of a picture that was larger is less sharp; and a region
that a crop cuts in two stays one region when its rim's limit is computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.transforms import v2

from fusion_lib.scenes import REGION_VOID, SEMANTIC_VOID
from fusion_lib.targets import BOUNDARY, CORE, RIM


def region_targets(region: Tensor, tau: float) -> Tensor:
    """`targets.region_target` of a batch, on any device.

    Distances count up to 2 tau only, and none beyond can matter: the rim ends at min(tau, half of
    the largest distance
    in the region).

    Shape:
        region: (N, H, W) int64, ids 0..R-1, void -1.
        returns: (N, H, W) int64; 0 boundary, 1 rim, 2 core, void 255.
    """
    valid, boundary = region != REGION_VOID, torch.zeros_like(region, dtype=torch.bool)
    for here, there in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[:, :, 1:], np.s_[:, :, :-1])):
        differs = (region[here] != region[there]) & valid[here] & valid[there]
        boundary[here] |= differs
        boundary[there] |= differs
    reach = math.ceil(2 * tau)
    squared = torch.where(boundary, 0.0, math.inf)
    for axis in (
        1,
        2,
    ):  # the squared Euclidean distance is a minimum along columns, then along rows
        squared = _nearest_along(squared, axis, reach)
    distance = squared.sqrt()
    ids = torch.where(valid, region + 1, 0).flatten(1)
    deepest = torch.zeros(
        len(region), int(region.shape[1] * region.shape[2]) + 1, device=region.device
    )
    deepest = (
        deepest.scatter_reduce(1, ids, distance.flatten(1), "amax").gather(1, ids).view_as(distance)
    )
    target = torch.where(distance < (0.5 * deepest).clamp(max=tau), RIM, CORE)
    target = torch.where(boundary & (deepest > 0), BOUNDARY, target)
    return torch.where(valid, target, SEMANTIC_VOID)


def _nearest_along(squared: Tensor, axis: int, reach: int) -> Tensor:
    """min over |k| <= reach of squared[.. + k ..] + k^2."""
    nearest = squared
    for shift in range(1, min(reach, squared.shape[axis] - 1) + 1):
        length = squared.shape[axis] - shift
        far = torch.full_like(squared.narrow(axis, 0, shift), math.inf)
        before, after = squared.narrow(axis, 0, length), squared.narrow(axis, shift, length)
        nearest = torch.minimum(nearest, torch.cat([far, before], axis) + shift**2)
        nearest = torch.minimum(nearest, torch.cat([after, far], axis) + shift**2)
    return nearest


class ResidentLoader:
    """Shuffled training batches of a data set that is kept on the device: {"image", "semantic",
    "region_target"}, and the data set's further label maps.

    Pictures and label maps are resized to `size` once, when they are read. Draws come from the
    device's own random state, so a CPU and a GPU draw differently.

    Args:
        dataset: gives {"image", "semantic", "region"} and further label maps, without a transform.
        size, smallest_crop, light: as in `transforms.augmentation`.
        tau: as in `targets.region_target`.

    Raises:
        ValueError: the data set is smaller than a batch.
    """

    def __init__(
        self,
        dataset,
        batch_size: int,
        size: tuple[int, int],
        tau: float,
        device: torch.device,
        smallest_crop: float = 1.0,
        light: float = 0.0,
    ):
        if len(dataset) < batch_size:
            raise ValueError(
                f"dataset has {len(dataset)} pictures; expected at least one batch of {batch_size}"
            )
        self.batch_size, self.tau, self.smallest_crop, self.light = (
            batch_size,
            tau,
            smallest_crop,
            light,
        )
        resize = v2.Resize(size, antialias=True)
        samples = (dataset[index] for index in range(len(dataset)))
        self.names = [name for name in dataset[0] if name not in ("image", "region")]
        samples = [
            resize({name: sample[name] for name in ("image", "region", *self.names)})
            for sample in samples
        ]
        self.image = torch.stack([s["image"].as_subclass(Tensor) for s in samples]).to(device)
        maps = [
            torch.stack([_compact(s["region"]), *(_plain(s[name]) for name in self.names)])
            for s in samples
        ]
        self.labels = torch.stack(maps).to(device)

    def __len__(self) -> int:
        return len(self.image) // self.batch_size

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        order = torch.randperm(len(self.image), device=self.image.device)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            chosen = order[start : start + self.batch_size]
            yield self._augmented(self.image[chosen], self.labels[chosen])

    def _augmented(self, image: Tensor, labels: Tensor) -> dict[str, Tensor]:
        grid = F.affine_grid(self._windows(len(image)), image.shape, align_corners=False)
        image = F.grid_sample(image.float() / 255, grid, "bilinear", "border", align_corners=False)
        maps = F.grid_sample(labels.float(), grid, "nearest", "border", align_corners=False).long()
        labels = dict(zip(self.names, maps[:, 1:].unbind(1)))
        if self.light:
            image = self._relit(image)
        return {"image": image, **labels, "region_target": region_targets(maps[:, 0], self.tau)}

    def _windows(self, count: int) -> Tensor:
        """(count, 2, 3): the part of each picture to be seen, as `affine_grid` wants it; half of
        them mirrored."""
        draws = torch.rand(count, 5, device=self.image.device)
        height, width = self.image.shape[2:]
        area = self.smallest_crop + (1 - self.smallest_crop) * draws[:, 0]
        stretch = (
            torch.exp(math.log(0.8) + math.log(1.7 / 0.8) * draws[:, 1]) * height / width
        )  # of the window, in its own units
        if self.smallest_crop == 1:
            stretch = torch.ones_like(stretch)
        x = (area * stretch).sqrt().clamp(max=1)
        y = (area / stretch).sqrt().clamp(max=1)
        mirrored = torch.where(draws[:, 4] < 0.5, -1.0, 1.0)
        zero = torch.zeros_like(x)
        rows = [
            mirrored * x,
            zero,
            (2 * draws[:, 2] - 1) * (1 - x),
            zero,
            y,
            (2 * draws[:, 3] - 1) * (1 - y),
        ]
        return torch.stack(rows, 1).view(count, 2, 3)

    def _relit(self, image: Tensor) -> Tensor:
        """Brightness, contrast and saturation, each changed by a factor of its own a picture."""
        factors = 1 + self.light * (2 * torch.rand(3, len(image), 1, 1, 1, device=image.device) - 1)
        image = (factors[0] * image).clamp(0, 1)
        for factor, whole in ((factors[1], True), (factors[2], False)):
            grey = v2.functional.rgb_to_grayscale(image)
            grey = grey.mean((2, 3), keepdim=True) if whole else grey
            image = (grey + factor * (image - grey)).clamp(0, 1)
        return image


def _plain(label: Tensor) -> Tensor:
    return label.as_subclass(Tensor).to(torch.int16)


def _compact(region: tv_tensors.Mask) -> Tensor:
    """Ids 0..R-1, void -1."""
    region = np.asarray(region)
    ids = np.unique(region[region != REGION_VOID])
    return torch.from_numpy(
        np.where(region == REGION_VOID, REGION_VOID, np.searchsorted(ids, region))
    ).to(torch.int16)
