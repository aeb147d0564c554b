"""From per-pixel predictions to regions, and from regions to one fused map."""

import numpy as np
import scipy  # its parts are loaded when they are first used

from fusion_lib import checks
from fusion_lib.affinities import decode_affinities, decoder_input, pairs
from fusion_lib.targets import BOUNDARY, CORE, RIM


def class_edges(probabilities: np.ndarray) -> np.ndarray:
    """How likely a pixel and one of its 4-neighbours differ in class, (H, W) float in [0, 1].

    e_i = max_j 1 - sum_c q_i[c] q_j[c], over the 4-neighbours j of pixel i, with the probabilities
    q, (C, H, W) float, the softmax of the semantic logits.
    """
    edges = np.zeros(probabilities.shape[1:])
    for offset in ((1, 0), (0, 1)):
        here, there = pairs(edges.shape, offset)
        differ = 1 - (probabilities[(..., *here)] * probabilities[(..., *there)]).sum(0)
        for side in (here, there):
            edges[side] = np.maximum(edges[side], differ)
    return edges


def decode_regions(
    probabilities: np.ndarray,
    smoothing: float = 0.5,
    threshold: float = 0.5,
    semantic: np.ndarray | None = None,
    edge_weight: float = 0.0,
) -> np.ndarray:
    """Turn boundary, rim and core probabilities into a region map.

    Smoothed core probability above a threshold gives seeds; they grow over the elevation p_boundary
    + p_rim / 2, see `flood`. A border between two classes is a border between two regions: with the
    semantic probabilities, the class edges e (see `class_edges`) help to find it. Then p_core is
    multiplied by (1 - e)^w, and w e is added to the elevation.

    Args: probabilities (3, H, W) float, softmax over boundary, rim, core; smoothing, the standard
        deviation of a Gaussian in pixels; threshold, above which a core probability is a seed;
        semantic (C, H, W) float, softmax of the semantic logits; edge_weight, w.
    Returns: (H, W) int64, ids 0..R-1, no void.
    Raises: ValueError, a wrong shape, no probability, a number that is negative or not finite.
    """
    checks.not_negative(smoothing=smoothing, threshold=threshold)
    probabilities = decoder_input(probabilities, 3, semantic, edge_weight)
    core, elevation = probabilities[CORE], probabilities[BOUNDARY] + 0.5 * probabilities[RIM]
    if semantic is not None and edge_weight:
        edges = class_edges(semantic)
        core, elevation = core * (1 - edges) ** edge_weight, elevation + edge_weight * edges
    return flood(elevation, scipy.ndimage.gaussian_filter(core, smoothing) > threshold)


def flood(elevation: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Watershed over an elevation (Meyer 1991): regions (H, W) int64, ids 0..R-1, that grow from
    each connected area of the seeds; a single one if there is no seed."""
    from skimage.segmentation import watershed

    grown = watershed(elevation, scipy.ndimage.label(seeds)[0])  # all 0 if there is no seed
    return np.maximum(grown.astype(np.int64) - 1, 0)


def vote(log_probabilities: np.ndarray, region: np.ndarray, weight: float = 1.0) -> np.ndarray:
    """A class for each pixel, (H, W) int64, decided together with the rest of its region.

    Pixel i of region r takes the class with the highest (1 - w) log q_i + w mean_{j in r} log q_j.
    With w = 1 all pixels of a region agree, on the highest sum; with w = 0 each decides alone.

    Args: log_probabilities (C, H, W) float, log-softmax of the semantic logits; region (H, W),
        integer ids from 0 (else a TypeError); weight w in [0, 1].
    Raises: ValueError, sizes differ, a negative id, w out of range, a logarithm NaN or above 0.
    """
    region = checks.integers("region", region)
    shapes = {"log_probabilities": log_probabilities, "region": region}
    checks.shapes(log_probabilities.shape[1:] == region.shape, "(C, H, W) and (H, W)", **shapes)
    lowest = region.min(initial=0)
    checks.require(lowest >= 0, f"region holds {lowest}; expected ids from 0")
    highest = log_probabilities.max(initial=-np.inf)  # NaN if one is
    expected = "expected logarithms, such as the log-softmax of logits"
    checks.require(highest <= 1e-6, f"log_probabilities holds {highest}; {expected}")
    checks.expect(0 <= weight <= 1, "weight", weight, "0 (each pixel alone) to 1 (region alone)")
    region = checks.compact(region)
    flat = region.ravel()
    means = np.stack([np.bincount(flat, q.ravel()) for q in log_probabilities]) / np.bincount(flat)
    shares = ((1 - weight, log_probabilities), (weight, means[:, region]))
    terms = [share * term for share, term in shares if share]  # 0 * log 0 would be no number
    return sum(terms[1:], terms[0]).argmax(0).astype(np.int64)


def has_regions(tasks) -> bool:
    """Whether the region task, in one of its two forms, is among the names of the tasks."""
    return "region" in tasks or "affinity" in tasks


def decode(log_probabilities: dict[str, np.ndarray], **decoding) -> np.ndarray:
    """The region map of one picture, (H, W) int64, ids 0..R-1, from "region" or "affinity" of
    `prediction.predict`, and "semantic" for an edge weight, with the arguments of `decode_regions`
    or `affinities.decode_affinities`."""
    semantic = np.exp(log_probabilities["semantic"]) if decoding.get("edge_weight") else None
    if "affinity" in log_probabilities:
        affinities = np.exp(log_probabilities["affinity"])
        return decode_affinities(affinities, semantic=semantic, **decoding)
    return decode_regions(np.exp(log_probabilities["region"]), semantic=semantic, **decoding)


def fuse(log_probabilities: dict, vote_weight: float, **decoding) -> tuple[np.ndarray, np.ndarray]:
    """What a fused model predicts for one picture: semantic map and region map, each (H, W) int64.
    Args: as `decode`, with "semantic", (C, H, W), and the weight of `vote`."""
    regions = decode(log_probabilities, **decoding)
    return vote(log_probabilities["semantic"], regions, vote_weight), regions
