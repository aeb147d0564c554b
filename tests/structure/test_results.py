"""What the README claims about results is what the results files say."""

import csv
from pathlib import Path

import pytest

from fusion_lib import datasets, metrics, run, training

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def runs(model: str, column: str) -> list[float]:
    """A column of `scenes_seeds.csv` for one model, in the order of the seeds."""
    with open(ROOT / "data" / "results" / "scenes_seeds.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["model"] == model]
    assert [int(row["seed"]) for row in rows] == [0, 1, 2, 3, 4]
    return [float(row[column]) for row in rows]


def test_table_of_seeds_is_the_results_file():
    assert run.seeds_table() in README


@pytest.mark.parametrize("name", ["scenes", "stanford_background"])
def test_scoreboard_is_the_results_file(name):
    assert (ROOT / "data" / "results" / f"scoreboard_{name}.md").read_text().strip() in README


def test_on_scenes_fusion_wins_with_every_seed():
    """README: with each of the five seeds, the fused model is above the semantic-only and region-only networks."""
    pairs = zip(runs("fused", "mIoU argmax"), runs("semantic only", "mIoU argmax"))
    assert all(fused > single for fused, single in pairs)
    pairs = zip(runs("fused", "covering"), runs("region only", "covering"))
    assert all(fused > single for fused, single in pairs)


def test_fused_model_covers_more_than_every_classical_method():
    """README's scoreboard: the fused model's covering is more than 0.1 above k-means, Felzenszwalb and watershed."""
    lines = (ROOT / "data" / "results" / "scoreboard_scenes.md").read_text().splitlines()
    header, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    covering = {row[0]: float(row[header.index("covering")]) for row in rows if row[header.index("covering")]}
    best = max(covering[name] for name in ("k-means", "Felzenszwalb", "gradient watershed"))
    assert min(runs("fused", "covering")) > best + 0.1


def test_shipped_model_is_the_fused_run_of_seed_0():
    """Its scores are those of the results file, within 0.01: what another processor may change is far smaller."""
    model, facts = training.load_checkpoint(datasets.data_folder() / "fused_scenes.safetensors")
    scores = metrics.evaluate(model, datasets.Scenes("test"), facts["decoding"])
    assert scores["semantic"]["miou"] == pytest.approx(runs("fused", "mIoU argmax")[0], abs=0.01)
    assert scores["voted"]["miou"] == pytest.approx(runs("fused", "mIoU vote")[0], abs=0.01)
    assert scores["partition"]["covering"] == pytest.approx(runs("fused", "covering")[0], abs=0.01)
    assert scores["panoptic_quality"] == pytest.approx(runs("fused", "PQ")[0], abs=0.01)
