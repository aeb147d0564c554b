"""The shape of the package: data flows one way, and everything public says what it does."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "fusion_lib"
BELOW = ("machine", "files")  # what the flow stands on: the computer and its files
FLOW = (
    "scenes",
    "datasets",
    "adapters",
    "transforms",
    "targets",
    "resident",
    "affinities",
    "backbones",
    "models",
    "losses",
    "weighting",
    "processes",
    "checkpoints",
    "guards",
    "training",
    "regions",
    "metrics",
    "plots",
)
ADVANCED = (
    "adapters",
    "resident",
    "affinities",
    "backbones",
    "processes",
    "guards",
)  # which the one-line flow leaves out
AROUND = (
    "rivals",
    "recipes",
    "changes",
    "experiments",
    "measures",
    "grids",
    "run",
    "speed",
    "bench",
    "hosted",
)  # what puts the stops to work
ORDER = (*BELOW, *FLOW, *AROUND)
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def parse(module: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{module}.py").read_text())


def imports(tree: ast.AST, nodes=ast.walk) -> set[str]:
    """Modules of the package that a file imports, anywhere in it (or among `nodes` of the tree), in
    any spelling."""
    found = set()
    for node in nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "fusion_lib":
                    found.add(alias.name.removeprefix("fusion_lib").lstrip(".").split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            name = node.module or ""
            if node.level or name.split(".")[0] == "fusion_lib":
                rest = name.removeprefix("fusion_lib").lstrip(".") if not node.level else name
                found |= {rest.split(".")[0]} if rest else {alias.name for alias in node.names}
    return found - {""}


def undocumented(tree: ast.Module) -> list[str]:
    """Public functions, classes, and methods of public classes that have no docstring.

    A method that only fills in a slot of the language or of another package's base class
    (`__call__`, `forward`) is documented by its class, and one that fills in a slot of a base class
    in the same module by that base.
    """
    slots = {"forward", "read"}
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}

    def documented(owner: ast.ClassDef) -> set[str]:
        own = {
            n.name for n in owner.body if isinstance(n, ast.FunctionDef) and ast.get_docstring(n)
        }
        bases = [
            classes[base.id]
            for base in owner.bases
            if isinstance(base, ast.Name) and base.id in classes
        ]
        return own.union(*map(documented, bases))

    missing = [] if ast.get_docstring(tree) else ["the module"]
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            if not ast.get_docstring(node):
                missing.append(node.name)
            if isinstance(node, ast.ClassDef):
                methods = {
                    n.name
                    for n in node.body
                    if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")
                }
                missing += [
                    f"{node.name}.{name}" for name in sorted(methods - slots - documented(node))
                ]
    return missing


def test_every_module_has_its_place():
    assert set(ORDER) == set(MODULES)


@pytest.mark.parametrize("module", ORDER)
def test_modules_import_only_to_their_left(module):
    left = set(ORDER[: ORDER.index(module)])
    if (
        module == "experiments"
    ):  # the runner looks up what is declared when it is called; `grids` is built with its classes
        assert imports(parse(module), ast.iter_child_nodes) <= left
        left.add("grids")
    assert imports(parse(module)) <= left


def test_package_describes_the_flow():
    described = re.search(
        r"^scenes( -> \w+)+", ast.get_docstring(parse("__init__")), re.MULTILINE
    ).group()
    assert tuple(described.split(" -> ")) == tuple(stop for stop in FLOW if stop not in ADVANCED)


@pytest.mark.parametrize("module", MODULES)
def test_everything_public_has_a_docstring(module):
    assert undocumented(parse(module)) == []


@pytest.mark.parametrize(
    "line, found",
    [
        ("from fusion_lib.plots import show", {"plots"}),
        ("from fusion_lib import plots, metrics", {"plots", "metrics"}),
        ("import fusion_lib.plots as p", {"plots"}),
        ("from . import plots", {"plots"}),
        ("from .plots import show", {"plots"}),
        ("def f():\n    from fusion_lib.plots import show", {"plots"}),
        ("import numpy.plots", set()),
    ],
)
def test_the_rule_sees_every_spelling_of_an_import(line, found):
    assert imports(ast.parse(line)) == found


def test_the_docstring_rule_finds_what_is_missing():
    source = (
        'def f(): ...\nclass A:\n    "doc"\n    def g(self): ...\n    def _h(self): ...\n    def'
        " forward(self): ...\n"
    )
    assert undocumented(ast.parse(source)) == ["the module", "f", "A.g"]


def test_the_docstring_rule_looks_at_the_base():
    """B fills in what A describes, C what B inherits; what A does not describe must be described by
    them."""
    source = (
        '"doc"\nclass A:\n    "doc"\n    def g(self):\n        "doc"\n'
        'class B(A):\n    "doc"\n    def g(self): ...\n    def h(self): ...\n'
        'class C(B, list):\n    "doc"\n    def g(self): ...\n    def append(self): ...\n'
    )
    assert undocumented(ast.parse(source)) == ["B.h", "C.append"]


def test_the_rule_tells_imports_at_the_top_from_those_in_a_function():
    tree = ast.parse(
        "from fusion_lib.models import A\ndef f():\n    from fusion_lib.grids import B"
    )
    assert imports(tree) == {"models", "grids"} and imports(tree, ast.iter_child_nodes) == {
        "models"
    }


def test_importing_the_package_imports_nothing_heavy():
    """Every module costs only what it needs; scikit-image, torchmetrics and the like are imported
    where they are used."""
    code = (
        "import sys, fusion_lib.scenes; assert 'torch' not in sys.modules, 'scenes needs no"
        " torch';import fusion_lib.metrics, fusion_lib.transforms;heavy = [m for m in"
        " ('matplotlib.pyplot', 'torchmetrics', 'torchjd', 'IPython') if m in sys.modules];assert"
        " not heavy, heavy"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent
    )
    assert answer.returncode == 0, answer.stderr
