"""What the experiments on transfer measure, on made-up pictures: five starts, what became of the
encoder, and rivals."""

from dataclasses import replace

import numpy as np
import pytest
from examples import RECIPE
from test_further_tasks import MoreBlobs

from fusion_lib import evaluation
from fusion_lib.lab import changes, declared, experiments, measures, recipes, runner
from fusion_lib.models import encoders

TINY = replace(
    RECIPE,
    dataset=MoreBlobs,
    size=(32, 32),
    model={"encoder": "lite0", "width": 4, "pretrained": True},
)


@pytest.fixture(autouse=True)
def tiny_photographs(monkeypatch):
    monkeypatch.setattr(declared, "DATA", {"small photographs": (TINY, "StanfordBackground")})


def run(start: str = "full", model: str = "semantic only", **more) -> dict:
    common = {
        "data": "small photographs",
        "epochs": 1,
        "seed": 0,
        "beta": 1.0,
        "learning_rate": 1e-2,
    }
    return {**common, "start": start, "model": model, **more}


def test_a_model_that_was_not_tuned_is_refused():
    untuned = {name: value for name, value in run(model="gates").items() if name != "learning_rate"}
    with pytest.raises(
        ValueError,
        match="model 'gates' has no learning rate for the start 'full'; run the tuning experiment",
    ):
        measures.train_and(measures.scores_and_encoder_changes, untuned, None)


def test_a_start_decides_what_learns_and_how_fast():
    recipes_of = {
        start: declared.recipe_of(run(start, learning_rate=0.01)) for start in declared.STARTS
    }
    assert [r.model["pretrained"] for r in recipes_of.values()] == [False, True, True, True, True]
    assert [r.model.get("frozen_stages", 0) for r in recipes_of.values()] == [0, 5, 3, 0, 0]
    assert [r.encoder_factor for r in recipes_of.values()] == [1, 1, 1, 0.1, 1]
    assert {r.learning_rate for r in recipes_of.values()} == {0.01}


@pytest.mark.parametrize("start, frozen", [("frozen", 5), ("partly frozen", 3)])
def test_frozen_stages_have_not_moved(start, frozen):
    model, _ = measures.train(run(start), None)
    pairs = list(zip(encoders.backbone("lite0", pretrained=True).stages, model.encoder.stages))
    moved = [measures._moved(*pair) for pair in pairs]
    assert moved[:frozen] == [0.0] * frozen and all(way > 0 for way in moved[frozen:])
    miou = measures._argmax_miou(model, TINY)
    stages = list(enumerate(encoders.backbone("lite0", pretrained=True).stages))
    assert [measures._put_back(model, TINY, *stage) for stage in stages[:frozen]] == pytest.approx(
        [miou] * frozen, abs=1e-9
    )
    assert set(measures.train_and(measures.scores_and_encoder_changes, run(start), None)) == {
        "miou",
        "pixel_accuracy",
        "minutes",
        "memory_mib",
    }


def test_fully_trained_encoder_has_moved_everywhere():
    numbers = measures.train_and(measures.scores_and_encoder_changes, run("full"), None)
    assert len(numbers["moved"]) == len(numbers["put_back"]) == 5 and min(numbers["moved"]) > 0
    assert (
        numbers["miou"] == measures.train_and(measures.main_test_scores, run("full"), None)["miou"]
    )


def test_fused_model_is_decoded_and_a_third_task_has_a_score():
    numbers = measures.train_and(
        measures.scores_and_encoder_changes, run(model="three tasks"), None
    )
    assert {"miou", "covering", "miou_fused", "miou_surfaces", "moved", "put_back"} < set(numbers)
    alone = set(
        measures.train_and(measures.scores_and_encoder_changes, run(model="surfaces only"), None)
    )
    assert {"miou_surfaces", "moved"} < alone and not {"miou", "put_back"} & alone


def test_from_scratch_there_is_nothing_to_put_back():
    assert not {"moved", "put_back"} & set(
        measures.train_and(measures.scores_and_encoder_changes, run("scratch"), None)
    )


def test_how_far_weights_moved_by_hand():
    """sqrt(sum of squared changes) / sqrt(sum of squares before), over all parameters of a
    stage."""
    before, after = (encoders.backbone("lite0", pretrained=True).stages[0] for _ in range(2))
    parameters = list(after.parameters())
    parameters[0].data += 0.5
    whole = np.sqrt(sum(float(p.detach().square().sum()) for p in before.parameters()))
    assert measures._moved(before, after) == pytest.approx(
        0.5 * np.sqrt(parameters[0].numel()) / whole, rel=1e-4
    )


def test_a_stage_is_put_back_for_one_look_only():
    model, _ = recipes.fit(TINY, {"semantic": 8})
    old = encoders.backbone("lite0", pretrained=True).stages[2]
    state = {name: values.clone() for name, values in model.state_dict().items()}
    kept = {name: values.clone() for name, values in old.state_dict().items()}
    model.encoder.stages[2].load_state_dict(kept)
    expected = evaluation.evaluate(model, TINY.dataset("test"), {}, TINY.size)["semantic"]["miou"]
    model.load_state_dict(state)
    assert measures._put_back(model, TINY, 2, old) == pytest.approx(expected)
    assert all((model.state_dict()[name] == values).all() for name, values in state.items())


@pytest.mark.parametrize("model", ["LRASPP", "own decoders"])
def test_rival_is_trained_tested_and_timed_in_turns_with_the_single_task_network(
    model, monkeypatch
):
    """Five quotients 3, 1.5, 6, 2, 1 after a round to warm up, and their middle; 48 pictures in a
    median of 6 seconds."""
    times = iter([99.0, 1.0, 6.0, 2.0, 6.0, 4.0, 12.0, 2.0, 2.0, 1.0, 5.0, 5.0])
    seen = []

    def short_epoch(timed):
        seen.append((timed["model"], timed["beta"]))
        return next(times)

    monkeypatch.setattr(measures, "_short_epoch", short_epoch)
    numbers = measures.train_and(measures.score_and_speed, run(model=model, beta=2.0), None)
    assert numbers["time_ratio"] == 2.0 and numbers["pictures_a_second"] == pytest.approx(48 / 6)
    assert seen == [(model, 2.0), ("semantic only", 1.0)] * 6
    assert len(numbers["val_curve"]) == 1 and 0 <= numbers["miou"] <= 1
    assert numbers["parameters"] > 2_900_000


def test_short_epoch_trains_and_validates_on_the_first_pictures(monkeypatch):
    monkeypatch.setattr(measures, "SHORT_EPOCH", {"train": 8, "val": 2})
    read = []

    class Watched(MoreBlobs):
        def read(self, index):
            read.append((self.split, index))
            return super().read(index)

    watched = (replace(TINY, dataset=Watched), "StanfordBackground")
    monkeypatch.setattr(declared, "DATA", {"small photographs": watched})
    assert measures._short_epoch(run(model="FPN")) > 0
    assert sorted(set(read)) == [("train", index) for index in range(8)] + [
        ("val", index) for index in range(2)
    ]


def test_a_fold_is_the_data_sets_own_and_stands_in_the_settings(monkeypatch):
    monkeypatch.undo()
    runs = {r["fold"]: r for r in experiments.EXPERIMENTS["full_resolution"].runs}
    assert sorted(runs) == [0, 1, 2, 3, 4]
    assert "fold" not in declared.settings(runs[0]) and declared.settings(runs[3])["fold"] == 3
    assert declared.settings(runs[3])["dataset"] == "StanfordBackground"
    assert declared.recipe_of(runs[3]).dataset.keywords == {"fold": 3}


GEOMETRIC = {
    f"{metric}_{change}"
    for metric in changes.MEASURED
    for change in set(changes.CHANGES) - set(changes.PIXEL_CHANGES)
}


@pytest.mark.parametrize(
    "name, model, lacks",
    [
        ("designs", "own decoders", {"val_miou_surfaces"}),
        ("designs", "semantic only", {"covering", "miou_fused"}),
        ("photographs", "two networks", {"pq", "pq_areas", "pq_fused"}),
        ("photographs", "region only", {"miou", "miou_fused", "iou", "edge_weight"}),
        ("weighting", "hard sharing", {"pq", "pq_areas", "pq_fused"}),
        ("robustness", "hard sharing", GEOMETRIC),
    ],
)
def test_an_experiment_measures_what_it_declares(name, model, lacks, monkeypatch):
    """A declared run, on made-up pictures and for one epoch."""
    tiny = replace(TINY, epochs=1, model={"encoder": "small", "width": 4})
    monkeypatch.setattr(declared, "DATA", dict.fromkeys(("scenes", "photographs"), (tiny, "Blobs")))
    plain = {change: changes.CHANGES[change] for change in changes.PIXEL_CHANGES}
    monkeypatch.setattr(changes, "CHANGES", plain)  # the others want scenes
    changed = changes.Changed
    monkeypatch.setattr(changes, "Changed", lambda *which: changed(*which[:4], pictures=1))
    experiment = experiments.EXPERIMENTS[name]
    run = next(run for run in experiment.runs[::-1] if run["model"] == model)
    numbers = experiment.measure({**run, "epochs": 1}, None)
    declared_columns = {*experiment.measured, *runner.COST}
    assert set(numbers) <= declared_columns and not lacks & set(numbers)
    if model not in ("semantic only", "region only"):
        assert set(numbers) == declared_columns - lacks
