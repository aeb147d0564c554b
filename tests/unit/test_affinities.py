"""Affinities: target and loss by hand and by brute force, the conventions of the mutex watershed,
and its ceiling."""

import math
import sys

import numpy as np
import pytest
import torch
from examples import SEEDS, blobs, permuted_ids, random_region_map, tiny_samples
from torch.utils.data import DataLoader

from fusion_lib import prediction, training
from fusion_lib.affinities import (
    OFFSETS,
    AffinityTarget,
    affinity_cross_entropy,
    affinity_target,
    decode_affinities,
)
from fusion_lib.datasets import Scenes
from fusion_lib.losses import FusionLoss
from fusion_lib.metrics import covering
from fusion_lib.models import FusionModel
from fusion_lib.scenes import connected_regions
from fusion_lib.transforms import augmentation

VOID = 255
FAR = (*OFFSETS, (-2, 5), (0, -1), (40, 0), (-40, 40))  # backwards, and beyond most pictures


def brute_target(region: np.ndarray, offsets) -> np.ndarray:
    height, width = region.shape
    target = np.full((len(offsets), height, width), VOID)
    for k, y, x in np.ndindex(target.shape):
        there_y, there_x = y + offsets[k][0], x + offsets[k][1]
        if (
            0 <= there_y < height
            and 0 <= there_x < width
            and region[y, x] != -1 != region[there_y, there_x]
        ):
            target[k, y, x] = region[y, x] == region[there_y, there_x]
    return target


def true_probabilities(region: np.ndarray, offsets=OFFSETS, certainty: float = 1.0) -> np.ndarray:
    """What a network that makes no mistake predicts; undecided where the target is void."""
    target = affinity_target(region, offsets)
    return np.where(target == VOID, 0.5, np.where(target == 1, certainty, 1 - certainty))


def same_partition(one: np.ndarray, other: np.ndarray) -> bool:
    return np.array_equal(connected_regions(one), connected_regions(other))


# --- target --------------------------------------------------------------------------------------


def test_target_by_hand():
    region = np.array([[7, 7, 2], [7, -1, 2]])
    target = affinity_target(region, ((1, 0), (0, 1), (1, -1)))
    v = VOID
    down, right, down_left = [[1, v, 1], [v, v, v]], [[1, 0, v], [v, v, v]], [[v, 1, v], [v, v, v]]
    np.testing.assert_array_equal(target, [down, right, down_left])
    assert target.dtype == np.int64


@pytest.mark.parametrize("seed", SEEDS)
def test_target_equals_brute_force(seed):
    region = random_region_map(seed)
    np.testing.assert_array_equal(affinity_target(region, FAR), brute_target(region, FAR))


@pytest.mark.parametrize("seed", range(5))
def test_target_does_not_care_how_regions_are_numbered(seed):
    region = random_region_map(seed)
    np.testing.assert_array_equal(
        affinity_target(region), affinity_target(permuted_ids(region, seed))
    )


@pytest.mark.parametrize(
    "region, error, message",
    [(np.zeros((4, 4)), TypeError, "float64"), (np.zeros((1, 4, 4), int), ValueError, "(1, 4, 4)")],
)
def test_target_of_what_is_no_region_map(region, error, message):
    with pytest.raises(error) as caught:
        affinity_target(region)
    assert "region" in str(caught.value) and message in str(caught.value)


def test_transform_adds_the_target_of_the_augmented_regions():
    torch.manual_seed(0)
    sample = AffinityTarget()(augmentation((64, 64), smallest_crop=0.5)(Scenes("train")[0]))
    expected = affinity_target(np.asarray(sample["region"]))
    np.testing.assert_array_equal(sample["affinity_target"].numpy(), expected)
    assert {"image", "semantic", "region"} < set(sample) and sample["affinity_target"].shape == (
        len(OFFSETS),
        64,
        64,
    )


# --- loss ----------------------------------------------------------------------------------------


def test_three_entries_by_hand():
    """p = 3/4 where the affinity is 1 and where it is 0, in unlike channels, and a void entry."""
    logits = torch.tensor([[[[math.log(3), 5.0]], [[math.log(3), 0.0]]]])
    target = torch.tensor([[[[1, VOID]], [[0, 1]]]])
    expected = (math.log(4 / 3) + math.log(4) + math.log(2)) / 3
    assert affinity_cross_entropy(logits, target).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_loss_and_gradient_equal_torch_on_the_entries_that_count(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, 5, 4, generator=generator, requires_grad=True)
    target = torch.randint(0, 3, (2, 3, 5, 4), generator=generator)
    target[target == 2] = VOID
    counts = target != VOID
    loss = affinity_cross_entropy(logits, target)
    torch.testing.assert_close(
        loss, torch.nn.BCEWithLogitsLoss()(logits[counts], target[counts].float())
    )
    loss.backward()
    expected = torch.where(counts, logits.sigmoid() - target, 0.0) / counts.sum()  # (p - a) / |V|
    torch.testing.assert_close(logits.grad, expected)


def test_all_void_gives_zero_with_a_gradient():
    logits = torch.randn(1, 2, 3, 3, requires_grad=True)
    loss = affinity_cross_entropy(logits, torch.full((1, 2, 3, 3), VOID))
    loss.backward()
    assert loss.item() == 0 and math.copysign(1, loss.item()) == 1 and not logits.grad.any()


def test_pieces_divided_by_the_normaliser_of_the_whole_add_up():
    """Also by one below 1, as several processes have it: the mean over them is taken later."""
    logits, target = torch.randn(1, 2, 3, 3), torch.full((1, 2, 3, 3), VOID)
    target[0, 0, 0, 0] = 1
    alone = affinity_cross_entropy(logits, target)
    torch.testing.assert_close(affinity_cross_entropy(logits, target, torch.tensor(0.5)), 2 * alone)


@pytest.mark.parametrize(
    "target, message",
    [
        (torch.zeros(1, 3, 3, dtype=torch.int64), "(1, 3, 3)"),
        (torch.zeros(1, 3, 3, 3, dtype=torch.int64), "(1, 3, 3, 3)"),
        (torch.zeros(0, 2, 3, 3, dtype=torch.int64), "(0, 2, 3, 3)"),
        (torch.full((1, 2, 3, 3), 2), "holds class 2; expected 0..1 or void 255"),
        (torch.full((1, 2, 3, 3), -1), "holds class -1; expected"),
    ],
)
def test_loss_refuses_other_targets(target, message):
    with pytest.raises(ValueError) as caught:
        affinity_cross_entropy(torch.zeros(len(target) and 1, 2, 3, 3), target)
    assert "target" in str(caught.value) and message in str(caught.value)


# --- decoding ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [-0.2, 0.0, 0.3])
@pytest.mark.parametrize("seed", range(8))
def test_true_affinities_decode_to_their_regions(seed, bias):
    region = blobs(seed)
    assert same_partition(
        decode_affinities(true_probabilities(region, certainty=0.9), bias), region
    )


def test_true_affinities_of_scenes_decode_to_covering_one():
    """The ceiling: what is lost to decoding alone, when the network makes no mistake."""
    for split, index in (("val", 0), ("val", 7), ("test", 3), ("test", 50), ("train", 11)):
        region = Scenes(split).read(index)[2].astype(int)
        assert covering(region, decode_affinities(true_probabilities(region), smallest=1)) > 0.99
        assert (
            covering(region, decode_affinities(true_probabilities(region))) > 0.97
        )  # true regions begin at 4 pixels


@pytest.mark.parametrize("cut", range(1, 9))
def test_entry_x_of_a_channel_speaks_of_the_pixels_x_and_x_plus_the_offset(cut):
    """Two regions meet between columns cut - 1 and cut; a map shifted by the offset would put the
    border elsewhere."""
    region = np.zeros((6, 10), int)
    region[:, cut:] = 1
    offsets = ((1, 0), (0, 1), (0, 3))
    for this_way in (region, region.T):
        turned = offsets if this_way is region else [(right, down) for down, right in offsets]
        decoded = decode_affinities(
            true_probabilities(this_way, turned), smallest=1, offsets=turned
        )
        np.testing.assert_array_equal(decoded, this_way)


def test_far_pairs_keep_apart_what_a_gap_in_the_border_would_join():
    region = np.zeros((12, 12), int)
    region[:, 6:] = 1
    probabilities = true_probabilities(region, certainty=0.99)
    probabilities[1, 5:7, 5] = 0.95  # the border is missed on two rows, by near offsets alone
    assert same_partition(decode_affinities(probabilities), region)
    near_only = np.where(np.abs(OFFSETS).sum(1)[:, None, None] == 1, probabilities, 1.0)
    assert decode_affinities(near_only).max() == 0


def brute_mutex_watershed(probabilities: np.ndarray, offsets) -> np.ndarray:
    """The algorithm, word for word, on sets of pixels."""
    height, width = probabilities.shape[1:]
    edges = []
    for (k, y, x), p in np.ndenumerate(probabilities):
        there = (y + offsets[k][0], x + offsets[k][1])
        if 0 <= there[0] < height and 0 <= there[1] < width:
            attracts = abs(offsets[k][0]) + abs(offsets[k][1]) == 1
            edges.append((p if attracts else 1 - p, attracts, (y, x), there))
    cluster = {
        pixel: {pixel} for pixel in np.ndindex(height, width)
    }  # pixels of one cluster share one set
    apart = []  # pairs of pixels
    for _, attracts, *pair in sorted(edges, reverse=True):
        between = {id(cluster[pixel]) for pixel in pair}
        if len(between) == 1:
            continue
        if not attracts:
            apart.append(pair)
        elif not any({id(cluster[pixel]) for pixel in kept} == between for kept in apart):
            joined = cluster[pair[0]] | cluster[pair[1]]
            cluster.update(dict.fromkeys(joined, joined))
    ids = [id(cluster[pixel]) for pixel in np.ndindex(height, width)]
    return np.unique(ids, return_inverse=True)[1].reshape(height, width)


@pytest.mark.parametrize("seed", range(10))
def test_decoding_equals_brute_force(seed):
    offsets = ((1, 0), (0, 1), (2, 0), (0, 3), (2, -2))
    probabilities = np.random.default_rng(seed).random((len(offsets), 6, 7))
    decoded = decode_affinities(probabilities, smallest=1, offsets=offsets)
    assert same_partition(decoded, brute_mutex_watershed(probabilities, offsets))


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (5, 3), (20, 24)])
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0, None])
@pytest.mark.parametrize("smallest", [1, 5])
def test_decoding_is_always_a_partition_of_connected_regions(smallest, value, shape):
    size = (len(OFFSETS), *shape)
    probabilities = np.random.default_rng(1).random(size) if value is None else np.full(size, value)
    given = probabilities.copy()
    region = decode_affinities(probabilities, smallest=smallest)
    assert region.shape == shape and region.dtype == np.int64
    assert np.unique(region).tolist() == list(range(region.max() + 1))
    np.testing.assert_array_equal(connected_regions(region), region)
    np.testing.assert_array_equal(probabilities, given)


def test_more_bias_gives_fewer_regions():
    noisy = (
        np.random.default_rng(0)
        .normal(true_probabilities(blobs(1), certainty=0.8), 0.15)
        .clip(0, 1)
    )
    counts = [
        decode_affinities(noisy, bias, smallest=1).max() + 1 for bias in (-0.2, 0.0, 0.2, 0.4)
    ]
    assert counts == sorted(counts, reverse=True) and counts[0] > counts[-1]


def test_small_regions_give_way_along_the_borders_that_the_affinities_draw():
    """A spot of 4 pixels in the left half and a sliver beside the border: both go to the left
    half."""
    region = np.zeros((12, 12), int)
    region[:, 6:] = 1
    cluttered = region.copy()
    cluttered[2:4, 2:4], cluttered[4:8, 5] = 2, 3
    probabilities = true_probabilities(cluttered)
    probabilities[1, 4:8, 4] = (
        0.4  # a faint border on the sliver's left; the true one on its right has 0
    )
    assert decode_affinities(probabilities, smallest=1).max() == 3
    assert same_partition(decode_affinities(probabilities, smallest=5), region)
    assert decode_affinities(probabilities, smallest=1000).max() == 3  # none is as large: all stay


def test_class_edges_part_what_the_affinities_join():
    semantic = np.full((2, 10, 10), 0.02)
    semantic[0, :, :4] = semantic[1, :, 4:] = 0.98
    unsure = np.full((len(OFFSETS), 10, 10), 0.9)
    assert decode_affinities(unsure).max() == 0
    assert decode_affinities(unsure, semantic=semantic).max() == 0  # edge_weight is 0
    decoded = decode_affinities(unsure, semantic=semantic, edge_weight=1.0)
    np.testing.assert_array_equal(decoded, (np.arange(10) >= 4)[None].repeat(10, 0))
    with pytest.raises(ValueError, match="semantic"):
        decode_affinities(unsure, semantic=semantic[:, 1:], edge_weight=1.0)


@pytest.mark.parametrize(
    "probabilities, message",
    [
        (np.zeros((3, 8, 8)), "(3, 8, 8)"),
        (np.zeros((8, 8)), "(8, 8)"),
        (np.full((8, 8, 8), 1.5), "1.5"),
        (np.full((8, 8, 8), np.nan), "nan"),
    ],
)
def test_decoding_refuses_what_are_no_affinities(probabilities, message):
    with pytest.raises(ValueError) as caught:
        decode_affinities(probabilities)
    assert "probabilities" in str(caught.value) and message in str(caught.value)


def test_decoding_refuses_what_are_no_class_probabilities():
    unsure, semantic = np.full((len(OFFSETS), 10, 10), 0.9), np.full((2, 10, 10), 0.5)
    semantic[0, 1, 2] = np.nan
    with pytest.raises(
        ValueError, match=r"semantic holds nan\.\.nan; expected numbers in \[0, 1\]"
    ):
        decode_affinities(unsure, semantic=semantic, edge_weight=1.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"bias": float("nan")},
        {"bias": float("inf")},
        {"smallest": -1},
        {"smallest": float("nan")},
        {"edge_weight": -1.0},
        {"edge_weight": float("nan")},
    ],
)
def test_numbers_of_the_decoding_out_of_range(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=rf"{name} is .*{wrong[name]}|{name} {wrong[name]}"):
        decode_affinities(np.full((len(OFFSETS), 10, 10), 0.9), **wrong)


def test_without_mwatershed_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "mwatershed", None)
    with pytest.raises(ModuleNotFoundError, match="pip install mwatershed"):
        decode_affinities(true_probabilities(blobs(0)))


# --- with the rest of the package ----------------------------------------------------------------


def affinity_loaders():
    add = AffinityTarget()
    train, val = [add(s) for s in tiny_samples(6)], [add(s) for s in tiny_samples(2, seed=1)]
    return DataLoader(train, 2, shuffle=True), DataLoader(val, 2)


def test_beta_weighs_the_affinities():
    batch = next(iter(affinity_loaders()[1]))
    outputs = {"semantic": torch.randn(2, 3, 16, 16), "affinity": torch.randn(2, 8, 16, 16)}
    parts = FusionLoss(alpha=0.5, beta=3.0)(outputs, batch)
    assert parts["affinity"] == affinity_cross_entropy(
        outputs["affinity"], batch["affinity_target"]
    )
    torch.testing.assert_close(parts["total"], 0.5 * parts["semantic"] + 3 * parts["affinity"])
    del batch["affinity_target"]
    with pytest.raises(ValueError, match="affinity_target"):
        FusionLoss()(outputs, batch)


def test_a_model_with_affinities_trains_and_predicts():
    torch.manual_seed(0)
    model = FusionModel({"semantic": 3, "affinity": len(OFFSETS)}, width=4)
    loss, (train, val) = FusionLoss(), affinity_loaders()
    history = training.train(
        model, loss, train, val, epochs=12, learning_rate=1e-2, device=torch.device("cpu")
    )
    assert history[-1]["train_affinity"] < history[0]["train_affinity"]
    best = max(history, key=lambda entry: entry["val_score"])
    assert best["val_score"] == pytest.approx(
        (best["val_miou_semantic"] + best["val_miou_affinity"]) / 2
    )
    batch = next(iter(val))
    with torch.no_grad():
        same = model.eval()(batch["image"])["affinity"] > 0
    target = batch["affinity_target"]
    valid = target != VOID
    ious = [
        ((same == c) & (target == c)).sum() / (((same == c) | (target == c)) & valid).sum()
        for c in (0, 1)
    ]
    assert best["val_miou_affinity"] == pytest.approx(float(sum(ious) / 2), abs=1e-6)
    predicted = prediction.predict(model, batch["image"][0])["affinity"]
    with torch.no_grad():
        expected = model(batch["image"][:1])["affinity"][0].sigmoid().numpy()
    np.testing.assert_allclose(np.exp(predicted), expected, atol=1e-6)
