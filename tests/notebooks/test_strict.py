"""The strict comparison bites: it rejects outputs that differ, and nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

TESTS = Path(__file__).resolve().parents[1]


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
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    report = done.stdout + done.stderr
    failed = {int(place) for place in re.findall(r"^FAILED .*::Cell (\d+)", report, re.MULTILINE)}
    assert done.returncode == (1 if failed else 0), report
    cells = sum(cell.cell_type == "code" for cell in nbformat.read(notebook, 4).cells)
    passed = re.search(r"(\d+) passed", report)
    assert passed and int(passed.group(1)) + len(failed) == cells, report
    return failed


def test_it_accepts_a_good_notebook(tmp_path):
    assert failing_cells(TESTS / "bad" / "00_good.ipynb", tmp_path) == set()


def test_it_rejects_every_stored_output_that_differs_and_no_other(tmp_path):
    good, bad = (
        [cell for cell in nbformat.read(TESTS / "bad" / name, 4).cells if cell.cell_type == "code"]
        for name in ("00_good.ipynb", "00_stored_outputs_differ.ipynb")
    )
    changed = {
        place
        for place, (ours, theirs) in enumerate(zip(good, bad))
        if ours.outputs != theirs.outputs
    }
    assert len(changed) >= 5
    assert failing_cells(TESTS / "bad" / "00_stored_outputs_differ.ipynb", tmp_path) == changed
