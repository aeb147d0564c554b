"""Decodings and classical parameters are the best of their grids, on the pictures given."""

import itertools

import numpy as np
import pytest
from examples import Blobs, Reads
from torch.utils.data import Subset

from fusion_lib import metrics, prediction, tuning
from fusion_lib.regions import decode_regions, fuse, vote
from fusion_lib.tuning import CLASSICAL, best_of, tune_classical, tune_decoding

VAL = Blobs("val")


def test_best_of_a_grid_by_hand():
    """Six settings; the first of the equally good ones counts."""
    seen = []

    def score(a, b):
        seen.append((a, b))
        return -abs(a - 2) - (b == "x")

    assert best_of({"a": (1, 2, 3), "b": ("x", "y")}, score) == {"a": 2, "b": "y"}
    assert seen == [(1, "x"), (1, "y"), (2, "x"), (2, "y"), (3, "x"), (3, "y")]
    assert best_of({"a": (3, 1)}, lambda a: 0) == {"a": 3}


def test_decoding_of_a_region_model_has_what_decode_regions_takes():
    decoding = tune_decoding(Reads("region"), VAL)
    assert list(decoding) == ["smoothing", "threshold"]
    decode_regions(np.full((3, 8, 8), 1 / 3), **decoding)


@pytest.mark.parametrize("joint", [True, False])
def test_decoding_of_a_model_of_both_tasks_has_what_fuse_takes(joint):
    decoding = tune_decoding(Reads("semantic", "region"), VAL, joint=joint)
    assert list(decoding) == ["smoothing", "threshold", "edge_weight", "vote_weight"]
    assert all(type(value) is float for value in decoding.values())  # for the checkpoint's JSON
    fuse({"semantic": np.zeros((8, 5, 5)), "region": np.zeros((3, 5, 5))}, **decoding)
    if not joint:
        assert decoding["edge_weight"] == 0 and decoding["vote_weight"] == 1


def test_without_class_edges_both_kinds_of_model_get_the_same_decoding():
    """What makes a comparison of single-task and fused models fair."""
    both = tune_decoding(Reads("semantic", "region"), VAL, joint=False)
    alone = tune_decoding(Reads("region"), VAL)
    assert {name: both[name] for name in alone} == alone


def test_class_edges_are_used_where_they_help_and_may_be_left_out():
    """A model that knows its classes better than its regions."""
    model = Reads("semantic", "region", noise=(0.5, 3.0))
    assert tune_decoding(model, VAL)["edge_weight"] > 0
    plain = tune_decoding(model, VAL, joint=False)
    assert plain["edge_weight"] == 0 and plain["vote_weight"] == 1


@pytest.mark.parametrize("noise", [(3.0, 1.0), (0.5, 3.0)])
def test_decoding_is_the_best_of_its_grid(noise):
    """Regions by mean covering over all settings; then, with these regions, the vote's weight by
    mIoU."""
    model, val = Reads("semantic", "region", noise=noise), Blobs("val")
    samples = [val[index] for index in range(len(val))]
    predicted = [prediction.predict(model, sample["image"]) for sample in samples]

    def coverings(smoothing, threshold, edge_weight):
        for sample, p in zip(samples, predicted):
            region = decode_regions(
                np.exp(p["region"]), smoothing, threshold, np.exp(p["semantic"]), edge_weight
            )
            yield metrics.covering(sample["region"], region)

    def miou(vote_weight, setting):
        confusion = 0
        for sample, p in zip(samples, predicted):
            region = decode_regions(
                np.exp(p["region"]), *setting[:2], np.exp(p["semantic"]), setting[2]
            )
            voted = vote(p["semantic"], region, vote_weight)
            confusion = confusion + metrics.confusion_matrix(sample["semantic"], voted, 8)
        return metrics.semantic_scores(confusion)["miou"]

    grid = itertools.product((0.5, 1.0, 2.0), (0.5, 0.6, 0.7, 0.8, 0.9), (0.0, 0.5, 1.0))
    table = {setting: np.mean(list(coverings(*setting))) for setting in grid}
    assert len(set(table.values())) > 5  # there is something to choose
    decoding = tune_decoding(model, VAL)
    chosen = decoding["smoothing"], decoding["threshold"], decoding["edge_weight"]
    assert table[chosen] == max(table.values())
    mious = {weight: miou(weight, chosen) for weight in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)}
    assert mious[decoding["vote_weight"]] == max(mious.values())


def test_decoding_needs_a_region_task_and_pictures():
    with pytest.raises(
        ValueError, match=r"model has the tasks \['semantic'\]; expected the region"
    ):
        tune_decoding(Reads("semantic"), VAL)
    with pytest.raises(ValueError, match="dataset has no pictures; expected at least one"):
        tune_decoding(Reads("region"), [])


@pytest.mark.parametrize("name", CLASSICAL)
def test_classical_parameters_are_the_best_of_their_grid(name):
    """By mean covering; a data set, a part of it and a list of samples are all the same."""
    method, grid = CLASSICAL[name]
    samples = [VAL[index] for index in range(2)]

    def mean_covering(parameters):
        images = [np.asarray(s["image"]).transpose(1, 2, 0) for s in samples]
        pairs = [(s["region"], method(i, **parameters)) for s, i in zip(samples, images)]
        return np.mean([metrics.covering(*pair) for pair in pairs])

    table = [dict(zip(grid, values)) for values in itertools.product(*grid.values())]
    coverings = [mean_covering(parameters) for parameters in table]
    chosen = tune_classical(name, Subset(VAL, range(2)))
    assert chosen == tune_classical(name, samples) == table[int(np.argmax(coverings))]
    scores = tuning.partition_scores(method, chosen, samples)
    assert scores["covering"] == pytest.approx(max(coverings))
    assert set(scores) == set(metrics.partition_scores(samples[0]["region"], samples[0]["region"]))
