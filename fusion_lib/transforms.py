"""Joint transforms: whatever moves the image moves its label maps with it, by nearest neighbour.

Torchvision's own transforms keep a sample's `tv_tensors` together. What they do not know, two kinds
of void, and that a region cut in two by a crop is two regions, `Finish` takes care of.
"""

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from fusion_lib import checks
from fusion_lib.scenes import SEMANTIC_VOID, connected_regions

OUTSIDE = {tv_tensors.Image: 0.0, tv_tensors.Mask: -1.0}  # fills what a rotation leaves empty


def checked_image(image: torch.Tensor) -> torch.Tensor:
    """The image, if it is uint8, or floating (else a TypeError) in [0, 1] (else a ValueError)."""
    if image.dtype == torch.uint8:
        return image
    if not image.is_floating_point():
        raise TypeError(f"image has dtype {image.dtype}; expected uint8, or float in [0, 1]")
    low, high = image.min().item(), image.max().item()
    if not -1e-3 <= low <= high <= 1 + 1e-3:  # resizing and half precision round
        expected = "expected uint8, or float in [0, 1]: divide what runs to 255 by 255"
        raise ValueError(f"image holds values from {low:g} to {high:g}; {expected}")
    return image


class Finish:
    """Last of the joint transforms: the image (see `checked_image`) becomes float in [0, 1].

    What lies outside becomes void, and regions are connected and numbered anew.
    """

    def __call__(self, sample: dict) -> dict:
        done = {**sample}
        for name, value in sample.items():
            if isinstance(value, tv_tensors.Mask):
                done[name] = tv_tensors.Mask(torch.where(value < 0, SEMANTIC_VOID, value.long()))
        done["image"] = v2.functional.to_dtype(checked_image(sample["image"]), scale=True)
        done["region"] = tv_tensors.Mask(connected_regions(sample["region"]))
        return done


def evaluation_transform(size: tuple[int, int] | None = None) -> v2.Compose:
    """No augmentation; resized to (H, W) if a size is given."""
    resize = [] if size is None else [v2.Resize(size)]
    return v2.Compose([*resize, Finish()])


def augmentation(
    size: tuple[int, int], *, smallest_crop: float = 1.0, rotation: float = 0.0, light: float = 0.0
) -> v2.Compose:
    """Flip, and at will crop, rotate and change the light. The crop is scaled back to `size`.

    Args: size, (H, W) of what comes out; smallest_crop, smallest share of the picture's area that a
        crop keeps, in (0, 1], where 1 crops nothing; rotation, largest angle in degrees; light,
        largest relative change of brightness, contrast and saturation, in [0, 1); else ValueError.
    """
    checks.expect(0 <= light < 1, "light", light, "a relative change in [0, 1)")
    checks.expect(0 < smallest_crop <= 1, "smallest_crop", smallest_crop, "a share in (0, 1]")
    steps: list[v2.Transform] = [v2.RandomHorizontalFlip()]
    if rotation:
        steps.append(v2.RandomRotation(rotation, v2.InterpolationMode.BILINEAR, fill=OUTSIDE))
    crop = v2.RandomResizedCrop(size, (smallest_crop, 1.0), ratio=(0.8, 1.7))
    steps.append(v2.Resize(size) if smallest_crop == 1 else crop)
    if light:
        steps.append(v2.ColorJitter(light, light, light))
    return v2.Compose([*steps, Finish()])
