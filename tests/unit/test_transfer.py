"""What the experiments on transfer measure, on made-up pictures: five starts, what became of the encoder, and rivals."""

from dataclasses import replace

import numpy as np
import pytest

from examples import RECIPE
from fusion_lib import backbones, grids, metrics, recipes, training
from test_further_tasks import MoreBlobs

TINY = replace(RECIPE, dataset=MoreBlobs, size=(32, 32), model={"encoder": "lite0", "width": 4, "pretrained": True})


@pytest.fixture(autouse=True)
def tiny_photographs(monkeypatch):
    monkeypatch.setattr(grids, "DATA", {"small photographs": TINY})


def run(start: str = "full", model: str = "semantic only", **more) -> dict:
    common = {"data": "small photographs", "epochs": 1, "seed": 0, "beta": 1.0, "learning_rate": 1e-2}
    return {**common, "start": start, "model": model, **more}


def test_a_model_that_was_not_tuned_is_refused():
    untuned = {name: value for name, value in run(model="gates").items() if name != "learning_rate"}
    with pytest.raises(ValueError, match="model 'gates' has no learning rate for the start 'full'; run the tuning experiment"):
        grids.after_transfer(untuned, None)


def test_a_start_decides_what_learns_and_how_fast():
    recipes_of = {start: grids.recipe_of(run(start, learning_rate=0.01)) for start in grids.STARTS}
    assert [r.model["pretrained"] for r in recipes_of.values()] == [False, True, True, True, True]
    assert [r.model.get("frozen_stages", 0) for r in recipes_of.values()] == [0, 5, 3, 0, 0]
    assert [r.encoder_factor for r in recipes_of.values()] == [1, 1, 1, 0.1, 1]
    assert {r.learning_rate for r in recipes_of.values()} == {0.01}


@pytest.mark.parametrize("start, frozen", [("frozen", 5), ("partly frozen", 3)])
def test_frozen_stages_have_not_moved(start, frozen):
    model, _ = grids.train(run(start), None)
    pairs = list(zip(backbones.backbone("lite0", pretrained=True).stages, model.encoder.stages))
    moved = [grids._moved(*pair) for pair in pairs]
    assert moved[:frozen] == [0.0] * frozen and all(way > 0 for way in moved[frozen:])
    miou = grids._argmax_miou(model, TINY)
    assert [grids._put_back(model, TINY, *pair) for pair in pairs[:frozen]] == pytest.approx([miou] * frozen, abs=1e-9)
    assert set(grids.after_transfer(run(start), None)) == {"miou", "pixel_accuracy", "minutes", "memory_mib"}


def test_fully_trained_encoder_has_moved_everywhere():
    numbers = grids.after_transfer(run("full"), None)
    assert len(numbers["moved"]) == len(numbers["put_back"]) == 5 and min(numbers["moved"]) > 0
    assert numbers["miou"] == grids.on_few_test(run("full"), None)["miou"]


def test_fused_model_is_decoded_and_a_third_task_has_a_score():
    numbers = grids.after_transfer(run(model="three tasks"), None)
    assert {"miou", "covering", "miou_fused", "miou_surfaces", "moved", "put_back"} < set(numbers)
    alone = set(grids.after_transfer(run(model="surfaces only"), None))
    assert {"miou_surfaces", "moved"} < alone and not {"miou", "put_back"} & alone


def test_from_scratch_there_is_nothing_to_put_back():
    assert not {"moved", "put_back"} & set(grids.after_transfer(run("scratch"), None))


def test_how_far_weights_moved_by_hand():
    """sqrt(sum of squared changes) / sqrt(sum of squares before), over all parameters of a stage."""
    before, after = (backbones.backbone("lite0", pretrained=True).stages[0] for _ in range(2))
    parameters = list(after.parameters())
    parameters[0].data += 0.5
    whole = np.sqrt(sum(float(p.detach().square().sum()) for p in before.parameters()))
    assert grids._moved(before, after) == pytest.approx(0.5 * np.sqrt(parameters[0].numel()) / whole, rel=1e-4)


def test_a_stage_is_put_back_for_one_look_only():
    model, _ = recipes.fit(TINY, {"semantic": 8})
    old = backbones.backbone("lite0", pretrained=True).stages[2]
    state = {name: values.clone() for name, values in model.state_dict().items()}
    kept = {name: values.clone() for name, values in old.state_dict().items()}
    model.encoder.stages[2].load_state_dict(kept)
    expected = metrics.evaluate(model, TINY.dataset("test"), {}, TINY.size)["semantic"]["miou"]
    model.load_state_dict(state)
    assert grids._put_back(model, TINY, old, model.encoder.stages[2]) == pytest.approx(expected)
    assert all((model.state_dict()[name] == values).all() for name, values in state.items())


@pytest.mark.parametrize("model", ["LRASPP", "own decoders"])
def test_rival_is_trained_tested_and_timed_beside_the_single_task_network(model, monkeypatch):
    times = {True: 6.0, False: 4.0}  # milliseconds of the model, and of the single-task network
    seen = []

    def time_step(network, images, repeats):
        seen.append((type(network).__name__, tuple(images.shape)))
        return times[len(seen) % 2 == 1]

    monkeypatch.setattr(training, "time_step", time_step)
    numbers = grids.beside_rivals(run(model=model), None)
    assert numbers["step_ms"] == 6.0 and numbers["step_ratio"] == 1.5 and len(seen) == 10
    assert seen[1] == ("FusionModel", (4, 3, 32, 32))
    assert len(numbers["val_curve"]) == 1 and 0 <= numbers["miou"] <= 1
    assert numbers["parameters"] > 2_900_000


def test_a_fold_is_the_data_sets_own_and_stands_in_the_settings(monkeypatch):
    monkeypatch.undo()
    runs = {r["fold"]: r for r in grids.EXPERIMENTS["full_resolution"].runs}
    assert sorted(runs) == [0, 1, 2, 3, 4]
    assert "fold" not in grids.settings(runs[0]) and grids.settings(runs[3])["fold"] == 3
    assert grids.settings(runs[3])["dataset"] == "StanfordBackground"
    assert grids.recipe_of(runs[3]).dataset.keywords == {"fold": 3}
