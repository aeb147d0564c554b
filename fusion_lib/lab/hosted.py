"""The set-up cell of the notebooks, and the repository from which it installs fusion_lib: `make
colab REPO=owner/name` (on GitHub) writes its address into pyproject.toml, into every set-up cell
and, in badges that open the notebook on Colab, Kaggle and Binder, below the titles of notebooks and
README. OWNER/REPOSITORY takes the name back: no badge, and the set-up cell asks for a wheel."""

import importlib
import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from fusion_lib.engine.files import UNNAMED

ROOT = Path(__file__).parents[2]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*/(?!\.+$)[A-Za-z0-9_.-]+")  # what GitHub allows
ADDRESS = re.compile(r'(?<=^Repository = ").+(?="$)', re.MULTILINE)  # in pyproject.toml
FRONT = "notebooks/00_start_here.ipynb"  # what README's badges open
KEPT = ("torch", "torchvision", "numpy")  # a runtime's own stay as they are

# fusion_lib comes alone (of several wheels the last by name), so that pip touches nothing that is
# there; `start` brings what it needs.
SETUP_CELL = """\
from glob import glob; from importlib.util import find_spec as has; wheel = glob("fusion_lib-*.whl")
SOURCE
if not has("fusion_lib"): get_ipython().run_line_magic("pip", f"install -q --no-deps {max(wheel)}")
from fusion_lib.lab import hosted; hosted.start()  # the runtime's torch and numpy stay"""
WITH_ADDRESS = 'wheel = wheel or ["git+{address}"]'
ASKED = "put fusion_lib-*.whl here (make wheel), or run make lab"
WITHOUT_ADDRESS = f'assert wheel or has("fusion_lib"), "{ASKED}"'

# Markdown of the badges. HEAD is the default branch, whatever its name.
BADGES = """\
[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]\
(https://colab.research.google.com/github/{name}/blob/HEAD/{path}) \
[![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)]\
(https://kaggle.com/kernels/welcome?src=https://github.com/{name}/blob/HEAD/{path}) \
[![Open in Binder](https://mybinder.org/badge_logo.svg)]\
(https://mybinder.org/v2/gh/{name}/HEAD?labpath={path})"""
BADGE_LINE = re.compile(r"^\[!\[Open in .*$", re.MULTILINE)


def start() -> None:
    """The set-up cell's end: install what fusion_lib needs and the runtime lacks, let figures carry
    their summaries, and say what the runtime is. Raises ModuleNotFoundError with pip's own message
    where it failed, or refused to replace torch, torchvision or numpy."""
    from packaging.requirements import Requirement  # comes with the kernel; `make colab` has none

    found = _installed("fusion_lib")  # None: a clone's folder on the path
    needed = [Requirement(line) for line in (found and found.requires) or ()]
    needed = [r for r in needed if not r.marker or r.marker.evaluate({"extra": ""})]
    lacking = [str(r) for r in needed if not _fits(r)]
    if lacking:
        keep = [f"{name}=={there.version}" for name in KEPT if (there := _installed(name))]
        command = [sys.executable, "-m", "pip", "install", "-q", *keep, *map(str, needed)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise ModuleNotFoundError(
                f"pip could not install {', '.join(lacking)} beside {', '.join(keep)}, which stay"
                f" as they are; on Kaggle, set Settings > Internet on. pip says:\n{done.stderr}"
            )
        importlib.invalidate_caches()
    from fusion_lib.engine import machine  # needs what may have come just now
    from fusion_lib.lab import summaries  # as above

    summaries.register()
    print(machine.describe())


def _installed(name: str) -> metadata.Distribution | None:
    return next(iter(metadata.distributions(name=name)), None)


def _fits(requirement) -> bool:
    found = _installed(requirement.name)
    return bool(found) and requirement.specifier.contains(found.version, prereleases=True)


def address(root: Path = ROOT) -> str:
    """The repository's address; ValueError unless pyproject.toml has it once, on its own line."""
    found = ADDRESS.findall((root / "pyproject.toml").read_text(encoding="utf-8"))
    if len(found) != 1:
        raise ValueError(f'pyproject.toml has {len(found)} lines Repository = "..."; expected one')
    return found[0]


def setup_cell(address: str) -> str:
    """The set-up cell, the second of every notebook and the same in all."""
    source = WITHOUT_ADDRESS if UNNAMED in address else WITH_ADDRESS.format(address=address)
    return SETUP_CELL.replace("SOURCE", source)


def badges(address: str, path: str) -> str:
    """One line of Markdown that opens the notebook at `path`; empty without a named repository."""
    name = address.removeprefix("https://github.com/")
    return "" if UNNAMED in address else BADGES.format(name=name, path=path)


def with_badges(text: str, line: str) -> str:
    """A Markdown text with this line of badges, and no other, below its title."""
    bare = re.sub(BADGE_LINE.pattern + r"\n\n", "", text, flags=re.MULTILINE)
    title, _, rest = bare.partition("\n\n")
    return "\n\n".join(part for part in (title, line, rest) if part)


def name_repository(name: str, root: Path = ROOT) -> None:
    """Name the repository in a clone of the project. Raises ValueError, with nothing written, where
    the name, or pyproject.toml, or the beginning of a notebook is not as it should be."""
    if not NAME.fullmatch(name):
        expected = "owner/name, as in https://github.com/owner/name"
        raise ValueError(f"REPO is {name!r}; expected {expected}")
    now = f"https://github.com/{name}"
    pyproject, readme = root / "pyproject.toml", root / "README.md"
    address(root)  # stands there once
    texts = {
        pyproject: ADDRESS.sub(now, pyproject.read_text(encoding="utf-8")),
        readme: with_badges(readme.read_text(encoding="utf-8"), badges(now, FRONT)),
    }
    for path in sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        notebook, place = json.loads(path.read_text(encoding="utf-8")), f"notebooks/{path.name}"
        first, second = notebook["cells"][:2]
        if first["cell_type"] != "markdown" or "find_spec" not in "".join(second["source"]):
            lacks = "does not begin with a title and the set-up cell; give it both"
            raise ValueError(f"{place} {lacks}")
        title = with_badges("".join(first["source"]), badges(now, place))
        first["source"] = title.splitlines(keepends=True)
        second["source"] = setup_cell(now).splitlines(keepends=True)
        texts[path] = json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    try:
        name_repository(" ".join(sys.argv[1:]))
    except ValueError as error:
        sys.exit(str(error))
