"""The set-up cell, with stand-ins for pip and for what is installed. tests/notebooks/test_colab.py
lets it work in earnest."""

import subprocess
import sys
from importlib import metadata, util
from types import SimpleNamespace

import pytest
import rules
from IPython.core.interactiveshell import InteractiveShell

from fusion_lib.lab import hosted

NAMED = hosted.setup_cell("https://github.com/jane/seg")
UNNAMED = hosted.setup_cell(f"https://github.com{hosted.UNNAMED}REPOSITORY")
FOUND = util.find_spec
VERSION = metadata.version


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """An IPython in an empty folder, whose %pip only notes what it was told."""
    monkeypatch.chdir(tmp_path)
    shell = InteractiveShell()
    shell.pip_calls = []
    shell.register_magic_function(shell.pip_calls.append, magic_name="pip")
    monkeypatch.setattr("builtins.get_ipython", lambda: shell, raising=False)
    return shell


@pytest.fixture
def lacking(shell, monkeypatch):
    """fusion_lib seems to be missing until %pip was called."""

    def find_spec(name, *package):
        missing = name == "fusion_lib" and not shell.pip_calls
        return None if missing else FOUND(name, *package)

    monkeypatch.setattr(util, "find_spec", find_spec)


@pytest.fixture
def pip(monkeypatch):
    """The commands that `hosted.start` gives to pip; none is executed. Set `fails`: pip fails."""

    class Pip(list):
        fails = False

        def run(self, command, **options):
            self.append(command)
            return subprocess.CompletedProcess(command, int(self.fails), "", "No such package")

    pip = Pip()
    monkeypatch.setattr(subprocess, "run", pip.run)
    return pip


def installed(monkeypatch, **found):
    """Pretends that distributions are what is given, or with None, that they are missing."""
    real = metadata.distributions

    def distributions(name):
        if name not in found:
            return real(name=name)
        return [] if found[name] is None else [SimpleNamespace(**found[name])]

    monkeypatch.setattr(metadata, "distributions", distributions)


def required(monkeypatch, *lines):
    installed(monkeypatch, fusion_lib={"requires": list(lines)})


def run(shell, cell):
    """Run a cell as IPython does; returns what it raised, or None."""
    return shell.run_cell(cell, silent=True).error_in_exec


# --- the cell ----------------------------------------------------------------------------------


def test_installs_from_the_named_repository_without_touching_anything_else(shell, lacking):
    assert run(shell, NAMED) is None
    assert shell.pip_calls == ["install -q --no-deps git+https://github.com/jane/seg"]


@pytest.mark.parametrize("cell", [NAMED, UNNAMED])
def test_a_wheel_beside_the_notebook_comes_first(shell, lacking, tmp_path, cell):
    for name in ("fusion_lib-0.1.0-py3-none-any.whl", "fusion_lib-0.2.0-py3-none-any.whl"):
        (tmp_path / name).touch()
    (tmp_path / "torch-9.0-py3-none-any.whl").touch()
    assert run(shell, cell) is None
    assert shell.pip_calls == ["install -q --no-deps fusion_lib-0.2.0-py3-none-any.whl"]


def test_without_a_repository_and_a_wheel_it_says_what_to_do(shell, lacking):
    error = run(shell, UNNAMED)
    assert isinstance(error, AssertionError) and shell.pip_calls == []
    assert "put fusion_lib-*.whl here (make wheel), or run make lab" in str(error)


@pytest.mark.parametrize("cell", [NAMED, UNNAMED, rules.setup_cell()])
def test_installs_nothing_where_fusion_lib_is_at_hand(shell, pip, capsys, tmp_path, cell):
    """Not even where a wheel lies beside the notebook."""
    (tmp_path / "fusion_lib-0.1.0-py3-none-any.whl").touch()
    shell.run_cell(cell).raise_error()
    assert shell.pip_calls == [] and pip == []
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(("CPU", "GPU")) and "GiB free" in second


@pytest.mark.parametrize("cell", [UNNAMED, hosted.setup_cell("https://github.com/" + 2 * "n/" * 9)])
def test_it_is_short_and_asks_for_no_permission(cell):
    lines = cell.splitlines()
    assert len(lines) == 4 and max(map(len, lines)) <= 100
    assert "drive" not in cell.lower() and "--upgrade" not in cell and "SOURCE" not in cell


# --- what it ends with -------------------------------------------------------------------------


def test_start_installs_what_is_missing_and_keeps_the_versions_that_are_there(
    monkeypatch, pip, capsys
):
    required(monkeypatch, "torch>=2", "numpy", "absent>=1.5", "more; extra == 'test'")
    hosted.start()
    keep = [f"{name}=={VERSION(name)}" for name in ("torch", "torchvision", "numpy")]
    needed = ["torch>=2", "numpy", "absent>=1.5"]
    assert pip == [[sys.executable, "-m", "pip", "install", "-q", *keep, *needed]]
    assert "GiB free" in capsys.readouterr().out


def test_start_asks_for_a_version_that_is_too_old(monkeypatch, pip):
    """Also of torch: then pip is told to keep it, and refuses."""
    required(monkeypatch, "torch>=2.4", "numpy")
    installed(monkeypatch, torch={"version": "2.3.1"})
    hosted.start()
    (command,) = pip
    assert "torch==2.3.1" in command and "torch>=2.4" in command


def test_start_takes_a_version_before_its_release(monkeypatch, pip):
    required(monkeypatch, "torch>=2.4")
    installed(monkeypatch, torch={"version": "2.9.0a0+nv25.1"})
    hosted.start()
    assert pip == []


def test_start_keeps_nothing_that_is_not_there(monkeypatch, pip):
    required(monkeypatch, "torch", "torchvision>=0.19")
    installed(monkeypatch, torchvision=None)
    hosted.start()
    (command,) = pip
    pinned = [part for part in command if "==" in part]
    assert pinned == [f"{name}=={VERSION(name)}" for name in ("torch", "numpy")]
    assert "torchvision>=0.19" in command


def test_start_says_so_when_pip_failed(monkeypatch, pip, capsys):
    required(monkeypatch, "absent>=1.5")
    pip.fails = True
    with pytest.raises(ModuleNotFoundError) as caught:
        hosted.start()
    for part in ("could not install absent>=1.5", f"torch=={VERSION('torch')}", "stay as they are"):
        assert part in str(caught.value)
    assert "Settings > Internet" in str(caught.value)
    assert str(caught.value).endswith("No such package") and capsys.readouterr().out == ""


def test_start_in_a_folder_on_the_path_installs_nothing(monkeypatch, pip, capsys):
    installed(monkeypatch, fusion_lib=None)
    hosted.start()
    assert pip == [] and "GiB free" in capsys.readouterr().out


def test_its_module_needs_the_standard_library_alone():
    """Before `start` has run, a runtime may lack everything that the project needs."""
    code = (
        "import sys, fusion_lib.lab.hosted; third = {m.split('.')[0] for m in sys.modules};"
        "assert not third & {'filelock', 'numpy', 'torch', 'packaging', 'tqdm', 'PIL'}, third"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
