"""The set-up cell on a machine without fusion_lib: it installs it and leaves torch, torchvision and numpy alone."""

from importlib import metadata, util

import pytest
import rules
from IPython.core.interactiveshell import InteractiveShell


@pytest.fixture
def shell():
    """An IPython whose %pip only notes what it was told."""
    shell = InteractiveShell()
    shell.pip_calls = []
    shell.register_magic_function(shell.pip_calls.append, magic_name="pip")
    return shell


def test_installs_and_keeps_the_versions_that_are_there(shell, monkeypatch):
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    shell.run_cell(rules.setup_cell()).raise_error()
    (line,) = shell.pip_calls
    for name in ("torch", "torchvision", "numpy"):
        assert f" {name}=={metadata.version(name)} " in line
    assert line.endswith(f"git+{rules.repository()}") and "--upgrade" not in line


def test_installs_nothing_where_fusion_lib_is_at_hand(shell, capsys):
    shell.run_cell(rules.setup_cell()).raise_error()
    assert shell.pip_calls == []
    assert "PU" in capsys.readouterr().out  # CPU or GPU
