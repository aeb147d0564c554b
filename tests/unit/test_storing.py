"""Notebooks are executed as they are, and only what they print and draw is stored."""

import base64
import io
import json

import nbformat
import numpy as np
import pytest
from PIL import Image

from fusion_lib.lab import jobs
from fusion_lib.lab.jobs import CellFailed

FIGURE = "application/vnd.fusion.figure+json"
COLOURS = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)


def opaque_picture():
    """A PNG, base64, with an alpha channel that hides nothing: as matplotlib writes them."""
    packed = io.BytesIO()
    Image.fromarray(COLOURS).convert("RGBA").save(packed, "PNG")
    return base64.b64encode(packed.getvalue()).decode()


SHOWS = f"""
from IPython.display import display
display({{"image/png": "{opaque_picture()}", "{FIGURE}": '{{"titles": ["a"]}}'}}, raw=True)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "NOTEBOOKS", tmp_path)
    return tmp_path


def write(path, *sources, **metadata):
    cells = [
        nbformat.v4.new_code_cell(s, metadata=metadata, id=f"c{i}") for i, s in enumerate(sources)
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path.read_bytes()


def test_what_is_stored_is_the_outputs_alone(folder):
    """Metadata of the cell, the figure's summary and the picture's colours stay;
    bytes are the same again, and no time and no progress bar gets in."""
    path = folder / "00_some.ipynb"
    kept = {"tags": ["a"], "tolerances": {"abs": 0.1}, "jupyter": {"source_hidden": True}}
    source = SHOWS + "import os, tqdm\nlist(tqdm.tqdm([1]))\nprint(os.environ['TQDM_DISABLE'])\n2"
    write(path, source, **kept, execution={"iopub.execute_input": "2026"})
    jobs.main("outputs", str(path))
    stored = path.read_text()
    notebook = json.loads(stored)
    assert stored == json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    (cell,) = notebook["cells"]
    assert cell["metadata"] == kept and cell["execution_count"] == 1
    figure, printed, result = cell["outputs"]
    picture = Image.open(io.BytesIO(base64.b64decode(figure["data"].pop("image/png"))))
    assert picture.mode == "RGB" and np.array_equal(np.asarray(picture), COLOURS)
    assert figure["data"] == {FIGURE: '{"titles": ["a"]}'}
    assert printed["text"] == ["1\n"] and result["data"]["text/plain"] == ["2"]
    jobs.main("outputs", str(path))
    assert path.read_text() == stored


def test_only_the_named_notebooks_are_executed(folder, monkeypatch):
    seen = []
    monkeypatch.setattr(jobs, "_store", lambda path: seen.append(path.name))
    for name in ("02_c.ipynb", "00_a.ipynb", "01_b.ipynb", "notes.ipynb"):
        (folder / name).touch()
    jobs.main("outputs", str(folder / "02_c.ipynb"))
    jobs.main("outputs")
    assert seen == ["02_c.ipynb", "00_a.ipynb", "01_b.ipynb", "02_c.ipynb"]


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (["outputs", "07_no.ipynb"], FileNotFoundError, "07_no.ipynb"),
        (["output"], SystemExit, "'output'; expected"),
    ],
)
def test_wrong_calls_are_refused(folder, arguments, error, message):
    before = write(folder / "00_some.ipynb", "1")
    with pytest.raises(error, match=message):
        jobs.main(*arguments)
    assert (folder / "00_some.ipynb").read_bytes() == before


def test_failing_cell_is_named_and_the_others_are_stored(folder):
    """Outputs before the error are filled in, for `make run` to show; the stored file keeps what it
    had."""
    before = write(folder / "00_bad.ipynb", "print(1)", "1 / 0", "print(2)")
    write(folder / "01_good.ipynb", "print(3)")
    with pytest.raises(SystemExit) as caught:
        jobs.main("outputs")
    said = "00_bad, cell 1: ZeroDivisionError: division by zero; the file is as it was"
    assert caught.value.code == said
    assert (folder / "00_bad.ipynb").read_bytes() == before
    assert '"3\\n"' in (folder / "01_good.ipynb").read_text()
    notebook = nbformat.read(folder / "00_bad.ipynb", 4)
    with pytest.raises(CellFailed, match="bad, cell 1: ZeroDivisionError"):
        jobs.execute(notebook, "bad", folder)
    assert notebook.cells[0].outputs[0].text == "1\n" and not notebook.cells[2].outputs


def test_kernel_that_dies_is_named(folder):
    write(folder / "00_bad.ipynb", "1", "import os; os._exit(1)")
    with pytest.raises(CellFailed, match="00_bad, cell 1: DeadKernelError"):
        jobs._store(folder / "00_bad.ipynb")


def test_cell_that_takes_too_long_is_named(folder, monkeypatch):
    monkeypatch.setattr(jobs, "SECONDS_A_CELL", 1)
    write(folder / "00_bad.ipynb", "while True: pass")
    with pytest.raises(CellFailed, match="00_bad, cell 0: CellTimeoutError"):
        jobs._store(folder / "00_bad.ipynb")


def test_cells_have_half_an_hour(monkeypatch):
    seen = {}
    monkeypatch.setattr(
        jobs, "NotebookClient", lambda notebook, **options: seen.update(options) or Idle()
    )
    jobs.execute(nbformat.v4.new_notebook(), "some", "folder")
    assert seen["timeout"] == 1800


class Idle:
    def execute(self, cwd, env):
        assert cwd == "folder" and env["TQDM_DISABLE"] == "1"


def test_notebooks_of_the_series_are_found_in_order():
    assert [path.name[:2] for path in jobs.notebooks()][:6] == ["00", "01", "02", "03", "04", "05"]
