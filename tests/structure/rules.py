"""What every notebook of the series keeps to. A rule takes a lesson and returns its complaints.

A complaint names the cell (counted from 0, and how it begins) and says what to do. `tests/bad`
holds, for every rule, notebooks that break it and no other.

    python tests/structure/rules.py notebooks/*.ipynb      # prints the complaints
"""

from __future__ import annotations

import ast
import io
import json
import re
import statistics
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fusion_lib.lab import hosted

ROOT = Path(__file__).resolve().parents[2]

IGNORED, SKIPPED = "nbval-ignore-output", "nbval-skip"
PREDICT = "**Predict, then run.**"
CARD = ("What you will learn", "Prerequisites", "Time")
LAST_SECTIONS = ["Summary", "Exercises", "Further reading"]

CELLS, WORDS, BYTES = range(15, 51), range(600, 2001), 1_000_000
LONGEST_CODE, MEDIAN_CODE = 22, 7  # lines
IGNORED_SHARE = 0.15
CAPTION_WORDS = 12

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


def repository() -> str:
    """The address that stands once, in pyproject.toml."""
    return hosted.address(ROOT)


def setup_cell() -> str:
    """The standard set-up cell, which every notebook holds word for word."""
    return hosted.setup_cell(repository())


@dataclass(frozen=True)
class Cell:
    """One cell, with its place in the notebook."""

    place: int
    kind: str
    id: str | None
    source: str
    tags: tuple[str, ...] = ()
    count: int | None = None
    outputs: tuple[dict, ...] = ()

    def __str__(self) -> str:
        return (
            f"cell {self.place} ({self.kind}, {self.source.strip().partition(chr(10))[0][:50]!r})"
        )

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
        """All that the outputs hold but pixels."""
        parts = [part for o in self.outputs for part in (o.get("text"), o.get("traceback"))]
        parts += [
            v
            for o in self.outputs
            for k, v in o.get("data", {}).items()
            if k not in ("image/png", "image/jpeg")
        ]
        return "\n".join(_joined(part) for part in parts if part)

    @property
    def pictures(self) -> int:
        return sum("image/png" in output.get("data", {}) for output in self.outputs)


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
            source=_joined(cell["source"]),
            tags=tuple(cell["metadata"].get("tags", ())),
            count=cell.get("execution_count"),
            outputs=tuple(cell.get("outputs", ())),
        )
        for place, cell in enumerate(notebook["cells"])
    )
    return Lesson(path, cells, notebook["metadata"].get("kernelspec", {}).get("name"), len(content))


def executed_in_order(lesson: Lesson) -> list[str]:
    return [
        f"{cell}: has execution count {cell.count}, expected {expected}; restart the kernel, run"
        " all cells, save"
        for expected, cell in enumerate(lesson.code, start=1)
        if cell.count != expected
    ]


def no_error_outputs(lesson: Lesson) -> list[str]:
    return [
        f"{cell}: ends in {output.get('ename')}; mend it, or catch the error and print its message"
        for cell in lesson.code
        for output in cell.outputs
        if output["output_type"] == "error"
    ]


def outputs_present(lesson: Lesson) -> list[str]:
    if not any(cell.outputs for cell in lesson.code):
        return ["the notebook holds no outputs; run all cells and save it with them"]
    complaints = []
    for cell in lesson.code:
        try:
            statements = ast.parse(cell.python).body
        except SyntaxError as error:
            complaints.append(f"{cell}: is no Python ({error.msg}, line {error.lineno}); mend it")
            continue
        if not cell.outputs and (_prints(statements) or _ends_in_value(statements)):
            complaints.append(
                f"{cell}: prints, or ends in a value, but holds no output; run all cells and save"
            )
    return complaints


def no_stderr(lesson: Lesson) -> list[str]:
    return [
        f"{cell}: holds stderr ({_joined(output['text']).strip()[:60]!r}); mend what warns, store"
        " without progress bars"
        for cell in lesson.code
        for output in cell.outputs
        if output.get("name") == "stderr"
    ]


def first_cell(lesson: Lesson) -> list[str]:
    cell = next(iter(lesson.cells), EMPTY)
    if cell.kind != "markdown" or not re.match(rf"# {lesson.number}\. \S", cell.source):
        return [
            f"{cell}: is no markdown with a numbered title; begin with '# {lesson.number}. Title',"
            " the file's number"
        ]
    return [
        f"{cell}: lacks **{name}**; add it"
        for name in CARD
        if not re.search(rf"\*\*{name}[.:]?\*\*", cell.source)
    ]


def second_cell_sets_up(lesson: Lesson) -> list[str]:
    cell = next(iter(lesson.cells[1:]), EMPTY)
    if cell.kind != "code" or cell.source.rstrip() != setup_cell():
        return [
            f"{cell}: is not the standard set-up cell for {repository()}; copy it from"
            " fusion_lib/lab/hosted.py, or run: make colab REPO=owner/name"
        ]
    return (
        []
        if cell.tags == (IGNORED,)
        else [f"{cell}: tags are {list(cell.tags)}; tag it {IGNORED!r} alone"]
    )


def badges_open_this_notebook(lesson: Lesson) -> list[str]:
    expected = hosted.badges(repository(), f"notebooks/{lesson.path.name}")
    found = [
        (cell, line) for cell in lesson.markdown for line in hosted.BADGE_LINE.findall(cell.source)
    ]
    if [line for _, line in found] == [expected] * bool(expected) and all(
        cell.place == 0 for cell, _ in found
    ):
        return []
    where = ", ".join(str(cell) for cell, _ in found) or f"{next(iter(lesson.cells), EMPTY)}"
    wanted = (
        f"the badges that open it from {repository()}"
        if expected
        else "no badges, as pyproject.toml names no repository"
    )
    return [f"{where}: expected {wanted}; run: make colab REPO=owner/name"]


def last_sections(lesson: Lesson) -> list[str]:
    found = [title for _, level, title in lesson.headings() if level == 2][-3:]
    if found == LAST_SECTIONS:
        return []
    return [f"the last three ## headings are {found}; expected {LAST_SECTIONS} in this order"]


def heading_levels(lesson: Lesson) -> list[str]:
    complaints, above = [], 0
    for cell, level, title in lesson.headings():
        if level > above + 1:
            complaints.append(
                f"{cell}: heading {title!r} has level {level} below level {above}; use level"
                f" {above + 1}"
            )
        above = level
    return complaints


def figures_have_captions(lesson: Lesson) -> list[str]:
    complaints, waiting, number = [], [], 0
    for cell in (*lesson.cells, None):
        if cell is not None and cell.kind == "code":
            waiting += [cell] * cell.pictures
            continue
        captions = (
            []
            if cell is None
            else re.findall(
                r"^\*\*Figure (\w+\.\d+)\.\*\*(.*?)(?=^\*\*Figure |\Z)",
                cell.source,
                re.MULTILINE | re.DOTALL,
            )
        )
        for label, words in captions[: len(waiting)]:
            number += 1
            if label != f"{lesson.number}.{number}":
                complaints.append(
                    f"{cell}: is the caption of Figure {label}; expected {lesson.number}.{number},"
                    " in order"
                )
            elif len(_words(words)) < CAPTION_WORDS:
                complaints.append(
                    f"{cell}: the caption has {len(_words(words))} words; say in at least "
                    f"{CAPTION_WORDS} what is seen, for a reader who cannot see it"
                )
        for drawn in waiting[len(captions) :]:
            number += 1
            complaints.append(
                f"{drawn}: its picture has no caption; begin a line of the next markdown cell with "
                f"'**Figure {lesson.number}.{number}.**'"
            )
        for label, _ in captions[len(waiting) :]:
            complaints.append(
                f"{cell}: Figure {label} has no picture above it; run all cells, or remove the"
                " caption"
            )
        if captions and waiting and not cell.source.startswith("**Figure "):
            complaints.append(f"{cell}: has text before its caption; begin with the caption")
        waiting = []
    return complaints


def images_have_alt_text(lesson: Lesson) -> list[str]:
    complaints = []
    for cell in lesson.markdown:
        missing = re.findall(r"!\[\s*\]\([^)]*\)", cell.prose)
        missing += [
            tag
            for tag in re.findall(r"<img\b[^>]*>", cell.prose)
            if not re.search(r'alt="[^"]*\w', tag)
        ]
        complaints += [
            f"{cell}: {image} has no text alternative; write ![what is seen](...)"
            for image in missing
        ]
    return complaints


def code_is_short(lesson: Lesson) -> list[str]:
    lengths = [len(cell.source.splitlines()) for cell in lesson.code]
    complaints = [
        f"{cell}: has {length} lines; at most {LONGEST_CODE}, split it or move a part into"
        " fusion_lib"
        for cell, length in zip(lesson.code, lengths)
        if length > LONGEST_CODE
    ]
    taught = lengths[2:]  # set-up and imports are no part of the lesson
    if taught and (median := statistics.median(taught)) > MEDIAN_CODE:
        complaints.append(
            f"the median code cell has {median:g} lines; at most {MEDIAN_CODE}, one idea a cell"
        )
    return complaints


def size_reads_well(lesson: Lesson) -> list[str]:
    words = sum(len(_words(hosted.BADGE_LINE.sub("", cell.source))) for cell in lesson.markdown)
    found = {"cells": (len(lesson.cells), CELLS), "words": (words, WORDS)}
    return [
        f"the notebook has {count} {name}; expected {allowed[0]} to {allowed[-1]}, split or merge"
        for name, (count, allowed) in found.items()
        if count not in allowed
    ]


def outputs_are_compared(lesson: Lesson) -> list[str]:
    complaints = []
    for cell in lesson.code:
        if SKIPPED in cell.tags:
            complaints.append(
                f"{cell}: is tagged {SKIPPED!r}; let it run, and tag it {IGNORED!r} if its output"
                " varies"
            )
        if re.search(r"#\s*(PYTEST_VALIDATE|NBVAL)_\w+", cell.source):
            complaints.append(
                f"{cell}: steers nbval by a comment; use a tag, which readers do not see"
            )
    ignored = [cell for cell in lesson.code if IGNORED in cell.tags]
    if len(ignored) > IGNORED_SHARE * len(lesson.code):
        complaints.append(
            f"{len(ignored)} of {len(lesson.code)} code cells are tagged {IGNORED!r}; at most "
            f"{IGNORED_SHARE:.0%}, print rounded values or assert bands"
        )
    return complaints


def ignored_cells_have_bands(lesson: Lesson) -> list[str]:
    complaints = []
    for place, cell in enumerate(lesson.code):
        if IGNORED not in cell.tags or cell.place == 1:  # the set-up cell
            continue
        if not any(
            _asserts(after) and IGNORED not in after.tags
            for after in lesson.code[place + 1 : place + 3]
        ):
            complaints.append(
                f"{cell}: its output is not compared, and neither of the next two code cells"
                " asserts the band that its numbers must lie in; add one that does and prints the"
                " verdict"
            )
    return complaints


def no_trailing_semicolon(lesson: Lesson) -> list[str]:
    return [
        f"{cell}: ends in ';', which hides its value and makes a strict comparison fail; assign the"
        " value to a name"
        for cell in lesson.code
        if _last_token(cell) == ";"
    ]


def file_is_small(lesson: Lesson) -> list[str]:
    if lesson.bytes < BYTES:
        return []
    return [f"the file has {lesson.bytes} bytes; stay under {BYTES}: fewer or smaller figures"]


def no_machine_paths(lesson: Lesson) -> list[str]:
    pattern = re.compile(r"(?<![\w.~/}])/(?:home|root|work|tmp|Users)\b|\bC:\\")
    return [
        f"{cell}: its {where} holds a path of one machine ({found.group()}); use a path relative to"
        " the notebook, or a temporary folder, and print names only"
        for cell in lesson.cells
        for where, text in (("source", cell.source), ("output", cell.output_text))
        if (found := pattern.search(text))
    ]


def no_sys_path(lesson: Lesson) -> list[str]:
    return [
        f"{cell}: touches sys.path; fusion_lib is installed, import it"
        for cell in lesson.cells
        if "sys.path" in cell.source
    ]


def predictions(lesson: Lesson) -> list[str]:
    found = sum(PREDICT in cell.source for cell in lesson.markdown)
    return (
        []
        if found >= 2
        else [f"{found} of the markdown cells hold '{PREDICT}'; ask at least two such questions"]
    )


def ids_are_unique(lesson: Lesson) -> list[str]:
    ids = [cell.id for cell in lesson.cells]
    return [
        f"{cell}: its id {cell.id!r} is missing or another cell's too; give every cell an id of"
        " its own"
        for cell in lesson.cells
        if cell.id is None or ids.count(cell.id) > 1
    ]


def links_lead_somewhere(lesson: Lesson) -> list[str]:
    complaints = []
    for cell in lesson.markdown:
        targets = re.findall(r"\]\(\s*<?([^)\s>]*)", cell.prose) + re.findall(
            r'(?:href|src)="([^"]*)"', cell.prose
        )
        for target in targets:
            if re.match(r"https?://[\w.-]+", target):
                continue
            file = (lesson.path.parent / target.partition("#")[0]).resolve()
            if not (target and file.exists() and file.is_relative_to(ROOT)):
                complaints.append(
                    f"{cell}: the link to {target!r} is no http(s) address and no file of the"
                    " project; mend it"
                )
    return complaints


def kernel_is_python3(lesson: Lesson) -> list[str]:
    if lesson.kernel == "python3":
        return []
    return [
        f"the kernel is {lesson.kernel!r}; save the notebook with the kernel 'python3', which every"
        " installation has"
    ]


RULES = (
    executed_in_order,
    no_error_outputs,
    outputs_present,
    no_stderr,
    first_cell,
    second_cell_sets_up,
    badges_open_this_notebook,
    last_sections,
    heading_levels,
    figures_have_captions,
    images_have_alt_text,
    code_is_short,
    size_reads_well,
    outputs_are_compared,
    ignored_cells_have_bands,
    no_trailing_semicolon,
    file_is_small,
    no_machine_paths,
    no_sys_path,
    predictions,
    ids_are_unique,
    links_lead_somewhere,
    kernel_is_python3,
)


def _joined(text: str | list[str] | dict) -> str:
    """The format stores a text whole, or as a list of lines; JSON outputs are dicts."""
    if isinstance(text, dict):
        return json.dumps(text)
    return text if isinstance(text, str) else "".join(text)


def _words(text: str) -> list[str]:
    return re.findall(r"\S*\w\S*", text)


def _name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _prints(statements: list[ast.stmt]) -> bool:
    """Whether these statements print whenever they run: not what stands under an if, in a handler
    or a function."""
    for statement in statements:
        if (
            isinstance(statement, ast.Expr)
            and isinstance(statement.value, ast.Call)
            and _name(statement.value) == "print"
        ):
            return True
        if isinstance(statement, (ast.For, ast.With)) and _prints(statement.body):
            return True
    return False


def _ends_in_value(statements: list[ast.stmt]) -> bool:
    if not statements or not isinstance(statements[-1], ast.Expr):
        return False
    value = statements[-1].value
    return not (isinstance(value, ast.Call) and _name(value) in SILENT_CALLS | _silent_functions())


@cache
def _silent_functions() -> set[str]:
    trees = [
        ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "fusion_lib").glob("*.py")
    ]
    functions = [
        node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
    ]
    return {
        f.name for f in functions if isinstance(f.returns, ast.Constant) and f.returns.value is None
    }


def _asserts(cell: Cell) -> bool:
    try:
        return any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(cell.python)))
    except SyntaxError:
        return False


def _last_token(cell: Cell) -> str:
    try:
        tokens = [
            token.string
            for token in tokenize.generate_tokens(io.StringIO(cell.python).readline)
            if token.type != tokenize.COMMENT and token.string.strip()
        ]
    except (tokenize.TokenError, SyntaxError):
        return ""
    return tokens[-1] if tokens else ""


if __name__ == "__main__":
    found = [
        f"{path}: {rule.__name__}: {c}"
        for path in sys.argv[1:]
        for rule in RULES
        for c in rule(read(Path(path)))
    ]
    print("\n".join(found) or "no complaints")
    sys.exit(bool(found))
