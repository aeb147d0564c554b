"""What the README claims about results is what the results files say."""

import csv
from pathlib import Path

import pytest

from fusion_lib import run

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
