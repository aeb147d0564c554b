"""Region targets: by hand, against brute force, and what must hold for every map."""

import math

import numpy as np
import pytest
import torch
from examples import SEEDS, permuted_ids, random_region_map
from skimage.segmentation import find_boundaries

from fusion_lib import checks
from fusion_lib.targets import (
    BOUNDARY,
    CORE,
    RIM,
    RegionTarget,
    boundary_mask,
    class_weights,
    region_target,
)

VOID = 255
TAUS = (0.5, 1.5, 3.0, 50.0)


def brute_boundary(region: np.ndarray) -> np.ndarray:
    height, width = region.shape
    mask = np.zeros(region.shape, bool)
    for y in range(height):
        for x in range(width):
            for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                if (
                    0 <= y + dy < height
                    and 0 <= x + dx < width
                    and region[y, x] != -1 != region[y + dy, x + dx]
                ):
                    mask[y, x] |= bool(region[y, x] != region[y + dy, x + dx])
    return mask


def brute_target(region: np.ndarray, tau: float) -> np.ndarray:
    """The definition, word for word, with distances by comparing all pairs of pixels."""
    boundary = brute_boundary(region)
    places = np.argwhere(boundary)
    target = np.full(region.shape, CORE)
    distance = np.full(region.shape, np.inf)
    for pixel in np.ndindex(region.shape):
        if len(places):
            distance[pixel] = min(math.dist(pixel, place) for place in places)
    for number in np.unique(region[region >= 0]):
        inside = region == number
        deepest = distance[inside].max()
        if deepest == 0 or not len(places):
            continue  # one or two pixels thin everywhere: core throughout
        rim_ends = min(tau, deepest / 2)
        for pixel in zip(*np.nonzero(inside)):
            if boundary[pixel]:
                target[pixel] = BOUNDARY
            elif distance[pixel] < rim_ends:
                target[pixel] = RIM
    target[region == -1] = VOID
    return target


# --- by hand -----------------------------------------------------------------------------------


def test_boundary_by_hand():
    region = np.array([[4, 4, 4, 9], [4, 4, 9, 9], [-1, 4, 9, 9]])
    expected = [[0, 0, 1, 1], [0, 1, 1, 0], [0, 1, 1, 0]]  # beside void is no boundary
    np.testing.assert_array_equal(boundary_mask(region), np.array(expected, bool))


def test_diagonal_neighbours_are_no_boundary():
    region = np.array([[1, -1], [-1, 2]])
    assert not boundary_mask(region).any()


def test_target_of_a_row_by_hand():
    """Nine pixels against five: distances 8..1 0 | 0 1 2 3 4. The deep region's rim ends at tau,
    the other's at 2."""
    row = np.array([[0] * 9 + [1] * 5])
    b, r, c = BOUNDARY, RIM, CORE
    np.testing.assert_array_equal(
        region_target(row, 3), [[c, c, c, c, c, c, r, r, b, b, r, c, c, c]]
    )
    np.testing.assert_array_equal(region_target(row, 1), [[c] * 8 + [b, b] + [c] * 4])
    np.testing.assert_array_equal(region_target(row, 100), [[c] * 5 + [r] * 3 + [b, b, r, c, c, c]])


def test_distances_are_euclidean():
    region = np.zeros((7, 7), int)
    region[0, 0] = 1  # boundary pixels: (0, 0), (0, 1), (1, 0)
    target = region_target(region, 2.2)
    assert (
        target[2, 2] == CORE
    )  # sqrt(5) from (1, 0); a city-block distance of 3, a chessboard distance of 2
    assert target[2, 1] == RIM and target[3, 0] == RIM and target[3, 1] == CORE
    assert target[0, 0] == CORE and target[0, 1] == BOUNDARY


def test_thin_regions_are_core_throughout_and_still_mark_their_neighbours():
    region = np.zeros((9, 9), int)
    region[4] = 1  # one pixel thin
    target = region_target(region, 2)
    assert (target[4] == CORE).all()
    assert (target[3] == BOUNDARY).all() and (target[5] == BOUNDARY).all()


def test_one_region_is_core_and_only_void_is_void():
    assert (region_target(np.full((5, 6), 17), 2) == CORE).all()
    assert (region_target(np.full((5, 6), -1), 2) == VOID).all()


def test_region_beside_void_has_no_boundary_there():
    region = np.full((6, 8), 3)
    region[:, 4:] = -1
    np.testing.assert_array_equal(region_target(region, 2), np.where(region == 3, CORE, VOID))


def test_shape_and_type():
    for dtype in (np.uint8, np.int16, np.int32, np.int64):
        target = region_target(np.arange(12).reshape(3, 4).astype(dtype) // 6, 1)
        assert target.shape == (3, 4) and target.dtype == np.int64


# --- independent oracles -----------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_boundary_against_brute_force(seed):
    region = random_region_map(seed)
    np.testing.assert_array_equal(boundary_mask(region), brute_boundary(region))


@pytest.mark.parametrize("seed", SEEDS)
def test_boundary_against_scikit_image(seed):
    region = random_region_map(seed, void=False)
    np.testing.assert_array_equal(
        boundary_mask(region), find_boundaries(region, connectivity=1, mode="thick")
    )


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("seed", range(8))
def test_target_against_brute_force(seed, tau):
    region = random_region_map(seed)
    np.testing.assert_array_equal(region_target(region, tau), brute_target(region, tau))


# --- what holds for every map ------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_permuting_ids_changes_nothing(seed):
    region = random_region_map(seed)
    for tau in TAUS:
        expected = region_target(region, tau)
        for permutation in range(3):
            np.testing.assert_array_equal(
                region_target(permuted_ids(region, permutation), tau), expected
            )


@pytest.mark.parametrize("seed", SEEDS)
def test_target_of_a_flip_is_the_flip_of_the_target(seed):
    region = random_region_map(seed)
    for tau in TAUS:
        target = region_target(region, tau)
        for turn in (np.fliplr, np.flipud, np.rot90, np.transpose):
            np.testing.assert_array_equal(region_target(turn(region), tau), turn(target))


@pytest.mark.parametrize("seed", SEEDS)
def test_every_region_keeps_a_core(seed):
    region = random_region_map(seed)
    for tau in TAUS:
        target = region_target(region, tau)
        for number in np.unique(region[region >= 0]):
            assert (target[region == number] == CORE).any()


@pytest.mark.parametrize("seed", SEEDS)
def test_void_stays_void_and_nothing_else_becomes_void(seed):
    region = random_region_map(seed)
    for tau in TAUS:
        np.testing.assert_array_equal(region_target(region, tau) == VOID, region == -1)
    assert not boundary_mask(region)[region == -1].any()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_wider_rim_only_takes_pixels_from_the_core(seed):
    region = random_region_map(seed)
    targets = [region_target(region, tau) for tau in TAUS]
    for narrow, wide in zip(targets, targets[1:]):
        np.testing.assert_array_equal(narrow == BOUNDARY, wide == BOUNDARY)
        assert not ((narrow == RIM) & (wide != RIM)).any()


@pytest.mark.parametrize("seed", SEEDS)
def test_cores_of_two_regions_never_touch_unless_one_is_thin(seed):
    """That is what lets connected components of the core find the regions again."""
    region = random_region_map(seed)
    core = region_target(region, 3) == CORE
    boundary = boundary_mask(region)
    thin = {n for n in np.unique(region) if boundary[region == n].all()}
    for here, there in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        touching = core[here] & core[there] & (region[here] != region[there])
        for one, other in zip(region[here][touching], region[there][touching]):
            assert one in thin or other in thin


def test_the_given_map_is_not_changed():
    region = random_region_map(1)
    before = region.copy()
    region_target(region, 2)
    np.testing.assert_array_equal(region, before)


# --- the transform and the class weights -------------------------------------------------------


def test_transform_adds_the_target_and_keeps_the_rest():
    region = random_region_map(4)
    sample = {"region": torch.from_numpy(region), "name": "kept"}
    seen = RegionTarget(2.5)(sample)
    assert (
        seen["name"] == "kept"
        and seen["region"] is sample["region"]
        and "region_target" not in sample
    )
    assert seen["region_target"].dtype == torch.int64
    np.testing.assert_array_equal(seen["region_target"], region_target(region, 2.5))


def test_class_weights_by_hand():
    """Frequencies 1/4, 1/4, 1/2: weights proportional to 2, 2, sqrt(2); an average pixel weighs
    1."""
    targets = [np.array([[0, 1], [2, 2]]), np.array([255, 255])]
    raw = np.array([2, 2, 2**0.5])
    expected = raw / (raw[0] / 4 + raw[1] / 4 + raw[2] / 2)
    weights = class_weights(targets)
    assert weights.dtype == torch.float32
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


@pytest.mark.parametrize("seed", range(10))
def test_class_weights_against_a_plain_loop(seed):
    targets = [region_target(random_region_map(seed + k), 3) for k in range(5)]
    pixels = [label for target in targets for label in target.ravel().tolist() if label != VOID]
    weights = class_weights(torch.from_numpy(target) for target in targets)
    raw = [(pixels.count(c) / len(pixels)) ** -0.5 for c in range(3)]
    np.testing.assert_allclose(weights / weights[0], np.array(raw) / raw[0], rtol=1e-5)
    assert np.mean([weights[label] for label in pixels]) == pytest.approx(1, rel=1e-5)
    assert sorted(weights, reverse=True) == [
        weights[c] for c in np.argsort([pixels.count(c) for c in range(3)])
    ]


# --- wrong input -------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [boundary_mask, lambda region: region_target(region, 2)])
def test_region_map_of_wrong_dtype_or_shape(function):
    for wrong in (np.zeros((4, 4)), np.zeros((4, 4), bool)):
        with pytest.raises(TypeError, match=rf"region has dtype {wrong.dtype}; expected integers"):
            function(wrong)
    for shape in ((4,), (1, 4, 4)):
        with pytest.raises(ValueError, match=r"region has shape \(.*\); expected \(H, W\)"):
            function(np.zeros(shape, int))


@pytest.mark.parametrize("tau", [0, -1, float("nan")])
def test_tau_must_be_positive(tau):
    with pytest.raises(ValueError, match=rf"tau is {tau}; expected a positive distance"):
        region_target(np.zeros((4, 4), int), tau)


@pytest.mark.parametrize("function", [boundary_mask, lambda region: region_target(region, 2)])
def test_ids_below_void(function):
    with pytest.raises(ValueError, match="region holds -7; expected numbers from 0 on, or void -1"):
        function(np.array([[0, -1], [-7, 3]]))


def test_compact_ids_by_hand():
    for ids in ([[700, -1, 3], [3, 700, 20]], [[4, -1, 0], [0, 4, 3]]):  # sorted, and counted
        compact = checks.compact(np.array(ids, np.int16))
        assert compact.tolist() == [[2, -1, 0], [0, 2, 1]] and compact.dtype == np.int64
    assert checks.compact(np.full((2, 1), -1)).tolist() == [[-1], [-1]]


@pytest.mark.parametrize("wrong", [-1, 3, 254, 256])
def test_class_weights_refuses_classes_out_of_range(wrong):
    with pytest.raises(ValueError, match=f"targets holds class {wrong}; expected 0..2 or void 255"):
        class_weights([np.array([0, 1, 2, 255]), np.array([[0, wrong]])])


def test_class_weights_refuses_floats():
    with pytest.raises(TypeError, match="targets has dtype float64; expected integers"):
        class_weights([np.array([0.0, 1.0, 2.0])])


def test_class_weights_refuses_a_class_that_never_occurs():
    with pytest.raises(
        ValueError, match=r"targets holds no pixel of class 1; counts are \[1, 0, 2\]"
    ):
        class_weights([np.array([0, 2, 2, 255])])
    with pytest.raises(ValueError, match="targets holds no pixel of class 0"):
        class_weights([])
