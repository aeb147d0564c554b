"""How sure a mean of few runs is."""

import numpy as np
import scipy  # its parts are loaded when they are first used

from fusion_lib import checks


def bootstrap_interval(values, level: float = 0.95, resamples: int = 10_000) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean (Efron & Tibshirani 1993, section 13.3).

    With few values it is too narrow (five seeds have only 126 different resamples); `t_interval` is
    the more careful one there. Hand it differences of pairs, run by run, to compare two models.

    Args: values (n,), at least two finite ones (else a ValueError); level, the wanted coverage.
    Returns: lower and upper end. The same values always give the same interval.
    """
    values = _sample(values)
    drawn = np.random.default_rng(0).integers(0, len(values), (resamples, len(values)))
    lower, upper = np.quantile(values[drawn].mean(1), [(1 - level) / 2, (1 + level) / 2])
    return float(lower), float(upper)


def t_interval(values, level: float = 0.95) -> tuple[float, float]:
    """Student's t interval of the mean, mean -+ t_{n-1} s / sqrt(n); as `bootstrap_interval`."""
    values = _sample(values)
    reach = scipy.stats.t.ppf((1 + level) / 2, len(values) - 1) * scipy.stats.sem(values)
    return float(values.mean() - reach), float(values.mean() + reach)


def _sample(values) -> np.ndarray:
    values = np.asarray(values, float)
    fit = values.ndim == 1 and len(values) > 1 and np.isfinite(values).all()
    checks.expect(fit, "values", values.tolist(), "at least two finite numbers in a row")
    return values
