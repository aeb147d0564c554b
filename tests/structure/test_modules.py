"""The shape of the package: data flows one way, and everything public says what it does."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "fusion_lib"
FLOW = ("scenes", "datasets", "transforms", "targets", "models", "losses", "training", "regions", "metrics", "plots")
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def parse(module: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{module}.py").read_text())


def imports(tree: ast.AST) -> set[str]:
    """Modules of the package that a file imports, anywhere in it, in any spelling."""
    found = set()
    for node in ast.walk(tree):
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

    A method that only fills in a slot of a base class or of the language (`forward`, `read`, `__call__`) is
    documented by its class.
    """
    slots = {"forward", "read"}
    missing = [] if ast.get_docstring(tree) else ["the module"]
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            if not ast.get_docstring(node):
                missing.append(node.name)
            if isinstance(node, ast.ClassDef):
                methods = [n for n in node.body if isinstance(n, ast.FunctionDef)]
                missing += [f"{node.name}.{m.name}" for m in methods
                            if not m.name.startswith("_") and m.name not in slots and not ast.get_docstring(m)]  # fmt: skip
    return missing


def test_every_stop_of_the_flow_is_there():
    assert set(FLOW) <= set(MODULES)


@pytest.mark.parametrize("module", FLOW)
def test_modules_import_only_to_their_left(module):
    assert imports(parse(module)) <= set(FLOW[: FLOW.index(module)])


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
    source = 'def f(): ...\nclass A:\n    "doc"\n    def g(self): ...\n    def _h(self): ...\n    def forward(self): ...\n'
    assert undocumented(ast.parse(source)) == ["the module", "f", "A.g"]


def test_importing_the_package_imports_nothing_heavy():
    """Every module costs only what it needs; scikit-image, torchmetrics and the like are imported where they are used."""
    code = (
        "import sys, fusion_lib.scenes; assert 'torch' not in sys.modules, 'scenes needs no torch';"
        "import fusion_lib.metrics, fusion_lib.transforms;"
        "heavy = [m for m in ('matplotlib.pyplot', 'torchmetrics', 'IPython') if m in sys.modules];"
        "assert not heavy, heavy"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert answer.returncode == 0, answer.stderr
