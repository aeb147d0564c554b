"""Tables of stored runs, with numbers worked out by hand."""

import html

import pandas as pd
import pytest

from fusion_lib.lab.tables import claims_table, results_table, show_claims


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


def test_claims_stand_beside_their_numbers():
    """1, 2, 3: mean 2, s 1, and t(0.975, 2 degrees of freedom) = 4.3027 gives 2 -+ 2.484."""
    table = claims_table({LONG: [1.0, 2.0, 3.0], "a number": 0.53}, "points", digits=2)
    assert list(table.columns) == ["claim", "mean, points", "95% interval", "runs"]
    assert table.iloc[0].tolist() == [LONG, "+2.00", "-0.48 to +4.48", "3"]
    assert table.iloc[1].tolist() == ["a number", "0.53", "", ""]


@pytest.mark.parametrize(
    "values, message",
    [
        ([1.0], "expected at least two finite numbers"),
        ([1.0, float("nan")], "expected at least two finite numbers"),
        (float("nan"), "claims has nan for 'it holds'; expected a finite number"),
    ],
)
def test_claims_without_a_number_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        claims_table({"it holds": values}, "points")


def test_claims_are_shown_in_full(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    show_claims({LONG: [1.0, 2.0, 3.0]}, "points")
    (data,) = shown
    assert LONG in data["text/plain"] and "-0.5 to +4.5" in data["text/plain"]
    assert f"<td>{html.escape(LONG, quote=False)}</td>" in data["text/html"]
