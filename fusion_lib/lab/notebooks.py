"""Execute notebooks, and store what they print and draw.

python -m fusion_lib.lab.notebooks store [00 02]     # all, or those of the numbers; `make outputs`
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, DeadKernelError
from PIL import Image
from tqdm import tqdm

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"
SECONDS_A_CELL = 30 * 60  # with room: a busy machine takes many times as long as an idle one
MACHINE_PATH = re.compile(r"(?<![\w.~/}])/(?:home|root|work|tmp|Users)\b|\bC:\\")


class CellFailed(RuntimeError):
    """A cell raised, took too long, or ended its kernel, or its output cannot be stored."""


def paths(*numbers: str) -> list[Path]:
    """The notebooks of these numbers (all, without any), in order; ValueError if one is missing."""
    found = {path.name[:2]: path for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))}
    if not {*numbers} <= {*found}:
        raise ValueError(f"numbers are {numbers}; expected some of {list(found)}")
    return [path for number, path in found.items() if not numbers or number in numbers]


def execute(notebook, name: str, folder: Path) -> None:
    """Run a notebook from top to bottom in `folder`, filling in its outputs and nothing that
    differs from time to time. Raises CellFailed, which names notebook and cell; the outputs before
    it are filled in."""
    started: list[int] = []
    client = NotebookClient(
        notebook,
        timeout=SECONDS_A_CELL,
        kernel_name="python3",
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(folder)}},
        coalesce_streams=True,
        record_timing=False,
        on_cell_execute=lambda cell, cell_index: started.append(cell_index),
    )
    count = sum(cell.cell_type == "code" for cell in notebook.cells)
    with tqdm(total=count, desc=name, unit="cell", disable=False) as bar:
        client.on_cell_executed = lambda **_: bar.update()
        try:  # without progress bars among the outputs
            client.execute(env={**os.environ, "TQDM_DISABLE": "1"})
        except (CellControlSignal, DeadKernelError) as error:
            kind = getattr(error, "ename", type(error).__name__)
            said = getattr(error, "evalue", error)
            raise CellFailed(f"{name}, cell {started[-1]}: {kind}: {said}") from error


def store(path: Path) -> None:
    """Execute a notebook where it lies and write it with its outputs: metadata of cells and every
    MIME type stay, keys are sorted. After a CellFailed the file is as it was."""
    notebook = nbformat.read(path, as_version=4)
    execute(notebook, path.stem, path.parent)
    for index, cell in enumerate(notebook.cells):
        for left_over in ("execution", "lines_to_next_cell"):  # time stamps; a converter's notes
            cell.metadata.pop(left_over, None)
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = _opaque(output.data["image/png"])
            if found := MACHINE_PATH.search(_text(output)):
                what = f"its output holds a path of this machine ({found.group()})"
                raise CellFailed(f"{path.stem}, cell {index}: {what}; print names only")
    nbformat.write(notebook, path)


def _opaque(png: str) -> str:
    """The same picture (base64), an eighth smaller: without its alpha channel, which is opaque."""
    packed = io.BytesIO()
    Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB").save(packed, "PNG", optimize=True)
    return base64.b64encode(packed.getvalue()).decode()


def _text(output: dict) -> str:
    """What an output holds besides pictures."""
    kinds = {"text/plain": output.get("text", ""), **output.get("data", {})}
    contents = [content for kind, content in kinds.items() if not kind.startswith("image/")]
    return "\n".join(text if isinstance(text, str) else json.dumps(text) for text in contents)


def main(arguments: list[str]) -> int:
    """Store the named notebooks, the others even if one fails; returns the exit status."""
    try:
        if arguments[:1] != ["store"]:
            raise ValueError(f"arguments are {arguments}; expected: store [NUMBER ...]")
        chosen = paths(*arguments[1:])
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    failed = False
    for path in chosen:
        try:
            store(path)
        except CellFailed as error:
            failed = True
            print(f"{error}; the file is as it was", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
