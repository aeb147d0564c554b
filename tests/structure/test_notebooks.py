"""Every rule holds for every notebook of the series."""

from __future__ import annotations

import pytest
import rules

NOTEBOOKS = sorted((rules.ROOT / "notebooks").glob("*.ipynb"))


TO_COME = {"07"}  # announced in README; remove the number here when the notebook is there


def test_the_series_has_no_gaps():
    numbers = [path.name[:2] for path in NOTEBOOKS]
    assert len(numbers) >= 6, f"notebooks/ holds {[path.name for path in NOTEBOOKS]}; expected at least 00 to 05"
    assert not TO_COME & set(numbers), f"TO_COME still names {TO_COME & set(numbers)}"
    expected = [f"{number:02d}" for number in range(int(numbers[-1]) + 1)]
    assert numbers == [number for number in expected if number not in TO_COME]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_rule(rule, path):
    complaints = rule(rules.read(path))
    assert not complaints, "\n".join([f"{path.name} breaks the rule {rule.__name__}:", *complaints])
