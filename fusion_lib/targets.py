"""From region maps to something a network can learn: targets that do not care how regions are
numbered.

A region id is arbitrary, so it cannot be a class. Whether a pixel lies on a boundary, beside one,
or in the heart of its region is not arbitrary. `region_target` turns a region map into these three
classes.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from fusion_lib.scenes import REGION_VOID, SEMANTIC_VOID

REGION_CLASSES = ("boundary", "rim", "core")
BOUNDARY, RIM, CORE = range(len(REGION_CLASSES))
TARGET_VOID = SEMANTIC_VOID  # both tasks mark void pixels of their targets with 255


def boundary_mask(region: np.ndarray) -> np.ndarray:
    """Pixels with a 4-neighbour in another region; void neighbours are no boundary.

    Args:
        region: (H, W) integer region map, void -1.

    Returns:
        (H, W) bool; False on void pixels.
    """
    region = _checked_region_map(region)
    valid = region != REGION_VOID
    boundary = np.zeros(region.shape, bool)
    for axis in (0, 1):
        here, there = (
            (slice(None),) * axis + (slice(1, None),),
            (slice(None),) * axis + (slice(None, -1),),
        )
        differs = (region[here] != region[there]) & valid[here] & valid[there]
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
        TypeError, ValueError: `region` is no two-dimensional integer map, or tau is not positive.
    """
    if not tau > 0:
        raise ValueError(f"tau is {tau}; expected a positive distance in pixels")
    boundary = boundary_mask(region)
    region = np.asarray(region)
    void = region == REGION_VOID
    target = np.full(region.shape, CORE, np.int64)
    if boundary.any():
        _, compact = np.unique(region, return_inverse=True)  # any ids -> 0..R-1
        compact = compact.reshape(region.shape)
        distance = ndimage.distance_transform_edt(~boundary)
        deepest = ndimage.maximum(distance, compact, np.arange(compact.max() + 1))
        target[distance < np.minimum(tau, 0.5 * deepest)[compact]] = RIM
        target[boundary & (deepest[compact] > 0)] = BOUNDARY
    target[void] = TARGET_VOID
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


def class_weights(targets, num_classes: int = len(REGION_CLASSES)) -> torch.Tensor:
    """Weights w_c proportional to freq_c^(-1/2), scaled so that an average pixel weighs 1.

    Args:
        targets: iterable of integer target maps of any shape, void 255.
        num_classes: number of classes C.

    Returns:
        (C,) float32.

    Raises:
        ValueError: a class never occurs, so that its weight would be infinite.
    """
    counts = np.zeros(256, np.int64)
    for target in targets:
        counts += np.bincount(np.asarray(target).ravel(), minlength=256)
    counts = counts[:num_classes]
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
    return region
