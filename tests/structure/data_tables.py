"""The tables in the data cards, counted on the files themselves.

python tests/structure/data_tables.py      # writes them into data/*.md, after data/ has changed
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import project

from fusion_lib import datasets
from fusion_lib.scenes import SEMANTIC_VOID, SPLITS

DATA = project.ROOT / "data"


def scenes_counts() -> str:
    rows = []
    for split in SPLITS:
        _, semantic, region = _scenes(split)
        regions = region.reshape(len(region), -1).max(1) + 1
        rows.append(
            (
                split,
                len(semantic),
                regions.sum(),
                f"{np.median(regions):g}",
                f"{regions.min()} to {regions.max()}",
                f"{100 * (semantic == SEMANTIC_VOID).mean():.2f}",
            )
        )
    return _table(
        (
            "split",
            "scenes",
            "regions",
            "median regions a scene",
            "fewest to most",
            "void pixels, %",
        ),
        rows,
    )


def scenes_classes() -> str:
    semantic = {split: _scenes(split)[1] for split in SPLITS}
    everything = np.concatenate(list(semantic.values()))
    rows = [
        (
            index,
            name,
            *(f"{100 * (maps == index).mean():.1f}" for maps in semantic.values()),
            (everything == index).any((1, 2)).sum(),
        )
        for index, name in enumerate(datasets.Scenes.classes)
    ]
    return _table(
        ("index", "class", *(f"{split}, % of pixels" for split in SPLITS), "scenes that show it"),
        rows,
    )


def stanford_counts() -> str:
    rows = []
    for fold in range(5):
        photographs = list(_photographs(fold))
        regions = [len(np.unique(region)) for _, region in photographs]
        void = np.concatenate([semantic.ravel() for semantic, _ in photographs]) == SEMANTIC_VOID
        rows.append(
            (
                fold,
                len(photographs),
                sum(regions),
                f"{np.median(regions):g}",
                f"{min(regions)} to {max(regions)}",
                f"{100 * void.mean():.2f}",
            )
        )
    return _table(
        (
            "fold",
            "photographs",
            "regions",
            "median regions a photograph",
            "fewest to most",
            "unknown pixels, %",
        ),
        rows,
    )


def stanford_classes() -> str:
    return _shares(
        "class",
        datasets.StanfordBackground.classes,
        lambda photographs, index: photographs.read(index)[1],
    )


def stanford_surfaces() -> str:
    ((name, classes),) = datasets.StanfordBackground.further_classes.items()
    return _shares(
        "surface", classes, lambda photographs, index: photographs.read_further(index)[name]
    )


def _shares(what: str, classes: tuple[str, ...], read: Callable) -> str:
    pixels, showing = np.zeros((5, 256), int), np.zeros(256, int)
    for fold in range(5):
        photographs = datasets.StanfordBackground("test", fold)
        for index in range(len(photographs)):
            counts = np.bincount(read(photographs, index).ravel(), minlength=256)
            pixels[fold] += counts
            showing += counts > 0
    share, total = 100 * pixels / pixels.sum(1, keepdims=True), 100 * pixels.sum(0) / pixels.sum()
    rows = [
        (
            index,
            name,
            f"{total[index]:.1f}",
            f"{share[:, index].min():.1f} to {share[:, index].max():.1f}",
            showing[index],
        )
        for index, name in enumerate(classes)
    ]
    return _table(
        ("index", what, "% of pixels", "lowest to highest fold", "photographs that show it"), rows
    )


TABLES: dict[tuple[str, str], Callable[[], str]] = {  # (data card, heading): what stands below it
    ("scenes.md", "Counts"): scenes_counts,
    ("scenes.md", "Classes"): scenes_classes,
    ("stanford_background.md", "Counts"): stanford_counts,
    ("stanford_background.md", "Classes"): stanford_classes,
    ("stanford_background.md", "Surfaces"): stanford_surfaces,
}


def can_be_counted(card: str) -> bool:
    """The photographs are no part of the project: their tables need an archive at hand."""
    return card != "stanford_background.md" or datasets.ARCHIVE_VARIABLE in os.environ


def table_below(text: str, heading: str) -> str:
    """The first table below a ## heading, or nothing."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    table = section and re.search(r"(?:^\|.*\n)+", section.group(1), re.MULTILINE)
    return table.group(0) if table else ""


def size(path: Path) -> str:
    """As the index data/README.md states it."""
    kilobytes = path.stat().st_size / 1e3
    return f"{kilobytes / 1e3:.2f} MB" if kilobytes > 100 else f"{kilobytes:.1f} kB"


def _scenes(split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    with np.load(DATA / f"scenes_{split}.npz") as arrays:
        return arrays["images"], arrays["semantic"], arrays["region"].astype(int)


def _photographs(fold: int):
    photographs = datasets.StanfordBackground("test", fold)
    return (photographs.read(index)[1:] for index in range(len(photographs)))


def _table(header: tuple, rows: list[tuple]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)


if __name__ == "__main__":
    for (card, heading), count in TABLES.items():
        if can_be_counted(card):
            text = (DATA / card).read_text(encoding="utf-8")
            old = table_below(text, heading)
            if not old:
                raise SystemExit(f"{card} has no table below '## {heading}'")
            (DATA / card).write_text(text.replace(old, count()), encoding="utf-8")
    index = (DATA / "README.md").read_text(encoding="utf-8")
    for path in DATA.iterdir():
        index = re.sub(
            rf"^(\| `{re.escape(path.name)}` \|) [\d.]+ [kM]B \|",
            rf"\1 {size(path)} |",
            index,
            flags=re.MULTILINE,
        )
    (DATA / "README.md").write_text(index, encoding="utf-8")
