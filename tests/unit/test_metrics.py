"""Metrics: hand values, independent oracles (torchmetrics, scikit-image, brute force), and what
must hold always."""

import inspect
import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from examples import blobs, permuted_ids, random_region_map
from scipy import stats
from skimage.metrics import adapted_rand_error
from torch import nn
from torch.utils.data import ConcatDataset, Subset, random_split
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassJaccardIndex,
)

from fusion_lib import evaluation
from fusion_lib.datasets import Scenes
from fusion_lib.evaluation import evaluate, mean_scores
from fusion_lib.intervals import bootstrap_interval, t_interval
from fusion_lib.metrics import (
    PanopticQuality,
    boundary_f,
    confusion_matrix,
    contingency,
    covering,
    delta_m,
    partition_scores,
    semantic_scores,
    touching_things,
)
from fusion_lib.models import FusionModel
from fusion_lib.scenes import CLASSES, STUFF, THINGS, connected_regions
from fusion_lib.targets import region_target


def random_labels(seed: int, classes: int = 5, shape=(12, 15), void: float = 0.1):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, shape)
    prediction = np.where(rng.random(shape) < 0.6, truth, rng.integers(0, classes, shape))
    truth = np.where(rng.random(shape) < void, 255, truth)
    return truth, prediction


def two_maps(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A true region map with void, and another partition of the same pixels that uses label 0."""
    truth = random_region_map(seed)
    rng = np.random.default_rng(seed)
    ids = {number: int(rng.integers(0, 5)) for number in np.unique(truth)}  # merge some, then cut
    prediction = np.array([[ids[int(i)] for i in row] for row in truth])
    prediction[: truth.shape[0] // 2] += 5 * (rng.random() < 0.7)
    return truth, prediction


# --- semantic ----------------------------------------------------------------------------------


def test_confusion_and_scores_by_hand():
    truth = np.array([[0, 0, 0, 1], [1, 2, 2, 255]])
    prediction = np.array([[0, 0, 1, 1], [0, 2, 2, 0]])
    confusion = confusion_matrix(truth, prediction, 4)
    assert confusion.tolist() == [[2, 1, 0, 0], [1, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 0]]
    scores = semantic_scores(confusion)
    assert scores["pixel_accuracy"] == pytest.approx(5 / 7)
    assert scores["class_accuracy"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert scores["miou"] == pytest.approx((2 / 4 + 1 / 3 + 1) / 3)
    np.testing.assert_allclose(scores["iou"], [0.5, 1 / 3, 1, np.nan])


@pytest.mark.parametrize("seed", range(15))
def test_semantic_scores_against_torchmetrics(seed):
    truth, prediction = random_labels(seed)
    given = torch.from_numpy(prediction), torch.from_numpy(truth)
    confusion = confusion_matrix(truth, prediction, 5)
    np.testing.assert_array_equal(confusion, MulticlassConfusionMatrix(5, ignore_index=255)(*given))
    scores = semantic_scores(confusion)
    for name, metric in (
        ("pixel_accuracy", MulticlassAccuracy(5, average="micro", ignore_index=255)),
        ("class_accuracy", MulticlassAccuracy(5, average="macro", ignore_index=255)),
        ("miou", MulticlassJaccardIndex(5, ignore_index=255)),
    ):
        assert scores[name] == pytest.approx(metric(*given).item(), abs=1e-6), name
    each = MulticlassJaccardIndex(5, ignore_index=255, average=None)(*given)
    np.testing.assert_allclose(scores["iou"], each, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_absent_classes_are_left_out_of_the_mean(seed):
    truth, prediction = random_labels(seed)
    given = torch.from_numpy(prediction), torch.from_numpy(truth)
    scores = semantic_scores(confusion_matrix(truth, prediction, 9))
    assert scores["miou"] == pytest.approx(
        MulticlassJaccardIndex(9, ignore_index=255)(*given).item(), abs=1e-6
    )
    assert np.isnan(scores["iou"][5:]).all()


def test_a_class_that_is_only_predicted_has_iou_0():
    scores = semantic_scores(confusion_matrix(np.zeros((2, 2), int), np.array([[0, 0], [0, 1]]), 3))
    np.testing.assert_allclose(scores["iou"], [0.75, 0, np.nan])
    assert scores["miou"] == 0.375 and scores["class_accuracy"] == 0.75


def test_scores_are_accumulated_over_the_data_set_before_they_are_divided():
    one = confusion_matrix(np.array([0, 0, 0, 0]), np.array([0, 0, 0, 1]), 2)
    other = confusion_matrix(np.array([1, 1]), np.array([1, 1]), 2)
    assert semantic_scores(one + other)["miou"] == pytest.approx((3 / 4 + 2 / 3) / 2)


def test_predictions_under_void_do_not_matter():
    truth, prediction = random_labels(1, void=0.4)
    changed = np.where(truth == 255, (prediction + 1) % 5, prediction)
    np.testing.assert_array_equal(
        confusion_matrix(truth, prediction, 5), confusion_matrix(truth, changed, 5)
    )


def test_all_void_has_no_score():
    scores = semantic_scores(confusion_matrix(np.full((3, 3), 255), np.zeros((3, 3), int), 4))
    assert (
        scores["pixel_accuracy"] == 0
        and math.isnan(scores["miou"])
        and math.isnan(scores["class_accuracy"])
    )


@pytest.mark.parametrize("name", ["truth", "prediction"])
@pytest.mark.parametrize("wrong", [-1, 4, 254])
def test_label_out_of_range(name, wrong):
    maps = {"truth": np.zeros((2, 2), int), "prediction": np.zeros((2, 2), int)}
    maps[name][1, 1] = wrong
    with pytest.raises(ValueError, match=rf"{name} holds .*{wrong}.*; expected 0..3"):
        confusion_matrix(**maps, num_classes=4)


@pytest.mark.parametrize(
    "function",
    [lambda t, p: confusion_matrix(t, p, 4), contingency, covering, partition_scores, boundary_f],
)
def test_shapes_that_differ(function):
    """A turned map has as many pixels, and must not pass."""
    with pytest.raises(
        ValueError, match=r"truth has shape \(2, 3\) and prediction \(3, 2\); expected equal shapes"
    ):
        function(np.zeros((2, 3), int), np.zeros((3, 2), int))


@pytest.mark.parametrize("name", ["truth", "prediction"])
@pytest.mark.parametrize("dtype", [float, np.float32, complex])
@pytest.mark.parametrize(
    "function",
    [lambda t, p: confusion_matrix(t, p, 4), contingency, covering, partition_scores, boundary_f],
)
def test_ids_that_are_no_integers(function, dtype, name):
    """A float may be NaN, and 0.5 would be cut to 0."""
    maps = {"truth": np.zeros((2, 3), int), "prediction": np.zeros((2, 3), int)}
    maps[name] = maps[name].astype(dtype)
    with pytest.raises(TypeError, match=rf"{name} has dtype {maps[name].dtype}; expected integers"):
        function(*maps.values())


@pytest.mark.parametrize("wrong", [255, 2**63 + 1, 10**12])
def test_a_predicted_class_that_there_is_not_is_never_dropped(wrong):
    prediction = np.array([[0, wrong]], np.uint64)
    with pytest.raises(ValueError, match=rf"prediction holds class {wrong}; expected 0\.\.3$"):
        confusion_matrix(np.zeros((1, 2), int), prediction, 4)


# --- partitions --------------------------------------------------------------------------------


def brute_covering(truth, prediction) -> float:
    valid = truth != -1
    total = 0.0
    for g in np.unique(truth[valid]):
        inside = truth == g
        ious = []
        for s in np.unique(prediction[valid]):
            segment = (prediction == s) & valid
            ious.append((inside & segment).sum() / (inside | segment).sum())
        total += inside.sum() * max(ious)
    return total / valid.sum()


def brute_variation_of_information(truth, prediction) -> float:
    """H(truth | prediction) + H(prediction | truth), in bits."""
    t, p = truth[truth != -1], prediction[truth != -1]
    total = 0.0
    for g, s in itertools.product(np.unique(t), np.unique(p)):
        both = np.mean((t == g) & (p == s))
        if both:
            total -= both * (math.log2(both / np.mean(p == s)) + math.log2(both / np.mean(t == g)))
    return total


def brute_rand_error(truth, prediction) -> float:
    """1 - F of the decision, for every pair of pixels, whether they are of one region."""
    t, p = truth[truth != -1], prediction[truth != -1]
    first, second = np.triu_indices(t.size, 1)
    together_t, together_p = t[first] == t[second], p[first] == p[second]
    both = (together_t & together_p).sum()
    precision, recall = both / together_p.sum(), both / together_t.sum()
    return 1 - 2 * precision * recall / (precision + recall)


def brute_boundary_f(truth, prediction, tolerance) -> float:
    def places(region):
        found = []
        for y, x in np.ndindex(region.shape):
            for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                v, u = y + dy, x + dx
                inside = 0 <= v < region.shape[0] and 0 <= u < region.shape[1]
                if inside and truth[y, x] != -1 != truth[v, u] and region[y, x] != region[v, u]:
                    found.append((y, x))
                    break
        return found

    def matched(some, others):
        return sum(any(math.dist(a, b) <= tolerance for b in others) for a in some) / len(some)

    t, p = places(truth), places(prediction)
    if not t or not p:
        return float(not t and not p)
    precision, recall = matched(p, t), matched(t, p)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def test_contingency_by_hand():
    truth = np.array([[7, 7, 3], [-1, 3, 3]])
    prediction = np.array([[0, 1, 1], [0, 1, 0]])
    assert contingency(truth, prediction).toarray().tolist() == [
        [1, 2],
        [1, 1],
    ]  # rows 3 and 7, columns 0 and 1


def test_covering_by_hand():
    """Regions of 4 and 2 pixels against segments of 3 and 3: (4 * 3/4 + 2 * 2/3) / 6."""
    truth, prediction = np.array([[0, 0, 0, 0, 1, 1]]), np.array([[9, 9, 9, 4, 4, 4]])
    assert covering(truth, prediction) == pytest.approx((4 * 3 / 4 + 2 * 2 / 3) / 6)
    assert covering(prediction, truth) == pytest.approx(
        (3 * 3 / 4 + 3 * 2 / 3) / 6
    )  # it is not symmetric


def test_partition_scores_by_hand():
    """Two halves, predicted as one region: 1 bit is lost; of the 28 pairs 12 are right."""
    truth, prediction = np.array([[0, 0, 1, 1], [0, 0, 1, 1]]), np.zeros((2, 4), int)
    scores = partition_scores(truth, prediction)
    assert scores["covering"] == 0.5
    assert scores["variation_of_information"] == pytest.approx(1)
    assert scores["adapted_rand_error"] == pytest.approx(1 - 2 * (12 / 28) / (1 + 12 / 28))
    assert scores["boundary_f"] == 0


@pytest.mark.parametrize("seed", range(15))
def test_partition_scores_against_brute_force(seed):
    truth, prediction = two_maps(seed)
    scores = partition_scores(truth, prediction, tolerance=1.5)
    assert scores["covering"] == pytest.approx(brute_covering(truth, prediction))
    assert scores["variation_of_information"] == pytest.approx(
        brute_variation_of_information(truth, prediction)
    )
    assert scores["adapted_rand_error"] == pytest.approx(brute_rand_error(truth, prediction))
    assert scores["boundary_f"] == pytest.approx(brute_boundary_f(truth, prediction, 1.5))


@pytest.mark.parametrize("seed", range(10))
def test_partition_scores_do_not_depend_on_the_ids(seed):
    """In particular label 0 is a region like any other: scikit-image drops it unless it is told not
    to."""
    truth, prediction = two_maps(seed)
    expected = partition_scores(truth, prediction)
    for other in (prediction + 1, permuted_ids(prediction, seed)):
        assert partition_scores(truth, other) == pytest.approx(expected)
        assert partition_scores(permuted_ids(truth, seed), other) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(10))
def test_partition_scores_of_any_ids_are_those_of_compact_ones(seed):
    """Permuted, with gaps, and so large that no memory holds an array with a place for each."""
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 12, 2)
    maps = [rng.integers(-1, kinds, shape) for kinds in rng.integers(1, 9, 2)]
    for dtype in (np.int16, np.int64):
        ids = rng.permutation(np.unique(rng.integers(0, np.iinfo(dtype).max, 20, dtype)))
        other = [np.where(one < 0, dtype(-1), ids[one]) for one in maps]
        assert partition_scores(*other) == pytest.approx(partition_scores(*maps), nan_ok=True)
    full = [np.maximum(one, 0) for one in maps]
    other = [one.astype(np.uint64) * np.uint64(2**60) + np.uint64(2**63) for one in full]
    assert partition_scores(*other) == pytest.approx(partition_scores(*full))


@pytest.mark.parametrize("prediction", [0, 3, -1])
def test_one_labelled_pixel(prediction):
    """No two pixels belong together in either map: they agree, and the Rand error is 0, not NaN."""
    truth = np.full((3, 4), -1)
    truth[1, 2] = 5
    scores = partition_scores(truth, np.full((3, 4), prediction))
    assert scores["adapted_rand_error"] == 0 and scores["variation_of_information"] == 0
    assert scores["covering"] == (prediction >= 0) and scores["boundary_f"] == 1


def test_missed_pixels_by_hand():
    """Of two regions of 4 pixels one is found and one missed. Covering: half of the pixels have IoU
    1. Four segments of one pixel each leave 2 bits open for half of the pixels. 6 of 12 pairs are
    found and none is wrong: F = 2/3. No boundary is found."""
    truth = np.array([[0, 0, 1, 1], [0, 0, 1, 1]])
    for missed in (-1, -9):
        scores = partition_scores(truth, np.where(truth == 1, missed, 7))
        assert scores["covering"] == 0.5
        assert scores["variation_of_information"] == pytest.approx(1)
        assert scores["adapted_rand_error"] == pytest.approx(1 / 3)
        assert scores["boundary_f"] == 0
    scores = partition_scores(truth, np.full((2, 4), -1))
    assert scores["covering"] == 0 and scores["adapted_rand_error"] == 1
    assert scores["variation_of_information"] == pytest.approx(2)
    assert contingency(truth, np.where(truth == 1, -1, 7)).toarray().tolist() == [[4], [0]]


@pytest.mark.parametrize("function", [contingency, covering, partition_scores, boundary_f])
def test_a_true_id_below_void(function):
    with pytest.raises(ValueError, match=r"truth holds -2; expected numbers from 0 on, or void -1"):
        function(np.array([[0, -2]]), np.zeros((1, 2), int))


@pytest.mark.parametrize("tolerance", [-1.0, float("nan")])
def test_tolerance_out_of_range(tolerance):
    with pytest.raises(ValueError, match=f"tolerance is {tolerance}; expected a finite number"):
        boundary_f(np.zeros((2, 2), int), np.zeros((2, 2), int), tolerance)


def test_label_0_is_not_ignored_by_the_rand_error():
    truth = np.array([[0] * 6 + [1] * 6] * 4)
    prediction = np.array([[0] * 3 + [2] * 3 + [1] * 6] * 4)  # the fault lies inside true region 0
    assert adapted_rand_error(truth, prediction)[0] == 0  # scikit-image's default does not see it
    assert partition_scores(truth, prediction)["adapted_rand_error"] > 0.1


@pytest.mark.parametrize("seed", range(10))
def test_equal_partitions_are_perfect(seed):
    truth = random_region_map(seed)
    prediction = np.where(truth == -1, 3, truth)
    perfect = {
        "covering": 1,
        "variation_of_information": 0,
        "adapted_rand_error": 0,
        "boundary_f": 1,
    }
    assert partition_scores(truth, prediction) == pytest.approx(perfect, abs=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_predictions_under_a_void_truth_do_not_matter(seed):
    truth, prediction = two_maps(seed)
    rng = np.random.default_rng(seed)
    other = np.where(truth == -1, rng.integers(50, 90, truth.shape), prediction)
    assert partition_scores(truth, other) == pytest.approx(partition_scores(truth, prediction))


@pytest.mark.parametrize("turn", [np.fliplr, np.flipud, np.transpose])
def test_partition_scores_of_turned_maps(turn):
    truth, prediction = two_maps(4)
    assert partition_scores(turn(truth), turn(prediction)) == pytest.approx(
        partition_scores(truth, prediction)
    )


def test_all_void_picture_has_no_partition_score():
    void = np.full((4, 5), -1)
    assert all(
        math.isnan(value) for value in partition_scores(void, np.zeros((4, 5), int)).values()
    )
    assert math.isnan(covering(void, np.zeros((4, 5), int)))


def test_boundary_f_by_hand():
    """A border shifted by two columns: pixels of columns 3, 4 against 5, 6, so only columns 4 and 5
    come within 1."""
    truth, prediction = np.zeros((4, 12), int), np.zeros((4, 12), int)
    truth[:, 4:], prediction[:, 6:] = 1, 1
    assert boundary_f(truth, prediction, 0.5) == 0
    assert boundary_f(truth, prediction, 1.0) == 0.5
    assert boundary_f(truth, prediction, 2.0) == 1


def test_boundary_f_is_a_harmonic_mean_of_precision_and_recall():
    truth = np.zeros((8, 20), int)
    truth[:, 5:], truth[:, 15:] = 1, 2
    prediction = (truth > 0).astype(int)  # one of two borders is missing: precision 1, recall 1/2
    assert boundary_f(truth, prediction) == pytest.approx(2 / 3)
    assert boundary_f(prediction, truth) == pytest.approx(2 / 3)


def test_boundary_f_without_boundaries():
    flat, halves = np.zeros((4, 4), int), np.array([[0, 0, 1, 1]] * 4)
    assert (boundary_f(flat, flat), boundary_f(flat, halves), boundary_f(halves, flat)) == (1, 0, 0)


# --- panoptic quality --------------------------------------------------------------------------


def brute_panoptic_quality(pictures, things, stuff) -> float:
    """Kirillov et al. 2019, section 4: match at IoU > 1/2, leave void out, PQ a class, mean over
    the classes seen."""
    sums, hits, misses, extras = (dict.fromkeys((*things, *stuff), 0.0) for _ in range(4))

    def segments(semantic, region):
        found = {}
        for y, x in np.ndindex(semantic.shape):
            c = int(semantic[y, x])
            if c in things or c in stuff:
                found.setdefault((c, int(region[y, x]) if c in things else 0), set()).add((y, x))
        return found

    for true_semantic, true_region, semantic, region in pictures:
        true, predicted = segments(true_semantic, true_region), segments(semantic, region)
        void = {
            p for p in np.ndindex(true_semantic.shape) if not any(p in s for s in true.values())
        }
        matched_true, matched = set(), set()
        for (a, t), (b, p) in itertools.product(true.items(), predicted.items()):
            iou = len(t & p) / len(t | (p - void))
            if a[0] == b[0] and iou > 0.5:
                sums[a[0]] += iou
                hits[a[0]] += 1
                matched_true.add(a)
                matched.add(b)
        for a in true.keys() - matched_true:
            misses[a[0]] += 1
        for b in predicted.keys() - matched:
            if len(predicted[b] & void) <= 0.5 * len(predicted[b]):  # mostly void: nobody can tell
                extras[b[0]] += 1
    weights = {c: hits[c] + misses[c] / 2 + extras[c] / 2 for c in sums}
    return float(np.mean([sums[c] / weights[c] for c in sums if weights[c]]))


def fused_map(seed: int):
    """Truth with void, and a prediction that shifts it and renames some regions."""
    rng = np.random.default_rng(seed)
    region = blobs(seed, 24)
    classes = rng.integers(0, len(CLASSES), region.max() + 1)
    semantic = classes[region]
    predicted_region = np.roll(region, rng.integers(-4, 5, 2), (0, 1))
    predicted_classes = np.where(
        rng.random(len(classes)) < 0.75, classes, rng.integers(0, len(CLASSES), len(classes))
    )
    predicted_semantic = predicted_classes[predicted_region]
    top, left = rng.integers(0, 16, 2)
    semantic[top : top + 7, left : left + 7] = 255
    region[top : top + 7, left : left + 7] = -1
    return semantic, region, predicted_semantic, predicted_region


def measured(pictures, **kinds) -> float:
    quality = PanopticQuality(**{"things": THINGS, "stuff": STUFF, **kinds})
    for picture in pictures:
        quality.update(*picture)
    return quality.compute()


@pytest.mark.parametrize("seed", range(0, 30, 3))
def test_panoptic_quality_against_brute_force(seed):
    pictures = [fused_map(seed + k) for k in range(3)]
    assert measured(pictures) == pytest.approx(
        brute_panoptic_quality(pictures, THINGS, STUFF), abs=1e-6
    )


def test_panoptic_quality_by_hand():
    """One thing found with IoU 3/5; one thing missed; stuff in two parts is one segment, found with
    IoU 10/12."""
    semantic = np.array([[0, 0, 0, 0, 0, 0, 5, 5, 5, 5], [0, 0, 0, 0, 0, 0, 5, 5, 5, 5]])
    region = np.array([[0, 0, 0, 0, 0, 0, 1, 1, 1, 1], [2, 2, 2, 2, 2, 2, 3, 3, 3, 3]])
    predicted_semantic = np.array([[0, 0, 0, 0, 0, 5, 5, 5, 5, 0], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]])
    predicted_region = np.array([[0, 0, 0, 0, 0, 1, 1, 1, 1, 2], [2, 2, 2, 2, 2, 2, 2, 2, 2, 2]])
    thing = (3 / 5) / (1 + 0.5)
    stuff = 11 / 17  # 11 of 12 pixels found, 5 of 16 wrongly added
    quality = measured([(semantic, region, predicted_semantic, predicted_region)])
    assert quality == pytest.approx((thing + stuff) / 2)


def test_panoptic_quality_of_the_truth_is_1():
    semantic, region, _, _ = fused_map(1)
    known = np.where(semantic == 255, 0, semantic), np.where(region == -1, 99, region)
    assert measured([(semantic, region, *known)]) == 1


def test_panoptic_quality_knows_things_from_stuff():
    semantic, region, _, _ = fused_map(1)
    cut = np.where(
        np.arange(24)[None] < 12, region, region + 100
    )  # every region is cut at the middle
    picture = (semantic, region, np.where(semantic == 255, 0, semantic), cut)
    everything = tuple(range(len(CLASSES)))
    assert measured([picture], things=(), stuff=everything) == 1  # stuff does not care
    assert measured([picture], things=everything, stuff=()) < 1


def test_panoptic_quality_with_an_all_void_picture():
    picture = fused_map(2)
    void = np.full((24, 24), 255), np.full((24, 24), -1), picture[2], picture[3]
    assert measured([picture, void]) == pytest.approx(measured([picture]))


@pytest.mark.parametrize("seed", range(5))
def test_panoptic_quality_does_not_depend_on_the_regions_ids(seed):
    semantic, region, predicted_semantic, predicted = fused_map(seed)
    expected = measured([(semantic, region, predicted_semantic, predicted)])
    huge = (
        np.uint64(2**63) + np.random.default_rng(seed).permutation(9).astype(np.uint64)[predicted]
    )
    true = permuted_ids(region, seed) * 10**14 + (region < 0) * (10**14 - 1)
    assert set(np.unique(true[region < 0])) <= {-1}
    assert measured([(semantic, true, predicted_semantic, huge)]) == pytest.approx(expected)


@pytest.mark.parametrize("how", ["class void", "class below 0", "region below 0"])
def test_a_missed_segment_counts_as_missed(how):
    """A ball found and a car missed: 1 and 0. Half of the ball missed: IoU 1/2 is no match, and the
    half that was found is a wrong segment; the quality is 0. Two thirds found: 2/3."""
    semantic = np.array([[6] * 6 + [5] * 4] * 2)
    region = (semantic == 5).astype(int)

    def missing(columns):
        classes, ids = semantic.copy(), region.copy()
        if how == "region below 0":
            ids[:, columns] = -3
        else:
            classes[:, columns] = 255 if how == "class void" else -1
        return measured([(semantic, region, classes, ids)])

    assert missing(slice(6, 10)) == 0.5
    assert missing(slice(0, 10)) == 0
    assert missing(slice(3, 10)) == 0
    assert missing(slice(0, 2)) == pytest.approx((2 / 3 + 1) / 2)


def test_missed_stuff_counts_as_missed():
    semantic, region = np.array([[0] * 6 + [1] * 4]), np.zeros((1, 10), int)
    assert measured([(semantic, region, np.where(semantic == 1, 255, 0), region)]) == 0.5


def test_a_thing_without_a_region_is_void():
    """Nobody knows whether it is one thing or several; stuff needs no region."""
    semantic, region = np.array([[5, 5, 5, 5, 0, 0]]), np.array([[1, 1, -1, -1, -1, -1]])
    predicted = np.array([[1, 1, 1, 1, 3, 3]])
    assert measured([(semantic, region, semantic, predicted)]) == 1


@pytest.mark.parametrize("name", ["true_semantic", "true_region", "semantic", "region"])
def test_panoptic_quality_refuses_maps_that_do_not_fit(name):
    maps = dict.fromkeys(
        ("true_semantic", "true_region", "semantic", "region"), np.zeros((2, 3), int)
    )
    quality = PanopticQuality(THINGS, STUFF)
    with pytest.raises(TypeError, match=rf"{name} has dtype float64; expected integers"):
        quality.update(**{**maps, name: np.zeros((2, 3))})
    with pytest.raises(ValueError, match=r"true_semantic has shape .*expected equal shapes"):
        quality.update(**{**maps, name: np.zeros((3, 2), int)})
    quality.update(**maps)
    assert quality.compute() == 1  # nothing was counted before


@pytest.mark.parametrize("name", ["true_semantic", "semantic"])
def test_a_class_that_is_neither_thing_nor_stuff(name):
    """Every wrong car was left out of the mean, and the quality was 1."""
    maps = dict.fromkeys(
        ("true_semantic", "true_region", "semantic", "region"), np.zeros((2, 3), int)
    )
    maps[name] = np.array([[0, 0, 0], [13, 9, 255]])
    with pytest.raises(
        ValueError, match=rf"{name} holds \[9, 13\]; expected .*things .*, or void 255"
    ):
        PanopticQuality(THINGS, STUFF).update(**maps)


@pytest.mark.parametrize(
    "things, stuff", [((), ()), ((0, 1), (1, 2)), ((1, 1), ()), ((255,), (0,)), ((1,), (-1,))]
)
def test_things_and_stuff_that_are_no_kinds(things, stuff):
    with pytest.raises(
        ValueError, match=r"things is \[.*\] and stuff \[.*\]; expected classes, each"
    ):
        PanopticQuality(things, stuff)


# --- over a data set ---------------------------------------------------------------------------


DECODING = {"smoothing": 0.5, "threshold": 0.5, "edge_weight": 0.0, "vote_weight": 1.0}


class Pictures:
    """Three samples whose image carries the answers: red the semantic label, green the region
    target."""

    classes, things, stuff = CLASSES, THINGS, STUFF

    def __init__(self, sizes=((24, 24), (24, 24), (24, 24))):
        self.samples = []
        for seed, _ in enumerate(sizes):
            semantic, region, _, _ = fused_map(seed)
            target = region_target(region, 2)
            target = np.where(target == 255, 1, target)
            image = np.stack(
                [np.where(semantic == 255, 0, semantic) * 20, target * 100, 0 * target], 0
            )
            self.samples.append(
                {
                    "image": torch.tensor(image, dtype=torch.uint8),
                    "semantic": semantic,
                    "region": region,
                }
            )

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]


class ReadsTheAnswers(nn.Module):
    """Stands in for a network: turns the colours of `Pictures` back into confident logits."""

    def __init__(self, *tasks):
        super().__init__()
        self.tasks, self.weight = tasks, nn.Parameter(torch.zeros(1))

    def forward(self, images):
        classes = (images * 255).round().long()
        hot = {
            "semantic": nn.functional.one_hot(classes[:, 0] // 20, len(CLASSES)),
            "region": nn.functional.one_hot(classes[:, 1] // 100, 3),
        }
        return {task: 6.0 * hot[task].movedim(-1, 1) + self.weight for task in self.tasks}


def test_evaluate_both_tasks():
    scores = evaluate(ReadsTheAnswers("semantic", "region"), Pictures(), DECODING)
    assert set(scores) == {"semantic", "voted", "fused", "partition", "panoptic_quality", "areas"}
    assert scores["semantic"]["miou"] == 1 and scores["semantic"]["pixel_accuracy"] == 1
    assert scores["voted"]["pixel_accuracy"] > 0.9
    assert scores["partition"]["covering"] > 0.9
    assert 0.5 < scores["panoptic_quality"] <= 1


class Unsure(ReadsTheAnswers):
    """The answers under noise, the same for the same picture: argmax, vote and fused map all
    differ."""

    def forward(self, images):
        noise = torch.randn(
            len(images), 11, *images.shape[2:], generator=torch.Generator().manual_seed(0)
        )
        outputs = {task: logits / 3 for task, logits in super().forward(images).items()}
        return {task: logits + noise[:, -logits.shape[1] :] for task, logits in outputs.items()}


def test_evaluate_reports_argmax_vote_and_what_the_weight_makes_of_both():
    def evaluated(weight):
        return evaluate(
            Unsure("semantic", "region"), Pictures(), {**DECODING, "vote_weight": weight}
        )

    alone, between, together = (evaluated(weight) for weight in (0.0, 0.3, 1.0))
    assert alone["fused"]["miou"] == alone["semantic"]["miou"]
    assert together["fused"]["miou"] == together["voted"]["miou"]
    assert len({scores["fused"]["miou"] for scores in (alone, between, together)}) == 3
    for name in (
        "semantic",
        "voted",
        "partition",
        "panoptic_quality",
    ):  # the weight is no matter of theirs
        np.testing.assert_equal(between[name], alone[name])


def test_evaluate_lets_class_edges_help_the_regions():
    scores = [
        evaluate(Unsure("semantic", "region"), Pictures(), {**DECODING, "edge_weight": w})
        for w in (0.0, 1.0)
    ]
    assert (
        scores[0]["partition"] != scores[1]["partition"]
        and scores[0]["semantic"]["miou"] == scores[1]["semantic"]["miou"]
    )


def test_touching_things_by_hand():
    """Two cars side by side and a third one apart, on ground; stuff that touches stuff is none."""
    semantic = np.array([[1, 5, 5, 5, 5, 1, 5], [1, 5, 5, 5, 5, 1, 5], [1, 1, 1, 1, 1, 1, 1]])
    region = np.array([[0, 1, 1, 2, 2, 0, 3], [0, 1, 1, 2, 2, 0, 3], [9, 9, 9, 9, 9, 9, 9]])
    assert touching_things(semantic, region, region, THINGS) == (2, 2)
    assert touching_things(semantic, region, semantic, THINGS) == (0, 2)  # IoU 4/8 is not above .5
    found = np.where(region == 2, 1, region)
    found[0, 4] = 0  # the first car's 4 pixels are now 4 of 7
    assert touching_things(semantic, region, found, THINGS) == (1, 2)
    assert touching_things(semantic.T, region.T, found.T, THINGS) == (1, 2)
    assert touching_things(semantic, np.where(region == 1, -1, region), region, THINGS) == (0, 0)
    assert touching_things(semantic, region, region, ()) == (0, 0)


def test_evaluate_tells_how_many_touching_things_are_found():
    data = Subset(Scenes("val", edition=2), range(3))

    class Names(nn.Module):
        """Gives the picture of each of the samples its true names."""

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def forward(self, images):
            far = [float((s["image"] / 255 - images[0]).abs().max()) for s in data]
            sample = data[int(np.argmin(far))]
            assert min(far) < 1e-6
            hot = nn.functional.one_hot(sample["semantic"].clamp(max=7), 8)
            return {"semantic": 9.0 * hot.movedim(-1, 0)[None] + self.weight}

    counts = []
    for sample in data:
        areas = connected_regions(sample["semantic"].clamp(max=7))
        counts.append(touching_things(sample["semantic"], sample["region"], areas, THINGS))
    found, count = np.sum(counts, 0)
    recall = evaluate(Names().eval(), data, {})["areas"]["touching_recall"]
    assert count > 10 and recall == pytest.approx(found / count)


def test_evaluate_areas_are_those_of_the_argmax_map():
    """What a semantic map alone is worth as a partition: its connected areas, against both
    truths."""
    data, model = Pictures(), Unsure("semantic")
    scores = evaluate(model, data, {})["areas"]
    coverings, quality = [], PanopticQuality(THINGS, STUFF)
    for sample in data.samples:
        labels = evaluation.predict(model, sample["image"])["semantic"].argmax(0)
        coverings.append(covering(sample["region"], connected_regions(labels)))
        quality.update(sample["semantic"], sample["region"], labels, connected_regions(labels))
    recall = scores.pop("touching_recall", None)
    assert scores == pytest.approx(
        {"covering": np.mean(coverings), "panoptic_quality": quality.compute()}
    )
    again = evaluate(Unsure("semantic", "region"), data, DECODING)["areas"]
    assert again.pop("touching_recall", None) == recall and again == scores


def test_shipped_checkpoint_is_small_and_has_both_tasks():
    """Its scores are held to the results file in tests/structure/test_results.py."""
    from fusion_lib.engine.checkpoints import load_checkpoint
    from fusion_lib.engine.files import data_folder

    path = data_folder() / "fused_scenes.safetensors"
    assert path.stat().st_size < 5e6
    assert load_checkpoint(path)[0].config["outputs"] == {"semantic": 8, "region": 3}


def test_evaluate_one_task():
    assert set(evaluate(ReadsTheAnswers("semantic"), Pictures(), {})) == {"semantic", "areas"}
    assert set(evaluate(ReadsTheAnswers("region"), Pictures(), {})) == {"partition"}


def kinds(things, stuff) -> Pictures:
    pictures = Pictures()
    pictures.things, pictures.stuff = things, stuff
    return pictures


def test_evaluate_without_things_and_stuff_has_no_panoptic_quality():
    model = ReadsTheAnswers("semantic", "region")
    unknown = evaluate(model, kinds(None, None), DECODING)
    assert set(unknown) == {"semantic", "voted", "fused", "partition", "areas"}
    assert set(unknown["areas"]) == {"covering"}
    foreign = Pictures()
    foreign.__class__ = type("Foreign", (), {**vars(Pictures)})
    del type(foreign).things, type(foreign).stuff
    np.testing.assert_equal(evaluate(model, foreign, DECODING), unknown)


def test_evaluate_takes_things_and_stuff_from_the_data_set_or_the_arguments():
    model, everything = Unsure("semantic", "region"), tuple(range(8))
    own, other = (
        evaluate(model, Pictures(), DECODING),
        evaluate(model, kinds(everything, None), DECODING),
    )
    assert own["panoptic_quality"] != other["panoptic_quality"]
    assert own["areas"]["panoptic_quality"] != other["areas"]["panoptic_quality"]
    for data in (Pictures(), kinds(None, None)):
        told = evaluate(model, data, DECODING, things=everything)
        np.testing.assert_equal(told, other)
        np.testing.assert_equal(evaluate(model, data, DECODING, None, THINGS, STUFF), own)


def test_evaluate_names_a_label_that_is_neither_thing_nor_stuff():
    with pytest.raises(
        ValueError, match=r"true_semantic holds \[.*\]; expected .*things \[5, 6, 7\]"
    ):
        evaluate(ReadsTheAnswers("semantic"), Pictures(), {}, things=(5, 6, 7))


class Answers(nn.Module):
    """Answers with given maps, whatever the picture."""

    def __init__(self, semantic, target, classes: int):
        super().__init__()
        self.weight, self.classes = nn.Parameter(torch.zeros(1)), classes
        self.maps = torch.as_tensor(semantic), torch.as_tensor(target)

    def forward(self, images):
        semantic, region = (
            20.0 * nn.functional.one_hot(labels, count).movedim(-1, 0)[None]
            for labels, count in zip(self.maps, (self.classes, 3))
        )
        return {"semantic": semantic, "region": region + self.weight}


def own_data(classes: int, semantic, region, things, stuff) -> Pictures:
    data = kinds(things, stuff)
    data.classes = tuple(map(str, range(classes)))
    image = torch.zeros(3, *semantic.shape)
    data.samples = [{"image": image, "semantic": semantic, "region": region}]
    return data


def test_panoptic_quality_of_own_classes():
    """Two touching cells on a background: as the classes of the scenes, cell is a stuff and
    background another. Not parted, they are one segment of IoU 1/2: no match."""
    semantic, region = np.zeros((32, 64), int), np.zeros((32, 64), int)
    semantic[8:24, 8:56], region[8:24, 8:32], region[8:24, 32:56] = 1, 1, 2
    data = own_data(2, semantic, region, things=(1,), stuff=(0,))
    decoding = {"smoothing": 0.5, "threshold": 0.5, "vote_weight": 0.0}
    parted = Answers(semantic, region_target(region, 2.0), 2)
    whole = Answers(semantic, region_target(semantic, 2.0), 2)
    assert evaluate(parted, data, decoding)["panoptic_quality"] > 0.95
    assert evaluate(whole, data, decoding)["panoptic_quality"] == pytest.approx(0.5, abs=0.02)


def test_panoptic_quality_where_every_car_is_wrong():
    """19 classes as in Cityscapes, car is 13 and is called road, 0."""
    semantic, region = np.zeros((16, 32), int), np.zeros((16, 32), int)
    semantic[4:12, 8:24] = 13
    region[semantic == 13] = 1
    data = own_data(19, semantic, region, tuple(range(11, 19)), tuple(range(11)))
    scores = evaluate(Answers(0 * semantic, region_target(region, 2.0), 19), data, DECODING)
    assert scores["panoptic_quality"] == pytest.approx(384 / 512 / 2)


def test_evaluate_finds_classes_things_and_stuff_behind_what_torch_wraps():
    """Pictures of the shipped scenes: one subset, and the same in two parts."""
    scenes, model = Scenes("test"), FusionModel({"semantic": 8, "region": 3}, width=4)
    few = Subset(scenes, [3, 5, 8])
    expected = evaluate(model, few, DECODING)
    assert "panoptic_quality" in expected
    parts = ConcatDataset([Subset(scenes, [3]), Subset(few, [1, 2])])
    np.testing.assert_equal(evaluate(model, parts, DECODING), expected)
    half, _ = random_split(few, [2, 1], generator=torch.Generator().manual_seed(0))
    same = Subset(scenes, [few.indices[index] for index in half.indices])
    np.testing.assert_equal(evaluate(model, half, DECODING), evaluate(model, same, DECODING))


def test_evaluate_of_no_picture():
    with pytest.raises(ValueError, match="dataset is empty; expected at least one picture"):
        evaluate(ReadsTheAnswers("semantic"), Subset(Scenes("test"), []), {})


def test_evaluate_hands_decoding_and_size_on(monkeypatch):
    scores = evaluate(ReadsTheAnswers("region"), Pictures(), {"threshold": 1.1})
    assert scores["partition"]["covering"] < 0.6  # no marker: one region
    seen = []
    monkeypatch.setattr(
        evaluation,
        "predict",
        lambda model, image, size: seen.append(size) or {"semantic": np.zeros((8, 24, 24))},
    )
    evaluate(None, Pictures(), {}, size=(32, 40))
    assert seen == [(32, 40)] * 3


def test_evaluate_takes_means_and_sums_of_the_right_things():
    """Partition scores are averaged over pictures; semantic ones come from one confusion matrix."""
    data, model = Pictures(), ReadsTheAnswers("semantic", "region")
    data.samples[1]["semantic"] = np.where(
        data.samples[1]["semantic"] == 255, 255, 0
    )  # spoil one picture's truth
    scores = evaluate(model, data, DECODING)
    alone = []
    for sample in data.samples:
        one = Pictures()
        one.samples = [sample]
        alone.append(evaluate(model, one, DECODING))
    assert scores["partition"]["covering"] == pytest.approx(
        np.mean([s["partition"]["covering"] for s in alone])
    )
    assert scores["semantic"]["miou"] != pytest.approx(
        np.mean([s["semantic"]["miou"] for s in alone])
    )
    pixels = [(sample["semantic"] != 255).sum() for sample in data.samples]
    weighted = np.average([s["semantic"]["pixel_accuracy"] for s in alone], weights=pixels)
    assert scores["semantic"]["pixel_accuracy"] == pytest.approx(weighted)


def test_mean_scores_leave_nan_out():
    assert mean_scores([{"a": 1.0, "b": 2.0}, {"a": float("nan"), "b": 4.0}]) == {
        "a": 1.0,
        "b": 3.0,
    }


# --- intervals over runs -----------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.95, 0.8])
@pytest.mark.parametrize("count", [3, 5, 20])
def test_bootstrap_interval_against_scipy(count, level):
    """Other resamples, so equal up to the noise of 10,000 draws: about 0.03 standard errors at the
    ends of 95%."""
    values = np.random.default_rng(count).gamma(2.0, size=count)
    generator = "rng" if "rng" in inspect.signature(stats.bootstrap).parameters else "random_state"
    scipys = stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=level,
        n_resamples=50_000,
        method="percentile",
        batch=5000,
        **{generator: np.random.default_rng(7)},
    ).confidence_interval
    error = values.std() / math.sqrt(count)
    np.testing.assert_allclose(bootstrap_interval(values, level), scipys, atol=0.2 * error)


def test_bootstrap_interval_by_hand():
    """Of 0 and 1, the resampled mean is 0, 1/2 or 1 with probabilities 1/4, 1/2, 1/4."""
    assert bootstrap_interval([0, 1]) == (0.0, 1.0)
    assert bootstrap_interval([0, 1], level=0.6) == (0.0, 1.0)
    assert bootstrap_interval([0, 1], level=0.4) == (0.5, 0.5)
    assert bootstrap_interval([3.0, 3.0, 3.0]) == (3.0, 3.0)


def test_bootstrap_interval_repeats_itself_and_leaves_the_generators_alone():
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    values = [0.61, 0.7, 0.58, 0.66, 0.69]
    assert bootstrap_interval(values) == bootstrap_interval(np.array(values))
    np.testing.assert_array_equal(np.random.get_state()[1], before)


@pytest.mark.parametrize("level", [0.95, 0.8])
@pytest.mark.parametrize("count", [2, 5, 30])
def test_t_interval_against_scipy(count, level):
    values = np.random.default_rng(count).gamma(2.0, size=count)
    test = stats.ttest_1samp(values, 0.0).confidence_interval(level)
    close = partial(np.testing.assert_allclose, rtol=1e-8)  # quantiles of SciPy 1.10 hold to 1e-9
    close(t_interval(values, level), (test.low, test.high))
    t = stats.t.interval(level, count - 1, loc=values.mean(), scale=stats.sem(values))
    close(t_interval(values.tolist(), level), t)


def test_t_interval_by_hand():
    """Of 1, 2, 3: mean 2, s = 1, and the 97.5% quantile of t with 2 degrees of freedom is
    4.3027."""
    np.testing.assert_allclose(
        t_interval([1, 2, 3]), 2 + np.array([-1, 1]) * 4.302653 / math.sqrt(3), atol=1e-6
    )


def test_bootstrap_of_few_values_is_the_narrower_one():
    """As its docstring says: with five values it promises too much."""
    for seed in range(20):
        values = np.random.default_rng(seed).normal(size=5)
        (low, high), (lower, upper) = bootstrap_interval(values), t_interval(values)
        assert lower < low < values.mean() < high < upper


@pytest.mark.parametrize("interval", [bootstrap_interval, t_interval])
@pytest.mark.parametrize("values", [[], [1.0], 1.0, [[1.0, 2.0]], [1.0, math.nan], [1.0, math.inf]])
def test_interval_of_what_is_no_sample(interval, values):
    with pytest.raises(
        ValueError, match="(?s)values is .*; expected at least two finite numbers in a row"
    ):
        interval(values)


# --- the gain over single-task baselines -------------------------------------------------------


def test_delta_m_by_hand():
    """mIoU from 0.50 to 0.55 is +10%; covering from 0.40 to 0.30 is -25%: the mean is -7.5%."""
    gain = delta_m({"miou": 0.55, "covering": 0.3}, {"miou": 0.5, "covering": 0.4})
    assert gain == pytest.approx(-0.075)
    assert delta_m({"miou": 0.55}, {"miou": 0.5}) == pytest.approx(0.1)
    assert delta_m({"a": 3.0, "b": 1.0}, {"b": 1.0, "a": 3.0}) == 0


def test_delta_m_refuses_other_keys():
    with pytest.raises(
        ValueError, match=r"scores has keys \['a'\] and baselines \['b'\]; expected the same"
    ):
        delta_m({"a": 1.0}, {"b": 1.0})


def test_a_confusion_matrix_in_which_255_would_be_a_class():
    labels = np.full((2, 2), 254)
    with pytest.raises(ValueError, match="num_classes is 300; expected at most 254: 255 is void"):
        confusion_matrix(labels, labels, 300)


def test_parts_that_differ_in_things_alone_have_no_panoptic_quality():
    one, other = kinds(THINGS, STUFF), kinds(STUFF, STUFF)
    scores = evaluate(ReadsTheAnswers("semantic"), ConcatDataset([one, other]), {})
    assert "panoptic_quality" not in scores["areas"]


def test_a_model_that_says_nan_is_not_scored():
    model = FusionModel({"semantic": 8}, width=4)
    torch.nn.init.constant_(model.heads["semantic"].bias, math.nan)
    with pytest.raises(ValueError, match="'semantic' holds NaN for picture 0; expected numbers"):
        evaluate(model, Subset(Scenes("test"), [0]), {})
