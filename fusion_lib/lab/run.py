"""Execute the notebooks, or do the main job on photographs, and end with a scoreboard.

python -m fusion_lib.lab.run scenes                # every notebook, then the scoreboard; `make run`
python -m fusion_lib.lab.run stanford_background   # train and test on photographs; `make run
DATASET=...` python -m fusion_lib.lab.run checkpoint_scenes     # data/*_scenes.safetensors, the shipped
models python -m fusion_lib.lab.run checkpoint_stanford_background   #
data/fused_photographs.safetensors python -m fusion_lib.lab.run picture               # data/pictures/,
at the top of the README python -m fusion_lib.lab.run store [NUMBER ...]    # execute notebooks and
store their outputs in place
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from tqdm import tqdm

from fusion_lib import datasets, plots
from fusion_lib.engine import checkpoints, files
from fusion_lib.lab import experiments, measures, recipes
from fusion_lib.scenes import write_sums

ROOT = Path(__file__).parents[2]
NOTEBOOKS, BUILD, RESULTS = ROOT / "notebooks", ROOT / "build", ROOT / "data" / "results"

PHOTO_CHECKPOINT = "fused_photographs.safetensors"
README_SCENE = 14  # one of the better test scenes, and full of touching trees
MODELS = {
    "semantic only": ("semantic",),
    "region only": ("region",),
    "fused": ("semantic", "region"),
}
COLUMNS = (
    "mIoU argmax",
    "mIoU vote",
    "mIoU fused",
    "pixel accuracy",
    "covering",
    "VI bits",
    "adapted Rand error",
    "PQ",
    "minutes",
)


def scenes() -> int:
    """Execute every notebook in a copy under build/, write each as .ipynb and .html, and end with
    the scoreboard."""
    import nbformat
    from nbclient.exceptions import CellExecutionError
    from nbconvert import HTMLExporter

    folder = BUILD / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    times, failed = {}, []
    for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")):
        began = time.perf_counter()
        notebook = nbformat.read(path, as_version=4)
        try:
            execute(notebook, path.stem, folder)
        except CellExecutionError as error:
            failed.append(path.stem)
            print(f"{path.stem} failed: {error.ename}: {error.evalue}", file=sys.stderr)
        times[path.stem] = time.perf_counter() - began
        nbformat.write(notebook, folder / path.name)
        (folder / f"{path.stem}.html").write_text(
            HTMLExporter().from_notebook_node(notebook)[0], encoding="utf-8"
        )
    print(
        "\nSeconds a notebook:",
        ", ".join(f"{name[:2]}: {seconds:.0f}" for name, seconds in times.items()),
    )
    if failed:
        print(f"\nFailed: {', '.join(failed)}; see build/notebooks/", file=sys.stderr)
        return 1
    rows = classical_rows(recipes.SCENES, tuple(recipes.CLASSICAL), pictures=40)
    for name in ("semantic only", "region only"):
        rows[f"{name}, same recipe"] = learned_row(recipes.SCENES, name, folder=None)
    model, facts = checkpoints.load_checkpoint(folder / "runs" / "fused.safetensors")
    rows["fused, trained in 04"] = _row(model, recipes.SCENES, facts["decoding"], facts["minutes"])
    model, facts = checkpoints.load_checkpoint(files.data_file("fused_scenes.safetensors"))
    rows["fused, shipped"] = _row(model, recipes.SCENES, facts["decoding"], facts["minutes"])
    scoreboard(rows, "Scenes, 100 test pictures, seed 0", BUILD / "scoreboard_scenes.md")
    return 0


def stanford_background() -> int:
    """Train on photographs (resumed if it was interrupted), test on fold 0, write a scoreboard and
    fused maps."""
    folder = BUILD / "stanford_background"
    photographs = recipes.PHOTOGRAPHS
    rows = classical_rows(photographs, ("Felzenszwalb",), pictures=15)
    for name, recipe in (("semantic only", photographs), ("fused", recipes.PHOTOGRAPHS_FUSED)):
        rows[f"{name}, ImageNet encoder"] = learned_row(recipe, name, folder / name.split()[0])
    rows["fused, from scratch"] = learned_row(
        recipes.PHOTOGRAPHS_SCRATCH, "fused", folder / "scratch"
    )
    scoreboard(
        rows,
        "Stanford Background, 143 test photographs of fold 0",
        BUILD / "scoreboard_stanford_background.md",
    )
    test = datasets.StanfordBackground("test")
    for index in range(8):
        path = folder / "fused_maps" / f"{test.image_ids[index]}.png"
        _draw(test[index]["image"], folder / "fused" / "model.safetensors", test.classes, path)
    print(f"fused maps of eight test photographs: {folder.relative_to(ROOT)}/fused_maps/")
    return 0


def checkpoint_scenes() -> int:
    """Train the three fused designs on the scenes as seed 0 of the experiment `fusion` does, and
    ship them."""
    folder = ROOT / "data"
    for name, model_name in (
        ("fused", experiments.FUSED),
        ("attention", "attention"),
        ("gates", "gates"),
    ):
        declared = {"epochs": recipes.SCENES.epochs, "seed": 0, "model": model_name}
        model, history = measures.train(declared, BUILD / "experiments")
        decoding = recipes.tune_decoding(model, recipes.SCENES)
        shipped = model if model_name == experiments.FUSED else model.half()
        checkpoints.save_checkpoint(
            shipped,
            folder / f"{name}_scenes.safetensors",
            decoding=decoding,
            minutes=round(_minutes(history), 2),
        )
    write_sums(folder)
    return 0


def checkpoint_stanford_background() -> int:
    """Train the fused model on photographs as seed 0 of the experiment `photographs` does, and ship
    it in half precision."""
    declared = {
        "data": "photographs",
        "epochs": recipes.PHOTOGRAPHS_FUSED.epochs,
        "seed": 0,
        "beta": 2.0,
        "model": "own decoders",
    }
    model, history = measures.train(declared, BUILD / "experiments")
    facts = {
        "decoding": recipes.tune_decoding(model, recipes.PHOTOGRAPHS_FUSED),
        "size": recipes.PHOTOGRAPHS_FUSED.size,
    }
    checkpoints.save_checkpoint(
        model.half(), ROOT / "data" / PHOTO_CHECKPOINT, **facts, minutes=round(_minutes(history), 2)
    )
    write_sums(ROOT / "data")
    return 0


def picture() -> int:
    """Draw README's picture: a test scene and a photograph (by SpaceX, CC0, from scikit-image),
    fused."""
    import torch
    from skimage import data
    from torchvision.transforms import v2

    scene = datasets.Scenes("test")[README_SCENE]["image"]
    rocket = v2.functional.resize(
        torch.from_numpy(data.rocket()).permute(2, 0, 1), [240, 320], antialias=True
    )
    folder = ROOT / "data" / "pictures"
    _draw(
        scene,
        files.data_file("fused_scenes.safetensors"),
        datasets.Scenes.classes,
        folder / "scene.png",
    )
    _draw(
        rocket,
        files.data_file(PHOTO_CHECKPOINT),
        datasets.StanfordBackground.classes,
        folder / "photograph.png",
    )
    return 0


def _draw(image, checkpoint_path: Path, classes: tuple[str, ...], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plots.use_style()
    model, facts = checkpoints.load_checkpoint(checkpoint_path)
    maps = recipes.fused_maps(model, image, facts["decoding"], facts.get("size"))
    plots.show(plots.fused_panels(image, *maps), legend=classes)
    path.parent.mkdir(parents=True, exist_ok=True)
    plt.savefig(path)
    plt.close()


def classical_rows(recipe: recipes.Recipe, names: tuple[str, ...], pictures: int) -> dict:
    """Covering and its companions of classical methods, parameters chosen on the first validation
    pictures."""
    val, test = recipe.dataset("val"), recipe.dataset("test")
    rows = {}
    for name in names:
        parameters = recipes.tune_classical(name, val, pictures)
        rows[name] = _partition(recipes.classical_scores(name, parameters, test))
    return rows


def learned_row(recipe: recipes.Recipe, name: str, folder: Path | None, seed: int = 0) -> dict:
    """Train one of `MODELS` and test it."""
    model, history = recipes.fit(
        recipe, {task: recipes.TASKS[task] for task in MODELS[name]}, seed, folder
    )
    decoding = recipes.tune_decoding(model, recipe) if "region" in MODELS[name] else {}
    if folder is not None and len(MODELS[name]) == 2:
        checkpoints.save_checkpoint(
            model, folder / "model.safetensors", decoding=decoding, size=recipe.size
        )
    return _row(model, recipe, decoding, _minutes(history))


def scoreboard(rows: dict[str, dict], title: str, path: Path) -> None:
    """Print a Markdown table and write it to `path`."""
    columns = [column for column in COLUMNS if any(column in row for row in rows.values())]
    lines = [title, "", f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, row in rows.items():
        cells = [f"{row[c]:.{1 if c == 'minutes' else 3}f}" if c in row else "" for c in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    print("\n" + "\n".join(lines) + f"\n\nwritten to {path.relative_to(ROOT)}")


def execute(notebook, name: str, folder: Path) -> None:
    """Run a notebook from top to bottom in `folder`, filling in its outputs, also those before an
    error."""
    from nbclient import NotebookClient

    os.environ["TQDM_DISABLE"] = (
        "1"  # the kernel inherits it: no progress bars among the stored outputs
    )
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(folder)}},
        coalesce_streams=True,
    )
    cells = sum(cell.cell_type == "code" for cell in notebook.cells)
    with tqdm(total=cells, desc=name, unit="cell", disable=False) as bar:
        client.on_cell_executed = lambda **_: bar.update()
        try:
            client.execute()
        finally:
            for cell in notebook.cells:
                cell.metadata.pop("execution", None)  # time stamps


def store(numbers: list[str]) -> int:
    """Execute the notebooks whose names begin with the numbers (all without any), and store their
    outputs."""
    import nbformat

    for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")):
        if not numbers or path.name[:2] in numbers:
            notebook = nbformat.read(path, as_version=4)
            execute(notebook, path.stem, NOTEBOOKS)
            nbformat.write(notebook, path)
    return 0


def _row(model, recipe: recipes.Recipe, decoding: dict, minutes: float) -> dict:
    scores = recipes.scores(model, recipe, decoding)
    row = {"minutes": minutes}
    if "semantic" in scores:
        row |= {
            "mIoU argmax": scores["semantic"]["miou"],
            "pixel accuracy": scores["semantic"]["pixel_accuracy"],
        }
    if "voted" in scores:
        row |= {"mIoU vote": scores["voted"]["miou"], "mIoU fused": scores["fused"]["miou"]}
    if "partition" in scores:
        row |= _partition(scores["partition"])
    if "panoptic_quality" in scores:
        row["PQ"] = scores["panoptic_quality"]
    return row


def _minutes(history: list[dict]) -> float:
    return (
        sum(entry["seconds"] for entry in history) / 60
    )  # also of the epochs before an interruption


def _partition(scores: dict) -> dict:
    return {
        "covering": scores["covering"],
        "VI bits": scores["variation_of_information"],
        "adapted Rand error": scores["adapted_rand_error"],
    }


COMMANDS = {
    "scenes": scenes,
    "stanford_background": stanford_background,
    "checkpoint_scenes": checkpoint_scenes,
    "checkpoint_stanford_background": checkpoint_stanford_background,
    "picture": picture,
}


def main(arguments: list[str]) -> int:
    """Run one of the commands above; returns the exit status."""
    if arguments[:1] == ["store"]:
        return store(arguments[1:])
    if len(arguments) != 1 or arguments[0] not in COMMANDS:
        print(
            f"DATASET is {' '.join(arguments)!r}; expected one of: scenes, stanford_background",
            file=sys.stderr,
        )
        return 2
    return COMMANDS[arguments[0]]()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
