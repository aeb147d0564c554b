"""The long commands of the Makefile, python -m fusion_lib.lab.jobs JOB: scenes, stanford_background
(`make run`), checkpoint_scenes, checkpoint_stanford_background (`make checkpoint`), outputs (`make
outputs`; with names of notebooks, of these alone), and pictures, which README shows."""

import base64
import io
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

import matplotlib.pyplot as plt
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, DeadKernelError
from nbconvert import HTMLExporter
from PIL import Image
from skimage.data import rocket
from torch.utils.data import Subset
from torchvision.transforms import v2
from tqdm import tqdm

from fusion_lib import datasets, plots, tuning
from fusion_lib.engine import checkpoints, files
from fusion_lib.lab import declared, experiments, measures, recipes
from fusion_lib.scenes import write_sums

ROOT = Path(__file__).parents[2]
NOTEBOOKS, BUILD, DATA = ROOT / "notebooks", ROOT / "build", ROOT / "data"
SECONDS_A_CELL = 30 * 60  # with room: a busy machine takes many times as long as an idle one
PHOTOGRAPHS: dict = {"data": "photographs", "seed": 0}
FUSED_PHOTOGRAPHS = PHOTOGRAPHS | {"model": "own decoders", "beta": 2.0, "epochs": 22}
# The models that `data/` holds: data set -> file -> the run that an experiment declares.
SHIPPED = {
    "scenes": {
        "fused_scenes.safetensors": {"model": experiments.FUSED, "seed": 0},
        "attention_scenes.safetensors": {"model": "attention", "seed": 0},
        "gates_scenes.safetensors": {"model": "gates", "seed": 0},
    },
    "stanford_background": {"fused_photographs.safetensors": FUSED_PHOTOGRAPHS},
}
# What the reader of a scoreboard sees, and where `evaluation.evaluate` has it.
COLUMNS = {
    "mIoU argmax": "semantic.miou",
    "mIoU vote": "voted.miou",
    "mIoU fused": "fused.miou",
    "pixel accuracy": "semantic.pixel_accuracy",
    "covering": "partition.covering",
    "VI bits": "partition.variation_of_information",
    "adapted Rand error": "partition.adapted_rand_error",
    "PQ": "panoptic_quality",
    "minutes": "minutes",
}


class CellFailed(RuntimeError):
    """A cell raised, took too long, or ended its kernel."""


def notebooks() -> list[Path]:
    """The notebooks of the series, in order."""
    return sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def execute(notebook, name: str, folder: Path) -> None:
    """Run a notebook from top to bottom in `folder`, filling in its outputs; where a cell fails,
    those before it, and CellFailed names notebook and cell."""
    client = NotebookClient(notebook, timeout=SECONDS_A_CELL, coalesce_streams=True)
    client.extra_arguments = ["--log-level=ERROR"]  # of the kernel
    with tqdm(total=len(notebook.cells), desc=name, unit="cell", disable=False) as bar:
        client.on_cell_start = lambda **_: bar.update()
        try:  # without progress bars among the outputs
            client.execute(cwd=str(folder), env={**os.environ, "TQDM_DISABLE": "1"})
        except (CellControlSignal, DeadKernelError) as error:
            kind = getattr(error, "ename", type(error).__name__)
            said = getattr(error, "evalue", error)
            raise CellFailed(f"{name}, cell {bar.n - 1}: {kind}: {said}") from error


def _each(paths: list[Path], work: Callable, note: str) -> None:
    """Do a work with every notebook, the others even if one fails; SystemExit then says what their
    CellFailed say, and a note behind each."""
    failed = []
    for path in paths:
        try:
            work(path)
        except CellFailed as error:
            failed.append(f"{error}; {note}")
    if failed:
        sys.exit("\n".join(failed))


def outputs(*names: str) -> None:
    """Execute notebooks where they lie and write them with their outputs. SystemExit names the
    cells that failed; their files are as they were."""
    _each([Path(name) for name in names] or notebooks(), _store, "the file is as it was")


def _store(path: Path) -> None:
    """Metadata of cells and every MIME type stay, keys are sorted."""
    notebook = nbformat.read(path, as_version=4)
    execute(notebook, path.stem, path.parent)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # differs from time to time
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = _opaque(output.data["image/png"])
    nbformat.write(notebook, path)


def _opaque(png: str) -> str:
    """The same picture (base64), an eighth smaller: without its alpha channel, which is opaque."""
    packed = io.BytesIO()
    Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB").save(packed, "PNG", optimize=True)
    return base64.b64encode(packed.getvalue()).decode()


def scenes() -> None:
    """Execute a copy of every notebook, write it as .ipynb and .html, and end with a scoreboard;
    SystemExit names the cells that failed."""
    folder, seconds = BUILD / "notebooks", []
    folder.mkdir(parents=True, exist_ok=True)

    def copy(path: Path) -> None:
        began, notebook = time.perf_counter(), nbformat.read(path, as_version=4)
        try:
            execute(notebook, path.stem, folder)
        finally:
            seconds.append(f"{path.name[:2]}: {time.perf_counter() - began:.0f}")
            nbformat.write(notebook, folder / path.name)
            page, _ = HTMLExporter().from_notebook_node(notebook)
            (folder / f"{path.stem}.html").write_text(page, encoding="utf-8")

    try:
        _each(notebooks(), copy, "see build/notebooks/")
    finally:
        print("\nSeconds a notebook:", ", ".join(seconds))
        print(f"peak memory of a notebook: {getrusage(RUSAGE_CHILDREN).ru_maxrss / 1024:.0f} MB")
    rows = _classical_rows(recipes.SCENES, tuple(tuning.CLASSICAL), pictures=40)
    for name in ("semantic only", "region only"):
        run = {"model": name, "seed": 0, "learning_rate": recipes.SCENES.learning_rate}
        rows[f"{name}, same recipe"] = _tested_row(recipes.SCENES, *_trained(run, None))
    shipped = files.data_file("fused_scenes.safetensors")
    for name, path in (("trained in 04", folder / "runs/fused.safetensors"), ("shipped", shipped)):
        fused = checkpoints.load_checkpoint(path)
        rows[f"fused, {name}"] = _tested_row(recipes.SCENES, *fused)
    _publish("scenes", rows, "Scenes, 100 test pictures, seed 0")


def stanford_background() -> None:
    """Train on photographs, or go on with it; write a scoreboard of fold 0, and fused maps."""
    rows = _classical_rows(recipes.PHOTOGRAPHS, ("Felzenszwalb",), pictures=15)
    for run in (PHOTOGRAPHS | {"model": "semantic only"}, FUSED_PHOTOGRAPHS):
        model, facts = _trained(run, BUILD / "experiments")
        rows[run["model"]] = _tested_row(declared.recipe_of(run), model, facts)
    _publish("stanford_background", rows, "Stanford Background, 143 test photographs of fold 0")
    test = datasets.StanfordBackground("test")
    for index in range(8):
        path = BUILD / "fused_maps" / f"{test.image_ids[index]}.png"
        _draw(path, test[index]["image"], test.classes, model, facts)
    print("fused maps of eight test photographs: build/fused_maps/")


def checkpoint(data: str) -> None:
    """Train the models of `SHIPPED` in the folders that their experiments use, and ship them with
    their decodings; all but the first of the scenes in half precision."""
    for name, run in SHIPPED[data].items():
        model, facts = _trained(run, BUILD / "experiments")
        if name != "fused_scenes.safetensors":
            model.half()
        checkpoints.save_checkpoint(model, DATA / name, **facts)
    write_sums(DATA)


def pictures() -> None:
    """Draw README's pictures: fused, a test scene and scikit-image's photograph of a rocket (by
    SpaceX, CC0)."""
    scene = datasets.Scenes("test")[14]["image"]  # one of the better, and full of touching trees
    photograph = v2.functional.resize(v2.functional.to_image(rocket()), [240, 320], antialias=True)
    kinds = {"scene": datasets.Scenes, "photograph": datasets.StanfordBackground}
    for (kind, data), image in zip(kinds.items(), (scene, photograph)):
        fused = checkpoints.load_checkpoint(files.data_file(f"fused_{kind}s.safetensors"))
        _draw(DATA / "pictures" / f"{kind}.png", image, data.classes, *fused)


def _trained(run: dict, scratch: Path | None) -> tuple:
    """The model of a run, and the facts that its checkpoint holds."""
    model, history = measures.train(run, scratch)
    recipe, tasks = declared.recipe_of(run), declared.MODELS[run["model"]][0]
    decoding = recipes.tune_decoding(model, recipe) if "region" in tasks else {}
    minutes = round(measures.minutes(history), 2)
    return model, {"decoding": decoding, "minutes": minutes, "size": recipes.seen(recipe)}


def _classical_rows(recipe: recipes.Recipe, names: tuple[str, ...], pictures: int) -> dict:
    """Rows of classical methods, parameters chosen on the first validation pictures."""
    first, test = Subset(recipe.dataset("val"), range(pictures)), recipe.dataset("test")
    rows = {}
    for name in names:
        parameters = tuning.tune_classical(name, first)
        partition = tuning.partition_scores(tuning.CLASSICAL[name][0], parameters, test)
        rows[name] = measures.chosen(COLUMNS, {"partition": partition})
    return rows


def _tested_row(recipe: recipes.Recipe, model, facts: dict) -> dict:
    """Row of a trained model, as far as its tasks go; facts are those of its checkpoint."""
    return measures.chosen(COLUMNS, recipes.scores(model, recipe, facts["decoding"]) | facts)


def _publish(name: str, rows: dict[str, dict], title: str) -> None:
    """Write and show a Markdown table below its title; columns that no row has are left out."""
    columns = [column for column in COLUMNS if any(column in row for row in rows.values())]
    lines = [title, "", f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for method, row in rows.items():
        cells = [f"{row[c]:.{1 if c == 'minutes' else 3}f}" if c in row else "" for c in columns]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    path, table = BUILD / f"scoreboard_{name}.md", "\n".join([*lines, ""])
    path.write_text(table, encoding="utf-8")
    print(f"\n{table}\nwritten to {path.relative_to(ROOT)}")


def _draw(path: Path, image, classes: tuple[str, ...], model, facts: dict) -> None:
    plt.switch_backend("Agg")
    plots.use_style()
    maps = recipes.fused_maps(model, image, facts["decoding"], facts.get("size"))
    plots.show(plots.fused_panels(image, *maps), legend=classes)
    path.parent.mkdir(parents=True, exist_ok=True)
    plt.savefig(path)
    plt.close()


def main(job: str = "", *names: str) -> None:
    """Do one of the jobs above; SystemExit says what went wrong."""
    jobs = {one.__name__: one for one in (scenes, stanford_background, outputs, pictures)}
    jobs |= {f"checkpoint_{data}": partial(checkpoint, data) for data in SHIPPED}
    if job not in jobs or (names and job != "outputs"):
        sys.exit(f"DATASET is {' '.join((job, *names))!r}; expected one of: {', '.join(SHIPPED)}")
    jobs[job](*names)


if __name__ == "__main__":
    main(*sys.argv[1:])
