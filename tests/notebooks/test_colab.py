"""A notebook in an empty folder, alone or with the project's wheel, on a runtime that has PyTorch
but not fusion_lib: what a reader on Colab meets.

The runtime is a new virtual environment that sees this environment's torch, torchvision, numpy,
matplotlib, scipy, scikit-image and Jupyter's kernel through links; a runtime with copies of its own
would take gigabytes and minutes. All else pip installs, from a local index: this environment's
packages, packed up as wheels again, and beside them made-up newest releases of torch, torchvision,
numpy and of a dependency that demands such a numpy. A local git repository of the working tree
stands in for the published one, and `make wheel` in it makes the wheel.

Left out: the network and a real index (pip's choice among all releases there), Colab's own image,
and a GPU.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import nbformat
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from fusion_lib.lab import hosted

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, to which pytest brings its predecessor
    import tomli as tomllib

THERE = (
    "torch",
    "torchvision",
    "numpy",
    "matplotlib",
    "scipy",
    "scikit-image",
    "ipykernel",
    "nbclient",
    "pip",
)
KEPT = ("torch", "torchvision", "numpy")
UNNAMED = f"https://github.com{hosted.UNNAMED}REPOSITORY"
NOTEBOOK = "00_start_here.ipynb"  # uses the scenes, a checkpoint and most of the package
EXECUTE = """
import nbformat, sys
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], 4)
try:
    NotebookClient(notebook, timeout=1800, kernel_name="python3").execute()
finally:
    nbformat.write(notebook, sys.argv[1])
"""
LOOK_AT_VERSIONS = (
    f"KEPT = {KEPT!r}"
    + """
import json
from importlib import metadata
print(json.dumps({name: metadata.version(name) for name in KEPT}))
"""
)
LOOK = (
    f"KEPT = {KEPT!r}"
    + """
import fusion_lib, json, torchjd
from importlib import metadata, util
versions = {name: metadata.version(name) for name in KEPT}
places = {name: util.find_spec(name).origin for name in versions}
print(json.dumps([versions, places, fusion_lib.__file__, torchjd.__file__]))
"""
)


def with_dependencies(*lines: str) -> set[str]:
    """The installed distributions that these requirements bring, themselves among them."""
    found, waiting = set(), [Requirement(line) for line in lines]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if (name, frozenset(requirement.extras)) in found:
            continue
        found.add((name, frozenset(requirement.extras)))
        for inner in map(Requirement, metadata.requires(name) or ()):
            if inner.marker is None or any(
                inner.marker.evaluate({"extra": e}) for e in ("", *requirement.extras)
            ):
                waiting.append(inner)
    return {name for name, _ in found}


def pack(name: str, folder: Path) -> None:
    """Pack an installed distribution as the wheel that it came from."""
    package = metadata.distribution(name)
    tag = re.findall(r"^Tag: (\S+)$", package.read_text("WHEEL"), re.MULTILINE)[
        -1
    ]  # of py2 and py3, the latter
    with zipfile.ZipFile(
        folder / f"{re.sub(r'[-.]+', '_', name)}-{package.version}-{tag}.whl", "w"
    ) as wheel:
        for file in package.files:
            if ".." not in file.parts and "__pycache__" not in file.parts:
                wheel.write(file.locate(), str(file))


def make_up(name: str, requires: str, folder: Path) -> None:
    """A wheel of nothing, release 999."""
    about = f"{name}-999.dist-info"
    with zipfile.ZipFile(folder / f"{name}-999-py3-none-any.whl", "w") as wheel:
        demand = f"Requires-Dist: {requires}\n" if requires else ""
        wheel.writestr(
            f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 999\n{demand}"
        )
        wheel.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{about}/RECORD", "")


class Runtime:
    """A folder for the notebook, an environment without fusion_lib, an index, and a published
    repository."""

    def __init__(self, root: Path, links: Path, index: Path, repository: Path):
        self.folder, self.environment, self.repository = (
            root / "content",
            root / "environment",
            repository,
        )
        self.folder.mkdir()
        venv.create(self.environment, symlinks=True)
        (self.site,) = self.environment.glob("lib/python3*/site-packages")
        (self.site / "links.pth").write_text(f"{links}\n")
        own = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PIP_", "PYTHON", "JUPYTER", "FUSION_"))
        }
        index_only = {
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(index),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_COMPILE": "1",
        }
        self.variables = {
            **own,
            **index_only,
            "HOME": str(root),
            "TQDM_DISABLE": "1",
            "OMP_NUM_THREADS": "1",
        }

    def python(self, code: str, *arguments: str) -> subprocess.CompletedProcess:
        command = [self.environment / "bin" / "python", "-c", code, *arguments]
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.variables,
            capture_output=True,
            text=True,
            timeout=1800,
        )

    def open(
        self, notebook, address: str | None = None
    ) -> tuple[subprocess.CompletedProcess, nbformat.NotebookNode]:
        """Put a notebook into the folder, without outputs, and run it; returns how that went, and
        the notebook. Its set-up cell names this address, by default the repository's."""
        notebook.cells[1].source = hosted.setup_cell(address or f"file://{self.repository}")
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbformat.write(notebook, self.folder / NOTEBOOK)
        done = self.python(EXECUTE, NOTEBOOK)
        return done, nbformat.read(self.folder / NOTEBOOK, 4)


@pytest.fixture(scope="module")
def make_runtime(tmp_path_factory):
    """Calls give runtimes; an edit of pyproject.toml is published with the working tree."""
    if os.name != "posix" or not shutil.which("git"):
        pytest.skip("needs symbolic links and git")
    root = tmp_path_factory.mktemp("colab")
    links, index = root / "links", root / "index"
    links.mkdir(), index.mkdir()
    there = with_dependencies(*THERE)
    for name in there:
        for file in metadata.files(name):
            part = Path(file.parts[0])
            if part.name not in ("..", "__pycache__") and not (links / part).exists():
                (links / part).symlink_to(
                    Path(metadata.distribution(name).locate_file(part)).resolve()
                )
    needed = tomllib.loads((hosted.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "dependencies"
    ]
    for name in with_dependencies(*needed) - there | {"setuptools"}:  # this builds the package
        pack(name, index)
    for name in KEPT:
        make_up(name, "", index)
    make_up("torchmetrics", "numpy>=999", index)

    def make(name: str, edit=lambda text: text) -> Runtime:
        repository = root / name / "repository"
        tracked = subprocess.run(
            [
                "git",
                "-C",
                hosted.ROOT,
                "ls-files",
                "-z",
                "--cached",
                "--others",
                "--exclude-standard",
            ],
            capture_output=True,
            text=True,
        )
        if tracked.returncode:
            pytest.skip("the project is no git repository here")
        for file in filter(None, tracked.stdout.split("\0")):
            if (hosted.ROOT / file).is_file():
                (repository / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(hosted.ROOT / file, repository / file)
        pyproject = repository / "pyproject.toml"
        pyproject.write_text(edit(pyproject.read_text(encoding="utf-8")), encoding="utf-8")
        git = [
            "git",
            "-C",
            str(repository),
            "-c",
            "user.name=Author",
            "-c",
            "user.email=author@example.org",
        ]
        for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "As published"]):
            subprocess.run([*git, *command], check=True, capture_output=True)
        return Runtime(root / name, links, index, repository)

    return make


def texts(notebook) -> list[str]:
    """What the code cells from the third one on printed and returned, without what is not
    compared."""
    cells = [cell for cell in notebook.cells[2:] if cell.cell_type == "code"]
    cells = [cell for cell in cells if "nbval-ignore-output" not in cell.metadata.get("tags", ())]
    return [
        "".join(
            o.get("text", "") or o.get("data", {}).get("text/plain", "")
            for o in cell.outputs
            if o.get("name") != "stderr"
        )
        for cell in cells
    ]


def test_a_notebook_alone_installs_what_it_needs_and_leaves_the_runtime_as_it_was(make_runtime):
    runtime = make_runtime("reader")
    stored = nbformat.read(hosted.ROOT / "notebooks" / NOTEBOOK, 4)
    expected = texts(stored)
    assert (
        runtime.python("import fusion_lib").returncode
        and not runtime.python("import torch").returncode
    )
    done, notebook = runtime.open(stored)
    assert done.returncode == 0, done.stderr[-3000:]
    assert texts(notebook) == expected and len(expected) > 5  # the same results as in a clone
    (said,) = [
        o.text
        for o in notebook.cells[1].outputs
        if o.get("name") == "stdout" and "GiB free" in o.text
    ]
    assert re.search(r"^(CPU|GPU)", said, re.MULTILINE)
    assert [path.name for path in runtime.folder.iterdir()] == [NOTEBOOK]

    look_around(runtime)


def look_around(runtime):
    """The runtime's own packages are as they were, and all of fusion_lib is there."""
    versions, places, package, dependency = json.loads(runtime.python(LOOK).stdout)
    assert versions == {name: metadata.version(name) for name in KEPT}
    assert not [
        place for place in places.values() if Path(place).is_relative_to(runtime.environment)
    ]
    assert Path(package).parent == runtime.site / "fusion_lib" and Path(dependency).is_relative_to(
        runtime.site
    )
    shipped = {path.name for path in (hosted.ROOT / "data").glob("*.*")}
    assert {path.name for path in (runtime.site / "fusion_lib" / "data").glob("*.*")} == shipped
    strangers = {
        canonicalize_name(path.name.split("-")[0]) for path in runtime.site.glob("*.dist-info")
    }
    assert not strangers & with_dependencies(*THERE)


def test_a_wheel_beside_the_notebook_is_all_it_takes_before_a_repository_is_named(make_runtime):
    """The wheel comes from `make wheel`, which needs no network once the environment is ready."""
    runtime = make_runtime("teacher")
    command = ["make", "wheel", f"PY={sys.executable}", "-o", ".venv/ready"]
    made = subprocess.run(
        command, cwd=runtime.repository, env=runtime.variables, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    (wheel,) = (runtime.repository / "build").glob("*.whl")
    assert 1e7 < wheel.stat().st_size < 3e7
    shutil.move(wheel, runtime.folder)
    shutil.rmtree(runtime.repository)
    stored = nbformat.read(hosted.ROOT / "notebooks" / NOTEBOOK, 4)
    expected = texts(stored)
    done, notebook = runtime.open(stored, UNNAMED)
    assert done.returncode == 0, done.stderr[-3000:]
    assert texts(notebook) == expected and len(expected) > 5
    assert {path.name for path in runtime.folder.iterdir()} == {NOTEBOOK, wheel.name}
    look_around(runtime)


def test_a_notebook_alone_before_a_repository_is_named_says_what_to_do(make_runtime):
    runtime = make_runtime("nothing")
    notebook = nbformat.read(hosted.ROOT / "notebooks" / NOTEBOOK, 4)
    notebook.cells = notebook.cells[:2]
    done, notebook = runtime.open(notebook, UNNAMED)
    assert done.returncode and "put fusion_lib-*.whl here (make wheel), or run make" in done.stderr
    assert {path.name for path in runtime.site.iterdir()} == {"links.pth"}


def test_a_repository_that_demands_another_torch_is_refused_and_the_runtime_stays(make_runtime):
    runtime = make_runtime(
        "conflict", lambda text: re.sub(r'"torch>=[\d.]+"', '"torch>=999"', text)
    )
    notebook = nbformat.read(hosted.ROOT / "notebooks" / NOTEBOOK, 4)
    notebook.cells = notebook.cells[:2]
    done, notebook = runtime.open(notebook)
    assert done.returncode and "ModuleNotFoundError" in done.stderr
    for part in ("could not install torch>=999", "ResolutionImpossible", "which stay as they are"):
        assert part in done.stderr
    versions = json.loads(runtime.python(LOOK_AT_VERSIONS).stdout)
    assert versions == {name: metadata.version(name) for name in KEPT}
    package = {path.name.partition("-")[0] for path in runtime.site.iterdir()}
    assert package == {"links.pth", "fusion_lib"}  # and nothing that it needs
