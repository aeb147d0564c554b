"""From probabilities to regions and one fused map, and the classical methods."""

import numpy as np
import pytest
from examples import blobs, one_hot, permuted_ids, random_region_map
from scipy import ndimage

from fusion_lib.classical import felzenszwalb_regions, gradient_watershed_regions, kmeans_regions
from fusion_lib.datasets import Scenes
from fusion_lib.metrics import covering
from fusion_lib.regions import class_edges, decode_regions, fuse, vote
from fusion_lib.targets import BOUNDARY, CORE, RIM, boundary_mask, region_target


def assert_partition(region: np.ndarray, shape: tuple[int, int], connected: bool = True) -> None:
    """Ids 0..R-1 on every pixel, each one connected."""
    assert region.shape == shape and region.dtype == np.int64
    assert np.unique(region).tolist() == list(range(region.max() + 1))
    if connected:
        assert all(ndimage.label(region == number)[1] == 1 for number in range(region.max() + 1))


def random_probabilities(seed: int, shape=(20, 24)) -> np.ndarray:
    """Smooth, so that there is something to find."""
    logits = (
        ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((3, *shape)), (0, 2, 2))
        * 12
    )
    return np.exp(logits) / np.exp(logits).sum(0)


def random_semantic(seed: int, shape=(20, 24), classes: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(classes), shape).transpose(2, 0, 1)


# --- decoding ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_perfect_target_decodes_to_its_regions(seed):
    region = blobs(seed)
    decoded = decode_regions(one_hot(region_target(region, 3), 3, 0.9))
    assert covering(region, decoded) > 0.98


def test_perfect_targets_of_the_shipped_scenes_decode_well():
    """The ceiling of the region task: what is lost to decoding alone, when the network makes no
    mistake."""
    scores = []
    for index in range(30):
        _, _, region = Scenes("val").read(index)
        target = region_target(region.astype(int), 2.0)
        decoded = decode_regions(one_hot(np.where(target == 255, RIM, target), 3, 0.95))
        scores.append(covering(region, decoded))
    assert np.mean(scores) > 0.95


def test_perfect_target_decodes_the_same_whatever_the_ids():
    region = blobs(3)
    decoded = [
        decode_regions(one_hot(region_target(permuted_ids(region, k), 3), 3, 0.9)) for k in range(3)
    ]
    np.testing.assert_array_equal(decoded[0], decoded[1])
    np.testing.assert_array_equal(decoded[0], decoded[2])


@pytest.mark.parametrize("edge_weight", [0.0, 0.4, 2.0])
@pytest.mark.parametrize("seed", range(10))
def test_decoding_is_always_a_partition_of_connected_regions(seed, edge_weight):
    semantic = random_probabilities(seed + 100)
    region = decode_regions(random_probabilities(seed), 0.0, 0.5, semantic, edge_weight)
    assert_partition(region, (20, 24))


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
    """Elevation is p_boundary + p_rim / 2: of two barriers the boundary counts twice as much as the
    rim."""
    probabilities = np.zeros((3, 5, 21))
    probabilities[CORE] = 1.0
    probabilities[:, :, 3:18] = np.array([0.2, 0.0, 0.4])[:, None, None]  # plain
    probabilities[:, :, 6] = np.array([0.0, 0.9, 0.1])[:, None]  # rim only: elevation 0.45
    probabilities[:, :, 14] = np.array([0.6, 0.0, 0.4])[:, None]  # boundary: elevation 0.6
    region = decode_regions(probabilities, smoothing=0.0)
    assert region.max() == 1
    assert (region[:, :14] == region[0, 0]).all() and (region[:, 15:] == region[0, -1]).all()


@pytest.mark.parametrize("rim, last", [(0.9, 6), (0.5, 14)])
def test_a_rim_is_half_a_barrier(rim, last):
    """A barrier of rim alone on column 6 is p / 2 = 0.45 or 0.25 high, one of boundary alone on
    column 14 is 0.3: the border lies on the higher one."""
    probabilities = np.zeros((3, 5, 21))
    probabilities[CORE] = 1.0
    probabilities[:, :, 3:18] = np.array([0.0, 0.0, 0.4])[:, None, None]  # plain: no marker
    probabilities[RIM, :, 6] = rim
    probabilities[BOUNDARY, :, 14] = 0.3
    region = decode_regions(probabilities, smoothing=0.0)
    assert region.max() == 1
    assert (region[:, :last] == region[0, 0]).all()
    assert (region[:, last + 1 :] == region[0, -1]).all()


@pytest.mark.parametrize("wrong", [np.nan, -0.1, 1.1, np.inf])
@pytest.mark.parametrize("name", ["probabilities", "semantic"])
def test_what_is_no_probability(name, wrong):
    """One pixel is enough; logits and log-probabilities are what it is by mistake."""
    given = {"probabilities": random_probabilities(0), "semantic": random_semantic(0)}
    given[name][1, 2, 3] = wrong
    with pytest.raises(ValueError, match=rf"{name} holds .*; expected numbers in \[0, 1\]"):
        decode_regions(**given, edge_weight=0.5)


def test_rounding_beside_0_and_1_is_no_fault():
    region = blobs(0)
    probabilities = one_hot(region_target(region, 3), 3).astype(np.float32)
    expected = decode_regions(probabilities)
    np.testing.assert_array_equal(decode_regions(probabilities * (1 + 1e-7)), expected)


@pytest.mark.parametrize("wrong", [-0.5, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["smoothing", "threshold", "edge_weight"])
def test_numbers_of_the_decoding_out_of_range(name, wrong):
    with pytest.raises(ValueError, match=rf"{name} is {wrong}; expected a finite number of at"):
        decode_regions(random_probabilities(0), semantic=random_semantic(0), **{name: wrong})


def test_threshold_decides_what_is_a_marker():
    probabilities = one_hot(region_target(blobs(0), 3), 3, 0.8)
    assert decode_regions(probabilities, smoothing=0.0, threshold=0.75).max() == 5
    np.testing.assert_array_equal(
        decode_regions(probabilities, smoothing=0.0, threshold=0.85), np.zeros((48, 48))
    )
    half = np.full((3, 8, 8), 0.25)
    half[CORE] = 0.5
    half[:, :, 4] = np.array([0.5, 0.1, 0.4])[:, None]
    assert decode_regions(half, smoothing=0.0, threshold=0.45).max() == 1
    assert (
        decode_regions(half, smoothing=0.0, threshold=0.35).max() == 0
    )  # lower, and the cores run together


def test_smoothing_removes_lone_core_pixels():
    target = region_target(blobs(1), 4)
    y, x = np.argwhere(target == RIM)[40]
    probabilities = one_hot(target, 3, 0.9)
    clean = decode_regions(probabilities, smoothing=1.0).max()
    probabilities[:, y - 1 : y + 2, x - 1 : x + 2] = np.array([0.8, 0.2, 0.0])[:, None, None]
    probabilities[:, y, x] = (0.0, 0.0, 1.0)
    assert decode_regions(probabilities, smoothing=0.0).max() == clean + 1
    assert decode_regions(probabilities, smoothing=1.0).max() == clean


def test_decoding_does_not_change_its_input():
    given = random_probabilities(0).astype(np.float32), random_semantic(0).astype(np.float32)
    before = [array.copy() for array in given]
    decode_regions(given[0], semantic=given[1], edge_weight=0.5)
    for array, copy in zip(given, before):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("shape", [(8, 8), (2, 8, 8), (1, 3, 8, 8), (8, 8, 3)])
def test_probabilities_of_wrong_shape(shape):
    with pytest.raises(ValueError, match=r"probabilities has shape \(.*\); expected \(3, H, W\)"):
        decode_regions(np.zeros(shape))


# --- class edges -------------------------------------------------------------------------------


def test_class_edges_by_hand():
    """q(0) is 1, 0.6, 0.2 along a row. Same class: 1 * 0.6 = 0.6, then 0.6 * 0.2 + 0.4 * 0.8 =
    0.44."""
    q = np.array([[[1.0, 0.6, 0.2]], [[0.0, 0.4, 0.8]]])
    np.testing.assert_allclose(class_edges(q), [[0.4, 0.56, 0.56]])
    np.testing.assert_allclose(class_edges(q.transpose(0, 2, 1)), [[0.4], [0.56], [0.56]])


@pytest.mark.parametrize("shape", [(7, 9), (1, 6), (5, 1), (1, 1), (2, 2)])
@pytest.mark.parametrize("seed", range(4))
def test_class_edges_against_brute_force(seed, shape):
    """Draw a class for a pixel and one for its neighbour: how often do they differ, at the worst of
    the neighbours?"""
    q = random_semantic(seed, shape, classes=3)
    expected = np.zeros(shape)
    for y, x in np.ndindex(shape):
        for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            v, u = y + dy, x + dx
            if 0 <= v < shape[0] and 0 <= u < shape[1]:
                differ = sum(q[a, y, x] * q[b, v, u] for a in range(3) for b in range(3) if a != b)
                expected[y, x] = max(expected[y, x], differ)
    np.testing.assert_allclose(class_edges(q), expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_class_edges_of_certain_labels_are_the_borders_of_their_areas(seed):
    labels = blobs(seed) % 3
    np.testing.assert_array_equal(
        class_edges(one_hot(labels, 3)), boundary_mask(labels).astype(float)
    )


def test_class_edges_of_float32_stay_between_0_and_1():
    q = random_semantic(0, (30, 30)).astype(np.float32)
    q[:, 5:15] = one_hot(np.arange(30) // 10 % 5 * np.ones((10, 1), int), 5)
    edges = class_edges(q)
    assert edges.min() >= 0 and edges.max() <= 1


def horizon(gap: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sky above ground, and a region prediction that misses the border over some columns: core runs
    straight through."""
    region = (np.arange(32)[:, None] >= 15).astype(int) * np.ones((1, 40), int)
    target = region_target(region, 3)
    target[:, gap] = CORE
    return region, one_hot(target, 3, 0.9), one_hot(region, 2, 0.95)


def test_class_edge_closes_a_leak_through_the_horizon():
    region, probabilities, semantic = horizon(slice(12, 24))
    assert (
        decode_regions(probabilities).max() == 0
    )  # the cores meet in the gap: sky and ground are one
    closed = decode_regions(probabilities, semantic=semantic, edge_weight=1.0)
    assert closed.max() == 1 and covering(region, closed) > 0.98


def test_class_edge_does_not_cut_a_region_of_one_class():
    """The border between two trees is the region task's alone, and a plain area stays whole."""
    region, probabilities, _ = horizon(slice(0, 0))
    one_class = one_hot(np.zeros(region.shape, int), 2, 0.95)
    np.testing.assert_array_equal(
        decode_regions(probabilities, semantic=one_class, edge_weight=1.0),
        decode_regions(probabilities),
    )


@pytest.mark.parametrize("seed", range(5))
def test_edge_weight_0_or_no_semantic_probabilities_leave_the_classes_out(seed):
    probabilities = random_probabilities(seed)
    plain = decode_regions(probabilities, 0.3, 0.4)
    np.testing.assert_array_equal(
        decode_regions(probabilities, 0.3, 0.4, random_semantic(seed), 0.0), plain
    )
    np.testing.assert_array_equal(decode_regions(probabilities, 0.3, 0.4, None, 1.0), plain)
    assert (decode_regions(probabilities, 0.3, 0.4, random_semantic(seed), 1.0) != plain).any()


@pytest.mark.parametrize("edge_weight, regions", [(0.5, 1), (0.7, 2), (1.0, 2)])
def test_class_edge_lowers_the_core(edge_weight, regions):
    """Core 0.8 everywhere, e = 0.5 on three columns: 0.8 * 0.5^w is 0.566, 0.492 or 0.4 against a
    threshold of 0.5."""
    probabilities = one_hot(np.full((6, 12), CORE), 3, 0.8)
    semantic = np.zeros((2, 6, 12))
    semantic[0, :, :6], semantic[:, :, 6] = 1.0, 0.5  # e = 1 - 1 * 0.5 where they meet
    semantic[:, :, 7:] = np.array([0.0, 1.0])[:, None, None]  # and 1 - 0.5 * 1 on the next column
    assert class_edges(semantic)[0].tolist() == [0.0] * 5 + [0.5] * 3 + [0.0] * 4
    assert decode_regions(probabilities, 0.0, 0.5, semantic, edge_weight).max() + 1 == regions


@pytest.mark.parametrize("edge_weight, last", [(0.6, 14), (0.65, 6)])
def test_class_edge_raises_the_elevation(edge_weight, last):
    """Barriers between two cores: 0.2 + 0.82 w on column 6, 0.6 + 0.18 w on column 14; equal at w =
    0.625."""
    probabilities = np.zeros((3, 5, 21))
    probabilities[CORE] = 1.0
    probabilities[:, :, 3:18] = np.array([0.2, 0.0, 0.4])[:, None, None]
    probabilities[:, :, 14] = np.array([0.6, 0.0, 0.4])[:, None]
    semantic = one_hot((np.arange(21) > 6).astype(int) * np.ones((5, 1), int), 2, 0.9)
    region = decode_regions(probabilities, 0.0, 0.5, semantic, edge_weight)
    assert region.max() == 1
    assert (region[:, :last] == region[0, 0]).all() and (
        region[:, last + 2 :] == region[0, -1]
    ).all()


@pytest.mark.parametrize("edge_weight", [0.0, 1.0])
@pytest.mark.parametrize("shape", [(2, 8, 9), (2, 9, 8, 1), (8, 8), (9, 8, 2)])
def test_semantic_of_another_size(shape, edge_weight):
    with pytest.raises(
        ValueError,
        match=r"semantic has shape \(.*\) and probabilities \(3, 9, 8\); expected equal sizes",
    ):
        decode_regions(np.zeros((3, 9, 8)), semantic=np.zeros(shape), edge_weight=edge_weight)


# --- the vote ----------------------------------------------------------------------------------


def test_vote_by_hand():
    """Region 0: one pixel is sure of class 1, two lean towards class 0. The sum of logarithms sides
    with the one."""
    q = np.array([[[0.6, 0.6, 0.01], [0.3, 0.9, 0.5]], [[0.4, 0.4, 0.99], [0.7, 0.1, 0.5]]])
    region = np.array([[0, 0, 0], [1, 2, 2]])
    assert (q.argmax(0)[region == 0] == 0).sum() == 2  # the majority of the pixels says 0
    assert vote(np.log(q), region).tolist() == [[1, 1, 1], [1, 0, 0]]


@pytest.mark.parametrize("weight, expected", [(0.0, 0), (0.33, 0), (0.35, 1), (1.0, 1)])
def test_vote_between_pixel_and_region_by_hand(weight, expected):
    """Log-probabilities (-1, -2) and (-5, -0.1), means (-3, -1.05): the first pixel turns at 1 - w
    = 1.95 w, w = 0.339."""
    scores = np.array([[[-1.0, -5.0]], [[-2.0, -0.1]]])
    assert vote(scores, np.zeros((1, 2), int), weight).tolist() == [[expected, 1]]


def numbered(seed: int) -> np.ndarray:
    """A region map without void, ids 0..R-1."""
    region = random_region_map(seed, void=False)
    return np.unique(region, return_inverse=True)[1].reshape(region.shape)


@pytest.mark.parametrize("seed", range(15))
def test_vote_against_a_plain_loop(seed):
    region = numbered(seed)
    scores = np.log(random_semantic(seed, region.shape))
    voted = vote(scores, region)
    assert voted.dtype == np.int64 and voted.shape == region.shape
    for number in range(region.max() + 1):
        sums = [sum(scores[c][p] for p in zip(*np.nonzero(region == number))) for c in range(5)]
        assert (voted[region == number] == np.argmax(sums)).all()


@pytest.mark.parametrize("weight", [0.25, 0.7])
@pytest.mark.parametrize("seed", range(5))
def test_weighted_vote_against_a_plain_loop(seed, weight):
    region = numbered(seed)
    scores = np.log(random_semantic(seed, region.shape))
    voted = vote(scores, region, weight)
    for place in np.ndindex(region.shape):
        pixel = [
            (1 - weight) * scores[c][place] + weight * scores[c][region == region[place]].mean()
            for c in range(5)
        ]
        assert voted[place] == np.argmax(pixel)


@pytest.mark.parametrize("seed", range(5))
def test_vote_with_weight_0_is_argmax(seed):
    region = numbered(seed)
    scores = np.log(random_semantic(seed, region.shape)).astype(np.float32)
    np.testing.assert_array_equal(vote(scores, region, 0.0), scores.argmax(0))
    assert (vote(scores, region, 1.0) != scores.argmax(0)).any()


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_region_ids_do_not_matter_to_the_vote(seed, weight):
    region = blobs(seed)
    scores = np.log(random_semantic(seed, region.shape))
    order = np.random.default_rng(seed).permutation(
        region.max() + 4
    )  # and some ids may be left out
    np.testing.assert_array_equal(vote(scores, order[region], weight), vote(scores, region, weight))


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_class_that_is_ruled_out_is_not_chosen(weight):
    """log 0: one pixel excludes class 0, and with it, if the region counts at all, the whole
    region."""
    with np.errstate(divide="ignore"):
        scores = np.log(np.array([[[0.9, 0.0, 0.9]], [[0.1, 1.0, 0.1]]]))
    assert vote(scores, np.zeros((1, 3), int), weight).tolist() == [
        [0, 1, 0] if weight == 0 else [1, 1, 1]
    ]


@pytest.mark.parametrize("factor, dtype", [(10**6, np.int64), (2**58, np.uint64)])
@pytest.mark.parametrize("weight", [0.4, 1.0])
def test_vote_with_astronomical_ids(weight, factor, dtype):
    """They cost no memory: only which pixels share one counts."""
    region = blobs(2) + 1
    scores = np.log(random_semantic(2, region.shape))
    expected = vote(scores, region, weight)
    np.testing.assert_array_equal(
        vote(scores, region.astype(dtype) * dtype(factor), weight), expected
    )


@pytest.mark.parametrize("dtype", [float, np.float32, complex, object])
def test_vote_refuses_ids_that_are_no_integers(dtype):
    with pytest.raises(TypeError, match=r"region has dtype .*; expected integers"):
        vote(np.zeros((2, 3, 3)), np.zeros((3, 3), dtype))


@pytest.mark.parametrize("wrong", [np.nan, 0.5, np.inf])
def test_vote_refuses_what_are_no_log_probabilities(wrong):
    scores = np.log(random_semantic(0))
    scores[1, 2, 3] = wrong
    with pytest.raises(ValueError, match=r"log_probabilities holds .*; expected logarithms"):
        vote(scores, np.zeros(scores.shape[1:], int))


def test_vote_with_certain_pixels_gives_back_the_semantic_map():
    _, semantic, region = Scenes("val").read(0)
    region = np.where(region < 0, 0, region).astype(int)
    scores = np.log(one_hot(semantic, 8, 0.93))
    known = semantic != 255
    assert (vote(scores, region)[known] == semantic[known]).mean() > 0.999


def test_vote_of_single_pixel_regions_is_argmax():
    scores = np.log(np.random.default_rng(0).random((4, 5, 6)))
    np.testing.assert_array_equal(vote(scores, np.arange(30).reshape(5, 6)), scores.argmax(0))


@pytest.mark.parametrize("weight", [-0.01, 1.01, float("nan")])
def test_vote_with_a_weight_out_of_range(weight):
    with pytest.raises(ValueError, match=r"weight is .*; expected 0 \(each pixel alone\) to 1"):
        vote(np.zeros((2, 3, 3)), np.zeros((3, 3), int), weight)


@pytest.mark.parametrize("shape", [(4, 5), (5, 4, 1)])
def test_vote_refuses_a_region_map_of_another_shape(shape):
    found = r"log_probabilities has shape \(3, 5, 4\) and region \(.*\); expected \(C, H, W\) and"
    with pytest.raises(ValueError, match=found):
        vote(np.zeros((3, 5, 4)), np.zeros(shape, int))


@pytest.mark.parametrize("region", [np.full((5, 4), -1), np.array([[0, -1, 0, 0]] * 5)])
def test_vote_refuses_an_id_below_0(region):
    with pytest.raises(ValueError, match="region holds -1; expected ids from 0"):
        vote(np.zeros((3, 5, 4)), region)


# --- both maps at once -------------------------------------------------------------------------


def test_fuse_by_hand():
    """The leaking horizon again, and a ball that half of its pixels call sky: the region map
    settles both."""
    region, probabilities, semantic = horizon(slice(12, 24))
    semantic[:, 20:24, 4:6] = np.array([0.55, 0.45])[
        :, None, None
    ]  # in the ground, leaning towards sky
    logs = {"semantic": np.log(semantic), "region": np.log(probabilities)}
    classes, regions = fuse(logs, smoothing=0.5, threshold=0.5, edge_weight=1.0, vote_weight=1.0)
    assert classes.dtype == regions.dtype == np.int64
    np.testing.assert_array_equal(classes, region)
    assert regions.max() == 1 and covering(region, regions) > 0.98
    alone, leaked = fuse(logs, smoothing=0.5, threshold=0.5, edge_weight=0.0, vote_weight=0.0)
    assert leaked.max() == 0 and (alone != region).sum() == 8


@pytest.mark.parametrize("seed", range(5))
def test_fuse_is_decoding_and_vote(seed):
    probabilities, semantic = random_probabilities(seed), random_semantic(seed)
    logs = {
        "semantic": np.log(semantic).astype(np.float32),
        "region": np.log(probabilities).astype(np.float32),
    }
    classes, regions = fuse(logs, 0.6, smoothing=0.4, threshold=0.45, edge_weight=0.3)
    expected = decode_regions(probabilities, 0.4, 0.45, semantic, 0.3)
    np.testing.assert_array_equal(regions, expected)
    np.testing.assert_array_equal(classes, vote(logs["semantic"], expected, 0.6))


# --- classical methods -------------------------------------------------------------------------

METHODS = [
    (kmeans_regions, {"clusters": 6, "smoothing": 0.0}),
    (felzenszwalb_regions, {"scale": 50, "smoothing": 0.5, "min_size": 10}),
    (gradient_watershed_regions, {"smoothing": 1.0, "threshold": 0.02}),
]


def painted(region: np.ndarray) -> np.ndarray:
    """A flat colour a region, all far apart."""
    colours = np.array(
        [(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 255, 255)], np.uint8
    )
    return colours[region]


@pytest.mark.parametrize("method, parameters", METHODS)
@pytest.mark.parametrize("seed", range(4))
def test_classical_methods_find_flat_colours(method, parameters, seed):
    region = blobs(seed)
    found = method(painted(region), **parameters)
    assert_partition(
        found, (48, 48), connected=method is not felzenszwalb_regions
    )  # its regions are 8-connected
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
    """A red ramp of 2 grey levels a pixel: above its slope the threshold makes all of it a marker,
    below it does not."""
    image = np.zeros((12, 40, 3), np.uint8)
    image[..., 0] = 2 * np.arange(40)
    slope = 2 / 255
    assert gradient_watershed_regions(image, 0.0, 1.05 * slope).max() == 0
    assert (
        gradient_watershed_regions(image, 0.0, 0.95 * slope).max() == 1
    )  # only the frame's edges are flat enough


def test_gradient_watershed_without_markers_is_one_region():
    np.testing.assert_array_equal(
        gradient_watershed_regions(painted(blobs(0)), 1.0, 0.0), np.zeros((48, 48))
    )
