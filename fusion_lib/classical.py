"""Image segmentation without learning: by colour, by texture, by edges."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from fusion_lib.scenes import connected_regions


def kmeans_regions(image: np.ndarray, clusters: int, smoothing: float, seed: int = 0) -> np.ndarray:
    """Image segmentation by colour: k-means on smoothed RGB, connected areas of one cluster are
    regions.

    Args: image (H, W, 3) uint8; clusters k; smoothing, the Gaussian's standard deviation in pixels.
    Returns: (H, W) int64, ids 0..R-1.
    """
    from scipy.cluster.vq import kmeans2

    colours = ndimage.gaussian_filter(image / 255.0, (smoothing, smoothing, 0)).reshape(-1, 3)
    _, cluster = kmeans2(colours, clusters, minit="++", seed=seed)
    return connected_regions(cluster.reshape(image.shape[:2]))


def felzenszwalb_regions(
    image: np.ndarray, scale: float, smoothing: float, min_size: int
) -> np.ndarray:
    """Image segmentation by colour and texture: graph merging (Felzenszwalb & Huttenlocher 2004).

    Args: image (H, W, 3) uint8; scale, larger gives larger regions; smoothing in pixels; min_size
    in pixels.
    Returns: (H, W) int64, ids 0..R-1.
    """
    from skimage.segmentation import felzenszwalb

    return felzenszwalb(image, scale=scale, sigma=smoothing, min_size=min_size).astype(np.int64)


def gradient_watershed_regions(image: np.ndarray, smoothing: float, threshold: float) -> np.ndarray:
    """Image segmentation by edges: watershed on the colour gradient, from markers where it is
    small.

    Args: image (H, W, 3) uint8; smoothing in pixels; threshold, the gradient (per pixel, colours in
        [0, 1]) below which a pixel belongs to a marker.
    Returns: (H, W) int64, ids 0..R-1.
    """
    from skimage.segmentation import watershed

    smooth = ndimage.gaussian_filter(image / 255.0, (smoothing, smoothing, 0))
    slopes = [
        ndimage.sobel(smooth[..., colour], axis) / 8 for colour in range(3) for axis in (0, 1)
    ]
    gradient = np.sqrt(sum(slope**2 for slope in slopes))
    markers, count = ndimage.label(gradient < threshold)
    if count == 0:
        return np.zeros(gradient.shape, np.int64)
    return watershed(gradient, markers).astype(np.int64) - 1
