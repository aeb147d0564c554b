"""The tables of claims that notebooks show."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from fusion_lib.intervals import t_interval


def show_claims(claims: Mapping[str, float | Sequence[float]], unit: str, digits: int = 1) -> None:
    """Display each claim beside its number in a notebook: columns "claim", "mean" and
    "95% interval" (Student's t, see `intervals.t_interval`) in `unit`, and "runs".

    Args: claims, sentence -> differences of paired runs, at least two, or one number, which stands
        there without interval and runs; unit of all numbers; digits after the decimal point.
    Raises: ValueError: a number is not finite, or a sentence has fewer than two differences."""
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
