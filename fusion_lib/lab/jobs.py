"""The long commands of the Makefile.

python -m fusion_lib.lab.jobs scenes                   # notebooks and scoreboard; `make run`
python -m fusion_lib.lab.jobs stanford_background      # `make run DATASET=stanford_background`
python -m fusion_lib.lab.jobs checkpoint_scenes        # or checkpoint_stanford_background
python -m fusion_lib.lab.jobs picture                  # data/pictures/, shown by the README
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
from nbconvert import HTMLExporter
from skimage.data import rocket
from torchvision.transforms import v2

from fusion_lib import datasets, plots, tuning
from fusion_lib.engine import checkpoints, files
from fusion_lib.lab import experiments, measures, notebooks, recipes, tables
from fusion_lib.scenes import write_sums

ROOT = notebooks.ROOT
BUILD, DATA = ROOT / "build", ROOT / "data"
README_SCENE = 14  # one of the better test scenes, and full of touching trees
PHOTO_CHECKPOINT = "fused_photographs.safetensors"
SCENES: dict = {"epochs": recipes.SCENES.epochs, "seed": 0}
PHOTOGRAPHS: dict = {"data": "photographs", "epochs": recipes.PHOTOGRAPHS_FUSED.epochs, "seed": 0}
# The models that `data/` holds: data set -> file -> the run that an experiment declares.
SHIPPED: dict[str, dict[str, dict]] = {
    "scenes": {
        "fused_scenes.safetensors": SCENES | {"model": experiments.FUSED},
        "attention_scenes.safetensors": SCENES | {"model": "attention"},
        "gates_scenes.safetensors": SCENES | {"model": "gates"},
    },
    "stanford_background": {PHOTO_CHECKPOINT: PHOTOGRAPHS | {"beta": 2.0, "model": "own decoders"}},
}


def scenes() -> int | None:
    """Execute a copy of every notebook, write it as .ipynb and .html, and end with a scoreboard;
    returns 1 if a notebook failed."""
    folder = BUILD / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    seconds, failed = {}, []
    for path in notebooks.paths():
        began, notebook = time.perf_counter(), nbformat.read(path, as_version=4)
        try:
            notebooks.execute(notebook, path.stem, folder)
        except notebooks.CellFailed as error:
            failed.append(str(error))
            print(error, file=sys.stderr)
        seconds[path.name[:2]] = f"{time.perf_counter() - began:.0f}"
        nbformat.write(notebook, folder / path.name)
        page, _ = HTMLExporter().from_notebook_node(notebook)
        (folder / f"{path.stem}.html").write_text(page, encoding="utf-8")
    print("\nSeconds a notebook:", ", ".join(f"{name}: {took}" for name, took in seconds.items()))
    if failed:
        print("\nFailed; see build/notebooks/:", *failed, sep="\n", file=sys.stderr)
        return 1
    rows = tables.classical_rows(recipes.SCENES, tuple(tuning.CLASSICAL), pictures=40)
    for name in ("semantic only", "region only"):
        rows[f"{name}, same recipe"] = tables.learned_row(recipes.SCENES, name, folder=None)
    shipped = files.data_file("fused_scenes.safetensors")
    for name, path in (("trained in 04", folder / "runs/fused.safetensors"), ("shipped", shipped)):
        model, facts = checkpoints.load_checkpoint(path)
        found = tables.tested_row(model, recipes.SCENES, facts["decoding"], facts["minutes"])
        rows[f"fused, {name}"] = found
    _publish(tables.scoreboard(rows, "Scenes, 100 test pictures, seed 0"), "scenes")
    return None


def stanford_background() -> None:
    """Train on photographs, or go on with it; write a scoreboard of fold 0, and fused maps."""
    folder, photographs = BUILD / "stanford_background", recipes.PHOTOGRAPHS
    rows = tables.classical_rows(photographs, ("Felzenszwalb",), pictures=15)
    for name, kind, recipe, place in (
        ("semantic only", "ImageNet encoder", photographs, "semantic"),
        ("fused", "ImageNet encoder", recipes.PHOTOGRAPHS_FUSED, "fused"),
        ("fused", "from scratch", recipes.PHOTOGRAPHS_SCRATCH, "scratch"),
    ):
        rows[f"{name}, {kind}"] = tables.learned_row(recipe, name, folder / place)
    title = "Stanford Background, 143 test photographs of fold 0"
    _publish(tables.scoreboard(rows, title), "stanford_background")
    test = datasets.StanfordBackground("test")
    for index in range(8):
        path = folder / "fused_maps" / f"{test.image_ids[index]}.png"
        _draw(test[index]["image"], folder / "fused" / "model.safetensors", test.classes, path)
    print(f"fused maps of eight test photographs: {folder.relative_to(ROOT)}/fused_maps/")


def checkpoint(data: str) -> None:
    """Train the models of `SHIPPED` in the folders that their experiments use, and ship them with
    their decodings; all but the first of the scenes in half precision."""
    for name, run in SHIPPED[data].items():
        model, history = measures.train(run, BUILD / "experiments")
        recipe, minutes = measures.recipe_of(run), round(measures.minutes(history), 2)
        facts: dict = {"decoding": recipes.tune_decoding(model, recipe), "minutes": minutes}
        if data != "scenes":
            facts["size"] = recipe.size
        if name != "fused_scenes.safetensors":
            model.half()
        checkpoints.save_checkpoint(model, DATA / name, **facts)
    write_sums(DATA)


def picture() -> None:
    """Draw README's pictures: fused, a test scene and scikit-image's photograph of a rocket (by
    SpaceX, CC0)."""
    scene, folder = datasets.Scenes("test"), DATA / "pictures"
    shipped = files.data_file("fused_scenes.safetensors")
    _draw(scene[README_SCENE]["image"], shipped, scene.classes, folder / "scene.png")
    image = v2.functional.resize(v2.functional.to_image(rocket()), [240, 320], antialias=True)
    classes, shipped = datasets.StanfordBackground.classes, files.data_file(PHOTO_CHECKPOINT)
    _draw(image, shipped, classes, folder / "photograph.png")


def _publish(table: str, name: str) -> None:
    path = BUILD / f"scoreboard_{name}.md"
    path.write_text(table, encoding="utf-8")
    print(f"\n{table}\nwritten to {path.relative_to(ROOT)}")


def _draw(image, shipped: Path, classes: tuple[str, ...], path: Path) -> None:
    plt.switch_backend("Agg")
    plots.use_style()
    model, facts = checkpoints.load_checkpoint(shipped)
    maps = recipes.fused_maps(model, image, facts["decoding"], facts.get("size"))
    plots.show(plots.fused_panels(image, *maps), legend=classes)
    path.parent.mkdir(parents=True, exist_ok=True)
    plt.savefig(path)
    plt.close()


def main(arguments: list[str]) -> int:
    """Do one of the jobs above; returns the exit status."""
    given = " ".join(arguments)
    jobs = {job.__name__: job for job in (scenes, stanford_background, picture)}
    jobs |= {f"checkpoint_{data}": partial(checkpoint, data) for data in SHIPPED}
    if given in jobs:
        return jobs[given]() or 0
    print(f"DATASET is {given!r}; expected one of: {', '.join(SHIPPED)}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
