"""Every rule rejects the notebooks that break it, no other rule minds them, and the good one breaks
none."""

from __future__ import annotations

import lessons
import make_bad
import pytest
import rules

NOTEBOOKS = {
    name.removeprefix("00_").removesuffix(".ipynb"): notebook
    for name, notebook in make_bad.notebooks()
}
RULE_NAMES = [rule.__name__ for rule in rules.RULES]


def complaints_about(name: str) -> dict[str, list[str]]:
    content = make_bad.text_of(NOTEBOOKS[name]).encode()
    lesson = lessons.parse(make_bad.FOLDER / f"00_{name}.ipynb", content)
    found = {rule.__name__: rule(lesson) for rule in rules.RULES}
    return {rule: complaints for rule, complaints in found.items() if complaints}


@pytest.mark.parametrize("name", make_bad.RULES_KEPT)
def test_no_rule_minds(name):
    assert complaints_about(name) == {}


@pytest.mark.parametrize("name", [name for name in NOTEBOOKS if name not in make_bad.RULES_KEPT])
def test_exactly_its_rule_rejects(name):
    found = complaints_about(name)
    assert list(found) == [name.partition("__")[0]]
    for complaint in found[name.partition("__")[0]]:
        assert "; " in complaint, "a complaint says what is wrong; then what to do"


def test_every_rule_has_a_notebook_that_breaks_it():
    broken = {name.partition("__")[0] for name in NOTEBOOKS if name not in make_bad.RULES_KEPT}
    assert broken == set(RULE_NAMES)
    assert len(RULE_NAMES) == len(set(RULE_NAMES))


def test_committed_notebooks_are_the_ones_that_the_script_writes():
    committed = {
        path.name: path.read_text(encoding="utf-8") for path in make_bad.FOLDER.glob("*.ipynb")
    }
    written = {
        name: make_bad.text_of(notebook) for name, notebook in make_bad.committed_notebooks()
    }
    stale = sorted(name for name in committed | written if committed.get(name) != written.get(name))
    assert not stale, (
        f"python tests/structure/make_bad.py writes other files than those in tests/bad: {stale}"
    )
