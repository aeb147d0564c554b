"""The rows and the table of a scoreboard."""

import pytest
from examples import RECIPE, Reads

from fusion_lib import tuning
from fusion_lib.engine.checkpoints import load_checkpoint
from fusion_lib.lab import recipes, scoreboard

DECODING = {"smoothing": 0.5, "threshold": 0.6, "edge_weight": 0.5, "vote_weight": 0.4}
PARTITION = {"covering", "VI bits", "adapted Rand error"}
SEMANTIC = {"mIoU argmax", "pixel accuracy"}


def test_row_of_a_fused_model_has_argmax_vote_and_fused_map():
    model = Reads("semantic", "region")
    row = scoreboard.tested_row(model, RECIPE, DECODING, minutes=1.5)
    scores = recipes.scores(model, RECIPE, DECODING)
    assert set(row) == {"minutes", "mIoU vote", "mIoU fused", *SEMANTIC, *PARTITION}
    for column, name in (
        ("mIoU argmax", "semantic"),
        ("mIoU vote", "voted"),
        ("mIoU fused", "fused"),
    ):
        assert row[column] == scores[name]["miou"]
    partition = scores["partition"]
    assert row["covering"] == partition["covering"] and row["minutes"] == 1.5
    assert row["VI bits"] == partition["variation_of_information"]
    assert row["adapted Rand error"] == partition["adapted_rand_error"]
    assert row["pixel accuracy"] == scores["semantic"]["pixel_accuracy"]
    assert len({row["mIoU argmax"], row["mIoU vote"], row["mIoU fused"]}) == 3


def test_row_of_a_single_task_has_what_it_can_have():
    row = scoreboard.tested_row(Reads("semantic"), RECIPE, {}, 1.0)
    assert set(row) == {"minutes", *SEMANTIC}
    decoding = {"smoothing": 0.5, "threshold": 0.6}
    row = scoreboard.tested_row(Reads("region"), RECIPE, decoding, 1.0)
    assert set(row) == {"minutes", *PARTITION}


def test_panoptic_quality_stands_in_the_row_where_it_was_measured(monkeypatch):
    monkeypatch.setattr(recipes, "scores", lambda *args: {"panoptic_quality": 0.6})
    assert scoreboard.tested_row(None, None, {}, 1.0) == {"PQ": 0.6, "minutes": 1.0}


@pytest.mark.parametrize("name", list(scoreboard.TASKS_OF))
def test_every_model_is_trained_decoded_and_tested(name, tmp_path):
    row = scoreboard.learned_row(RECIPE, name, tmp_path)
    assert set(row) <= set(scoreboard.COLUMNS) and "minutes" in row
    assert ("mIoU fused" in row) == (name == "fused") == (tmp_path / "model.safetensors").exists()
    if name == "fused":
        facts = load_checkpoint(tmp_path / "model.safetensors")[1]
        assert set(facts["decoding"]) == set(DECODING) and facts["size"] == [24, 24]


def test_minutes_are_those_of_all_epochs():
    assert scoreboard.minutes([{"seconds": 30.0}, {"seconds": 60.0}]) == 1.5


def test_classical_methods_are_tuned_on_the_first_validation_pictures():
    """Which parameters win there, `test_tuning` checks; the row is theirs on all test pictures."""
    row = scoreboard.classical_rows(RECIPE, ("k-means",), pictures=2)["k-means"]
    first = [RECIPE.dataset("val")[index] for index in range(2)]
    parameters = tuning.tune_classical("k-means", first)
    method = tuning.CLASSICAL["k-means"][0]
    scores = tuning.partition_scores(method, parameters, RECIPE.dataset("test"))
    assert set(row) == PARTITION and row["covering"] == scores["covering"]


def test_table_leaves_out_columns_that_no_row_has():
    rows = {"one": {"mIoU fused": 0.5, "minutes": 1.0}, "two": {"covering": 0.25}}
    assert scoreboard.table(rows, "Title").splitlines() == [
        "Title",
        "",
        "| | mIoU fused | covering | minutes |",
        "|---|---|---|---|",
        "| one | 0.500 |  | 1.0 |",
        "| two |  | 0.250 |  |",
    ]
