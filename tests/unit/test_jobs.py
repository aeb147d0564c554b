"""The commands of the Makefile: what they say when they are called wrongly, and what they write."""

import json

import nbformat
import pytest
from examples import RECIPE, Reads

from fusion_lib import tuning
from fusion_lib.lab import declared, jobs, measures, recipes


@pytest.mark.parametrize(
    "arguments", [["scense"], ["Scenes"], [], ["scenes", "stanford_background"]]
)
def test_misspelt_data_set_gets_the_list_of_names(arguments):
    with pytest.raises(SystemExit) as caught:
        jobs.main(*arguments)
    message = str(caught.value)
    assert "scenes" in message and "stanford_background" in message and "expected one of" in message
    assert repr(" ".join(arguments)) in message


def test_notebooks_are_executed_in_a_copy_and_a_failure_is_named_at_the_end(
    tmp_path, monkeypatch, capsys
):
    """All are executed and written, with a page each; without the models of 04 no scoreboard."""
    cells = [nbformat.v4.new_code_cell("print(1)")]
    for name in ("00_one", "01_two"):
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / f"{name}.ipynb")
    before = (tmp_path / "00_one.ipynb").read_bytes()

    def execute(notebook, name, folder):
        assert folder == tmp_path / "build" / "notebooks"
        notebook.cells[0].outputs = [nbformat.v4.new_output("stream", text="printed")]
        if name == "00_one":
            raise jobs.CellFailed("00_one, cell 0: ValueError: wrong")

    monkeypatch.setattr(jobs, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(jobs, "execute", execute)
    monkeypatch.setattr(jobs, "BUILD", tmp_path / "build")
    with pytest.raises(SystemExit) as caught:
        jobs.main("scenes")
    said = capsys.readouterr().out
    assert said.startswith("\nSeconds a notebook: 00: ") and ", 01: " in said
    assert "\npeak memory of a notebook: " in said
    assert caught.value.code == "00_one, cell 0: ValueError: wrong; see build/notebooks/"
    assert (tmp_path / "00_one.ipynb").read_bytes() == before
    for name in ("00_one", "01_two"):
        notebook = json.loads((tmp_path / "build" / "notebooks" / f"{name}.ipynb").read_text())
        assert notebook["cells"][0]["outputs"][0]["text"] == ["printed"]
        assert "printed" in (tmp_path / "build" / "notebooks" / f"{name}.html").read_text()


def test_scoreboard_is_written_and_shown(tmp_path, monkeypatch, capsys):
    """Columns that no row has are left out."""
    monkeypatch.setattr(jobs, "BUILD", tmp_path)
    monkeypatch.setattr(jobs, "ROOT", tmp_path)
    rows = {"one": {"mIoU fused": 0.5, "minutes": 1.0}, "two": {"covering": 0.25}}
    table = (
        "Title\n\n| | mIoU fused | covering | minutes |\n|---|---|---|---|\n"
        "| one | 0.500 |  | 1.0 |\n| two |  | 0.250 |  |\n"
    )
    jobs._publish("some", rows, "Title")
    assert (tmp_path / "scoreboard_some.md").read_text() == table
    assert capsys.readouterr().out == f"\n{table}\nwritten to scoreboard_some.md\n"


@pytest.mark.parametrize("data", list(jobs.SHIPPED))
def test_shipped_models_are_runs_of_seed_0_with_their_decodings(data, tmp_path, monkeypatch):
    """Every model is trained in its run's folder; all but the first of the scenes lose half of
    their bits; photographs know the size at which they were seen."""
    trained, saved = [], {}

    def train(run, scratch):
        trained.append((run, scratch))
        return Reads("semantic", "region"), [{"seconds": 90.0}]

    def save(model, path, **facts):
        saved[path.name] = (model.weight.element_size(), facts)

    monkeypatch.setattr(jobs, "BUILD", tmp_path)
    monkeypatch.setattr(jobs, "DATA", tmp_path)
    monkeypatch.setattr(measures, "train", train)
    monkeypatch.setattr(recipes, "tune_decoding", lambda model, recipe: {"smoothing": recipe.tau})
    monkeypatch.setattr(jobs.checkpoints, "save_checkpoint", save)
    monkeypatch.setattr(jobs, "write_sums", lambda folder: saved.setdefault("sums", folder))
    jobs.main(f"checkpoint_{data}")
    assert saved.pop("sums") == tmp_path and list(saved) == list(jobs.SHIPPED[data])
    assert trained == [(run, tmp_path / "experiments") for run in jobs.SHIPPED[data].values()]
    assert all(run["seed"] == 0 for run, _ in trained)
    for name, (size, facts) in saved.items():
        assert size == (4 if name == "fused_scenes.safetensors" else 2)
        expected = {"decoding": {"smoothing": 2.0}, "minutes": 1.5, "size": None}
        if data != "scenes":
            expected = {"decoding": {"smoothing": 4.0}, "minutes": 1.5, "size": (192, 256)}
        assert facts == expected


def test_run_for_photographs_is_their_fused_recipe():
    run = declared.recipe_of(jobs.FUSED_PHOTOGRAPHS)
    assert run == recipes.PHOTOGRAPHS_FUSED
    assert declared.recipe_of(jobs.PHOTOGRAPHS | {"model": "semantic only"}).model == {
        **recipes.PHOTOGRAPHS.model,
        "sharing": "hard",
    }


@pytest.mark.parametrize("model", ["semantic only", "region only", "hard sharing"])
def test_every_model_of_a_scoreboard_is_trained_decoded_and_tested(model, monkeypatch):
    """Its facts make a row; a model without regions has no decoding."""
    monkeypatch.setitem(declared.DATA, "scenes", (RECIPE, "Scenes"))
    run = {"model": model, "seed": 0, "learning_rate": RECIPE.learning_rate}
    network, facts = jobs._trained(run, None)
    assert set(facts) == {"decoding", "minutes", "size"} and facts["size"] == RECIPE.size
    edge = {"edge_weight", "vote_weight"} if model == "hard sharing" else set()
    known = {"smoothing", "threshold"} | edge if model != "semantic only" else set()
    assert set(facts["decoding"]) == known
    row = jobs._tested_row(RECIPE, network, facts)
    assert set(row) <= set(jobs.COLUMNS) and "minutes" in row
    assert ("mIoU fused" in row) == (model == "hard sharing")


def test_pictures_are_drawn_by_the_shipped_models(tmp_path, monkeypatch):
    drawn = {}

    def draw(path, image, classes, model, facts):
        drawn[path] = (tuple(image.shape), classes[0], facts["decoding"] != {})

    monkeypatch.setattr(jobs, "DATA", tmp_path)
    monkeypatch.setattr(jobs, "_draw", draw)
    jobs.main("pictures")
    folder = tmp_path / "pictures"
    assert drawn[folder / "scene.png"] == ((3, 64, 64), "sky", True)
    assert drawn[folder / "photograph.png"] == ((3, 240, 320), "sky", True)


# --- scoreboards -------------------------------------------------------------------------------

DECODING = {"smoothing": 0.5, "threshold": 0.6, "edge_weight": 0.5, "vote_weight": 0.4}
PARTITION = {"covering", "VI bits", "adapted Rand error"}
SEMANTIC = {"mIoU argmax", "pixel accuracy"}


def test_row_of_a_fused_model_has_argmax_vote_and_fused_map():
    model = Reads("semantic", "region")
    row = jobs._tested_row(RECIPE, model, {"decoding": DECODING, "minutes": 1.5, "size": None})
    scores = recipes.scores(model, RECIPE, DECODING)
    assert set(row) == {"minutes", "mIoU vote", "mIoU fused", *SEMANTIC, *PARTITION}
    for column, name in (
        ("mIoU argmax", "semantic"),
        ("mIoU vote", "voted"),
        ("mIoU fused", "fused"),
    ):
        assert row[column] == scores[name]["miou"]
    partition = scores["partition"]
    assert row["covering"] == partition["covering"] and row["minutes"] == 1.5
    assert row["VI bits"] == partition["variation_of_information"]
    assert row["adapted Rand error"] == partition["adapted_rand_error"]
    assert row["pixel accuracy"] == scores["semantic"]["pixel_accuracy"]
    assert len({row["mIoU argmax"], row["mIoU vote"], row["mIoU fused"]}) == 3


def test_row_of_a_single_task_has_what_it_can_have():
    row = jobs._tested_row(RECIPE, Reads("semantic"), {"decoding": {}, "minutes": 1.0})
    assert set(row) == {"minutes", *SEMANTIC}
    decoding = {"smoothing": 0.5, "threshold": 0.6}
    row = jobs._tested_row(RECIPE, Reads("region"), {"decoding": decoding, "minutes": 1.0})
    assert set(row) == {"minutes", *PARTITION}


def test_panoptic_quality_stands_in_the_row_where_it_was_measured(monkeypatch):
    monkeypatch.setattr(recipes, "scores", lambda *args: {"panoptic_quality": 0.6})
    row = jobs._tested_row(None, None, {"decoding": {}, "minutes": 1.0})
    assert row == {"PQ": 0.6, "minutes": 1.0}


def test_minutes_are_those_of_all_epochs():
    assert measures.minutes([{"seconds": 30.0}, {"seconds": 60.0}]) == 1.5


def test_classical_methods_are_tuned_on_the_first_validation_pictures():
    """Which parameters win there, `test_tuning` checks; the row is theirs on all test pictures."""
    row = jobs._classical_rows(RECIPE, ("k-means",), pictures=2)["k-means"]
    first = [RECIPE.dataset("val")[index] for index in range(2)]
    parameters = tuning.tune_classical("k-means", first)
    method = tuning.CLASSICAL["k-means"][0]
    scores = tuning.partition_scores(method, parameters, RECIPE.dataset("test"))
    assert set(row) == PARTITION and row["covering"] == scores["covering"]
