"""From probabilities to regions and one fused map, and the classical methods."""

import numpy as np
import pytest
from scipy import ndimage

from examples import blobs, one_hot, permuted_ids, random_region_map
from fusion_lib.datasets import Scenes
from fusion_lib.metrics import covering
from fusion_lib.regions import decode_regions, felzenszwalb_regions, gradient_watershed_regions, kmeans_regions, vote
from fusion_lib.targets import BOUNDARY, CORE, RIM, region_target


def assert_partition(region: np.ndarray, shape: tuple[int, int], connected: bool = True) -> None:
    """Ids 0..R-1 on every pixel, each one connected."""
    assert region.shape == shape and region.dtype == np.int64
    assert np.unique(region).tolist() == list(range(region.max() + 1))
    if connected:
        assert all(ndimage.label(region == number)[1] == 1 for number in range(region.max() + 1))


def random_probabilities(seed: int, shape=(20, 24)) -> np.ndarray:
    """Smooth, so that there is something to find."""
    logits = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((3, *shape)), (0, 2, 2)) * 12
    return np.exp(logits) / np.exp(logits).sum(0)


# --- decoding ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_perfect_target_decodes_to_its_regions(seed):
    region = blobs(seed)
    decoded = decode_regions(one_hot(region_target(region, 3), 3, 0.9))
    assert covering(region, decoded) > 0.98


def test_perfect_targets_of_the_shipped_scenes_decode_well():
    """The ceiling of the region task: what is lost to decoding alone, when the network makes no mistake."""
    scores = []
    for index in range(30):
        _, _, region = Scenes("val").read(index)
        target = region_target(region.astype(int), 2.0)
        decoded = decode_regions(one_hot(np.where(target == 255, RIM, target), 3, 0.95))
        scores.append(covering(region, decoded))
    assert np.mean(scores) > 0.95


def test_perfect_target_decodes_the_same_whatever_the_ids():
    region = blobs(3)
    decoded = [decode_regions(one_hot(region_target(permuted_ids(region, k), 3), 3, 0.9)) for k in range(3)]
    np.testing.assert_array_equal(decoded[0], decoded[1])
    np.testing.assert_array_equal(decoded[0], decoded[2])


@pytest.mark.parametrize("merge_below", [0.0, 0.4])
@pytest.mark.parametrize("seed", range(10))
def test_decoding_is_always_a_partition_of_connected_regions(seed, merge_below):
    probabilities = random_probabilities(seed)
    region = decode_regions(probabilities, smoothing=0.0, merge_below=merge_below)
    assert_partition(region, (20, 24), connected=merge_below == 0)


@pytest.mark.parametrize("seed", range(10))
def test_every_region_grows_from_one_connected_core(seed):
    probabilities = random_probabilities(seed)
    region = decode_regions(probabilities, smoothing=0.0, threshold=0.5)
    markers, count = ndimage.label(probabilities[CORE] > 0.5)
    assert region.max() + 1 == count
    for number in range(1, count + 1):
        assert len(np.unique(region[markers == number])) == 1
    assert len({region[markers == number][0] for number in range(1, count + 1)}) == count


def test_one_pixel_gap_leaks_for_connected_components_only():
    """Two halves; two pixels of their border are missing. Without a rim the halves run together."""
    region = np.zeros((24, 24), int)
    region[:, 12:] = 1
    target = region_target(region, 3)
    target[10, 11:13] = RIM  # the gap
    components, _ = ndimage.label(target != BOUNDARY)
    assert covering(region, components) < 0.6  # one component, and the border's own pixels
    assert components[0, 0] == components[0, -1]
    decoded = decode_regions(one_hot(target, 3, 0.9))
    assert decoded.max() == 1 and covering(region, decoded) > 0.95


def test_border_between_two_cores_lies_on_the_ridge():
    """Elevation is p_boundary + p_rim / 2: of two barriers the boundary counts twice as much as the rim."""
    probabilities = np.zeros((3, 5, 21))
    probabilities[CORE] = 1.0
    probabilities[:, :, 3:18] = np.array([0.2, 0.0, 0.4])[:, None, None]  # plain
    probabilities[:, :, 6] = np.array([0.0, 0.9, 0.1])[:, None]  # rim only: elevation 0.45
    probabilities[:, :, 14] = np.array([0.6, 0.0, 0.4])[:, None]  # boundary: elevation 0.6
    region = decode_regions(probabilities, smoothing=0.0)
    assert region.max() == 1
    assert (region[:, :14] == region[0, 0]).all() and (region[:, 15:] == region[0, -1]).all()


def test_threshold_decides_what_is_a_marker():
    probabilities = one_hot(region_target(blobs(0), 3), 3, 0.8)
    assert decode_regions(probabilities, smoothing=0.0, threshold=0.75).max() == 5
    np.testing.assert_array_equal(decode_regions(probabilities, smoothing=0.0, threshold=0.85), np.zeros((48, 48)))
    half = np.full((3, 8, 8), 0.25)
    half[CORE] = 0.5
    half[:, :, 4] = np.array([0.5, 0.1, 0.4])[:, None]
    assert decode_regions(half, smoothing=0.0, threshold=0.45).max() == 1
    assert decode_regions(half, smoothing=0.0, threshold=0.35).max() == 0  # lower, and the cores run together


def test_smoothing_removes_lone_core_pixels():
    target = region_target(blobs(1), 4)
    y, x = np.argwhere(target == RIM)[40]
    probabilities = one_hot(target, 3, 0.9)
    clean = decode_regions(probabilities, smoothing=1.0).max()
    probabilities[:, y - 1 : y + 2, x - 1 : x + 2] = np.array([0.8, 0.2, 0.0])[:, None, None]
    probabilities[:, y, x] = (0.0, 0.0, 1.0)
    assert decode_regions(probabilities, smoothing=0.0).max() == clean + 1
    assert decode_regions(probabilities, smoothing=1.0).max() == clean


@pytest.mark.parametrize("merge_below, expected", [(0.0, 3), (0.15, 3), (0.45, 2), (0.95, 1)])
def test_weak_borders_are_dissolved(merge_below, expected):
    """Three strips; p_boundary is 0.2 or so on the first border and 0.8 on the second."""
    strips = np.repeat([0, 1, 2], 8)[None].repeat(12, 0)
    probabilities = one_hot(region_target(strips, 2), 3, 1.0)
    weak = np.array([0.2, 0.8, 0.0])[:, None, None]
    strong = np.array([0.8, 0.2, 0.0])[:, None, None]
    probabilities[:, :, 7:9], probabilities[:, :, 15:17] = weak, strong
    region = decode_regions(probabilities, smoothing=0.0, merge_below=merge_below)
    assert region.max() + 1 == expected
    if expected == 2:
        np.testing.assert_array_equal(region == region[0, 0], strips < 2)


@pytest.mark.parametrize("merge_below, expected", [(0.4, 2), (0.6, 1)])
def test_a_border_counts_by_its_mean(merge_below, expected):
    """Half of the border is certain and half is missing: its mean is 0.5, neither 0 nor 1."""
    strips = np.repeat([0, 1], 8)[None].repeat(16, 0)
    probabilities = one_hot(region_target(strips, 2), 3, 1.0)
    probabilities[:, :8, 7:9] = np.array([0.05, 0.95, 0.0])[:, None, None]
    probabilities[:, 8:, 7:9] = np.array([0.95, 0.05, 0.0])[:, None, None]
    assert decode_regions(probabilities, smoothing=0.0, merge_below=merge_below).max() + 1 == expected


def test_decoding_does_not_change_its_input():
    probabilities = random_probabilities(0).astype(np.float32)
    before = probabilities.copy()
    decode_regions(probabilities, merge_below=0.3)
    np.testing.assert_array_equal(probabilities, before)


@pytest.mark.parametrize("shape", [(8, 8), (2, 8, 8), (1, 3, 8, 8), (8, 8, 3)])
def test_probabilities_of_wrong_shape(shape):
    with pytest.raises(ValueError, match=r"probabilities has shape \(.*\); expected \(3, H, W\)"):
        decode_regions(np.zeros(shape))


# --- the vote ----------------------------------------------------------------------------------


def test_vote_by_hand():
    """Region 0: one pixel is sure of class 1, two lean towards class 0. The sum of logarithms sides with the one."""
    q = np.array([[[0.6, 0.6, 0.01], [0.3, 0.9, 0.5]], [[0.4, 0.4, 0.99], [0.7, 0.1, 0.5]]])
    region = np.array([[0, 0, 0], [1, 2, 2]])
    assert (q.argmax(0)[region == 0] == 0).sum() == 2  # the majority of the pixels says 0
    assert vote(np.log(q), region).tolist() == [1, 1, 0]


@pytest.mark.parametrize("seed", range(15))
def test_vote_against_a_plain_loop(seed):
    rng = np.random.default_rng(seed)
    region = np.unique(random_region_map(seed, void=False), return_inverse=True)[1]
    region = region.reshape(random_region_map(seed).shape)
    scores = np.log(rng.dirichlet(np.ones(5), region.shape)).transpose(2, 0, 1)
    classes = vote(scores, region)
    assert classes.dtype == np.int64 and classes.shape == (region.max() + 1,)
    for number in range(region.max() + 1):
        sums = [sum(scores[c][p] for p in zip(*np.nonzero(region == number))) for c in range(5)]
        assert classes[number] == np.argmax(sums)


@pytest.mark.parametrize("seed", range(10))
def test_permuting_region_ids_permutes_the_votes(seed):
    rng = np.random.default_rng(seed)
    region = blobs(seed)
    scores = np.log(rng.dirichlet(np.ones(4), region.shape)).transpose(2, 0, 1)
    order = rng.permutation(region.max() + 1)
    classes = vote(scores, region)
    permuted = vote(scores, order[region])
    np.testing.assert_array_equal(permuted[order], classes)
    np.testing.assert_array_equal(permuted[order[region]], classes[region])  # the fused map stays the same


def test_vote_with_certain_pixels_gives_back_the_semantic_map():
    _, semantic, region = Scenes("val").read(0)
    region = np.where(region < 0, 0, region).astype(int)
    scores = np.log(one_hot(semantic, 8, 0.93))
    voted = vote(scores, region)[region]
    known = semantic != 255
    assert (voted[known] == semantic[known]).mean() > 0.999


def test_vote_of_single_pixel_regions_is_argmax():
    scores = np.random.default_rng(0).random((4, 5, 6))
    region = np.arange(30).reshape(5, 6)
    np.testing.assert_array_equal(vote(scores, region)[region], scores.argmax(0))


@pytest.mark.parametrize(
    "region", [np.zeros((4, 5), int), np.zeros((5, 4, 1), int), np.full((5, 4), -1), np.array([[0, -1, 0, 0]] * 5)]
)
def test_vote_refuses_what_does_not_fit(region):
    with pytest.raises(ValueError, match=r"log_probabilities has shape \(3, 5, 4\), region .*; expected \(C, H, W\)"):
        vote(np.zeros((3, 5, 4)), region)


# --- classical methods -------------------------------------------------------------------------

METHODS = [
    (kmeans_regions, {"clusters": 6, "smoothing": 0.0}),
    (felzenszwalb_regions, {"scale": 50, "smoothing": 0.5, "min_size": 10}),
    (gradient_watershed_regions, {"smoothing": 1.0, "threshold": 0.02}),
]


def painted(region: np.ndarray) -> np.ndarray:
    """A flat colour a region, all far apart."""
    colours = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 255, 255)], np.uint8)
    return colours[region]


@pytest.mark.parametrize("method, parameters", METHODS)
@pytest.mark.parametrize("seed", range(4))
def test_classical_methods_find_flat_colours(method, parameters, seed):
    region = blobs(seed)
    found = method(painted(region), **parameters)
    assert_partition(found, (48, 48), connected=method is not felzenszwalb_regions)  # its regions are 8-connected
    assert covering(region, found) > 0.93


def test_kmeans_on_flat_colours_is_exact():
    region = blobs(5)
    assert covering(region, kmeans_regions(painted(region), 6, 0.0)) == 1


@pytest.mark.parametrize("method, parameters", METHODS)
def test_classical_methods_repeat_themselves(method, parameters):
    image = Scenes("val").read(1)[0]
    np.testing.assert_array_equal(method(image, **parameters), method(image, **parameters))


@pytest.mark.parametrize("method, parameters", METHODS)
def test_classical_methods_on_a_real_scene_give_a_partition(method, parameters):
    found = method(Scenes("val").read(2)[0], **parameters)
    assert_partition(found, (64, 64), connected=method is not felzenszwalb_regions)
    assert 1 < found.max() + 1 < 2000


def test_kmeans_separates_areas_of_one_colour():
    image = np.zeros((8, 9, 3), np.uint8)
    image[:, 3:6] = 200
    assert kmeans_regions(image, 2, 0.0).max() == 2  # two clusters, three regions


def test_gradient_is_measured_per_pixel():
    """A red ramp of 2 grey levels a pixel: above its slope the threshold makes all of it a marker, below it does not."""
    image = np.zeros((12, 40, 3), np.uint8)
    image[..., 0] = 2 * np.arange(40)
    slope = 2 / 255
    assert gradient_watershed_regions(image, 0.0, 1.05 * slope).max() == 0
    assert gradient_watershed_regions(image, 0.0, 0.95 * slope).max() == 1  # only the frame's edges are flat enough


def test_gradient_watershed_without_markers_is_one_region():
    np.testing.assert_array_equal(gradient_watershed_regions(painted(blobs(0)), 1.0, 0.0), np.zeros((48, 48)))
