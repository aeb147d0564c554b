"""Name the repository from which a reader who has only a notebook installs fusion_lib.

    python -m fusion_lib.lab.hosted owner/name     # on GitHub; `make colab REPO=owner/name` in a clone

The address stands in pyproject.toml. From there it gets into the set-up cell of every notebook and,
as badges that open the notebook on Colab, Kaggle and Binder, below the titles of notebooks and
README. Outputs and execution counts stay. Another call changes the name, and REPO=OWNER/REPOSITORY
takes it back: then no badge is shown, since it would lead nowhere.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from fusion_lib.engine.files import UNNAMED

ROOT = Path(__file__).parents[2]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*/(?!\.+$)[A-Za-z0-9_.-]+")  # what GitHub allows
ADDRESS = re.compile(r'(?<=^Repository = ").+(?="$)', re.MULTILINE)  # in pyproject.toml
FRONT = "notebooks/00_start_here.ipynb"  # what README's badges open

SETUP_CELL = """\
# Where fusion_lib is missing (Colab, Kaggle), install it; torch, torchvision and numpy stay as they
# are.
from importlib import metadata, util
REPOSITORY = "ADDRESS"
if util.find_spec("fusion_lib") is None:
    if "/OWNER/" in REPOSITORY:
        raise ModuleNotFoundError("fusion_lib is not installed, and no repository is named to install "
                                  "it from. Open this notebook in a clone of the project (make lab), or "
                                  "name one there (make colab REPO=owner/name)")
    names = [name for name in ("torch", "torchvision", "numpy") if util.find_spec(name)]
    keep = " ".join(f"{name}=={metadata.version(name)}" for name in names)
    %pip install -q {keep} git+{REPOSITORY}
    assert util.find_spec("fusion_lib"), "see pip's message; on Kaggle, first set Settings > Internet on"
from fusion_lib.engine import machine
print(machine.describe())"""

# Markdown of the badges. HEAD is the default branch, whatever its name.
BADGES = (
    (
        "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
        "(https://colab.research.google.com/github/{name}/blob/HEAD/{path})"
    ),
    (
        "[![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)]"
        "(https://kaggle.com/kernels/welcome?src=https://github.com/{name}/blob/HEAD/{path})"
    ),
    (
        "[![Open in"
        " Binder](https://mybinder.org/badge_logo.svg)](https://mybinder.org/v2/gh/{name}/HEAD?labpath={path})"
    ),
)
BADGE_LINE = re.compile(r"^\[!\[Open in .*$", re.MULTILINE)


def address(root: Path = ROOT) -> str:
    """The repository's address, which stands once, in pyproject.toml.

    Raises:
        ValueError: it does not stand there once, on a line of its own.
    """
    found = ADDRESS.findall((root / "pyproject.toml").read_text(encoding="utf-8"))
    if len(found) != 1:
        raise ValueError(f'pyproject.toml has {len(found)} lines Repository = "..."; expected one')
    return found[0]


def setup_cell(address: str) -> str:
    """The set-up cell, the second of every notebook and the same in all."""
    return SETUP_CELL.replace("ADDRESS", address)


def badges(address: str, path: str) -> str:
    """One line of Markdown that opens the notebook at `path`, from the project's root; empty while
    no repository is named."""
    name = address.removeprefix("https://github.com/")
    return "" if UNNAMED in address else " ".join(BADGES).format(name=name, path=path)


def with_badges(text: str, line: str) -> str:
    """A Markdown text with this line of badges, and no other, below its title."""
    title, _, rest = re.sub(BADGE_LINE.pattern + r"\n\n", "", text, flags=re.MULTILINE).partition(
        "\n\n"
    )
    return "\n\n".join(part for part in (title, line, rest) if part)


def set_up(notebook: dict, address: str, path: str) -> None:
    """Give a notebook (as JSON) its set-up cell and its badges; all else stays.

    Raises:
        ValueError: it does not begin with a title and a set-up cell.
    """
    first, second = notebook["cells"][:2]
    if first["cell_type"] != "markdown" or "from fusion_lib import" not in "".join(
        second["source"]
    ):
        raise ValueError(
            f"{path} does not begin with a title and the set-up cell; give it both, see"
            " fusion_lib/lab/hosted.py"
        )
    first["source"] = with_badges("".join(first["source"]), badges(address, path)).splitlines(
        keepends=True
    )
    second["source"] = setup_cell(address).splitlines(keepends=True)


def name_repository(name: str, root: Path = ROOT) -> list[str]:
    """Name the repository in a clone of the project; returns the files that changed.

    Raises:
        ValueError: `name` is not owner/name, or a file is not as it should be; then nothing was
            written.
    """
    if not NAME.fullmatch(name):
        raise ValueError(
            f"REPO is {name!r}; expected owner/name, as in https://github.com/owner/name"
        )
    now, pyproject, readme = (
        f"https://github.com/{name}",
        root / "pyproject.toml",
        root / "README.md",
    )
    address(root)  # stands there once
    texts = {
        pyproject: ADDRESS.sub(now, pyproject.read_text(encoding="utf-8")),
        readme: with_badges(readme.read_text(encoding="utf-8"), badges(now, FRONT)),
    }
    for path in sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        set_up(notebook, now, f"notebooks/{path.name}")
        texts[path] = json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    changed = [path for path, text in texts.items() if path.read_text(encoding="utf-8") != text]
    for path in changed:
        path.write_text(texts[path], encoding="utf-8")
    return [path.relative_to(root).as_posix() for path in changed]


def main(arguments: list[str]) -> int:
    """Name the repository; returns the exit status."""
    try:
        changed = name_repository(arguments[0] if len(arguments) == 1 else " ".join(arguments))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(changed) or "nothing to change")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
