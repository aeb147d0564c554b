"""Run notebooks again and compare every stored output with the new one, by nbval.

    python tests/notebooks/strict.py [NOTEBOOK ...] [pytest's options]

Without a notebook: all of notebooks/. All text is compared (stdout, results, HTML of tables), and
of each figure the summary that travels beside its picture, as `comparison` says. The picture itself
is not. A cell tagged nbval-ignore-output must run, but may print anything. Standard error is left
out: progress bars, warnings of other versions of a library and Matplotlib's first look at the fonts
all go there, and none of them is a result.

A cell without an execution count passes whatever it prints: tests/structure/rules.py sees to it
that all have one. What a child process or compiled code writes by itself is stored when a notebook
is executed, but not seen by nbval: capture it and print it (`!command` does so).
"""

from __future__ import annotations

import sys
from collections import defaultdict
from functools import partial
from pathlib import Path

import comparison
import pytest

from fusion_lib.lab.summaries import MIME

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = ("--nbval", "--nbval-current-env", "--nbval-cell-timeout=1800")
PATIENCE = 120  # seconds that the output of a cell may take on its way from a busy kernel


class OurComparison:
    """Gives nbval's cells our comparison."""

    def pytest_itemcollected(self, item):
        from nbval.plugin import IPyNbCell  # pytest itself must be the first to import a plugin

        if isinstance(item, IPyNbCell):
            item.output_timeout = PATIENCE
            item.compare_outputs = partial(agree, item)


def agree(cell, came: list, stored: list) -> bool:
    """Whether the outputs of a cell that came agree with the stored ones; the cell notes if not."""
    skipped = {*cell.parent.skip_compare, "stderr"}
    found = differences(cell.cell.metadata, _fields(stored, skipped), _fields(came, skipped))
    cell.comparison_traceback = found
    return not found


def differences(metadata: dict, stored: dict[str, list], came: dict[str, list]) -> list[str]:
    """What differs between outputs, sorted by kind of content; empty where all is as stored."""
    try:
        tolerance = comparison.tolerance_of(metadata)
    except ValueError as error:
        return [str(error)]
    found = []
    for kind in dict.fromkeys([*stored, *came]):
        old, new = stored.get(kind, []), came.get(kind, [])
        if len(old) != len(new):
            found.append(f"{kind}: {len(old)} stored, {len(new)} came: {old!r:.300}, {new!r:.300}")
        compare = comparison.figure_difference if kind == MIME else comparison.text_difference
        found += [f"{kind}: {said}" for a, b in zip(old, new) if (said := compare(a, b, tolerance))]
    return found


def _fields(outputs: list, skipped: set[str]) -> dict[str, list]:
    """{stream's name, MIME type or other field: what the outputs hold of it, in their order}"""
    fields = defaultdict(list)
    for output in outputs:
        if output["output_type"] == "stream":
            output = {output["name"]: output["text"]}
        for kind, value in {**output, **output.get("data", {})}.items():
            if kind != "data" and kind not in skipped:
                fields[kind].append(value)
    return fields


if __name__ == "__main__":
    given = sys.argv[1:]
    named = any(Path(argument.partition("::")[0]).exists() for argument in given)
    notebooks = [] if named else [str(ROOT / "notebooks")]
    sys.exit(pytest.main([*OPTIONS, *given, *notebooks], plugins=[OurComparison()]))
