"""Run notebooks again and compare every stored output with the new one, by nbval.

    python tests/notebooks/strict.py [NOTEBOOK ...] [pytest's options]      # without a notebook:
    all of notebooks/

What nbval 0.11 compares: all text (stdout, results, the text of a figure such as '<Figure size
640x480 with 1 Axes>'), letter by letter. A cell tagged nbval-ignore-output must run, but may print
anything. Pictures are not compared: print what `plots` drew. Standard error would be compared; it
is left out here, because progress bars, warnings of other versions of a library and Matplotlib's
first look at the fonts all go there, and none of them is a result.
A cell without an execution count passes whatever it prints: tests/structure/rules.py sees to it
that all have one.
What a child process or compiled code writes by itself is stored when a notebook is executed, but
not seen by nbval: capture it and print it (`!command` does so).
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = ("--nbval", "--nbval-current-env", "--nbval-cell-timeout=600")


class StandardErrorIsNoResult:
    """Adds to what nbval leaves out of the comparison."""

    def pytest_collectstart(self, collector):
        from nbval.plugin import IPyNbFile  # pytest itself must be the first to import a plugin

        if isinstance(collector, IPyNbFile):
            collector.skip_compare += ("stderr",)


if __name__ == "__main__":
    given = sys.argv[1:]
    named = any(Path(argument.partition("::")[0]).exists() for argument in given)
    notebooks = [] if named else [str(ROOT / "notebooks")]
    sys.exit(pytest.main([*OPTIONS, *given, *notebooks], plugins=[StandardErrorIsNoResult()]))
