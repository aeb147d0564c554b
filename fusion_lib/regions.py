"""From per-pixel predictions to regions, from regions to one fused map; and the classical methods to compare with."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from fusion_lib.scenes import connected_regions
from fusion_lib.targets import BOUNDARY, CORE, RIM


def decode_regions(
    probabilities: np.ndarray, smoothing: float = 0.5, threshold: float = 0.5, merge_below: float = 0.0
) -> np.ndarray:
    """Turn boundary, rim and core probabilities into a region map.

    Smoothed core probability above a threshold gives markers, one a connected component. They grow by
    watershed (Meyer 1991) over the elevation p_boundary + p_rim / 2. Last, neighbours whose common border
    has a mean p_boundary below `merge_below` become one.

    Args:
        probabilities: (3, H, W) float, softmax over boundary, rim, core.
        smoothing: standard deviation of the Gaussian on the core probability, in pixels.
        threshold: core probability above which a pixel is part of a marker.
        merge_below: mean boundary probability below which a border is dissolved; 0 dissolves none.

    Returns:
        (H, W) int64, ids 0..R-1, no void.

    Raises:
        ValueError: probabilities has another shape.
    """
    from skimage.segmentation import watershed

    probabilities = np.asarray(probabilities, np.float64)
    if probabilities.ndim != 3 or probabilities.shape[0] != 3:
        raise ValueError(f"probabilities has shape {probabilities.shape}; expected (3, H, W)")
    core = ndimage.gaussian_filter(probabilities[CORE], smoothing)
    markers, count = ndimage.label(core > threshold)
    if count == 0:
        return np.zeros(core.shape, np.int64)
    elevation = probabilities[BOUNDARY] + 0.5 * probabilities[RIM]
    region = watershed(elevation, markers).astype(np.int64) - 1
    return _merge(region, probabilities[BOUNDARY], merge_below) if merge_below > 0 else region


def _merge(region: np.ndarray, border_strength: np.ndarray, below: float) -> np.ndarray:
    from skimage.graph import cut_threshold, rag_boundary

    if region.max() == 0:
        return region
    merged = cut_threshold(region, rag_boundary(region, border_strength), below)
    return np.unique(merged, return_inverse=True)[1].reshape(region.shape).astype(np.int64)


def vote(log_probabilities: np.ndarray, region: np.ndarray) -> np.ndarray:
    """The class of each region: the highest sum of log-probabilities over its pixels.

    Args:
        log_probabilities: (C, H, W) float, log-softmax of the semantic logits.
        region: (H, W) integer ids 0..R-1.

    Returns:
        (R,) int64, the class of region r at index r. The fused semantic map is `vote(...)[region]`.

    Raises:
        ValueError: the sizes differ, or an id is negative.
    """
    region = np.asarray(region)
    if log_probabilities.shape[1:] != region.shape or region.min() < 0:
        raise ValueError(
            f"log_probabilities has shape {log_probabilities.shape}, region {region.shape} with ids from "
            f"{region.min()}; expected (C, H, W) and (H, W) with ids from 0"
        )
    flat = region.ravel()
    sums = np.stack([np.bincount(flat, weights=channel.ravel()) for channel in log_probabilities])
    return sums.argmax(0).astype(np.int64)


def kmeans_regions(image: np.ndarray, clusters: int, smoothing: float, seed: int = 0) -> np.ndarray:
    """Image segmentation by colour: k-means on smoothed RGB, connected areas of one cluster are regions.

    Args: image (H, W, 3) uint8; clusters k; smoothing, the Gaussian's standard deviation in pixels.
    Returns: (H, W) int64, ids 0..R-1.
    """
    from scipy.cluster.vq import kmeans2

    colours = ndimage.gaussian_filter(image / 255.0, (smoothing, smoothing, 0)).reshape(-1, 3)
    _, cluster = kmeans2(colours, clusters, minit="++", seed=seed)
    return connected_regions(cluster.reshape(image.shape[:2]))


def felzenszwalb_regions(image: np.ndarray, scale: float, smoothing: float, min_size: int) -> np.ndarray:
    """Image segmentation by colour and texture: graph merging (Felzenszwalb & Huttenlocher 2004).

    Args: image (H, W, 3) uint8; scale, larger gives larger regions; smoothing in pixels; min_size in pixels.
    Returns: (H, W) int64, ids 0..R-1.
    """
    from skimage.segmentation import felzenszwalb

    return felzenszwalb(image, scale=scale, sigma=smoothing, min_size=min_size).astype(np.int64)


def gradient_watershed_regions(image: np.ndarray, smoothing: float, threshold: float) -> np.ndarray:
    """Image segmentation by edges: watershed on the colour gradient, from markers where it is small.

    Args: image (H, W, 3) uint8; smoothing in pixels; threshold, the gradient (per pixel, colours in [0, 1])
        below which a pixel belongs to a marker.
    Returns: (H, W) int64, ids 0..R-1.
    """
    from skimage.segmentation import watershed

    smooth = ndimage.gaussian_filter(image / 255.0, (smoothing, smoothing, 0))
    slopes = [ndimage.sobel(smooth[..., colour], axis) / 8 for colour in range(3) for axis in (0, 1)]
    gradient = np.sqrt(sum(slope**2 for slope in slopes))
    markers, count = ndimage.label(gradient < threshold)
    if count == 0:
        return np.zeros(gradient.shape, np.int64)
    return watershed(gradient, markers).astype(np.int64) - 1
