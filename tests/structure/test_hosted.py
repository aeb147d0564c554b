"""`make colab` names the repository everywhere at once and spoils nothing."""

import json
import os
import shutil
import subprocess
import sys

import project
import pytest
import rules

from fusion_lib.lab import hosted

HOSTS = (
    "https://colab.research.google.com/github/",
    "https://kaggle.com/kernels/welcome?src=",
    "https://mybinder.org/v2/gh/",
)
UNNAMED = f"https://github.com{hosted.UNNAMED}REPOSITORY"
OUTPUT = {"name": "stdout", "output_type": "stream", "text": ["CPU\n"]}


@pytest.fixture
def clone(tmp_path):
    """A project of one notebook that names no repository yet."""
    (tmp_path / "pyproject.toml").write_text('[project.urls]\nRepository = "' + UNNAMED + '"\n')
    (tmp_path / "README.md").write_text(
        "# Title\n\nText.\n\n## More\n\n![A picture](https://example.org/a.png)\n"
    )
    (tmp_path / "notebooks").mkdir()
    cells = [
        {
            "cell_type": "markdown",
            "id": "a",
            "metadata": {},
            "source": ["# 00. Title\n", "\n", "Text.\n", "\n", "More."],
        },
        {
            "cell_type": "code",
            "execution_count": 1,
            "id": "b",
            "metadata": dict(rules.SETUP_METADATA),
            "outputs": [OUTPUT],
            "source": hosted.setup_cell(UNNAMED).splitlines(keepends=True),
        },
        {
            "cell_type": "code",
            "execution_count": 2,
            "id": "c",
            "metadata": {},
            "outputs": [OUTPUT],
            "source": ["print('CPU')"],
        },
    ]
    write(tmp_path, {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    return tmp_path


def write(clone, notebook):
    path = clone / "notebooks" / "00_title.ipynb"
    path.write_text(json.dumps(notebook, indent=1, sort_keys=True) + "\n")


def read(clone):
    return json.loads((clone / "notebooks" / "00_title.ipynb").read_text())


def contents(folder):
    return {
        path: path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_it_names_the_repository_everywhere(clone):
    before = read(clone)
    hosted.name_repository("jane/seg", clone)
    assert hosted.address(clone) == "https://github.com/jane/seg"
    after = read(clone)
    title, line, rest = "".join(after["cells"][0]["source"]).split("\n\n", 2)
    assert (title, rest) == ("# 00. Title", "Text.\n\nMore.")
    assert line == hosted.badges("https://github.com/jane/seg", "notebooks/00_title.ipynb")
    assert "".join(after["cells"][1]["source"]) == hosted.setup_cell("https://github.com/jane/seg")
    for notebook in (before, after):  # and nothing else has changed
        del notebook["cells"][0]["source"], notebook["cells"][1]["source"]
    assert before == after
    line = hosted.badges("https://github.com/jane/seg", hosted.FRONT)
    assert (clone / "README.md").read_text().startswith(f"# Title\n\n{line}\n\nText.\n")
    assert not [path for path, content in contents(clone).items() if b"OWNER/REPOSITORY" in content]


def test_badges_open_this_very_notebook_on_three_hosts():
    line = hosted.badges("https://github.com/jane/seg", "notebooks/00_title.ipynb")
    links = [part.rpartition("](")[2].rstrip(")") for part in line.split(") [")]
    assert [link.startswith(host) for link, host in zip(links, HOSTS, strict=True)] == [True] * 3
    assert all("jane/seg" in link and link.endswith("notebooks/00_title.ipynb") for link in links)
    assert hosted.BADGE_LINE.findall(line) == [line]
    assert hosted.badges(UNNAMED, "notebooks/00_title.ipynb") == ""


def test_again_changes_nothing_another_name_changes_it_and_it_can_be_taken_back(clone):
    before = contents(clone)
    hosted.name_repository("jane/seg", clone)
    named = contents(clone)
    hosted.name_repository("jane/seg", clone)
    assert contents(clone) == named
    hosted.name_repository("joe-2/Other_name.v1", clone)
    assert not [path for path, content in contents(clone).items() if b"jane/seg" in content]
    hosted.name_repository("jane/seg", clone)
    assert contents(clone) == named
    hosted.name_repository("OWNER/REPOSITORY", clone)
    assert contents(clone) == before


@pytest.mark.parametrize(
    "name",
    [
        "",
        "seg",
        "jane/",
        "/seg",
        "jane/seg/more",
        "https://github.com/jane/seg",
        "jane/se g",
        "-j/seg",
        'jane/"seg"',
        "jane/..",
        "j\u00e4ne/seg",
        "jane/seg\n",
    ],
)
def test_a_wrong_name_is_refused_and_nothing_is_written(clone, name):
    before = contents(clone)
    with pytest.raises(ValueError) as caught:
        hosted.name_repository(name, clone)
    assert (
        f"REPO is {name!r}; expected owner/name" in str(caught.value) and contents(clone) == before
    )


def test_a_wrong_call_says_what_is_expected_and_fails():
    command = [sys.executable, "-m", "fusion_lib.lab.hosted", "jane", "seg"]
    done = subprocess.run(command, cwd=hosted.ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    said = "REPO is 'jane seg'; expected owner/name, as in https://github.com/owner/name"
    assert done.stderr.strip() == said


@pytest.mark.parametrize(
    "text, count", [("", 0), (2 * 'Repository = "https://github.com/a/b"\n', 2)]
)
def test_an_address_that_does_not_stand_once_is_refused(clone, text, count):
    (clone / "pyproject.toml").write_text(text)
    before = contents(clone)
    with pytest.raises(ValueError, match=f"pyproject.toml has {count} lines"):
        hosted.name_repository("jane/seg", clone)
    assert contents(clone) == before


def test_a_notebook_without_a_set_up_cell_is_refused_before_anything_is_written(clone):
    notebook = read(clone)
    del notebook["cells"][1]
    write(clone, notebook)
    before = contents(clone)
    with pytest.raises(
        ValueError, match="notebooks/00_title.ipynb does not begin with a title and the set-up cell"
    ):
        hosted.name_repository("jane/seg", clone)
    assert contents(clone) == before


def test_the_whole_project_keeps_its_rules_whatever_its_name(tmp_path):
    """A copy of the project is named, keeps every rule of structure, and goes back to the same
    bytes."""
    copy = tmp_path / "copy"
    for path in project.files():
        target = copy / path.relative_to(project.ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    now = hosted.address().removeprefix("https://github.com/")
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}

    def call(*command):
        done = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, text=True, timeout=1800
        )
        assert done.returncode == 0, done.stdout + done.stderr

    before = contents(copy)
    name = "/".join(("jane-doe", "two_segmentations.v2"))  # stands nowhere in one piece
    call("make", "colab", f"PY={sys.executable}", "-o", ".venv/ready", f"REPO={name}")
    assert hosted.address(copy) == f"https://github.com/{name}"
    tests = [
        f"tests/structure/test_{name}.py"
        for name in ("rules", "notebooks", "environment", "setup_cell")
    ]
    call(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)
    call("make", "colab", f"PY={sys.executable}", "-o", ".venv/ready", f"REPO={now}")
    assert contents(copy) == before
