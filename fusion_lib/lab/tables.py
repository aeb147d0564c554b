"""Tables of stored runs, as the README and the notebooks show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from fusion_lib.intervals import t_interval

# What the reader sees, and the column of the results files.
SHOWN = {
    "mIoU argmax": "miou",
    "mIoU fused": "miou_fused",
    "pixel accuracy": "pixel_accuracy",
    "covering": "covering",
    "covering fused": "covering_fused",
    "PQ fused": "pq_fused",
}


def results_table(rows: pd.DataFrame) -> str:
    """A Markdown table of stored rows (see `experiments.results`): for each model the mean and, of
    several runs, the standard deviation. Where rows differ in their epochs, so do the lines."""
    shown = {
        title: column
        for title, column in SHOWN.items()
        if column in rows and rows[column].notna().any()
    }
    lines = [f"| | runs | {' | '.join(shown)} |", "|---" * (len(shown) + 2) + "|"]
    several = rows["epochs"].nunique() > 1
    for (model, epochs), runs in rows.groupby(["model", "epochs"], sort=False):
        title = f"{model}, {epochs:.0f} epochs" if several else model
        cells = [_mean_and_deviation(runs[column].dropna()) for column in shown.values()]
        lines.append(f"| {title} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean_and_deviation(values: pd.Series) -> str:
    if values.empty:
        return ""
    deviation = f" ± {values.std():.3f}" if len(values) > 1 else ""
    return f"{values.mean():.3f}{deviation}"


def claims_table(
    claims: Mapping[str, float | Sequence[float]], unit: str, digits: int = 1
) -> pd.DataFrame:
    """Each claim beside its number: columns "claim", "mean" and "95% interval" (Student's t, see
    `intervals.t_interval`) in `unit`, and "runs".

    Args:
        claims: sentence -> differences of paired runs, one a pair, at least two; or one number,
            which stands there without interval and runs.
        unit: of all numbers, for example "points of mIoU".
        digits: after the decimal point.

    Raises:
        ValueError: a number is not finite, or a sentence has fewer than two differences.
    """
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
    return pd.DataFrame(rows, columns=["claim", f"mean, {unit}", "95% interval", "runs"])


def show_claims(claims: Mapping[str, float | Sequence[float]], unit: str, digits: int = 1) -> None:
    """Display `claims_table` in a notebook, every sentence in full."""
    from IPython.display import display

    table = claims_table(claims, unit, digits)
    with pd.option_context("display.max_colwidth", None):
        page = table.to_html(index=False, border=0)
    display({"text/plain": table.to_string(index=False), "text/html": page}, raw=True)
