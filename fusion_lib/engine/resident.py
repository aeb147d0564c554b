"""A whole data set on the device, where its batches are cut, augmented and given their targets.

Meant for GPUs, where a loader on the CPU cannot keep up. What comes out is what `datasets`,
`transforms.augmentation` and `targets.RegionTarget` give, with two exceptions: pictures are resized
before they are cropped, so that a crop of a picture that was larger is less sharp; and a region
that a crop cuts in two stays one region when its rim's limit is computed.
"""

import math
from collections.abc import Iterator
from functools import reduce

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from fusion_lib import checks
from fusion_lib.scenes import REGION_VOID, SEMANTIC_VOID
from fusion_lib.targets import BOUNDARY, CORE, RIM
from fusion_lib.transforms import checked_image


def region_targets(region: Tensor, tau: float) -> Tensor:
    """`targets.region_target` of a batch, on any device.

    Distances count up to 2 tau, for the rim ends at min(tau, half of the region's largest).

    Shape:
        region: (N, H, W) int64, ids 0..R-1, void -1.
        returns: (N, H, W) int64; 0 boundary, 1 rim, 2 core, void 255.
    """
    valid, boundary = region != REGION_VOID, torch.zeros_like(region, dtype=torch.bool)
    for here, there in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[:, :, 1:], np.s_[:, :, :-1])):
        differs = (region[here] != region[there]) & valid[here] & valid[there]
        boundary[here] |= differs
        boundary[there] |= differs
    squared = torch.where(boundary, 0.0, math.inf)
    for _ in ("rows", "columns"):  # a Euclidean distance is a minimum along both in turn
        squared = _nearest_in_row(squared, math.ceil(2 * tau)).mT
    distance = squared.sqrt().flatten(1)
    ids = (region + 1).flatten(1)  # void is 0
    deepest = torch.zeros(len(ids), ids.shape[1] + 1, device=region.device)
    deepest = deepest.scatter_reduce(1, ids, distance, "amax").gather(1, ids).view(region.shape)
    distance = distance.view(region.shape)
    target = torch.where(distance < (0.5 * deepest).clamp(max=tau), RIM, CORE)
    target = torch.where(boundary & (deepest > 0), BOUNDARY, target)
    return torch.where(valid, target, SEMANTIC_VOID)


def _nearest_in_row(squared: Tensor, reach: int) -> Tensor:
    """min over |k| <= reach of squared[..., x + k] + k^2."""
    width, reach = squared.shape[-1], min(reach, squared.shape[-1] - 1)
    padded = F.pad(squared, (reach, reach), value=math.inf)
    shifted = (padded[..., reach + k :][..., :width] + k**2 for k in range(-reach, reach + 1))
    return reduce(torch.minimum, shifted)


class ResidentLoader:
    """Shuffled training batches of a data set that is kept on the device.

    A batch is {"image", "semantic", "region_target"} and the data set's further label maps, resized
    to `size` when they are read. A CPU and a GPU draw differently.

    Args:
        dataset: gives {"image", "semantic", "region"} and further label maps, without a transform.
        size, smallest_crop, light: as in `transforms.augmentation`.
        tau: as in `targets.region_target`.

    Raises:
        TypeError, ValueError: an image or region map that `transforms.checked_image` or
            `checks.label_map` refuses; a data set that is smaller than a batch.
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
            expected = f"expected at least one batch of {batch_size}"
            raise ValueError(f"dataset has {len(dataset)} pictures; {expected}")
        self.batch_size, self.tau = batch_size, tau
        self.smallest_crop, self.light = smallest_crop, light
        self.names = [name for name in dataset[0] if name not in ("image", "region")]
        resize = v2.Resize(size, antialias=True)
        images, maps = [], []
        for index in range(len(dataset)):
            sample = resize(dataset[index])
            images.append(checked_image(sample["image"]).as_subclass(Tensor))
            region = checks.compact(checks.label_map("region", sample["region"]))
            labels = [region, *(sample[name] for name in self.names)]
            maps.append(np.stack([np.asarray(label, np.int32) for label in labels]))
        self.image = torch.stack(images).to(device)
        self.labels = torch.from_numpy(np.stack(maps)).to(device)

    def __len__(self) -> int:
        return len(self.image) // self.batch_size

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        order = torch.randperm(len(self.image), device=self.image.device)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            chosen = order[start : start + self.batch_size]
            yield self._augmented(self.image[chosen], self.labels[chosen])

    def _augmented(self, image: Tensor, labels: Tensor) -> dict[str, Tensor]:
        grid = F.affine_grid(self._windows(len(image)), list(image.shape), align_corners=False)
        image = image / 255 if image.dtype == torch.uint8 else image
        image = F.grid_sample(image, grid, "bilinear", "border", align_corners=False)
        maps = F.grid_sample(labels.float(), grid, "nearest", "border", align_corners=False).long()
        batch = {"image": self._relit(image) if self.light else image}
        batch |= dict(zip(self.names, maps[:, 1:].unbind(1)))
        return {**batch, "region_target": region_targets(maps[:, 0], self.tau)}

    def _windows(self, count: int) -> Tensor:
        """(count, 2, 3): the part of each picture that is seen, half of them mirrored."""
        draws = torch.rand(count, 5, device=self.image.device)
        height, width = self.image.shape[2:]
        area = self.smallest_crop + (1 - self.smallest_crop) * draws[:, 0]
        stretch = torch.exp(math.log(0.8) + math.log(1.7 / 0.8) * draws[:, 1]) * height / width
        if self.smallest_crop == 1:
            stretch = torch.ones_like(stretch)
        x = (area * stretch).sqrt().clamp(max=1)
        y = (area / stretch).sqrt().clamp(max=1)
        mirrored = torch.where(draws[:, 4] < 0.5, -1.0, 1.0)
        zero = torch.zeros_like(x)
        shifts = (2 * draws[:, 2:4] - 1) * (1 - torch.stack([x, y], 1))
        rows = [mirrored * x, zero, shifts[:, 0], zero, y, shifts[:, 1]]
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
