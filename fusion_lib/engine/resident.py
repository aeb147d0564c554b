"""A whole data set on the device, where its batches are cut, augmented and given their targets.

Meant for GPUs, where a loader on the CPU cannot keep up. What comes out is what `datasets`,
`transforms.augmentation` and `targets.RegionTarget` give, but pictures are resized before they are
cropped, so that a crop of a larger one is less sharp, and a region that a crop cuts in two stays
one region when its rim's limit is computed.
"""

import math
from collections.abc import Iterator
from dataclasses import InitVar, dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.transforms import v2

from fusion_lib import checks
from fusion_lib.scenes import REGION_VOID
from fusion_lib.targets import BOUNDARY, CORE, RIM, TARGET_VOID, boundaries
from fusion_lib.transforms import augmentation, checked_image


def region_targets(region: Tensor, tau: float) -> Tensor:
    """`targets.region_target` of a batch, on any device. Distances count up to 2 tau, for the rim
    ends at min(tau, half of the region's largest).

    Args: region, (N, H, W) int64, ids 0..R-1, void -1; tau, positive, in pixels.
    Returns: (N, H, W) int64; 0 boundary, 1 rim, 2 core, void 255.
    """
    boundary, reach = boundaries(region), math.ceil(2 * tau)
    squared = torch.where(boundary, 0.0, math.inf)
    for _ in ("rows", "columns"):  # a Euclidean distance is a minimum along both in turn
        near = F.pad(squared, (reach, reach), value=math.inf).unfold(-1, 2 * reach + 1, 1)
        for step, shifted in enumerate(near.unbind(-1), -reach):
            squared = torch.minimum(squared, shifted + step**2)
        squared = squared.mT
    distance, ids = squared.sqrt().flatten(1), (region + 1).flatten(1)  # void is 0
    deepest = distance.new_zeros(len(ids), ids.shape[1] + 1)
    deepest = deepest.scatter_reduce(1, ids, distance, "amax").gather(1, ids)
    target = torch.where(distance < (0.5 * deepest).clamp(max=tau), RIM, CORE)
    target[boundary.flatten(1) & (deepest > 0)] = BOUNDARY
    return torch.where(region == REGION_VOID, TARGET_VOID, target.view_as(region))


@dataclass(eq=False)
class ResidentLoader:
    """Shuffled training batches of a data set that is kept on the device: {"image", "semantic",
    "region_target"} and its further label maps.

    Raises: TypeError, ValueError, an image or region map that `transforms.checked_image` or
        `checks.label_map` refuses; a data set that is smaller than a batch.
    """

    dataset: InitVar[object]  # gives {"image", "semantic", "region", ...}, without a transform
    batch_size: int
    size: InitVar[tuple[int, int]]  # (H, W)
    tau: float  # as in `targets.region_target`
    device: InitVar[torch.device]
    smallest_crop: float = 1.0  # this one and the next as in `transforms.augmentation`
    light: float = 0.0

    def __post_init__(self, dataset, size, device):
        count, expected = len(dataset), f"at least one batch of {self.batch_size}"
        checks.expect(count >= self.batch_size, "len(dataset)", count, expected)
        steps = augmentation(size, smallest_crop=self.smallest_crop, light=self.light).transforms
        self.augment = v2.Compose(steps[:-1])  # the last one works on the CPU
        samples = [v2.Resize(size)(dataset[index]) for index in range(count)]
        for sample in samples:
            region = checks.compact(checks.label_map("region", sample["region"]))
            sample["region"] = torch.from_numpy(region)
        self.image = torch.stack([checked_image(s.pop("image")) for s in samples]).to(device)
        maps = [torch.stack([s.pop("region"), *s.values()]).int() for s in samples]
        self.names, self.labels = ["region", *samples[0]], torch.stack(maps).to(device)

    def __len__(self) -> int:
        return len(self.image) // self.batch_size

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        order = torch.randperm(len(self.image))[: len(self) * self.batch_size]
        for chosen in order.split(self.batch_size):
            pairs = [self.augment(self.image[i], tv_tensors.Mask(self.labels[i])) for i in chosen]
            image, labels = map(torch.stack, zip(*pairs))
            batch = dict(zip(self.names, labels.long().unbind(1)))
            batch["image"] = v2.functional.to_dtype(image, torch.float32, scale=True)
            batch["region_target"] = region_targets(batch.pop("region"), self.tau)
            yield batch
