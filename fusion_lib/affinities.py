"""The advanced region head: which pixels belong together, learned for pairs of pixels; regions by mutex watershed.

A region id is arbitrary, but whether two pixels share one is not. The affinity of pixel x in channel k says whether x
and x + o_k, a fixed offset away, lie in one region. Near offsets find borders; far ones see past a gap in a border,
and so keep apart what a leak would join.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from fusion_lib.scenes import REGION_VOID, connected_regions
from fusion_lib.targets import TARGET_VOID, _checked_region_map

OFFSETS = ((1, 0), (0, 1), (3, 0), (0, 3), (3, 3), (3, -3), (9, 0), (0, 9))


def affinity_target(region: np.ndarray, offsets=OFFSETS) -> np.ndarray:
    """1 where a pixel and the one an offset away have the same region id, 0 where not; void 255.

    a_k(x) = 1[R(x) = R(x + o_k)], void where either pixel is void or x + o_k lies outside the picture.

    Args:
        region: (H, W) integer region map, void -1.
        offsets: K pairs (pixels down, pixels to the right).

    Returns:
        (K, H, W) int64.

    Raises:
        TypeError, ValueError: `region` is no two-dimensional integer map.
    """
    region = _checked_region_map(region)
    target = np.full((len(offsets), *region.shape), TARGET_VOID, np.int64)
    for channel, offset in zip(target, offsets):
        here = tuple(slice(max(-o, 0), max(size - o, 0)) for o, size in zip(offset, region.shape))
        there = tuple(slice(max(o, 0), max(size + o, 0)) for o, size in zip(offset, region.shape))
        valid = (region[here] != REGION_VOID) & (region[there] != REGION_VOID)
        channel[here] = np.where(valid, region[here] == region[there], TARGET_VOID)
    return target


class AffinityTarget:
    """The last step of a transform, as `targets.RegionTarget`: adds "affinity_target", (K, H, W), to a sample."""

    def __init__(self, offsets=OFFSETS):
        self.offsets = offsets

    def __call__(self, sample: dict) -> dict:
        target = affinity_target(np.asarray(sample["region"]), self.offsets)
        return {**sample, "affinity_target": torch.from_numpy(target)}


def affinity_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean binary cross entropy over the entries that are not void.

    -(1/|V|) sum_{(k, i) in V} a log p + (1 - a) log(1 - p), with p the sigmoid of the logit and a the affinity of
    pixel i in channel k. If V is empty the loss is 0 and its gradient is 0.

    Shape:
        logits: (N, K, H, W) float.
        target: (N, K, H, W) int64, 0 or 1, void 255.
        returns: () float.

    Raises:
        ValueError: the shapes differ, or a target is neither 0, 1 nor void.
    """
    if logits.shape != target.shape:
        raise ValueError(
            f"logits has shape {tuple(logits.shape)} and target {tuple(target.shape)}; expected (N, K, H, W) for both"
        )
    same, valid = target == 1, target != TARGET_VOID
    if not (same | (target == 0) | ~valid).all():
        raise ValueError(f"target holds {target[valid].min()}..{target[valid].max()}; expected 0, 1 or void {TARGET_VOID}")
    losses = F.binary_cross_entropy_with_logits(logits.float(), same.float(), valid.float(), reduction="sum")
    return losses / valid.sum().clamp(min=1)


def decode_affinities(probabilities: np.ndarray, bias: float = 0.0, smoothing: float = 0.0, offsets=OFFSETS) -> np.ndarray:
    """Turn affinities into a region map by mutex watershed (Wolf et al. 2018, algorithm 1), with `mwatershed`.

    Offsets of length 1 attract with weight p, all others repel with weight 1 - p - bias, where that is positive. Pairs
    are visited by falling weight: an attractive one joins the regions of its two pixels unless they are already kept
    apart; a repulsive one keeps them apart from now on unless they are already joined.

    Args:
        probabilities: (K, H, W) float, sigmoid of the logits. Entries that reach out of the picture are not used.
        bias: above 0 gives fewer regions, below 0 more.
        smoothing: standard deviation in pixels of a Gaussian on the probabilities; 0 for none.
        offsets: the K pairs of the target, see `affinity_target`.

    Returns:
        (H, W) int64, ids 0..R-1 of 4-connected regions, no void.

    Raises:
        ValueError: probabilities has another shape, or holds what is no probability.
        ModuleNotFoundError: mwatershed is not installed.
    """
    try:
        import mwatershed
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("decode_affinities needs mwatershed; install it with: pip install mwatershed") from error
    probabilities = np.asarray(probabilities, np.float64)
    if probabilities.ndim != 3 or len(probabilities) != len(offsets):
        raise ValueError(f"probabilities has shape {probabilities.shape}; expected ({len(offsets)}, H, W), one channel an offset")
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError(f"probabilities holds {probabilities.min()}..{probabilities.max()}; expected numbers in [0, 1]")
    if smoothing:
        probabilities = ndimage.gaussian_filter(probabilities, (0, smoothing, smoothing))
    near = np.abs(offsets).sum(1)[:, None, None] == 1
    attraction = np.maximum(probabilities, 1e-9)  # above 0: pixels that attract none would all be given one id
    repulsion = np.maximum(1 - probabilities - bias, 0)
    fits = [k for k, o in enumerate(np.abs(offsets)) if (o < probabilities.shape[1:]).all()]  # others reach out everywhere
    if not fits:
        return np.zeros(probabilities.shape[1:], np.int64)  # a single pixel
    ids = mwatershed.agglom(np.where(near, attraction, -repulsion)[fits], [offsets[k] for k in fits])
    return connected_regions(ids.astype(np.int64))
