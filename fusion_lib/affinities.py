"""The advanced region head: which pixels belong together, learned for pairs of pixels.

A region id is arbitrary, but whether two pixels share one is not. Near pairs find borders; far ones
see past a gap in a border, and keep apart what a leak would join. A mutex watershed makes regions.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fusion_lib import checks
from fusion_lib.scenes import REGION_VOID, connected_regions
from fusion_lib.targets import TARGET_VOID

# (pixels down, to the right): the 4-neighbours, then for pictures of 64 x 64 (for 240 x 320 suit 9
# and 27) 3, across the blur of a border, and 9, past a gap in it but seldom across a whole thing.
OFFSETS = ((1, 0), (0, 1), (3, 0), (0, 3), (3, 3), (3, -3), (9, 0), (0, 9))
Offsets = Sequence[tuple[int, int]]


def affinity_target(region: np.ndarray, offsets: Offsets = OFFSETS) -> np.ndarray:
    """1 where a pixel and the one an offset away have the same region id, 0 where not; void 255.

    a_k(x) = 1[R(x) = R(x + o_k)], void where either pixel is void or outside the picture.

    Args: region (H, W), integer ids, void -1 (else TypeError, ValueError); offsets, K pairs o_k.
    Returns: (K, H, W) int64.
    """
    region = checks.label_map("region", region)
    target = np.full((len(offsets), *region.shape), TARGET_VOID, np.int64)
    for channel, offset in zip(target, offsets):
        here, there = pairs(region.shape, offset)
        valid = (region[here] != REGION_VOID) & (region[there] != REGION_VOID)
        channel[here] = np.where(valid, region[here] == region[there], TARGET_VOID)
    return target


class AffinityTarget:
    """The last step of a transform: adds "affinity_target", (K, H, W), for `OFFSETS`."""

    def __call__(self, sample: dict) -> dict:
        target = affinity_target(np.asarray(sample["region"]))
        return {**sample, "affinity_target": torch.from_numpy(target)}


def affinity_cross_entropy(
    logits: Tensor, target: Tensor, normaliser: Tensor | None = None
) -> Tensor:
    """Mean binary cross entropy over the entries that are not void, V.

    -(1/|V|) sum_{(k, x) in V} a log p + (1 - a) log(1 - p), with p the sigmoid of the logit and a
    the affinity of pixel x in channel k. If V is empty the loss is 0 and its gradient is 0.

    Shape: float logits and int64 target (0, 1, void 255), both (N, K, H, W) -> (), float;
        normaliser, () to divide by in place of |V|, if this is part of a batch.
    Raises: ValueError, the shapes differ or N is 0; or (on a CPU) a target is not 0, 1 or void.
    """
    fit = logits.shape == target.shape and len(logits)
    checks.shapes(fit, "(N, K, H, W) for both, N at least 1", logits=logits, target=target)
    if target.device.type == "cpu":
        checks.classes("target", target.numpy(), 2)
    valid, same = target != TARGET_VOID, (target == 1).float()
    losses = F.binary_cross_entropy_with_logits(logits.float(), same, valid, reduction="sum")
    count = valid.sum() if normaliser is None else normaliser
    return losses / count.where(count > 0, 1)


def decode_affinities(
    probabilities: np.ndarray,
    bias: float = 0.0,
    smallest: int = 16,
    semantic: np.ndarray | None = None,
    edge_weight: float = 0.0,
    offsets: Offsets = OFFSETS,
) -> np.ndarray:
    """Turn affinities into a region map by mutex watershed (Wolf et al. 2018, algorithm 1).

    4-neighbours attract with weight p, other pairs repel with weight 1 - p - bias, where that is
    positive. Pairs are visited by falling weight. One that attracts joins the regions of its two
    pixels, unless they must stay apart; one that repels decides that they must, unless they are
    joined. At last regions of few pixels, mostly slivers along borders, give way to the others,
    which grow by watershed over 1 - p of the 4-neighbours. Pixels of two classes are of two
    regions: with semantic probabilities q, p_k(x) is first times (sum_c q_x[c] q_{x + o_k}[c])^w.

    Args: probabilities, (K, H, W) float, sigmoid of the logits, used where x + o_k is in the
        picture; bias, above 0 gives fewer regions, below 0 more; smallest, pixels that a region
        has, if any region has as many (1 keeps all); semantic and edge_weight, q and w, as in
        `regions.decode_regions`; offsets, the K pairs of the target, see `affinity_target`.
    Returns: (H, W) int64, ids 0..R-1 of 4-connected regions, no void.
    Raises: ValueError, as `regions.decode_regions`, or bias or smallest is no such number;
        ModuleNotFoundError, mwatershed is not installed.
    """
    message = f"bias is {bias} and smallest {smallest}; expected finite numbers, smallest from 0"
    checks.require(np.isfinite(bias) and smallest >= 0, message)
    probabilities = decoder_input(probabilities, len(offsets), semantic, edge_weight)
    if semantic is not None and edge_weight:
        for channel, offset in zip(probabilities, offsets):
            here, there = pairs(channel.shape, offset)
            alike = (semantic[(..., *here)] * semantic[(..., *there)]).sum(0)
            channel[here] *= alike**edge_weight
    region = _mutex_watershed(probabilities, bias, offsets)
    large = np.bincount(region.ravel())[region] >= smallest
    return _grow(np.where(large, region + 1, 0), probabilities, offsets) if large.any() else region


def decoder_input(probabilities, channels: int, semantic, edge_weight: float) -> np.ndarray:
    """The probabilities that a decoder is given, as a float64 copy, after all guards."""
    checks.not_negative(edge_weight=edge_weight)
    probabilities = np.array(probabilities, np.float64)
    fit = probabilities.ndim == 3 and len(probabilities) == channels
    checks.shapes(fit, f"({channels}, H, W)", probabilities=probabilities)
    checks.probabilities("probabilities", probabilities)
    if semantic is not None:
        fit = semantic.ndim == 3 and semantic.shape[1:] == probabilities.shape[1:]
        checks.shapes(fit, "equal sizes", semantic=semantic, probabilities=probabilities)
        checks.probabilities("semantic", semantic)
    return probabilities


def pairs(size: tuple[int, ...], offset: tuple[int, int]) -> tuple[tuple, tuple]:
    """Slices of all pixels x whose x + offset is in the picture too, and of these x + offset."""
    here = tuple(slice(max(-o, 0), max(side - o, 0)) for o, side in zip(offset, size))
    there = tuple(slice(max(o, 0), max(side + o, 0)) for o, side in zip(offset, size))
    return here, there


def _mutex_watershed(probabilities: np.ndarray, bias: float, offsets: Offsets) -> np.ndarray:
    try:
        import mwatershed
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("decoding affinities needs: pip install mwatershed") from error
    size, lengths = probabilities.shape[1:], np.abs(offsets)
    fits = (lengths < size).all(1)  # the package wants no offset that reaches out everywhere
    if not fits.any():
        return np.zeros(size, np.int64)  # a single pixel
    near = lengths.sum(1)[:, None, None] == 1
    attract = np.maximum(probabilities, 1e-9)  # with 0 all that nothing attracts gets one id
    weights = np.where(near, attract, -np.maximum(1 - probabilities - bias, 0))
    ids = mwatershed.agglom(weights[fits], np.asarray(offsets)[fits].tolist())
    return connected_regions(ids.astype(np.int64))


def _grow(markers: np.ndarray, probabilities: np.ndarray, offsets: Offsets) -> np.ndarray:
    from skimage.segmentation import watershed

    elevation = np.zeros(markers.shape)
    for channel, offset in zip(probabilities, offsets):
        if np.abs(offset).sum() == 1:
            here, there = pairs(markers.shape, offset)
            for side in (here, there):
                elevation[side] = np.maximum(elevation[side], 1 - channel[here])
    return connected_regions(watershed(elevation, markers))
