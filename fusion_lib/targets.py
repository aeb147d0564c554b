"""From region maps to targets that a network can learn, however the regions are numbered.

A region id is arbitrary, so it cannot be a class. Whether a pixel lies on a boundary, beside one,
or in the heart of its region is not arbitrary. `region_target` turns a region map into these three
classes.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from scipy import ndimage

from fusion_lib.scenes import REGION_VOID, SEMANTIC_VOID

REGION_CLASSES = ("boundary", "rim", "core")
BOUNDARY, RIM, CORE = range(len(REGION_CLASSES))
TARGET_VOID = SEMANTIC_VOID  # both tasks mark void pixels of their targets with 255


def compact_ids(region: np.ndarray) -> np.ndarray:
    """A region map (H, W) with ids 0..R-1 instead of any non-negative ones; int64, void -1.

    Raises:
        TypeError, ValueError: `region` is no two-dimensional integer map, or has ids below -1.
    """
    region = _checked_region_map(region)
    ids = np.unique(region[region != REGION_VOID])
    return np.where(region == REGION_VOID, REGION_VOID, np.searchsorted(ids, region))


def boundary_mask(region: np.ndarray) -> np.ndarray:
    """Pixels with a 4-neighbour in another region; void neighbours are no boundary.

    Args: region, (H, W) integer region map, void -1.
    Returns: (H, W) bool; False on void pixels.
    Raises: as `compact_ids`.
    """
    region = _checked_region_map(region)
    boundary = np.zeros(region.shape, bool)
    for here, there in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        differs = region[here] != region[there]
        differs &= (region[here] != REGION_VOID) & (region[there] != REGION_VOID)
        boundary[here] |= differs
        boundary[there] |= differs
    return boundary


def region_target(region: np.ndarray, tau: float) -> np.ndarray:
    """Three classes a pixel: 0 boundary, 1 rim, 2 core; void 255.

    Let d be the distance (pixels, Euclidean) to the nearest boundary pixel. In a region R the rim
    ends at tau_R = min(tau, max_R d / 2), so that thin regions keep a core. A region with no pixel
    off the boundary at all (one or two pixels thin) is core throughout; its neighbours' pixels
    still mark its border.

    Args:
        region: (H, W) integer region map, void -1. Ids may be any non-negative numbers.
        tau: the rim is what lies nearer than this to a boundary pixel; 5 pixels suit pictures of
            240 x 320.

    Returns:
        (H, W) int64.

    Raises:
        TypeError, ValueError: as `compact_ids`, or tau is not positive.
    """
    if not tau > 0:
        raise ValueError(f"tau is {tau}; expected a positive distance in pixels")
    ids, boundary = compact_ids(region), boundary_mask(region)
    target = np.full(ids.shape, CORE, np.int64)
    if boundary.any():
        distance = ndimage.distance_transform_edt(~boundary)
        deepest = ndimage.maximum(distance, ids, np.arange(ids.max() + 1))[ids]
        target[distance < np.minimum(tau, 0.5 * deepest)] = RIM
        target[boundary & (deepest > 0)] = BOUNDARY
    target[ids == REGION_VOID] = TARGET_VOID
    return target


class RegionTarget:
    """The last step of a transform: adds `region_target` to a sample, after every augmentation.

    A flip, crop, rotation or rescale moves boundaries and changes distances, so the target must be
    computed from the region map that the network's image really has.
    """

    def __init__(self, tau: float):
        self.tau = tau

    def __call__(self, sample: dict) -> dict:
        target = region_target(np.asarray(sample["region"]), self.tau)
        return {**sample, "region_target": torch.from_numpy(target)}


def class_weights(targets: Iterable, num_classes: int = len(REGION_CLASSES)) -> torch.Tensor:
    """Weights w_c proportional to freq_c^(-1/2), scaled so that an average pixel weighs 1.

    Args:
        targets: iterable of integer target maps of any shape, void 255.
        num_classes: number of classes C, at most 254.

    Returns:
        (C,) float32.

    Raises:
        TypeError: a target map that is not of integers.
        ValueError: a class that is none of 0..C-1 and not void, too many classes, or a class that
            never occurs, so that its weight would be infinite.
    """
    if num_classes >= TARGET_VOID:
        raise ValueError(f"num_classes is {num_classes}; expected at most 254, for 255 is void")
    counts = np.zeros(num_classes, np.int64)
    for target in map(np.asarray, targets):
        if not np.issubdtype(target.dtype, np.integer):
            raise TypeError(f"targets holds a map of dtype {target.dtype}; expected integers")
        known = target[target != TARGET_VOID]
        wrong = known[(known < 0) | (known >= num_classes)]
        if wrong.size:
            raise ValueError(
                f"targets holds class {wrong[0]}; expected 0..{num_classes - 1} or void 255"
            )
        counts += np.bincount(known, minlength=num_classes)
    if (counts == 0).any():
        raise ValueError(
            f"targets holds no pixel of class {counts.argmin()}; counts are {counts.tolist()}"
        )
    frequency = counts / counts.sum()
    weights = frequency**-0.5
    return torch.tensor(weights / (weights * frequency).sum(), dtype=torch.float32)


def _checked_region_map(region) -> np.ndarray:
    region = np.asarray(region)
    if not np.issubdtype(region.dtype, np.integer):
        raise TypeError(
            f"region has dtype {region.dtype}; expected integer ids (void {REGION_VOID})"
        )
    if region.ndim != 2:
        raise ValueError(f"region has shape {region.shape}; expected (H, W)")
    if (lowest := region.min(initial=0)) < REGION_VOID:
        raise ValueError(f"region holds id {lowest}; expected ids from 0 on, void {REGION_VOID}")
    return region
