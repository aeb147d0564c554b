"""Notebooks are executed as they are, and only what they print and draw is stored."""

import base64
import io
import json

import nbformat
import numpy as np
import pytest
from PIL import Image

from fusion_lib.lab import notebooks
from fusion_lib.lab.notebooks import CellFailed

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
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)
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
    assert notebooks.main(["store", "00"]) == 0
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
    assert notebooks.main(["store", "00"]) == 0
    assert path.read_text() == stored


def test_only_the_named_notebooks_are_executed(folder, monkeypatch):
    seen = []
    monkeypatch.setattr(notebooks, "store", lambda path: seen.append(path.name))
    for name in ("02_c.ipynb", "00_a.ipynb", "01_b.ipynb", "notes.ipynb"):
        (folder / name).touch()
    assert notebooks.main(["store", "02", "00"]) == notebooks.main(["store"]) == 0
    assert seen == ["00_a.ipynb", "02_c.ipynb", "00_a.ipynb", "01_b.ipynb", "02_c.ipynb"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["store", "07"], r"numbers are ('07',); expected some of ['00']"),
        (["sotre"], "arguments are ['sotre']; expected: store [NUMBER ...]"),
        ([], "arguments are []; expected: store [NUMBER ...]"),
    ],
)
def test_wrong_calls_are_refused(folder, arguments, message, capsys):
    before = write(folder / "00_some.ipynb", "1")
    assert notebooks.main(arguments) == 2
    assert message in capsys.readouterr().err
    assert (folder / "00_some.ipynb").read_bytes() == before


def test_failing_cell_is_named_and_the_others_are_stored(folder, capsys):
    """Outputs before the error are filled in, for `make run` to show; the stored file keeps what it
    had."""
    before = write(folder / "00_bad.ipynb", "print(1)", "1 / 0", "print(2)")
    write(folder / "01_good.ipynb", "print(3)")
    assert notebooks.main(["store"]) == 1
    said = capsys.readouterr().err
    assert "00_bad, cell 1: ZeroDivisionError: division by zero; the file is as it was" in said
    assert (folder / "00_bad.ipynb").read_bytes() == before
    assert '"3\\n"' in (folder / "01_good.ipynb").read_text()
    notebook = nbformat.read(folder / "00_bad.ipynb", 4)
    with pytest.raises(CellFailed, match="bad, cell 1: ZeroDivisionError"):
        notebooks.execute(notebook, "bad", folder)
    assert notebook.cells[0].outputs[0].text == "1\n" and not notebook.cells[2].outputs


def test_kernel_that_dies_is_named(folder):
    write(folder / "00_bad.ipynb", "1", "import os; os._exit(1)")
    with pytest.raises(CellFailed, match="00_bad, cell 1: DeadKernelError"):
        notebooks.store(folder / "00_bad.ipynb")


def test_cell_that_takes_too_long_is_named(folder, monkeypatch):
    monkeypatch.setattr(notebooks, "SECONDS_A_CELL", 1)
    write(folder / "00_bad.ipynb", "while True: pass")
    with pytest.raises(CellFailed, match="00_bad, cell 0: CellTimeoutError"):
        notebooks.store(folder / "00_bad.ipynb")


def test_cells_have_half_an_hour(monkeypatch):
    seen = {}
    monkeypatch.setattr(
        notebooks, "NotebookClient", lambda notebook, **options: seen.update(options) or Idle()
    )
    notebooks.execute(nbformat.v4.new_notebook(), "some", "folder")
    assert seen["timeout"] == 1800 and seen["record_timing"] is False


class Idle:
    def execute(self, env):
        assert env["TQDM_DISABLE"] == "1"


@pytest.mark.parametrize(
    "source, place",
    [
        ("print('in /home/someone/x')", "/home"),
        ("print('a')\nprint('/tmp/b')", "/tmp"),
        ("'C:\\\\x'", "C:"),
        ("from IPython.display import JSON\nJSON({'a': '/work/x'})", "/work"),
    ],
)
def test_path_of_the_machine_is_not_stored(folder, source, place):
    before = write(folder / "00_bad.ipynb", "1", source)
    with pytest.raises(CellFailed, match="00_bad, cell 1: .* path of this machine") as caught:
        notebooks.store(folder / "00_bad.ipynb")
    assert place in str(caught.value) and (folder / "00_bad.ipynb").read_bytes() == before


def test_address_and_relative_path_are_no_paths_of_the_machine(folder):
    write(folder / "00_good.ipynb", "print('https://a.org/home/b', 'build/tmp/x', '~/work/y')")
    notebooks.store(folder / "00_good.ipynb")


def test_notebooks_of_the_series_are_found_in_order():
    assert [path.name[:2] for path in notebooks.paths()][:6] == ["00", "01", "02", "03", "04", "05"]
    assert [path.name[:2] for path in notebooks.paths("04", "02")] == ["02", "04"]
