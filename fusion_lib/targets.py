"""From region maps to targets that a network can learn, however the regions are numbered.

A region id is arbitrary, so it cannot be a class. Whether a pixel lies on a boundary, beside one,
or in the heart of its region is not: these are the classes of `region_target`. A region map is
(H, W) of integer ids, any non-negative ones, void -1; else a TypeError or ValueError.
"""

from collections.abc import Iterable

import numpy as np
import scipy  # its parts are loaded when they are first used
import torch

from fusion_lib import checks
from fusion_lib.scenes import REGION_VOID, SEMANTIC_VOID

REGION_CLASSES = ("boundary", "rim", "core")
BOUNDARY, RIM, CORE = range(len(REGION_CLASSES))
TARGET_VOID = SEMANTIC_VOID  # both tasks mark void pixels of their targets with 255


def boundary_mask(region: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels with a 4-neighbour in another region; void is never on a boundary."""
    return boundaries(checks.label_map("region", region))


def boundaries(region):
    """`boundary_mask` of region maps (..., H, W) of NumPy or torch, which are not checked."""
    boundary = region < REGION_VOID  # none so far
    for here, there in ((np.s_[..., 1:, :], np.s_[..., :-1, :]), (np.s_[..., 1:], np.s_[..., :-1])):
        differs = region[here] != region[there]
        differs &= (region[here] != REGION_VOID) & (region[there] != REGION_VOID)
        boundary[here] |= differs
        boundary[there] |= differs
    return boundary


def region_target(region: np.ndarray, tau: float) -> np.ndarray:
    """Three classes a pixel, (H, W) int64: 0 boundary, 1 rim, 2 core; void 255.

    Let d be the distance (pixels, Euclidean) to the nearest boundary pixel. In a region R the rim
    is what lies nearer than tau_R = min(tau, max_R d / 2), so that thin regions keep a core. One
    with no pixel off the boundary is core throughout; its neighbours' pixels mark its border.

    Args: region, a region map; tau, positive: 5 pixels suit pictures of 240 x 320.
    """
    checks.expect(tau > 0, "tau", tau, "a positive distance in pixels")
    boundary, ids = boundary_mask(region), checks.compact(np.asarray(region))
    target = np.full(ids.shape, CORE, np.int64)
    if boundary.any():
        distance = scipy.ndimage.distance_transform_edt(~boundary)
        deepest = scipy.ndimage.maximum(distance, ids, np.arange(ids.max() + 1))[ids]
        target[distance < np.minimum(tau, 0.5 * deepest)] = RIM
        target[boundary & (deepest > 0)] = BOUNDARY
    target[ids == REGION_VOID] = TARGET_VOID
    return target


class RegionTarget:
    """The last step of a transform: adds `region_target` to a sample. Every augmentation moves
    boundaries and changes distances, so the target is that of the map that the network's image has.
    """

    def __init__(self, tau: float):
        self.tau = tau

    def __call__(self, sample: dict) -> dict:
        target = region_target(np.asarray(sample["region"]), self.tau)
        return {**sample, "region_target": torch.from_numpy(target)}


def class_weights(targets: Iterable) -> torch.Tensor:
    """(3,) float32 w_c proportional to freq_c^(-1/2), scaled so that an average pixel weighs 1.

    Args: targets, maps of any shape as `region_target` returns them.
    Raises: TypeError, a map is not of integers; ValueError, a class is none of 0..2 and not void,
        or one never occurs, so that its weight would be infinite.
    """
    counts = np.zeros(len(REGION_CLASSES), np.int64)
    for target in targets:
        target = checks.integers("targets", target)
        checks.classes("targets", target, len(counts))
        counts += np.bincount(target[target != TARGET_VOID], minlength=len(counts))
    found = f"no pixel of class {counts.argmin()}; counts are {counts.tolist()}"
    checks.require(counts.all(), f"targets holds {found}; expected some of every class")
    frequency = counts / counts.sum()
    weights = frequency**-0.5
    return torch.tensor(weights / (weights * frequency).sum(), dtype=torch.float32)
