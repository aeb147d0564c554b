"""Guards that several modules share. Each names the argument, what came and what was expected."""

from __future__ import annotations

import numpy as np


def expect(holds: bool, name: str, value: object, expected: str) -> None:
    """Raise a ValueError unless the condition on the value holds."""
    if not holds:
        raise ValueError(f"{name} is {value!r}; expected {expected}")


def integers(name: str, values) -> np.ndarray:
    """The values as an array, if they are whole numbers or truth values; else a TypeError."""
    values = np.asarray(values)
    if values.dtype.kind not in "biu":
        raise TypeError(f"{name} has dtype {values.dtype}; expected integers: round and cast it")
    return values


def label_map(name: str, labels) -> np.ndarray:
    """The labels, if they are (H, W) integers (TypeError) of at least -1 (ValueError)."""
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iu":
        raise TypeError(f"{name} has dtype {labels.dtype}; expected integers: round and cast it")
    if labels.ndim != 2:
        raise ValueError(f"{name} has shape {labels.shape}; expected (H, W)")
    if (lowest := labels.min(initial=0)) < -1:
        raise ValueError(f"{name} holds {lowest}; expected numbers from 0 on, or void -1")
    return labels


def classes(name: str, labels: np.ndarray, count: int) -> None:
    """Raise a ValueError unless all labels are one of `count` classes or void 255."""
    wrong = labels[((labels < 0) | (labels >= count)) & (labels != 255)]
    if wrong.size:
        raise ValueError(f"{name} holds class {wrong[0]}; expected 0..{count - 1} or void 255")


def same_shape(**arrays: np.ndarray) -> None:
    """Raise a ValueError unless all arrays have the shape of the first."""
    (first, one), *others = arrays.items()
    for name, other in others:
        if other.shape != one.shape:
            raise ValueError(
                f"{first} has shape {one.shape} and {name} {other.shape}; expected equal shapes"
            )


def not_negative(**numbers: float) -> None:
    """Raise a ValueError unless every number is finite and at least 0."""
    for name, number in numbers.items():
        if not 0 <= number < float("inf"):
            raise ValueError(f"{name} is {number}; expected a finite number of at least 0")


def probabilities(name: str, values: np.ndarray) -> None:
    """Raise a ValueError unless all values lie in [0, 1], but for rounding."""
    if not ((values >= -1e-6) & (values <= 1 + 1e-6)).all():
        raise ValueError(
            f"{name} holds {values.min()}..{values.max()}; expected numbers in [0, 1], such as the"
            " softmax or the sigmoid of logits"
        )


def compact(ids: np.ndarray) -> np.ndarray:
    """The same map with the ids 0..R-1 in the order of the old ones, int64; negative ones -1."""
    numbers, known = np.full(ids.shape, -1, np.int64), ids >= 0
    found = ids[known]
    if found.max(initial=0) < ids.size:  # to count is quicker than to sort, and fits the memory
        found = found.astype(np.int64)
        numbers[known] = (np.bincount(found) > 0).cumsum()[found] - 1
    else:
        numbers[known] = np.unique(found, return_inverse=True)[1]
    return numbers
