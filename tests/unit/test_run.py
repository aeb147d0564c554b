"""The command behind `make run`: what it says when it is called wrongly, and the rows of its
tables."""

import pytest
from examples import RECIPE, Reads

from fusion_lib.engine.checkpoints import load_checkpoint
from fusion_lib.lab import recipes, run

DECODING = {"smoothing": 0.5, "threshold": 0.6, "edge_weight": 0.5, "vote_weight": 0.4}
PARTITION = {"covering", "VI bits", "adapted Rand error"}


@pytest.mark.parametrize(
    "arguments", [["scense"], ["Scenes"], [], ["scenes", "stanford_background"]]
)
def test_misspelt_data_set_gets_the_list_of_names(arguments, capsys):
    assert run.main(arguments) == 2
    message = capsys.readouterr().err
    assert "scenes" in message and "stanford_background" in message and "expected one of" in message
    assert repr(" ".join(arguments)) in message


def test_row_of_a_fused_model_has_argmax_vote_and_fused_map():
    model = Reads("semantic", "region")
    row = run._row(model, RECIPE, DECODING, minutes=1.5)
    scores = recipes.scores(model, RECIPE, DECODING)
    assert set(row) == {
        "minutes",
        "mIoU argmax",
        "mIoU vote",
        "mIoU fused",
        "pixel accuracy",
        *PARTITION,
    }
    for column, name in (
        ("mIoU argmax", "semantic"),
        ("mIoU vote", "voted"),
        ("mIoU fused", "fused"),
    ):
        assert row[column] == scores[name]["miou"]
    assert row["covering"] == scores["partition"]["covering"] and row["minutes"] == 1.5
    assert len({row["mIoU argmax"], row["mIoU vote"], row["mIoU fused"]}) == 3


def test_row_of_a_single_task_has_what_it_can_have():
    assert set(run._row(Reads("semantic"), RECIPE, {}, 1.0)) == {
        "minutes",
        "mIoU argmax",
        "pixel accuracy",
    }
    decoding = {"smoothing": 0.5, "threshold": 0.6}
    assert set(run._row(Reads("region"), RECIPE, decoding, 1.0)) == {"minutes", *PARTITION}


def test_panoptic_quality_stands_in_the_row_where_it_was_measured(monkeypatch):
    monkeypatch.setattr(recipes, "scores", lambda *args: {"panoptic_quality": 0.6})
    assert run._row(None, None, {}, 1.0) == {"minutes": 1.0, "PQ": 0.6}


@pytest.mark.parametrize("name", list(run.MODELS))
def test_every_model_is_trained_decoded_and_tested(name, tmp_path):
    row = run.learned_row(RECIPE, name, tmp_path)
    assert set(row) <= set(run.COLUMNS) and row["minutes"] > 0
    assert ("mIoU fused" in row) == (name == "fused") == (tmp_path / "model.safetensors").exists()
    if name == "fused":
        facts = load_checkpoint(tmp_path / "model.safetensors")[1]
        assert set(facts["decoding"]) == set(DECODING) and facts["size"] == [24, 24]


def test_scoreboard_leaves_out_columns_that_no_row_has(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "ROOT", tmp_path)
    path = tmp_path / "a" / "b.md"
    run.scoreboard(
        {"one": {"mIoU fused": 0.5, "minutes": 1.0}, "two": {"covering": 0.25}}, "Title", path
    )
    assert path.read_text().splitlines() == [
        "Title",
        "",
        "| | mIoU fused | covering | minutes |",
        "|---|---|---|---|",
        "| one | 0.500 |  | 1.0 |",
        "| two |  | 0.250 |  |",
    ]
    assert "written to a/b.md" in capsys.readouterr().out
