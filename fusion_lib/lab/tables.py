"""Tables of stored rows, for the README."""

from __future__ import annotations

import statistics

from fusion_lib.lab import experiments

# Columns of the README's tables: what the reader sees, and the experiments' names for it.
TABLE = {
    "mIoU argmax": "miou",
    "mIoU fused": "miou_fused",
    "pixel accuracy": "pixel_accuracy",
    "covering": "covering",
    "covering fused": "covering_fused",
    "PQ fused": "pq_fused",
}


def results_table(name: str, **which) -> str:
    """A Markdown table of an experiment's stored rows: mean and (of several runs) standard
    deviation for each model.

    Where rows differ in their epochs, so do the lines.
    """
    rows = experiments.select(experiments.results(name), **which)
    columns = {
        shown: column
        for shown, column in TABLE.items()
        if any(row.get(column) is not None for row in rows)
    }
    lines = [f"| | runs | {' | '.join(columns)} |", "|---" * (len(columns) + 2) + "|"]
    lengths = {row["epochs"] for row in rows}
    for model, epochs in dict.fromkeys((row["model"], row["epochs"]) for row in rows):
        runs, cells = experiments.select(rows, model=model, epochs=epochs), []
        for column in columns.values():
            values = [run[column] for run in runs if run[column] is not None]
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.3f}{spread}" if values else "")
        title = model if len(lengths) == 1 else f"{model}, {epochs:.0f} epochs"
        lines.append(f"| {title} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines)
