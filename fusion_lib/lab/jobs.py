"""The long commands of the Makefile, python -m fusion_lib.lab.jobs JOB: scenes, stanford_background
(`make run`), checkpoint_scenes, checkpoint_stanford_background (`make checkpoint`), outputs (`make
outputs`; with names of notebooks, of these alone), and pictures, which README shows."""

import base64
import io
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, DeadKernelError
from nbconvert import HTMLExporter
from PIL import Image
from skimage.data import rocket
from torchvision.transforms import v2
from tqdm import tqdm

from fusion_lib import datasets, plots, tuning
from fusion_lib.engine import checkpoints, files
from fusion_lib.lab import experiments, measures, recipes, tables
from fusion_lib.scenes import write_sums

ROOT = Path(__file__).parents[2]
NOTEBOOKS, BUILD, DATA = ROOT / "notebooks", ROOT / "build", ROOT / "data"
SECONDS_A_CELL = 30 * 60  # with room: a busy machine takes many times as long as an idle one
README_SCENE = 14  # one of the better test scenes, and full of touching trees
PHOTO_CHECKPOINT = "fused_photographs.safetensors"
PHOTOGRAPHS: dict = {"data": "photographs", "seed": 0}
FUSED_PHOTOGRAPHS = PHOTOGRAPHS | {"model": "own decoders", "beta": 2.0, "epochs": 22}
# The models that `data/` holds: data set -> file -> the run that an experiment declares.
SHIPPED = {
    "scenes": {
        "fused_scenes.safetensors": {"model": experiments.FUSED, "seed": 0},
        "attention_scenes.safetensors": {"model": "attention", "seed": 0},
        "gates_scenes.safetensors": {"model": "gates", "seed": 0},
    },
    "stanford_background": {PHOTO_CHECKPOINT: FUSED_PHOTOGRAPHS},
}


class CellFailed(RuntimeError):
    """A cell raised, took too long, or ended its kernel."""


def notebooks() -> list[Path]:
    """The notebooks of the series, in order."""
    return sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def execute(notebook, name: str, folder: Path) -> None:
    """Run a notebook from top to bottom in `folder`, filling in its outputs and nothing that
    differs from time to time. Raises CellFailed, which names notebook and cell; the outputs before
    it are filled in."""
    client = NotebookClient(
        notebook,
        timeout=SECONDS_A_CELL,
        kernel_name="python3",
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(folder)}},
        coalesce_streams=True,
        record_timing=False,
    )
    with tqdm(total=len(notebook.cells), desc=name, unit="cell", disable=False) as bar:
        client.on_cell_start = lambda **_: bar.update()
        try:  # without progress bars among the outputs
            client.execute(env={**os.environ, "TQDM_DISABLE": "1"})
        except (CellControlSignal, DeadKernelError) as error:
            kind = getattr(error, "ename", type(error).__name__)
            said = getattr(error, "evalue", error)
            raise CellFailed(f"{name}, cell {bar.n - 1}: {kind}: {said}") from error


def failures(paths: Iterable[Path], work: Callable, note: str) -> list[str]:
    """Do a work with every notebook, the others even if one fails; returns what the CellFailed of
    those say, and a note behind each."""
    failed = []
    for path in paths:
        try:
            work(path)
        except CellFailed as error:
            failed.append(f"{error}; {note}")
    return failed


def outputs(*names: str) -> None:
    """Execute notebooks where they lie and write them with their outputs. SystemExit names the
    cells that failed; their files are as they were."""
    paths = [Path(name) for name in names] or notebooks()
    if failed := failures(paths, _store, "the file is as it was"):
        sys.exit("\n".join(failed))


def _store(path: Path) -> None:
    """Metadata of cells and every MIME type stay, keys are sorted."""
    notebook = nbformat.read(path, as_version=4)
    execute(notebook, path.stem, path.parent)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # time stamps
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
    folder, seconds = BUILD / "notebooks", {}
    folder.mkdir(parents=True, exist_ok=True)

    def copy(path: Path) -> None:
        began, notebook = time.perf_counter(), nbformat.read(path, as_version=4)
        try:
            execute(notebook, path.stem, folder)
        finally:
            seconds[path.name[:2]] = f"{time.perf_counter() - began:.0f}"
            nbformat.write(notebook, folder / path.name)
            page, _ = HTMLExporter().from_notebook_node(notebook)
            (folder / f"{path.stem}.html").write_text(page, encoding="utf-8")

    failed = failures(notebooks(), copy, "see build/notebooks/")
    print("\nSeconds a notebook:", ", ".join(f"{name}: {took}" for name, took in seconds.items()))
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"peak memory of a notebook: {memory:.0f} MB")
    if failed:
        sys.exit("\n".join(failed))
    rows = tables.classical_rows(recipes.SCENES, tuple(tuning.CLASSICAL), pictures=40)
    for name in ("semantic only", "region only"):
        run = {"model": name, "seed": 0, "learning_rate": recipes.SCENES.learning_rate}
        rows[f"{name}, same recipe"] = tables.tested_row(recipes.SCENES, *_trained(run, None))
    shipped = files.data_file("fused_scenes.safetensors")
    for name, path in (("trained in 04", folder / "runs/fused.safetensors"), ("shipped", shipped)):
        fused = checkpoints.load_checkpoint(path)
        rows[f"fused, {name}"] = tables.tested_row(recipes.SCENES, *fused)
    _publish("scenes", rows, "Scenes, 100 test pictures, seed 0")


def stanford_background() -> None:
    """Train on photographs, or go on with it; write a scoreboard of fold 0, and fused maps."""
    rows = tables.classical_rows(recipes.PHOTOGRAPHS, ("Felzenszwalb",), pictures=15)
    for run in (PHOTOGRAPHS | {"model": "semantic only"}, FUSED_PHOTOGRAPHS):
        model, facts = _trained(run, BUILD / "experiments")
        rows[run["model"]] = tables.tested_row(measures.recipe_of(run), model, facts)
    title = "Stanford Background, 143 test photographs of fold 0"
    _publish("stanford_background", rows, title)
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
    scene = datasets.Scenes("test")[README_SCENE]["image"]
    photograph = v2.functional.resize(v2.functional.to_image(rocket()), [240, 320], antialias=True)
    for name, image, shipped, data in (
        ("scene.png", scene, "fused_scenes.safetensors", datasets.Scenes),
        ("photograph.png", photograph, PHOTO_CHECKPOINT, datasets.StanfordBackground),
    ):
        fused = checkpoints.load_checkpoint(files.data_file(shipped))
        _draw(DATA / "pictures" / name, image, data.classes, *fused)


def _trained(run: dict, scratch: Path | None) -> tuple:
    """The model of a run, and the facts that its checkpoint holds."""
    model, history = measures.train(run, scratch)
    recipe, tasks = measures.recipe_of(run), measures.MODELS[run["model"]][0]
    decoding = recipes.tune_decoding(model, recipe) if "region" in tasks else {}
    minutes = round(measures.minutes(history), 2)
    return model, {"decoding": decoding, "minutes": minutes, "size": recipes.seen(recipe)}


def _publish(name: str, rows: dict[str, dict], title: str) -> None:
    path, table = BUILD / f"scoreboard_{name}.md", tables.scoreboard(rows, title)
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
