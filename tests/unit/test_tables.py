"""Tables of stored runs, with numbers worked out by hand, and scoreboards."""

import html
import re

import pandas as pd
import pytest
from examples import RECIPE, Reads

from fusion_lib import tuning
from fusion_lib.lab import measures, recipes, tables
from fusion_lib.lab.tables import results_table, show_claims


def rows(*cells: tuple, columns=("model", "epochs", "miou", "covering")) -> pd.DataFrame:
    return pd.DataFrame(cells, columns=columns).assign(pq_fused=None)


def test_table_of_stored_rows():
    """Mean and standard deviation for each model, in the rows' order; what no row measured has no
    column."""
    table = rows(("b", 30, 0.5, None), ("b", 30, 0.7, None), ("a", 30, 0.25, 0.8))
    assert results_table(table).splitlines() == [
        "| | runs | mIoU argmax | covering |",
        "|---|---|---|---|",
        "| b | 2 | 0.600 ± 0.141 |  |",
        "| a | 1 | 0.250 | 0.800 |",
    ]


def test_table_of_runs_of_unequal_length():
    table = rows(("a", 16, 0.5), ("a", 22, 0.75), columns=("model", "epochs", "miou"))
    assert results_table(table).splitlines()[2:] == [
        "| a, 16 epochs | 1 | 0.500 |",
        "| a, 22 epochs | 1 | 0.750 |",
    ]


LONG = "a sentence of more than fifty characters, which pandas would cut short & <mark up>"


@pytest.fixture
def shown(monkeypatch):
    """What is displayed, one dict of MIME types a call."""
    found = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: found.append(data))
    return found


def test_claims_stand_beside_their_numbers(shown):
    """1, 2, 3: mean 2, s 1, and t(0.975, 2 degrees of freedom) = 4.3027 gives 2 -+ 2.484."""
    show_claims({LONG: [1.0, 2.0, 3.0], "a number": 0.53}, "points", digits=2)
    (data,) = shown
    cells = re.findall(r"<t[hd]>(.*?)</t[hd]>", data["text/html"])
    assert cells == [
        *("claim", "mean, points", "95% interval", "runs"),
        *(html.escape(LONG, quote=False), "+2.00", "-0.48 to +4.48", "3"),
        *("a number", "0.53", "", ""),
    ]


@pytest.mark.parametrize(
    "values, message",
    [
        ([1.0], "expected at least two finite numbers"),
        ([1.0, float("nan")], "expected at least two finite numbers"),
        (float("nan"), "claims has nan for 'it holds'; expected a finite number"),
    ],
)
def test_claims_without_a_number_are_refused(values, message, shown):
    with pytest.raises(ValueError, match=message):
        show_claims({"it holds": values}, "points")
    assert not shown


def test_claims_are_shown_in_full(shown):
    show_claims({LONG: [1.0, 2.0, 3.0]}, "points")
    (data,) = shown
    assert LONG in data["text/plain"] and "-0.5 to +4.5" in data["text/plain"]
    assert f"<td>{html.escape(LONG, quote=False)}</td>" in data["text/html"]


# --- scoreboards -------------------------------------------------------------------------------

DECODING = {"smoothing": 0.5, "threshold": 0.6, "edge_weight": 0.5, "vote_weight": 0.4}
PARTITION = {"covering", "VI bits", "adapted Rand error"}
SEMANTIC = {"mIoU argmax", "pixel accuracy"}


def test_row_of_a_fused_model_has_argmax_vote_and_fused_map():
    model = Reads("semantic", "region")
    row = tables.tested_row(RECIPE, model, {"decoding": DECODING, "minutes": 1.5, "size": None})
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
    row = tables.tested_row(RECIPE, Reads("semantic"), {"decoding": {}, "minutes": 1.0})
    assert set(row) == {"minutes", *SEMANTIC}
    decoding = {"smoothing": 0.5, "threshold": 0.6}
    row = tables.tested_row(RECIPE, Reads("region"), {"decoding": decoding, "minutes": 1.0})
    assert set(row) == {"minutes", *PARTITION}


def test_panoptic_quality_stands_in_the_row_where_it_was_measured(monkeypatch):
    monkeypatch.setattr(recipes, "scores", lambda *args: {"panoptic_quality": 0.6})
    row = tables.tested_row(None, None, {"decoding": {}, "minutes": 1.0})
    assert row == {"PQ": 0.6, "minutes": 1.0}


def test_minutes_are_those_of_all_epochs():
    assert measures.minutes([{"seconds": 30.0}, {"seconds": 60.0}]) == 1.5


def test_classical_methods_are_tuned_on_the_first_validation_pictures():
    """Which parameters win there, `test_tuning` checks; the row is theirs on all test pictures."""
    row = tables.classical_rows(RECIPE, ("k-means",), pictures=2)["k-means"]
    first = [RECIPE.dataset("val")[index] for index in range(2)]
    parameters = tuning.tune_classical("k-means", first)
    method = tuning.CLASSICAL["k-means"][0]
    scores = tuning.partition_scores(method, parameters, RECIPE.dataset("test"))
    assert set(row) == PARTITION and row["covering"] == scores["covering"]


def test_table_leaves_out_columns_that_no_row_has():
    rows = {"one": {"mIoU fused": 0.5, "minutes": 1.0}, "two": {"covering": 0.25}}
    assert tables.scoreboard(rows, "Title").splitlines() == [
        "Title",
        "",
        "| | mIoU fused | covering | minutes |",
        "|---|---|---|---|",
        "| one | 0.500 |  | 1.0 |",
        "| two |  | 0.250 |  |",
    ]
