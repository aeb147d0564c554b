"""Joint transforms: whatever moves the image moves its label maps with it, by nearest neighbour.

A sample is a dict of torchvision `tv_tensors` (see `datasets`), and torchvision's own transforms
keep its parts together. What they do not know is that this project has two kinds of void, and that
a region cut in two by a crop is two regions; `Finish` takes care of both.
"""

from __future__ import annotations

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from fusion_lib.scenes import REGION_VOID, SEMANTIC_VOID, connected_regions

OUTSIDE = {
    tv_tensors.Image: 0.0,
    tv_tensors.Mask: -1.0,
}  # what a rotation or crop beyond the edge is filled with


class Finish:
    """Last of the joint transforms: image to float in [0, 1], outside to void, regions connected
    and renumbered."""

    def __call__(self, sample: dict) -> dict:
        region = np.asarray(sample["region"])
        labels = {
            name: value.long()
            for name, value in sample.items()
            if isinstance(value, tv_tensors.Mask)
        }
        return {
            **sample,
            "image": v2.functional.to_dtype(sample["image"], torch.float32, scale=True),
            **{
                name: tv_tensors.Mask(torch.where(value < 0, SEMANTIC_VOID, value))
                for name, value in labels.items()
            },
            "region": tv_tensors.Mask(
                torch.from_numpy(connected_regions(np.where(region < 0, REGION_VOID, region)))
            ),
        }


def evaluation_transform(size: tuple[int, int] | None = None) -> v2.Compose:
    """No augmentation; resized to (H, W) if a size is given."""
    resize = [] if size is None else [v2.Resize(size, antialias=True)]
    return v2.Compose([*resize, Finish()])


def augmentation(
    size: tuple[int, int], *, smallest_crop: float = 1.0, rotation: float = 0.0, light: float = 0.0
) -> v2.Compose:
    """Flip, and at will crop, rotate and change the light. The crop is scaled back to `size`.

    Args:
        size: (H, W) of what comes out.
        smallest_crop: smallest share of the picture's area that a crop keeps; 1 crops nothing.
        rotation: largest angle in degrees, either way.
        light: largest relative change of brightness, contrast and saturation, in [0, 1).

    Raises:
        ValueError: smallest_crop is not in (0, 1], or light not in [0, 1).
    """
    if not 0 <= light < 1:
        raise ValueError(f"light is {light}; expected a relative change in [0, 1)")
    if not 0 < smallest_crop <= 1:
        raise ValueError(f"smallest_crop is {smallest_crop}; expected a share in (0, 1]")
    steps = [v2.RandomHorizontalFlip()]
    if rotation:
        steps.append(v2.RandomRotation(rotation, v2.InterpolationMode.BILINEAR, fill=OUTSIDE))
    if smallest_crop < 1:
        steps.append(
            v2.RandomResizedCrop(size, scale=(smallest_crop, 1.0), ratio=(0.8, 1.7), antialias=True)
        )
    else:
        steps.append(v2.Resize(size, antialias=True))
    if light:
        steps.append(v2.ColorJitter(light, light, light))
    return v2.Compose([*steps, Finish()])
