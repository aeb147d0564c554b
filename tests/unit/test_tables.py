"""The tables of claims, with numbers worked out by hand."""

import html
import re

import pytest

from fusion_lib.lab.tables import show_claims

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
