"""Image segmentation without learning, by colour, by texture, by edges: (H, W, 3) uint8 picture ->
(H, W) int64 regions, ids 0..R-1. `smoothing` is a Gaussian's standard deviation in pixels."""

import numpy as np
import scipy  # its parts are loaded when they are first used

from fusion_lib.regions import flood
from fusion_lib.scenes import connected_regions


def kmeans_regions(image: np.ndarray, clusters: int, smoothing: float, seed: int = 0) -> np.ndarray:
    """By colour: k-means on smoothed RGB; connected areas of one of the k clusters are regions."""
    colours = scipy.ndimage.gaussian_filter(image / 255.0, (smoothing, smoothing, 0)).reshape(-1, 3)
    _, cluster = scipy.cluster.vq.kmeans2(colours, clusters, minit="++", seed=seed)
    return connected_regions(cluster.reshape(image.shape[:2]))


def felzenszwalb_regions(
    image: np.ndarray, scale: float, smoothing: float, min_size: int
) -> np.ndarray:
    """By colour and texture: graph merging (Felzenszwalb & Huttenlocher 2004). A larger `scale`
    gives larger regions, which have `min_size` pixels at least."""
    from skimage.segmentation import felzenszwalb

    return felzenszwalb(image, scale=scale, sigma=smoothing, min_size=min_size).astype(np.int64)


def gradient_watershed_regions(image: np.ndarray, smoothing: float, threshold: float) -> np.ndarray:
    """By edges: `flood` over the gradient of colours in [0, 1] from where below a threshold."""
    smooth = scipy.ndimage.gaussian_filter(image / 255.0, (smoothing, smoothing, 0))
    axes = ((colour, axis) for colour in range(3) for axis in (0, 1))
    slopes = [scipy.ndimage.sobel(smooth[..., colour], axis) / 8 for colour, axis in axes]
    gradient = np.sqrt(sum(slope**2 for slope in slopes))
    return flood(gradient, gradient < threshold)
