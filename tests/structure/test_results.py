"""What the README claims about results is what the results files say."""

from pathlib import Path

import numpy as np
import pytest

from fusion_lib import checkpoints, datasets, experiments, grids, metrics, models, recipes, run
from fusion_lib.experiments import select

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
STORED = sorted(path.stem for path in (ROOT / "data" / "results").glob("*.csv"))


def runs(model: str, column: str, name: str = "fusion", **which) -> np.ndarray:
    """A column of an experiment for one model, in the order of the seeds."""
    which = which or {"epochs": 30}
    return np.array([row[column] for row in select(experiments.results(name), model=model, **which)])


@pytest.mark.parametrize("name", STORED)
def test_results_file_is_sound_and_of_this_version(name):
    """Every line is used; every row says what made it."""
    table = experiments.Table(grids.EXPERIMENTS[name], ROOT / "data" / "results" / f"{name}.csv")
    assert not table.problems
    for row in table.rows.values():
        assert row["commit"] and row["versions"] and row["device"] and row["minutes"] > 0 and row["memory_mib"] > 0


@pytest.mark.parametrize("name", ["tuning", "fusion", "labels", "photographs", "heads", "alphas"])
def test_experiment_is_complete(name):
    assert not experiments.Table(grids.EXPERIMENTS[name], ROOT / "data" / "results" / f"{name}.csv").missing()


def test_tuned_learning_rates_are_the_best_of_equally_many_trials():
    rows = experiments.results("tuning")
    for model in grids.TRIED:
        trials = {row["learning_rate"]: row["val_score"] for row in select(rows, model=model)}
        assert len(trials) == 3 and max(trials, key=trials.get) == grids.TUNED[model]


def test_tables_are_the_results_files():
    assert run.results_table("fusion", epochs=30) in README
    assert run.results_table("photographs") in README
    assert (ROOT / "data" / "results" / "scoreboard_scenes.md").read_text().strip() in README


def test_fusion_wins_on_scenes_with_every_seed():
    """README: with every seed hard sharing beats the single-task networks in both tasks."""
    assert (runs(grids.FUSED, "miou") > runs("semantic only", "miou")).all()
    assert (runs(grids.FUSED, "covering") > runs("region only", "covering")).all()


def test_fused_model_covers_more_than_every_classical_method():
    """README's scoreboard: the fused model's covering is more than 0.1 above k-means, Felzenszwalb and watershed."""
    lines = (ROOT / "data" / "results" / "scoreboard_scenes.md").read_text().splitlines()
    header, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    covering = {row[0]: float(row[header.index("covering")]) for row in rows if row[header.index("covering")]}
    best = max(covering[name] for name in ("k-means", "Felzenszwalb", "gradient watershed"))
    assert min(runs(grids.FUSED, "covering")) > best + 0.1


@pytest.mark.parametrize("model, file", [(grids.FUSED, "fused"), ("attention", "attention"), ("gates", "gates")])
def test_shipped_model_is_the_run_of_seed_0(model, file):
    """Its scores are those of the results file, within 0.01: what another processor may change is far smaller."""
    network, facts = checkpoints.load_checkpoint(datasets.data_file(f"{file}_scenes.safetensors"))
    scores = metrics.evaluate(network, datasets.Scenes("test"), facts["decoding"])
    assert scores["semantic"]["miou"] == pytest.approx(runs(model, "miou")[0], abs=0.01)
    assert scores["fused"]["miou"] == pytest.approx(runs(model, "miou_fused")[0], abs=0.01)
    assert scores["partition"]["covering"] == pytest.approx(runs(model, "covering_fused")[0], abs=0.01)


def test_shared_recipe_is_the_tuned_one():
    """Notebooks 03 to 05 and `make checkpoint` train with the learning rate that the trials chose."""
    assert recipes.SCENES.learning_rate == grids.TUNED[grids.FUSED]


def test_fused_recipe_for_photographs_is_that_of_the_experiment():
    """`make run DATASET=stanford_background` trains what notebook 06 reports."""
    run = {"data": "photographs", "epochs": 22, "beta": 2.0, "model": "own decoders"}
    assert grids.recipe_of(run) == recipes.PHOTOGRAPHS_FUSED


def test_gains_in_the_readme():
    """README: mIoU by 5.2 to 7.5 points, covering by 0.1 to 1.0; with 10% of the labels 0.517 against 0.319."""
    for column, alone, low, high in (("miou", "semantic only", 5.2, 7.5), ("covering", "region only", 0.1, 1.0)):
        gain = 100 * (runs(grids.FUSED, column) - runs(alone, column))
        assert (round(gain.min(), 1), round(gain.max(), 1)) == (low, high)
    few = {model: runs(model, "miou", "labels", epochs=30, labels=0.1) for model in (grids.FUSED, "semantic only")}
    assert {model: (len(values), round(values.mean(), 3)) for model, values in few.items()} == {
        grids.FUSED: (3, 0.517), "semantic only": (3, 0.319),
    }  # fmt: skip
    half, whole = (runs(m, "miou", "labels", epochs=30, labels=s) for m, s in ((grids.FUSED, 0.5), ("semantic only", 1.0)))
    assert len(half) == len(whole) == 3 and (half > whole).all()


def on_photographs(column: str, model: str) -> dict[int, float]:
    """{seed: number} of the photographs' runs."""
    return {row["seed"]: row[column] for row in select(experiments.results("photographs"), model=model)}


def gains_on_photographs(column: str, than: str, single: str) -> np.ndarray:
    """The fused model's, minus the other's, for the seeds that both have."""
    one, other = on_photographs(column, "own blocks"), on_photographs(than, single)
    return np.array([one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())])


def test_on_photographs_names_gain_and_regions_lose():
    """README: mIoU up by 0.9 to 1.7 points, covering down in every run, by up to 1.4; two networks gain as much."""
    names = 100 * gains_on_photographs("miou_fused", "miou", "semantic only")
    assert len(names) == 3 and (round(names.min(), 1), round(names.max(), 1)) == (0.9, 1.7)
    regions = 100 * gains_on_photographs("covering_fused", "covering", "region only")
    assert len(regions) == 3 and regions.max() < 0 and round(regions.min(), 1) == -1.4
    two = select(experiments.results("photographs"), model="two networks")
    gains = np.array([[row["miou_fused"] - row["miou"], row["covering_fused"] - row["covering"]] for row in two])
    assert len(gains) == 3 and (gains >= 0).all() and abs(gains[:, 0].mean() - names.mean() / 100) < 0.002


def test_own_blocks_have_half_of_the_parameters_of_two_networks():
    """README, on photographs."""
    design = recipes.PHOTOGRAPHS_FUSED.model | {"pretrained": False}
    two = models.TwoNetworks(recipes.TASKS, **design | {"sharing": "hard"})
    share = models.count_parameters(models.FusionModel(recipes.TASKS, **design)) / models.count_parameters(two)
    assert round(share, 2) == 0.5


def test_design_for_photographs_was_the_better_of_those_tried():
    """README: own blocks was chosen on validation photographs."""
    trials = {row["model"]: row["val_score"] for row in select(experiments.results("designs"), data="photographs")}
    assert len(trials) == 2 and max(trials, key=trials.get) == "own blocks"
