"""The strict comparison bites: it rejects outputs that differ, and nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

TESTS = Path(__file__).resolve().parents[1]


def code_cells(notebook: Path) -> list:
    return [cell for cell in nbformat.read(notebook, 4).cells if cell.cell_type == "code"]


def failing_cells(notebook: Path, folder: Path) -> set[int]:
    """The places, among the code cells, at which strict.py rejects a notebook; it is run in
    `folder`."""
    shutil.copy(notebook, folder)
    command = [
        sys.executable,
        TESTS / "notebooks" / "strict.py",
        notebook.name,
        "-q",
        "-rf",
        "--color=no",
        "--tb=no",
        "-p",
        "no:cacheprovider",
        f"--rootdir={folder}",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1800)
    report = done.stdout + done.stderr
    failed = {int(place) for place in re.findall(r"^FAILED .*::Cell (\d+)", report, re.MULTILINE)}
    assert done.returncode == (1 if failed else 0), report
    cells = len(code_cells(notebook))
    passed = re.search(r"(\d+) passed", report)
    assert passed and int(passed.group(1)) + len(failed) == cells, report
    return failed


def test_it_accepts_a_good_notebook(tmp_path):
    assert failing_cells(TESTS / "bad" / "00_good.ipynb", tmp_path) == set()


@pytest.mark.parametrize("name", ["", "_more", "_still"])
def test_it_rejects_every_stored_output_that_differs_and_no_other(tmp_path, name):
    bad = TESTS / "bad" / f"00_stored_outputs_differ{name}.ipynb"
    good, changed = (code_cells(path) for path in (TESTS / "bad" / "00_good.ipynb", bad))
    places = {k for k, pair in enumerate(zip(good, changed)) if pair[0].outputs != pair[1].outputs}
    assert len(places) >= 4
    assert failing_cells(bad, tmp_path) == places
