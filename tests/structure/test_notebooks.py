"""Every rule holds for every notebook of the series."""

from __future__ import annotations

import re

import pytest
import rules
from rules import ROOT

NOTEBOOKS = sorted((rules.ROOT / "notebooks").glob("*.ipynb"))


def test_a_gap_in_the_series_is_announced():
    """The README says which notebooks are to come; all others up to the last are there."""
    numbers = [path.name[:2] for path in NOTEBOOKS]
    assert len(numbers) >= 10, (
        f"notebooks/ holds {[path.name for path in NOTEBOOKS]}; expected at least 00 to 09"
    )
    announced = re.search(
        r"^To come: (.+)$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    to_come = re.findall(r"\b\d\d\b", announced[1]) if announced else []
    assert sorted([*numbers, *(n for n in to_come if n < numbers[-1])]) == [
        f"{n:02d}" for n in range(int(numbers[-1]) + 1)
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_rule(rule, path):
    complaints = rule(rules.read(path))
    assert not complaints, "\n".join([f"{path.name} breaks the rule {rule.__name__}:", *complaints])
