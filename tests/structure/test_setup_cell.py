"""The set-up cell, with stand-ins for pip and for what is installed. tests/notebooks/test_colab.py
lets it work in earnest."""

from importlib import metadata, util

import pytest
import rules
from IPython.core.interactiveshell import InteractiveShell

from fusion_lib.lab import hosted

CELL = hosted.setup_cell("https://github.com/jane/seg")
FOUND = util.find_spec


@pytest.fixture
def shell():
    """An IPython whose %pip only notes what it was told."""
    shell = InteractiveShell()
    shell.pip_calls = []
    shell.register_magic_function(shell.pip_calls.append, magic_name="pip")
    return shell


@pytest.fixture
def lacking(shell, monkeypatch):
    """Pretends that packages are missing; fusion_lib is there once pip was called, unless pip
    fails."""

    def pretend(*names, pip_fails=False):
        def find_spec(name):
            installed = name == "fusion_lib" and shell.pip_calls and not pip_fails
            return FOUND(name) if name not in names or installed else None

        monkeypatch.setattr(util, "find_spec", find_spec)

    return pretend


def run(shell, cell):
    """Run a cell as IPython does; returns what it raised, or None."""
    return shell.run_cell(cell, silent=True).error_in_exec


def test_installs_and_keeps_the_versions_that_are_there(shell, lacking):
    lacking("fusion_lib")
    assert run(shell, CELL) is None
    pins = " ".join(
        f"{name}=={metadata.version(name)}" for name in ("torch", "torchvision", "numpy")
    )
    assert shell.pip_calls == [f"install -q {pins} git+https://github.com/jane/seg"]


def test_keeps_nothing_that_is_not_there(shell, lacking):
    lacking("fusion_lib", "torchvision")
    assert run(shell, CELL) is None
    (line,) = shell.pip_calls
    assert "torchvision" not in line and f" torch=={metadata.version('torch')} " in line


def test_says_so_when_pip_failed(shell, lacking):
    lacking("fusion_lib", pip_fails=True)
    error = run(shell, CELL)
    assert (
        isinstance(error, AssertionError)
        and "pip's message" in str(error)
        and "Settings > Internet" in str(error)
    )
    assert len(shell.pip_calls) == 1


def test_without_a_named_repository_it_says_what_to_do(shell, lacking):
    lacking("fusion_lib")
    error = run(shell, hosted.setup_cell(f"https://github.com{hosted.UNNAMED}REPOSITORY"))
    assert isinstance(error, ModuleNotFoundError) and shell.pip_calls == []
    assert "make lab" in str(error) and "make colab REPO=owner/name" in str(error)


def test_installs_nothing_where_fusion_lib_is_at_hand(shell, capsys):
    shell.run_cell(rules.setup_cell()).raise_error()
    assert shell.pip_calls == []
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(("CPU", "GPU")) and "GiB free" in second


def test_it_is_short_and_asks_for_no_permission():
    lines = hosted.SETUP_CELL.splitlines()
    assert len(lines) <= 15 and max(map(len, lines)) <= 105
    assert "drive" not in hosted.SETUP_CELL.lower() and "--upgrade" not in hosted.SETUP_CELL
