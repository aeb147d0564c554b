"""Every rule holds for every notebook of the series."""

from __future__ import annotations

import pytest
import rules

NOTEBOOKS = sorted((rules.ROOT / "notebooks").glob("*.ipynb"))


def test_the_series_has_no_gaps():
    numbers = [path.name[:2] for path in NOTEBOOKS]
    assert len(numbers) >= 10, f"notebooks/ holds {[path.name for path in NOTEBOOKS]}; expected at least 00 to 09"
    assert numbers == [f"{number:02d}" for number in range(len(numbers))]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_rule(rule, path):
    complaints = rule(rules.read(path))
    assert not complaints, "\n".join([f"{path.name} breaks the rule {rule.__name__}:", *complaints])
