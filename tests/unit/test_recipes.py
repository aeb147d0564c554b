"""The settings put to work, on made-up pictures: loaders with fewer labels, and runs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from examples import RECIPE, Blobs, Reads

from fusion_lib import evaluation, prediction, training, tuning
from fusion_lib.affinities import decode_affinities
from fusion_lib.engine import devices
from fusion_lib.engine.resident import ResidentLoader
from fusion_lib.lab import recipes
from fusion_lib.lab.recipes import (
    AFFINITY_TASKS,
    SCENES_SECOND,
    TASKS,
    Relabelled,
    false_regions,
    fit,
    loaders,
    seen,
    tune_decoding,
)
from fusion_lib.models import FusionModel, TwoNetworks
from fusion_lib.regions import fuse, vote
from fusion_lib.scenes import connected_regions
from fusion_lib.targets import region_target

BOTH, SEMANTIC, REGION = TASKS, {"semantic": 8}, {"region": 3}


def draws(recipe, outputs, seed=0, torch_seed=0) -> list[int]:
    """The pictures of one epoch, in order."""
    loader, _ = loaders(recipe, outputs, seed)
    training.seed_everything(torch_seed)
    return list(loader.sampler)


def labelled(recipe, outputs=BOTH, seed=0) -> set[int]:
    """The training pictures that keep semantic labels."""
    data = loaders(recipe, outputs, seed)[0].dataset
    return {index for index in range(len(data)) if (data[index]["semantic"] != 255).any()}


# --- loaders -----------------------------------------------------------------------------------


@pytest.mark.parametrize("outputs", [BOTH, SEMANTIC, REGION])
def test_with_all_labels_an_epoch_is_every_picture_once(outputs):
    one, other = draws(RECIPE, outputs), draws(RECIPE, outputs, torch_seed=1)
    assert sorted(one) == sorted(other) == list(range(40)) and one != other
    assert labelled(RECIPE, outputs) == set(range(40))


def test_batches_hold_what_training_needs():
    train, val = loaders(replace(RECIPE, size=(16, 20), smallest_crop=0.5, light=0.2), BOTH)
    for loader, count in ((train, 4), (val, 6)):
        batch = next(iter(loader))
        assert batch["image"].shape == (count, 3, 16, 20) and batch["image"].dtype == torch.float32
        assert batch["semantic"].shape == batch["region_target"].shape == (count, 16, 20)
        for region, target in zip(batch["region"].numpy(), batch["region_target"].numpy()):
            np.testing.assert_array_equal(
                target, region_target(region, 2.0)
            )  # after the augmentation


@pytest.mark.parametrize("share, count", [(0.1, 4), (0.26, 10), (0.99, 40), (0.001, 1)])
def test_share_of_the_pictures_keeps_its_semantic_labels(share, count):
    recipe = replace(RECIPE, labels=share)
    for outputs in (BOTH, SEMANTIC):
        assert len(labelled(recipe, outputs)) == count
    assert labelled(recipe, SEMANTIC) == labelled(
        recipe, BOTH
    )  # both models of a pair see the same labels


def test_labels_are_drawn_by_the_seed_and_a_larger_share_keeps_those_of_a_smaller():
    tenth, quarter = replace(RECIPE, labels=0.1), replace(RECIPE, labels=0.25)
    assert labelled(tenth, seed=3) == labelled(tenth, seed=3) < labelled(quarter, seed=3)
    assert len({frozenset(labelled(tenth, seed=seed)) for seed in range(5)}) == 5
    torch.manual_seed(123)
    assert labelled(tenth, seed=3) == labelled(tenth, seed=3)  # whatever the other generators do


def test_pictures_without_labels_are_void_and_keep_their_regions():
    recipe = replace(RECIPE, labels=0.1)
    few, every = loaders(recipe, BOTH)[0].dataset, loaders(RECIPE, BOTH)[0].dataset
    kept = labelled(recipe)
    for index in range(40):
        samples = []
        for data in (few, every):
            training.seed_everything(index)  # the same flip
            samples.append(data[index])
        for name in ("image", "region", "region_target"):
            assert torch.equal(samples[0][name], samples[1][name])
        expected = samples[1]["semantic"] if index in kept else torch.full((24, 24), 255)
        assert torch.equal(samples[0]["semantic"], expected)


def test_semantic_model_draws_labelled_pictures_only():
    recipe = replace(RECIPE, labels=0.25)
    one = draws(recipe, SEMANTIC)
    assert len(one) == 40 and set(one) <= labelled(recipe)  # as many as with all labels
    batches = [batch["semantic"] for batch in loaders(recipe, SEMANTIC)[0]]
    assert len(batches) == 10 and all((labels != 255).any(-1).any(-1).all() for labels in batches)


def test_fused_model_draws_half_from_the_labelled_and_half_from_all():
    """With a tenth of the labels, a draw is a labelled one with probability 1/2 + 1/2 * 1/10."""
    recipe = replace(RECIPE, labels=0.1)
    kept = labelled(recipe)
    drawn = [
        index for torch_seed in range(100) for index in draws(recipe, BOTH, torch_seed=torch_seed)
    ]
    assert len(drawn) == 4000 and set(drawn) == set(range(40))
    counts = np.bincount(drawn, minlength=40) / 4000
    inside = np.array(sorted(kept))
    assert counts[inside].sum() == pytest.approx(0.55, abs=0.04)  # five standard deviations
    np.testing.assert_allclose(counts[inside], 0.55 / 4, atol=0.03)
    np.testing.assert_allclose(np.delete(counts, inside), 0.45 / 36, atol=0.009)


def test_region_model_needs_no_semantic_labels():
    recipe = replace(RECIPE, labels=0.1)
    assert sorted(draws(recipe, REGION)) == list(range(40))


def test_draws_are_the_same_for_the_same_seeds():
    recipe = replace(RECIPE, labels=0.25)
    for outputs in (BOTH, SEMANTIC):
        assert (
            draws(recipe, outputs, 2, 5)
            == draws(recipe, outputs, 2, 5)
            != draws(recipe, outputs, 2, 6)
        )


def test_validation_keeps_every_label():
    _, val = loaders(replace(RECIPE, labels=0.1), BOTH)
    (batch,) = val
    assert len(batch["image"]) == 6 and (batch["semantic"] != 255).any(-1).any(-1).all()


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01, float("nan")])
def test_share_of_labels_out_of_range(share):
    with pytest.raises(
        ValueError, match=r"labels is .*; expected a share of the pictures in \(0, 1\]"
    ):
        loaders(replace(RECIPE, labels=share), BOTH)


def test_share_of_the_pictures_is_drawn_by_the_seed_and_a_larger_holds_a_smaller():
    few, more, other = (
        set(loaders(replace(RECIPE, pictures=share), BOTH, seed)[0].dataset.indices)
        for share, seed in ((0.1, 3), (0.5, 3), (0.1, 4))
    )
    assert len(few) == len(other) == 4 and len(more) == 20 and few < more and few != other


def test_few_pictures_are_gone_through_until_there_are_as_many_steps_as_with_all():
    loader, val = loaders(replace(RECIPE, pictures=0.26), SEMANTIC)
    order = list(loader.sampler)
    assert len(loader) == 10 and len(order) == 40 and len(val.dataset) == 6
    assert all(
        sorted(order[start : start + 10]) == list(range(10)) for start in (0, 10, 20, 30)
    )  # each as often as the others


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"pictures": 0.0}, "pictures is 0.0; expected a share"),
        ({"pictures": 1.5}, "pictures is 1.5; expected a share"),
        (
            {"pictures": 0.5, "labels": 0.5},
            "labels is 0.5 and pictures 0.5; expected 1 for one of them",
        ),
    ],
)
def test_share_of_the_pictures_out_of_range(wrong, message):
    with pytest.raises(ValueError, match=message):
        loaders(replace(RECIPE, **wrong), BOTH)


def test_pictures_are_kept_on_the_device_if_the_recipe_says_so():
    kept = replace(RECIPE, resident=True)
    loader, _ = loaders(kept, BOTH)
    assert (
        isinstance(loader, ResidentLoader)
        and len(loader) == 10
        and loader.image.device.type == devices.choose_device().type
    )
    assert {"image", "semantic", "region_target"} <= set(next(iter(loader)))
    for recipe, outputs in (
        (replace(kept, labels=0.5), BOTH),
        (replace(kept, pictures=0.5), BOTH),
        (kept, AFFINITY_TASKS),
    ):
        with pytest.raises(
            ValueError, match="resident is True; expected one process, all pictures and labels"
        ):
            loaders(recipe, outputs)


def test_targets_are_computed_for_the_tasks_that_learn_them():
    for outputs, key in (
        (SEMANTIC, None),
        (REGION, "region_target"),
        (AFFINITY_TASKS, "affinity_target"),
    ):
        for loader in loaders(RECIPE, outputs):
            assert set(next(iter(loader))) == {"image", "semantic", "region"} | ({key} - {None})


# --- runs --------------------------------------------------------------------------------------


def test_fit_builds_what_is_asked_for(tmp_path):
    small = replace(RECIPE, model={"width": 4, "sharing": "attention"})
    model, history = fit(small, BOTH, folder=tmp_path / "one")
    assert (
        isinstance(model, FusionModel)
        and model.config["sharing"] == "attention"
        and len(history) == 1
    )
    assert (tmp_path / "one" / "state.pt").exists()
    model, _ = fit(small, BOTH, build=TwoNetworks)
    assert isinstance(model, TwoNetworks) and set(model.networks) == {"semantic", "region"}
    assert model.networks["region"].config["sharing"] == "attention"


def test_fit_repeats_itself_and_differs_with_the_seed():
    recipe = replace(RECIPE, labels=0.5)
    first, again, other = (fit(recipe, BOTH, seed)[0].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_fit_uses_the_recipes_weighting(tmp_path):
    _, history = fit(replace(RECIPE, weighting="observed sum"), BOTH, folder=tmp_path / "run")
    assert {"cosine", "norm_semantic", "norm_region"} < set(history[0])
    assert not (tmp_path / "run").exists()  # such a run cannot be resumed
    with pytest.raises(ValueError, match="weighting is 'some'"):
        fit(replace(RECIPE, weighting="some"), BOTH)


def test_fit_slows_the_encoder_down():
    """With a tiny share of the learning rate the encoder hardly moves, and the head does."""
    training.seed_everything(0)
    before = FusionModel(BOTH, **RECIPE.model).state_dict()
    after = fit(replace(RECIPE, encoder_factor=1e-6), BOTH)[0].state_dict()
    change = {
        name: (after[name] - before[name]).abs().max() for name in before if name.endswith("weight")
    }
    assert (
        max(value for name, value in change.items() if name.startswith("encoder"))
        < 1e-6
        < 1e-3
        < change["heads.semantic.weight"]
    )


def test_fit_uses_alpha_and_beta():
    _, (entry,) = fit(replace(RECIPE, alpha=0.25, beta=3.0), BOTH)
    assert entry["train_total"] == pytest.approx(
        0.25 * entry["train_semantic"] + 3 * entry["train_region"], rel=1e-5
    )


def test_fit_with_the_region_task_as_affinities():
    """Trains, chooses a decoding of the affinities on validation pictures, and is measured with
    it."""
    model, (entry,) = fit(RECIPE, AFFINITY_TASKS)
    assert set(model.heads) == {"semantic", "affinity"} and 0 <= entry["val_miou_affinity"] <= 1
    decoding = tune_decoding(model, RECIPE)
    assert list(decoding) == ["bias", "smallest", "edge_weight", "vote_weight"]
    scores = recipes.scores(model, RECIPE, decoding)
    assert {"semantic", "voted", "fused", "partition"} < set(scores)
    outputs = prediction.predict(model, Blobs("test")[0]["image"])
    expected = decode_affinities(
        np.exp(outputs["affinity"]),
        decoding["bias"],
        decoding["smallest"],
        np.exp(outputs["semantic"]),
        decoding["edge_weight"],
    )
    np.testing.assert_array_equal(fuse(outputs, **decoding)[1], expected)


# --- decodings and scores -----------------------------------------------------------------------


def test_decoding_looks_at_validation_pictures_only_and_at_as_many_as_told():
    read = []

    class Watched(Blobs):
        def read(self, index):
            read.append((self.split, index))
            return super().read(index)

    tune_decoding(Reads("region"), replace(RECIPE, dataset=Watched), pictures=3)
    assert read == [("val", 0), ("val", 1), ("val", 2)]


def test_decoding_of_a_recipe_is_that_of_its_validation_pictures():
    model = Reads("semantic", "region", noise=(0.5, 3.0))
    for joint in (True, False):
        expected = tuning.tune_decoding(model, Blobs("val"), (24, 24), joint)
        assert tune_decoding(model, RECIPE, joint=joint) == expected


def test_scores_are_those_of_the_split():
    model, decoding = (
        Reads("semantic", "region"),
        {"smoothing": 0.5, "threshold": 0.6, "edge_weight": 0.5, "vote_weight": 0.4},
    )
    for split in ("val", "test"):
        expected = evaluation.evaluate(model, Blobs(split), decoding)
        np.testing.assert_equal(recipes.scores(model, RECIPE, decoding, split), expected)
    np.testing.assert_equal(recipes.scores(model, RECIPE, decoding), expected)  # the test pictures


def test_fused_maps_are_argmax_regions_and_one_class_a_region():
    model, image = Reads("semantic", "region"), Blobs("val")[2]["image"]
    decoding = {"smoothing": 0.5, "threshold": 0.6, "edge_weight": 0.5, "vote_weight": 0.2}
    argmax, region, voted = recipes.fused_maps(model, image, decoding)
    outputs = prediction.predict(model, image)
    np.testing.assert_array_equal(argmax, outputs["semantic"].argmax(0))
    np.testing.assert_array_equal(region, fuse(outputs, **decoding)[1])
    np.testing.assert_array_equal(voted, vote(outputs["semantic"], region))
    assert all(len(np.unique(voted[region == number])) == 1 for number in range(region.max() + 1))


# --- false regions, the controls ------------------------------------------------------------------


def test_outlines_are_the_connected_areas_of_the_semantic_map():
    recipe = replace(SCENES_SECOND, regions="outlines")
    for loader in loaders(recipe, BOTH):
        sample, true = loader.dataset[3], loader.dataset.dataset[3]
        names = sample["semantic"].numpy().astype(int)
        expected = connected_regions(np.where(names == 255, -1, names))
        found = sample["region"].numpy()  # the ids are as before a flip
        np.testing.assert_array_equal(connected_regions(found), expected)
        assert found.max() < true["region"].max()
        np.testing.assert_array_equal(sample["region_target"], region_target(expected, 2.0))


def test_outlines_of_few_names_come_from_the_labelled_pictures_alone():
    few = replace(RECIPE, labels=0.25, regions="outlines")
    drawn, names = draws(few, BOTH), labelled(few)
    assert set(drawn) <= names and len(drawn) == 40 and len(names) == 10


def test_another_scenes_regions_are_those_of_the_next_picture():
    true = SCENES_SECOND.dataset("val")
    data = Relabelled(true, false_regions(true, "another scene"), None)
    for index, other in ((0, 1), (99, 0)):
        np.testing.assert_array_equal(data[index]["region"], data.dataset[other]["region"])
        np.testing.assert_array_equal(data[index]["semantic"], data.dataset[index]["semantic"])


def test_decoding_and_scores_see_the_true_regions():
    recipe = replace(SCENES_SECOND, regions="outlines")
    np.testing.assert_array_equal(
        recipe.dataset("val")[0]["region"], SCENES_SECOND.dataset("val")[0]["region"]
    )
    assert seen(recipe) is None


def test_unknown_regions_are_refused():
    with pytest.raises(ValueError, match="regions is 'none'; expected \"true\" or one of"):
        loaders(replace(SCENES_SECOND, regions="none"), BOTH)
    with pytest.raises(ValueError, match="resident is True; expected .*true regions"):
        loaders(replace(SCENES_SECOND, regions="outlines", resident=True), BOTH)


def test_fit_uses_the_weight_decay():
    one, other = (fit(replace(RECIPE, weight_decay=decay), BOTH)[0] for decay in (0.0, 0.5))
    norms = [sum(p.detach().square().sum() for p in model.parameters()) for model in (one, other)]
    assert norms[1] < norms[0]
