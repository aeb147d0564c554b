"""data/ is complete, unaltered and described; and no photograph of other people is in it."""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter

import data_tables
import numpy as np
import project
import pytest
from data_tables import DATA

from fusion_lib import datasets
from fusion_lib.scenes import SPLITS, render, sample_scene

CARDS = {"scenes.md": datasets.Scenes, "stanford_background.md": datasets.StanfordBackground}
HEADINGS = ("Source", "Licence", "Classes", "Counts", "Known faults")
PICTURES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".ppm", ".tif", ".tiff", ".webp")
DRAWN = {  # pictures that may be committed: no photograph of a data set is in them
    "data/pictures/scene.png",  # a scene
    "data/pictures/photograph.png",  # a rocket, NASA/SpaceX, public domain, from scikit-image
    "data/pictures/fused_map.png",  # both
}


def read(name: str) -> str:
    return (DATA / name).read_text(encoding="utf-8")


def test_sizes():
    assert sum(path.stat().st_size for path in DATA.glob("*.npz")) <= 8_000_000
    assert sum(path.stat().st_size for path in DATA.glob("*_scenes.safetensors")) <= 6_000_000
    assert (DATA / "fused_photographs.safetensors").stat().st_size <= 15_000_000
    assert {path.name for path in DATA.glob("*.npz")} == {f"scenes_{split}.npz" for split in SPLITS}


def test_hashes():
    listed = dict(reversed(line.split()) for line in read("SHA256SUMS").splitlines())
    files = [*DATA.glob("*.npz"), *DATA.glob("*.safetensors")]
    assert listed == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("split", SPLITS)
def test_the_generator_reproduces_the_labels(split):
    with np.load(DATA / f"scenes_{split}.npz") as arrays:
        images, semantic, region = arrays["images"], arrays["semantic"], arrays["region"]
    assert images.shape == (len(SPLITS[split]), 64, 64, 3) and images.dtype == np.uint8
    for place, seed in enumerate(SPLITS[split]):
        _, expected_semantic, expected_region = render(sample_scene(seed))
        np.testing.assert_array_equal(
            semantic[place], expected_semantic, err_msg=f"{split} {place}: semantic labels"
        )
        np.testing.assert_array_equal(
            region[place], expected_region, err_msg=f"{split} {place}: region map"
        )


def test_every_data_set_has_a_card():
    """And so has the model for photographs, which nobody can make again without them."""
    assert {path.name for path in DATA.glob("*.md")} == {
        *CARDS,
        "fused_photographs.md",
        "README.md",
    }


@pytest.mark.parametrize("card", CARDS)
def test_card_has_its_headings(card):
    sections = re.findall(r"^## (.+)\n((?:(?!## ).*\n)+)", read(card), re.MULTILINE)
    filled = {title for title, body in sections if body.strip()}
    assert filled >= set(HEADINGS), f"{card} lacks {set(HEADINGS) - filled}"


@pytest.mark.parametrize("card", CARDS)
def test_card_names_the_classes_in_order(card):
    rows = re.findall(
        r"^\| (\d+) \| ([\w ]+?) \|", data_tables.table_below(read(card), "Classes"), re.MULTILINE
    )
    assert rows == [(str(index), name) for index, name in enumerate(CARDS[card].classes)]


@pytest.mark.parametrize(("card", "heading"), data_tables.TABLES)
def test_card_states_what_the_files_hold(card, heading):
    if not data_tables.can_be_counted(card):
        pytest.skip(f"the photographs are not here: set {datasets.ARCHIVE_VARIABLE}")
    expected = data_tables.TABLES[card, heading]()
    assert data_tables.table_below(read(card), heading) == expected, (
        "run: python tests/structure/data_tables.py"
    )


def test_index_lists_every_file_and_folder():
    rows = dict(
        re.findall(r"^\| `([^`]+)` \| *([^|]*?) *\| \w.* \|$", read("README.md"), re.MULTILINE)
    )
    inside = [path.relative_to(DATA) for path in project.files() if path.is_relative_to(DATA)]
    present = {path.parts[0] + "/" * (len(path.parts) > 1) for path in inside} - {"README.md"}
    assert present <= rows.keys(), f"data/README.md has no row for {present - rows.keys()}"
    sized = {
        path.name: data_tables.size(path)
        for path in DATA.iterdir()
        if path.suffix in (".npz", ".safetensors")
    }
    assert {name: rows[name] for name in sized} == sized, (
        "run: python tests/structure/data_tables.py"
    )
    assert "python -m fusion_lib.scenes data" in read("README.md")


def test_folds():
    with open(DATA / "stanford_background_folds.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    fold_of = {row["image_id"]: int(row["fold"]) for row in rows}
    assert len(rows) == len(fold_of) == 715
    assert Counter(fold_of.values()) == dict.fromkeys(range(5), 143)
    for one, same in (("6000068", "6000318"), ("6000257", "6000348"), ("6000117", "6000324")):
        assert fold_of[one] == fold_of[same], (
            f"{one} and {same} are the same picture and must share a fold"
        )


def test_no_photographs_are_in_the_repository():
    names = [path.relative_to(project.ROOT).as_posix() for path in project.files()]
    strangers = {name for name in names if name.lower().endswith(PICTURES)} - DRAWN
    assert not strangers, (
        f"{strangers}: the photographs may not be passed on; list a drawn picture in DRAWN"
    )
    labels = (
        ".regions.txt",
        ".layers.txt",
        ".surfaces.txt",
        "horizons.txt",
        ".tar",
        ".tar.gz",
        ".tgz",
        ".zip",
        ".npy",
    )
    assert not [name for name in names if name.endswith(labels)]
