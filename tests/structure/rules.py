"""What every notebook of the series keeps to. A rule takes a lesson and returns its complaints.

A complaint names the cell (counted from 0, and how it begins) and says what to do. `tests/bad`
holds, for every rule, notebooks that break it and no other.

    python tests/structure/rules.py notebooks/*.ipynb      # prints the complaints
"""

from __future__ import annotations

import ast
import json
import re
import statistics
import sys
from pathlib import Path

from lessons import (
    EMPTY,
    ROOT,
    Cell,
    Lesson,
    called,
    ends_in_value,
    joined,
    last_token,
    names,
    nodes,
    prints,
    read,
    words,
)

from fusion_lib.lab import hosted
from fusion_lib.lab.summaries import MIME

sys.path.append(str(ROOT / "tests" / "notebooks"))
import comparison  # beside nbval's tests, where it is used

IGNORED, SKIPPED = "nbval-ignore-output", "nbval-skip"
PREDICT = "**Predict, then run.**"
CARD = ("What you will learn", "Prerequisites", "Time")
LAST_SECTIONS = ["Summary", "Exercises", "Further reading"]

CELLS, WORDS, BYTES = range(15, 51), range(600, 2001), 1_000_000
LONGEST_CODE, MEDIAN_CODE = 22, 7  # lines
MOST_IGNORED = 3  # cells of a notebook, the set-up cell among them
CAPTION_WORDS, REASON_WORDS = 12, 5

# Folds the source of the set-up cell on Colab, and in JupyterLab.
FOLDED = {"cellView": "form", "jupyter": {"source_hidden": True}}
SETUP_METADATA = {"tags": [IGNORED], **FOLDED}
MACHINE_PATH = re.compile(r"(?<![\w.~/}])/(?:home|root|work|tmp|Users)\b|\bC:\\")
# In a name, they say that a time is meant; no machine and no hour is fast enough for all asserts.
TIMES = re.compile(
    r"(?:^|_)(?:seconds?|minutes?|hours?|times?|duration|elapsed|took|ms|speed_?ups?)(?:_|$)"
    r"|^(?:speed|profile|perf_counter|monotonic|process_time)$"
)


def repository() -> str:
    """The address that stands once, in pyproject.toml."""
    return hosted.address(ROOT)


def setup_cell() -> str:
    """The standard set-up cell, which every notebook holds word for word."""
    return hosted.setup_cell(repository())


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
        if not cell.outputs and (prints(statements) or ends_in_value(statements)):
            complaints.append(
                f"{cell}: prints, or ends in a value, but holds no output; run all cells and save"
            )
    return complaints


def no_stderr(lesson: Lesson) -> list[str]:
    return [
        f"{cell}: holds stderr ({joined(output['text']).strip()[:60]!r}); mend what warns, store"
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
    if all(cell.metadata.get(key) == value for key, value in SETUP_METADATA.items()):
        return []
    return [f"{cell}: its metadata are {cell.metadata}; they should hold {SETUP_METADATA}"]


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
            waiting += [cell] * len(cell.pictures)
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
        for label, text in captions[: len(waiting)]:
            number += 1
            if label != f"{lesson.number}.{number}":
                complaints.append(
                    f"{cell}: is the caption of Figure {label}; expected {lesson.number}.{number},"
                    " in order"
                )
            elif len(words(text)) < CAPTION_WORDS:
                complaints.append(
                    f"{cell}: the caption has {len(words(text))} words; say in at least "
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
    count = sum(len(words(hosted.BADGE_LINE.sub("", cell.source))) for cell in lesson.markdown)
    found = {"cells": (len(lesson.cells), CELLS), "words": (count, WORDS)}
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
    if len(ignored) > MOST_IGNORED:
        complaints.append(
            f"{len(ignored)} code cells are tagged {IGNORED!r}; at most {MOST_IGNORED}, declare a"
            " tolerance for numbers that depend on hardware"
        )
    return complaints


def ignored_cells_have_reasons(lesson: Lesson) -> list[str]:
    return [
        f"{cell}: its output is not compared, and nothing says why; write a sentence into its"
        ' metadata, "fusion": {"reason": ...}'
        for cell in lesson.code
        if IGNORED in cell.tags and cell.place != 1  # the set-up cell
        if len(words(str(_fusion(cell).get("reason", "")))) < REASON_WORDS
    ]


def tolerances_are_well_formed(lesson: Lesson) -> list[str]:
    complaints = []
    for cell in lesson.code:
        try:
            declared = comparison.tolerance_of(cell.metadata) or {}
        except ValueError as error:
            complaints.append(f"{cell}: {error}")
            continue
        numbers = [float(n) for n in re.findall(r"\d+\.?\d*", cell.output_text)]
        if cell.outputs and declared.get("absolute", 0) > max(numbers, default=0) / 2:
            complaints.append(
                f"{cell}: absolute tolerance {declared['absolute']} is more than half of the"
                " largest number in its output; narrow it"
            )
    return complaints


def figures_have_summaries(lesson: Lesson) -> list[str]:
    return [
        f"{cell}: a figure is stored without its summary; run the set-up cell first, run all"
        " cells and save"
        for cell in lesson.code
        for data in cell.pictures
        if not _is_summary(data.get(MIME))
    ]


def no_test_plumbing(lesson: Lesson) -> list[str]:
    """What a cell does for a test's sake alone is seen by a reader, who has no use for it."""
    complaints = []
    for cell in lesson.code:
        if re.search(r"\bdrawn\b", cell.source, re.IGNORECASE):
            complaints.append(
                f"{cell}: names what was drawn; draw alone, a figure's summary travels beside it"
            )
        calls = [call for call in nodes(cell, ast.Call) if called(call) == "print"]
        if nodes(cell, ast.Assert) and any(_is_constant(call) for call in calls):
            complaints.append(
                f"{cell}: prints a constant sentence beside an assertion; print the number that it"
                " is about, with a tolerance in the metadata if hardware decides it"
            )
    return complaints


def no_asserted_times(lesson: Lesson) -> list[str]:
    measured = {  # what is assigned from a clock, or from what measures speed
        name
        for cell in lesson.code
        for node in nodes(cell, ast.Assign)
        if any(map(TIMES.search, names(node.value)))
        for target in node.targets
        for name in names(target)
    }
    return [
        f"{cell}: asserts a time ({', '.join(sorted(timed))}), and a busy machine breaks it; print"
        " it in a cell that is not compared"
        for cell in lesson.code
        for test in _asserted(cell)
        if (timed := {name for name in names(test) if TIMES.search(name) or name in measured})
    ]


def _asserted(cell: Cell) -> list[ast.AST]:
    """What a cell asserts, by the statement or by a function such as `assert_array_less`."""
    calls = nodes(cell, ast.Call)
    by_call = [c for c in calls if any(name.startswith("assert") for name in names(c.func))]
    return [node.test for node in nodes(cell, ast.Assert)] + by_call


def no_trailing_semicolon(lesson: Lesson) -> list[str]:
    return [
        f"{cell}: ends in ';', which hides its value and makes a strict comparison fail; assign the"
        " value to a name"
        for cell in lesson.code
        if last_token(cell) == ";"
    ]


def file_is_small(lesson: Lesson) -> list[str]:
    if lesson.bytes < BYTES:
        return []
    return [f"the file has {lesson.bytes} bytes; stay under {BYTES}: fewer or smaller figures"]


def no_machine_paths(lesson: Lesson) -> list[str]:
    return [
        f"{cell}: its {where} holds a path of one machine ({found.group()}); use a path relative to"
        " the notebook, or a temporary folder, and print names only"
        for cell in lesson.cells
        for where, text in (("source", cell.source), ("output", cell.output_text))
        if (found := MACHINE_PATH.search(text))
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
    ignored_cells_have_reasons,
    tolerances_are_well_formed,
    figures_have_summaries,
    no_test_plumbing,
    no_asserted_times,
    no_trailing_semicolon,
    file_is_small,
    no_machine_paths,
    no_sys_path,
    predictions,
    ids_are_unique,
    links_lead_somewhere,
    kernel_is_python3,
)


def _fusion(cell: Cell) -> dict:
    ours = cell.metadata.get("fusion")
    return ours if isinstance(ours, dict) else {}


def _is_summary(text: object) -> bool:
    try:
        return isinstance(text, str) and bool(json.loads(text)["panels"])
    except (ValueError, KeyError, TypeError):
        return False


def _is_constant(call: ast.Call) -> bool:
    return bool(call.args) and all(isinstance(argument, ast.Constant) for argument in call.args)


if __name__ == "__main__":
    found = [
        f"{path}: {rule.__name__}: {c}"
        for path in sys.argv[1:]
        for rule in RULES
        for c in rule(read(Path(path)))
    ]
    print("\n".join(found) or "no complaints")
    sys.exit(bool(found))
