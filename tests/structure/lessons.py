"""A stored notebook as the rules look at it, and what can be told from the code of a cell."""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from fusion_lib.lab.summaries import MIME

ROOT = Path(__file__).resolve().parents[2]

# Calls that return nothing, so that a cell may end in one and show nothing. Those of fusion_lib are
# read from it.
SILENT_CALLS = {
    "append",
    "assert_allclose",
    "assert_array_equal",
    "assert_close",
    "backward",
    "cleanup",
    "clear",
    "close",
    "extend",
    "mkdir",
    "remove",
    "reset",
    "rmtree",
    "seed",
    "set_num_threads",
    "sort",
    "step",
    "unlink",
    "update",
    "zero_grad",
}


@dataclass(frozen=True)
class Cell:
    """One cell, with its place in the notebook."""

    place: int
    kind: str
    id: str | None
    source: str
    metadata: dict = field(default_factory=dict)
    count: int | None = None
    outputs: tuple[dict, ...] = ()

    def __str__(self) -> str:
        return (
            f"cell {self.place} ({self.kind}, {self.source.strip().partition(chr(10))[0][:50]!r})"
        )

    @property
    def tags(self) -> list[str]:
        return self.metadata.get("tags", [])

    @property
    def python(self) -> str:
        """The code with `pass` where a line is for IPython (%, !)."""
        return re.sub(r"^([ \t]*)[%!].*$", r"\1pass", self.source, flags=re.MULTILINE)

    @property
    def unfenced(self) -> str:
        """A markdown cell without its blocks of code, where # begins a comment."""
        return re.sub(r"^```.*?^```", "", self.source, flags=re.MULTILINE | re.DOTALL)

    @property
    def prose(self) -> str:
        """A markdown cell without any code or formula, where brackets are no links."""
        return re.sub(r"`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$", "", self.unfenced, flags=re.DOTALL)

    @property
    def output_text(self) -> str:
        """All that the outputs hold but figures."""
        parts = [part for o in self.outputs for part in (o.get("text"), o.get("traceback"))]
        parts += [
            v
            for o in self.outputs
            for k, v in o.get("data", {}).items()
            if k not in ("image/png", "image/jpeg", MIME)
        ]
        return "\n".join(joined(part) for part in parts if part)

    @property
    def pictures(self) -> list[dict]:
        """The outputs that are figures: {MIME type: content} of each."""
        found = [output.get("data", {}) for output in self.outputs]
        return [data for data in found if "image/png" in data]


EMPTY = Cell(place=0, kind="missing", id=None, source="")


@dataclass(frozen=True)
class Lesson:
    """A notebook as it is stored, not as a library would mend it."""

    path: Path
    cells: tuple[Cell, ...]
    kernel: str | None
    bytes: int

    @property
    def code(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.kind == "code"]

    @property
    def markdown(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.kind == "markdown"]

    @property
    def number(self) -> str:
        return self.path.name[:2]

    def headings(self) -> Iterator[tuple[Cell, int, str]]:
        for cell in self.markdown:
            for marks, title in re.findall(r"^(#{1,6}) +(.+?) *$", cell.unfenced, re.MULTILINE):
                yield cell, len(marks), title


def read(path: Path) -> Lesson:
    """Read a stored notebook (nbformat 4)."""
    return parse(path, path.read_bytes())


def parse(path: Path, content: bytes) -> Lesson:
    """The lesson that a file of this content would be at this path."""
    notebook = json.loads(content)
    cells = tuple(
        Cell(
            place=place,
            kind=cell["cell_type"],
            id=cell.get("id"),
            source=joined(cell["source"]),
            metadata=cell["metadata"],
            count=cell.get("execution_count"),
            outputs=tuple(cell.get("outputs", ())),
        )
        for place, cell in enumerate(notebook["cells"])
    )
    return Lesson(path, cells, notebook["metadata"].get("kernelspec", {}).get("name"), len(content))


def joined(text: str | list[str] | dict) -> str:
    """The format stores a text whole, or as a list of lines; JSON outputs are dicts."""
    if isinstance(text, dict):
        return json.dumps(text)
    return text if isinstance(text, str) else "".join(text)


def words(text: str) -> list[str]:
    return re.findall(r"\S*\w\S*", text)


def called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def prints(statements: list[ast.stmt]) -> bool:
    """Whether these statements print whenever they run: not what stands under an if, in a handler
    or a function."""
    for statement in statements:
        if (
            isinstance(statement, ast.Expr)
            and isinstance(statement.value, ast.Call)
            and called(statement.value) == "print"
        ):
            return True
        if isinstance(statement, (ast.For, ast.With)) and prints(statement.body):
            return True
    return False


def ends_in_value(statements: list[ast.stmt]) -> bool:
    if not statements or not isinstance(statements[-1], ast.Expr):
        return False
    value = statements[-1].value
    return not (isinstance(value, ast.Call) and called(value) in SILENT_CALLS | _silent_functions())


@cache
def _silent_functions() -> set[str]:
    trees = [
        ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "fusion_lib").rglob("*.py")
    ]
    functions = [
        node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
    ]
    return {
        f.name for f in functions if isinstance(f.returns, ast.Constant) and f.returns.value is None
    }


def nodes(cell: Cell, kind: type) -> list:
    """The nodes of this kind in the code of a cell; none where it is no Python."""
    try:
        return [node for node in ast.walk(ast.parse(cell.python)) if isinstance(node, kind)]
    except SyntaxError:
        return []


def names(node: ast.AST) -> set[str]:
    """The names and attributes that an expression holds."""
    found = {inner.attr for inner in ast.walk(node) if isinstance(inner, ast.Attribute)}
    return found | {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}


def last_token(cell: Cell) -> str:
    try:
        tokens = [
            token.string
            for token in tokenize.generate_tokens(io.StringIO(cell.python).readline)
            if token.type != tokenize.COMMENT and token.string.strip()
        ]
    except (tokenize.TokenError, SyntaxError):
        return ""
    return tokens[-1] if tokens else ""
