"""Rivals where few pictures have names: what they are taught, and what they begin with."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from examples import RECIPE

from fusion_lib.lab import declared, few_names, measures, recipes
from fusion_lib.models import FusionModel
from fusion_lib.prediction import predict
from fusion_lib.regions import vote

FEW = replace(RECIPE, labels=0.25)
RUN = {"model": "own decoders", "data": "few", "seed": 3, "labels": 0.25, "learning_rate": 1e-2}


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    return FusionModel(recipes.TASKS, width=4).eval()


@pytest.fixture
def runs(monkeypatch):
    monkeypatch.setattr(declared, "DATA", {"few": (FEW, "Blobs")})


@pytest.mark.parametrize("voted", [False, True])
def test_named_pictures_keep_their_names_and_the_others_get_the_teachers(teacher, voted):
    recipe = few_names.renamed(FEW, teacher, seed=3, voted=voted)
    true, taught = FEW.dataset("train"), recipe.dataset("train")
    named = recipes.kept_pictures(0.25, 40, 3)
    assert recipe.labels == 1 and len(taught) == 40 and len(named) == 10
    for index in range(40):
        image, semantic, region = taught.read(index)
        true_image, true_semantic, true_region = true.read(index)
        np.testing.assert_array_equal(image, true_image)
        np.testing.assert_array_equal(region, true_region)
        if index in named:
            np.testing.assert_array_equal(semantic, true_semantic)
            continue
        logits = predict(teacher, true[index]["image"], FEW.size)["semantic"]
        expected = vote(logits, true_region) if voted else logits.argmax(0)
        np.testing.assert_array_equal(semantic, expected)


def test_validation_and_test_pictures_keep_their_names(teacher):
    recipe = few_names.renamed(FEW, teacher, seed=0, voted=False)
    for split in ("val", "test"):
        for one, other in zip(recipe.dataset(split).read(1), FEW.dataset(split).read(1)):
            np.testing.assert_array_equal(one, other)


def test_network_begins_with_the_trained_encoder_and_a_new_decoder(teacher):
    model = few_names.begun_with(teacher)({"semantic": 8}, width=4)
    for name, values in model.encoder.state_dict().items():
        assert torch.equal(values, teacher.encoder.state_dict()[name])
    pairs = zip(model.decoder.parameters(), teacher.decoder.parameters())
    assert not all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("rival", few_names.RIVALS)
def test_a_run_trains_what_its_rival_needs_and_then_itself(rival, runs, monkeypatch, tmp_path):
    trained = []
    fit = recipes.fit

    def watched(recipe, outputs, *rest):
        trained.append((tuple(outputs), recipe.labels))
        return fit(recipe, outputs, *rest)

    monkeypatch.setattr(recipes, "fit", watched)
    model = "semantic only" if rival == "region pretraining" else "own decoders"
    run = {**RUN, "model": model, "rival": rival}
    assert declared.settings(run)["rival"] == rival
    assert "rival" not in declared.settings({**run, "rival": "none"})
    measures.train(run, tmp_path)
    before = {"region pretraining": (("region",), 1.0)}.get(rival, (("semantic", "region"), 0.25))
    after = (("semantic",), 0.25) if rival == "region pretraining" else (before[0], 1.0)
    assert trained == [before, after]
