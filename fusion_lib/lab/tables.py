"""Tables: stored runs as the README and the notebooks show them, and scoreboards, one row a method
tested on a recipe's test pictures."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from torch.utils.data import Subset

from fusion_lib import tuning
from fusion_lib.intervals import t_interval
from fusion_lib.lab import measures, recipes

# What the reader sees, and the column of the results files.
SHOWN = {
    "mIoU argmax": "miou",
    "mIoU fused": "miou_fused",
    "pixel accuracy": "pixel_accuracy",
    "covering": "covering",
    "covering fused": "covering_fused",
    "PQ fused": "pq_fused",
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


def results_table(rows: pd.DataFrame) -> str:
    """A Markdown table of stored rows (see `experiments.results`): for each model the mean and, of
    several runs, the standard deviation. Where rows differ in their epochs, so do the lines."""
    there = rows.dropna(axis="columns", how="all").columns
    shown = {title: column for title, column in SHOWN.items() if column in there}
    several, lines = rows["epochs"].nunique() > 1, []
    for (model, epochs), runs in rows.groupby(["model", "epochs"], sort=False):
        title = f"{model}, {epochs:.0f} epochs" if several else model
        cells = [_mean_and_deviation(runs[column].dropna()) for column in shown.values()]
        lines.append((title, [str(len(runs)), *cells]))
    return _markdown(["runs", *shown], lines)


def _mean_and_deviation(values: pd.Series) -> str:
    if values.empty:
        return ""
    deviation = f" ± {values.std():.3f}" if len(values) > 1 else ""
    return f"{values.mean():.3f}{deviation}"


def _markdown(columns: list[str], rows: Iterable[tuple[str, list[str]]]) -> str:
    head = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    return "\n".join(head + [f"| {title} | {' | '.join(cells)} |" for title, cells in rows])


def show_claims(claims: Mapping[str, float | Sequence[float]], unit: str, digits: int = 1) -> None:
    """Display each claim beside its number in a notebook: columns "claim", "mean" and
    "95% interval" (Student's t, see `intervals.t_interval`) in `unit`, and "runs".

    Args: claims, sentence -> differences of paired runs, at least two, or one number, which stands
        there without interval and runs; unit of all numbers; digits after the decimal point.
    Raises: ValueError: a number is not finite, or a sentence has fewer than two differences.
    """
    from IPython.display import display

    rows = []
    for sentence, values in claims.items():
        numbers = np.asarray(values, float)
        if numbers.ndim:
            low, high = t_interval(numbers)
            interval = f"{low:+.{digits}f} to {high:+.{digits}f}"
            rows.append((sentence, f"{numbers.mean():+.{digits}f}", interval, str(len(numbers))))
        elif np.isfinite(numbers):
            rows.append((sentence, f"{numbers:.{digits}f}", "", ""))
        else:
            raise ValueError(f"claims has {values} for {sentence!r}; expected a finite number")
    table = pd.DataFrame(rows, columns=["claim", f"mean, {unit}", "95% interval", "runs"])
    with pd.option_context("display.max_colwidth", None):  # every sentence in full
        page = table.to_html(index=False, border=0)
    display({"text/plain": table.to_string(index=False), "text/html": page}, raw=True)


def classical_rows(recipe: recipes.Recipe, names: tuple[str, ...], pictures: int) -> dict:
    """Rows of classical methods, parameters chosen on the first validation pictures."""
    first, test = Subset(recipe.dataset("val"), range(pictures)), recipe.dataset("test")
    rows = {}
    for name in names:
        parameters = tuning.tune_classical(name, first)
        partition = tuning.partition_scores(tuning.CLASSICAL[name][0], parameters, test)
        rows[name] = measures.chosen(COLUMNS, {"partition": partition})
    return rows


def tested_row(recipe: recipes.Recipe, model, facts: dict) -> dict:
    """Row of a trained model, as far as its tasks go; facts are those of a checkpoint, "decoding"
    and "minutes" among them."""
    return measures.chosen(COLUMNS, recipes.scores(model, recipe, facts["decoding"]) | facts)


def scoreboard(rows: dict[str, dict], title: str) -> str:
    """A Markdown table below its title; columns that no row has are left out."""
    columns = [column for column in COLUMNS if any(column in row for row in rows.values())]
    lines = []
    for name, row in rows.items():
        cells = [f"{row[c]:.{1 if c == 'minutes' else 3}f}" if c in row else "" for c in columns]
        lines.append((name, cells))
    return f"{title}\n\n{_markdown(columns, lines)}\n"
