"""One environment, one version, one address: what the files at the top say of each other."""

from __future__ import annotations

import re

import project
import pytest
import rules
import yaml  # jupyterlab brings it
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from fusion_lib.lab import hosted

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, to which pytest brings its predecessor
    import tomli as tomllib

TEXT = (project.ROOT / "pyproject.toml").read_text(encoding="utf-8")
PROJECT = tomllib.loads(TEXT)["project"]
EXTRAS = PROJECT["optional-dependencies"]
DEPENDENCIES = [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]


def at_top(name: str):
    """A YAML file of the project."""
    return yaml.safe_load((project.ROOT / name).read_text(encoding="utf-8"))


ENVIRONMENT = at_top("environment.yml")
MAKEFILE = (project.ROOT / "Makefile").read_text(encoding="utf-8")
CONDA = [line for line in ENVIRONMENT["dependencies"] if isinstance(line, str)]
PIP = [
    line
    for entry in ENVIRONMENT["dependencies"]
    if isinstance(entry, dict)
    for line in entry["pip"]
]


@pytest.mark.parametrize("dependency", DEPENDENCIES)
def test_dependency_has_a_lower_bound_and_no_other(dependency):
    operators = [specifier.operator for specifier in Requirement(dependency).specifier]
    assert operators == [">="], (
        f"{dependency}: write NAME>=VERSION; pins and upper bounds break other people's runtimes"
    )


@pytest.mark.parametrize("dependency", DEPENDENCIES)
def test_dependency_has_a_reason_on_its_line(dependency):
    reason = re.search(rf'^ *"{re.escape(dependency)}", +# (.+)$', TEXT, re.MULTILINE)
    assert reason and len(reason.group(1).split()) >= 2, (
        f"{dependency}: say after a # on its line what it is needed for"
    )


def test_no_dependency_is_listed_twice():
    names = [Requirement(line).name.lower().replace("_", "-") for line in DEPENDENCIES]
    assert sorted(set(names)) == sorted(names)


def test_the_version_is_the_same_in_citation_and_changelog():
    assert at_top("CITATION.cff")["version"] == PROJECT["version"]
    changelog = (project.ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (\S+)", changelog, re.MULTILINE)
    assert versions[0] == "Unreleased" and PROJECT["version"] in versions


def test_workflow_runs_both_commands_and_the_lowest_versions_on_the_oldest_python():
    """The oldest is the one that pyproject.toml allows."""
    jobs = at_top(".github/workflows/test.yml")["jobs"]
    matrix = jobs["commands"]["strategy"]["matrix"]
    oldest, newest = matrix["python"]
    assert f">={oldest}" == PROJECT["requires-python"]
    assert [*map(int, newest.split("."))] >= [3, 13]
    assert sorted(matrix["command"]) == ["run", "test"]
    lowest = jobs["lowest"]["steps"]
    assert f"make lowest PYTHON=python{oldest}" in [step.get("run") for step in lowest]
    targets = re.findall(r"^(\w+):", MAKEFILE, re.MULTILINE)
    assert {"run", "test", "check", "lowest"} <= {*targets}


def test_hooks_call_what_make_check_calls():
    """`ruff check`, `ruff format` and `mypy`, each from the environment that is there."""
    (local,) = at_top(".pre-commit-config.yaml")["repos"]
    hooks = local["hooks"]
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)[1]
    called = [" ".join(words.split()[:2]) for words in re.findall(r"-m (.*)", recipe)]
    assert [" ".join(hook["entry"].split()[:2]) for hook in hooks] == called
    assert {hook["language"] for hook in hooks} == {"system"}


def test_conda_brings_python_and_pip_only_with_the_same_python():
    found = {Requirement(line).name: Requirement(line).specifier for line in CONDA}
    assert set(found) == {"python", "pip"}
    assert found["python"] == SpecifierSet(PROJECT["requires-python"])
    assert found["python"].contains("3.10") and not found["python"].contains("3.9.18")


def test_pip_installs_this_package_with_all_extras_and_nothing_beside_it():
    assert len(PIP) == 1, (
        f"environment.yml lists {PIP} for pip; pyproject.toml is the place for dependencies"
    )
    extras = re.fullmatch(r"-e \.\[([\w,-]+)\]", PIP[0])
    assert extras, f"environment.yml has {PIP[0]!r}; expected '-e .[EXTRAS]'"
    assert sorted(extras.group(1).split(",")) == sorted(EXTRAS)


def test_the_repository_is_named_once():
    """In pyproject.toml; `make colab` writes it from there into set-up cells and badges."""
    address = rules.repository()
    assert PROJECT["urls"]["Repository"] == address
    owner_and_name = re.fullmatch(r"https://[\w.-]+/([\w.-]+/[\w.-]+)", address).group(1)
    sought = address if hosted.UNNAMED in address else owner_and_name
    strangers = []
    for path in project.files():
        text, written = path.read_text(encoding="utf-8", errors="ignore"), []
        if path.name == "pyproject.toml":
            written = [address]
        elif path.name == "README.md":
            written = hosted.BADGE_LINE.findall(text)
        elif path.suffix == ".ipynb":  # rules say what both must be
            cells = rules.read(path).cells
            written = [cells[1].source] + [
                line for cell in cells for line in hosted.BADGE_LINE.findall(cell.source)
            ]
        if text.count(sought) != sum(part.count(sought) for part in written):
            strangers.append(path.relative_to(project.ROOT).as_posix())
    assert not strangers, (
        f"{sought} must stand in pyproject.toml, set-up cells and badges only; it is in {strangers}"
    )


def test_readme_has_the_badges_of_the_repository_and_no_others():
    expected = hosted.badges(rules.repository(), hosted.FRONT)
    text = (project.ROOT / "README.md").read_text(encoding="utf-8")
    assert hosted.BADGE_LINE.findall(text) == [expected] * bool(expected), (
        "run: make colab REPO=owner/name"
    )


def test_binder_finds_what_it_builds_from():
    """repo2docker reads environment.yml at the top, unless a folder for it or a Dockerfile is
    there; the line for pip installs fusion_lib, so that a notebook's set-up cell finds it."""
    for name in ("binder", ".binder", "Dockerfile", "requirements.txt", "runtime.txt", "Pipfile"):
        assert not (project.ROOT / name).exists(), (
            f"repo2docker would read {name} instead of, or before, environment.yml"
        )
    assert PIP[0].startswith("-e .[") and "notebooks" in PIP[0]
