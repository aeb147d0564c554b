"""A third and a fourth task for every pixel, from the data to the scores: no code knows their
names."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from examples import RECIPE, Blobs, Reads, one_hot, tiny_loaders, tiny_model, tiny_samples
from torch import nn
from torch.utils.data import DataLoader

from fusion_lib import evaluation, plots, training, weighting
from fusion_lib.engine import checkpoints
from fusion_lib.lab import changes, declared, measures, recipes
from fusion_lib.lab.changes import Changed
from fusion_lib.losses import FusionLoss, pixel_cross_entropy
from fusion_lib.models import FusionModel, TwoNetworks
from fusion_lib.regions import has_regions

CPU = torch.device("cpu")
FOUR = {"semantic": 8, "region": 3, "surfaces": 3, "parity": 2}


class MoreBlobs(Blobs):
    """`Blobs` with two further label maps, which are functions of the semantic labels."""

    further_classes = {"surfaces": ("low", "middle", "high"), "parity": ("even", "odd")}

    def read_further(self, index):
        semantic = self.read(index)[1]
        void = semantic == 255
        return {
            "surfaces": np.where(void, 255, semantic // 3),
            "parity": np.where(void, 255, semantic % 2),
        }


class ReadsMore(Reads):
    """`Reads`, and further tasks read off the semantic colour, with one class of each confused with
    the next."""

    def __init__(self, *tasks, further=("surfaces", "parity"), **options):
        super().__init__(*tasks, **options)
        self.further = further

    def forward(self, images):
        semantic = (images[:, 0] * 255).round().long() // 20
        answers = {
            "surfaces": (torch.where(semantic == 0, 3, semantic) // 3, 3),
            "parity": (semantic % 2, 2),
        }
        more = {
            task: 6.0 * nn.functional.one_hot(*answers[task]).movedim(-1, 1)
            for task in self.further
        }
        return {**super().forward(images), **more}


MORE = replace(RECIPE, dataset=MoreBlobs)
DECODING = {"smoothing": 0.5, "threshold": 0.5, "edge_weight": 0.5, "vote_weight": 0.6}


# --- the whole way -----------------------------------------------------------------------------


@pytest.mark.parametrize("sharing", ["hard", "attention", "blocks", "gates", "decoders"])
def test_four_tasks_go_the_whole_way(sharing, tmp_path):
    """Trained, resumed from nothing, decoded, measured, stored and drawn."""
    recipe = replace(MORE, model={"width": 4, "sharing": sharing})
    model, history = recipes.fit(recipe, FOUR, folder=tmp_path / "run")
    for name in ("semantic", "region", "surfaces", "parity"):
        assert {f"train_{name}", f"val_{name}", f"val_miou_{name}"} <= set(history[0])
    mious = [history[0][f"val_miou_{task}"] for task in FOUR]
    assert history[0]["val_score"] == pytest.approx(np.mean(mious))
    decoding = recipes.tune_decoding(model, recipe)
    assert list(decoding) == ["smoothing", "threshold", "edge_weight", "vote_weight"]
    scores = recipes.scores(model, recipe, decoding)
    assert set(scores) == {"semantic", "voted", "fused", "partition", "areas", "surfaces", "parity"}
    checkpoints.save_checkpoint(model, tmp_path / "four.safetensors", decoding=decoding)
    again, facts = checkpoints.load_checkpoint(tmp_path / "four.safetensors")
    assert again.config["outputs"] == FOUR and facts["decoding"] == decoding
    np.testing.assert_equal(recipes.scores(again, recipe, decoding), scores)
    plots.show_history(history)
    panels = plots.plt.gcf().axes
    assert [panel.get_title() for panel in panels[:-1]] == [f"{n} loss" for n in ("total", *FOUR)]
    assert panels[-1].get_legend_handles_labels()[1] == [*FOUR]


def test_two_networks_may_be_four():
    model = TwoNetworks(FOUR, width=4)
    assert {
        task: logits.shape[1] for task, logits in model(torch.rand(2, 3, 16, 16)).items()
    } == FOUR


def test_photographs_have_three_tasks():
    from fusion_lib.datasets import StanfordBackground

    further = {task: len(classes) for task, classes in StanfordBackground.further_classes.items()}
    assert {**recipes.TASKS, **further} == recipes.SURFACES_TASKS


def test_further_labels_stay_where_semantic_labels_are_taken_away():
    data = recipes.loaders(replace(MORE, labels=0.25), FOUR)[0].dataset
    samples = [data[index] for index in range(len(data))]
    kept = [
        [bool((sample[name] != 255).any()) for name in ("semantic", "surfaces")]
        for sample in samples
    ]
    assert sum(semantic for semantic, _ in kept) == 10 and all(surfaces for _, surfaces in kept)


def test_a_data_set_on_the_device_keeps_its_further_labels():
    """They move with the semantic labels, of which they are functions, and change no draw."""
    from fusion_lib.engine.resident import ResidentLoader

    batches = []
    for data in (Blobs("train"), MoreBlobs("train")):
        torch.manual_seed(3)
        batches.append(
            next(iter(ResidentLoader(data, 8, (20, 28), 2.0, CPU, smallest_crop=0.5, light=0.2)))
        )
    plain, more = batches
    assert set(more) - set(plain) == {"surfaces", "parity"} and all(
        torch.equal(plain[name], more[name]) for name in plain
    )
    void = more["semantic"] == 255
    assert (
        torch.equal(more["surfaces"], torch.where(void, 255, more["semantic"] // 3)) and void.any()
    )
    assert torch.equal(more["parity"], torch.where(void, 255, more["semantic"] % 2))


# --- nothing changes for the two ---------------------------------------------------------------


def test_further_labels_change_nothing_for_a_model_of_two_tasks():
    """Bit for bit: the same pictures, the same weights, the same scores."""
    runs = [recipes.fit(recipe, recipes.TASKS, seed=4) for recipe in (RECIPE, MORE)]
    for entry, other in zip(*(history for _, history in runs)):
        assert {**entry, "seconds": 0, "memory_mib": 0} == {**other, "seconds": 0, "memory_mib": 0}
    one, other = (model.state_dict() for model, _ in runs)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_further_head_changes_no_other_tasks_scores():
    two = evaluation.evaluate(Reads("semantic", "region"), MoreBlobs("test"), DECODING)
    four = evaluation.evaluate(ReadsMore("semantic", "region"), MoreBlobs("test"), DECODING)
    assert set(four) - set(two) == {"surfaces", "parity"}
    np.testing.assert_equal({name: four[name] for name in two}, two)
    decodings = [
        recipes.tune_decoding(model("semantic", "region"), MORE) for model in (Reads, ReadsMore)
    ]
    assert decodings[0] == decodings[1]


# --- losses ------------------------------------------------------------------------------------


def three_outputs():
    torch.manual_seed(1)
    outputs = {
        task: torch.randn(2, classes, 4, 4)
        for task, classes in (("semantic", 5), ("region", 3), ("surfaces", 3))
    }
    batch = {
        "semantic": torch.randint(0, 5, (2, 4, 4)),
        "region_target": torch.randint(0, 3, (2, 4, 4)),
    }
    batch["surfaces"] = torch.randint(0, 3, (2, 4, 4))
    batch["surfaces"][1, :, 2] = 255
    return outputs, batch


@pytest.mark.parametrize(
    "further, weight",
    [
        (None, 1.0),
        ({}, 1.0),
        ({"depth": 3.0}, 1.0),
        ({"surfaces": 0.25}, 0.25),
        ({"surfaces": 0}, 0),
    ],
)
def test_a_further_task_is_weighed_by_one_or_as_told(further, weight):
    outputs, batch = three_outputs()
    class_weights = torch.tensor([2.0, 1.0, 0.5])  # of the region task alone
    parts = FusionLoss(0.3, 0.7, class_weights, further)(outputs, batch)
    assert list(parts) == ["total", "semantic", "region", "surfaces"]
    plain = pixel_cross_entropy(outputs["surfaces"], batch["surfaces"])
    assert torch.equal(parts["surfaces"], plain)
    assert torch.equal(
        parts["region"],
        pixel_cross_entropy(outputs["region"], batch["region_target"], class_weights),
    )
    expected = 0.3 * parts["semantic"] + 0.7 * parts["region"] + weight * plain
    torch.testing.assert_close(parts["total"], expected)


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_further_weight_out_of_range(value):
    with pytest.raises(
        ValueError, match=rf"surfaces is {value}; expected a finite number of at least 0"
    ):
        FusionLoss(further={"surfaces": value})


@pytest.mark.parametrize("name", ["semantic", "region", "affinity", "total"])
def test_further_weight_of_a_task_that_has_one(name):
    with pytest.raises(
        ValueError, match=rf"further names \['{name}'\]; alpha weighs semantic and beta"
    ):
        FusionLoss(further={name: 1.0})


def test_training_without_the_further_target_says_which_is_missing():
    """As it happens on scenes, which have no surfaces."""
    with pytest.raises(
        ValueError, match=r"batch has \[.*\]; task 'surfaces' expects its target as 'surfaces'"
    ):
        recipes.fit(RECIPE, {"semantic": 8, "surfaces": 3})


def test_run_with_another_further_weight_is_not_resumed(tmp_path):
    samples = [{**sample, "surfaces": sample["semantic"]} for sample in tiny_samples(4)]
    loader = DataLoader(samples, 2)

    def run(weight):
        model = tiny_model(outputs={"semantic": 3, "surfaces": 3})
        loss = FusionLoss(further={"surfaces": weight})
        training.train(model, loss, loader, loader, epochs=2, device=CPU, folder=tmp_path)

    run(0.5)
    with pytest.raises(ValueError, match="other settings .*surfaces"):
        run(0.6)


@pytest.mark.parametrize("name", ["uncertainty", "FAMO", "PCGrad"])
def test_a_weighting_of_two_tasks_drops_no_third(name):
    samples = [{**sample, "surfaces": sample["semantic"]} for sample in tiny_samples(4)]
    model = tiny_model(outputs={"semantic": 3, "region": 3, "surfaces": 3})
    with pytest.raises(
        ValueError,
        match=r"parts has \['region', 'semantic', 'surfaces', 'total'\]; .* expects semantic",
    ):
        training.train(
            model,
            FusionLoss(),
            DataLoader(samples, 2),
            tiny_loaders()[1],
            epochs=1,
            device=CPU,
            weighting=weighting.choose(name),
        )


# --- metrics -----------------------------------------------------------------------------------


def test_further_scores_by_hand():
    """Where the semantic label is 0, `ReadsMore` says surface 1 instead of 0; parity is always
    right."""
    data = MoreBlobs("test")
    counts = sum(
        np.bincount(data.read(index)[1].ravel(), minlength=256) for index in range(len(data))
    )[:8]
    scores = evaluation.evaluate(ReadsMore(), data, {})
    assert set(scores) == {"surfaces", "parity"}
    low, middle, high, wrong = counts[:3].sum(), counts[3:6].sum(), counts[6:].sum(), counts[0]
    assert wrong > 0 and middle > 0
    np.testing.assert_allclose(
        scores["surfaces"]["iou"], [(low - wrong) / low, middle / (middle + wrong), 1]
    )
    assert scores["surfaces"]["pixel_accuracy"] == pytest.approx(1 - wrong / (low + middle + high))
    assert scores["parity"]["miou"] == 1


def test_semantic_and_surfaces_without_regions():
    scores = evaluation.evaluate(ReadsMore("semantic"), MoreBlobs("test"), {})
    assert set(scores) == {"semantic", "areas", "surfaces", "parity"}
    with pytest.raises(
        ValueError,
        match=r"model has the tasks \['semantic', 'surfaces', 'parity'\]; expected the region",
    ):
        recipes.tune_decoding(ReadsMore("semantic"), MORE)


def test_regions_and_surfaces_without_semantic():
    scores = evaluation.evaluate(
        ReadsMore("region"), MoreBlobs("test"), {"smoothing": 0.5, "threshold": 0.5}
    )
    assert set(scores) == {"partition", "surfaces", "parity"}


def test_further_labels_missing_in_the_samples():
    with pytest.raises(
        ValueError,
        match=r"sample has \['image', 'region', 'semantic'\]; task 'surfaces' expects its labels",
    ):
        evaluation.evaluate(ReadsMore("semantic"), Blobs("test"), {})


@pytest.mark.parametrize(
    "tasks, answer",
    [
        (["semantic"], False),
        (["region"], True),
        (["semantic", "affinity"], True),
        ({"semantic": 1, "surfaces": 2}, False),
    ],
)
def test_has_regions(tasks, answer):
    assert has_regions(tasks) is answer


def test_experiment_measures_further_tasks_too(monkeypatch):
    monkeypatch.setattr(declared, "DATA", {"more": (MORE, "More")})
    both = {"semantic": 8, "surfaces": 3}
    monkeypatch.setattr(declared, "MODELS", {"four": (FOUR, "hard"), "two": (both, "hard")})
    found = {}
    for name, tasks in (("four", FOUR), ("two", both)):
        run, model = {"data": "more", "model": name}, FusionModel(tasks, width=4)
        found[name] = set(measures.main_test_scores(run, model, [{}]))
        full = set(measures.full_test_scores(run, model, [{}]))
        assert ({"covering_fused", "miou_fused"} <= full) == (name == "four")
        assert {"miou", "iou", "pixel_accuracy"} <= full
    assert found["two"] == {"miou", "pixel_accuracy", "miou_surfaces"}
    assert found["four"] == found["two"] | {"covering", "miou_fused"}


# --- pictures under other conditions, and figures ----------------------------------------------


def test_changed_pictures_keep_their_further_labels():
    changed, plain = Changed(MoreBlobs, "test", "dark", 2, pictures=2), MoreBlobs("test")
    assert changed.further_classes == plain.further_classes
    for index, place in enumerate(changed.indices):
        assert torch.equal(changed[index]["surfaces"], plain[place]["surfaces"])
        assert not torch.equal(changed[index]["image"], plain[place]["image"])


def test_border_curves_of_four_tasks_are_those_of_two():
    models = (Reads("semantic", "region"), ReadsMore("semantic", "region"))
    two, four = (changes.border_curves(model, MoreBlobs("test"), DECODING) for model in models)
    assert set(two) == {"pixels", "wrong", "wrong_fused"} and two == four


def test_twenty_one_classes_have_colours_and_a_whole_legend():
    colours = plots.colour_classes(np.arange(24)[None])[0]
    assert len(np.unique(colours, axis=0)) == 24
    np.testing.assert_array_equal(colours[:8], plots.PALETTE)
    names = tuple(f"class {number}" for number in range(21))
    plots.show(
        {"labels": plots.colour_classes(one_hot(np.zeros((4, 4), int), 2).argmax(0))}, legend=names
    )
    (legend,) = plots.plt.gcf().legends
    assert tuple(text.get_text() for text in legend.get_texts()) == names
    assert len(legend.get_patches()) == 21
